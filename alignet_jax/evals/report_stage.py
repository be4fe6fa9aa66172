"""The stage "report": everything a run has shown, on one page.

Usage: the last stage of every config; writes `report.html` and `results.csv`.
"""

import csv
import re

import numpy as np

from alignet_jax import artifacts, manifest, odd_one_out, results
from alignet_jax.evals import levels as levels_lib
from alignet_jax.evals import plots, report
from alignet_jax.images import sources

_WORLD_NOTE = (
  "The world of this run is generated, and made so that there is something to "
  "align: look and outline fill a picture, the superordinate shows in a few "
  "small parts only. The numbers show that every stage works and what a "
  "successful alignment looks like. They do not show how much alignment gains "
  "on photographs."
)
_HELDOUT_NOTE = (
  "Levels, few-shot and RDMs are measured on pictures and basic concepts that "
  "the alignment never used."
)
_PICK_NOTE = (
  "How they were picked: as many of each level, half of them (rounded up) the "
  "first of the list on which alignment changed the model's choice, the others "
  "the first on which it did not. Who is right played no part."
)

# Tables by the first part of their metrics' names, numbers left out. What is
# not listed stands between the two: results first, how the stages went last.
_RESULTS = (
  "levels",
  "levels_majority",
  "fewshot",
  "rsa",
  "things",
  "simulated",
  "object_heldout",
  "vice",
  "noise_ceiling",
)
_STAGES = ("pretrain", "clusters", "triplets", "student")

# What a table's only row is, where its columns are models.
_ROW_NAMES = {"fewshot": "accuracy", "rsa": "rank correlation"}

# Explained below every table that has them as its title, a row or a column.
_GLOSSARY = {
  "levels": "Share of single answers that the model gives too.",
  "levels_majority": "Share of triplets on which the model names the odd one "
  "that most people name.",
  "ceiling_lower": "ceiling_lower, ceiling_upper: how well one person's answer "
  "is predicted by the others, and the best that any fixed answer per triplet "
  "can reach.",
  "rsa": "rsa: Spearman's correlation of the dissimilarities of all pairs with "
  "those of people.",
  "nll": "nll: cross-entropy of people's choices in nats; lower is better, "
  "ln 3 = 1.10 knows nothing.",
  "entropy_r": "entropy_r: correlation of the model's entropy with that of "
  "people, over repeated triplets.",
  "kl": "kl: divergence of the model's probabilities from the shares of "
  "people's answers, in nats; lower is better.",
  "zero_shot": "zero_shot: the features as they are, by cosine.",
  "object_heldout": "Choices about objects that the fit did not see.",
  "noise_ceiling": "Agreement of one person with the others (lower), and the "
  "best that a fixed answer per triplet can reach (upper).",
  "reproducibility": "reproducibility: how well fits from other seeds find the "
  "same dimensions.",
  "inertia": "inertia: sum of squared distances to the nearest centroid; its "
  "scale is that of the features, so the columns do not compare.",
  "target_entropy": "target_entropy: mean entropy of the targets in nats.",
}


def run_report(context):
  """Writes the page and the table.

  Writes `report.html` and `results.csv` (name, value: the metrics of all stages
  before, as in results.json).

  Args:
    context: `pipeline.StageContext`; reads config.report, and what draws the
      example triplets.
  """
  # What was evaluated comes first, how the stages went after it.
  stages = sorted(context.inputs, key=lambda name: name != "evaluate")
  metrics = results.merge(
    {name: manifest.read(context.inputs[name]).metrics for name in stages}
  )
  report.write_csv(
    context.out / "results.csv",
    [{"name": name, "value": metrics[name]} for name in sorted(metrics)],
  )
  scores = artifacts.read_json(context.inputs["evaluate"] / "scores.json")
  generated = "images" in context.config and (
    context.config.images.source == "generated"
  )
  content = report.ReportContent(
    title=context.config.report.title,
    intro=(_WORLD_NOTE, _HELDOUT_NOTE) if generated else (),
    tables=_tables(metrics),
    levels=_levels(scores),
    few_shot=_few_shot(scores),
    rdms=_rdms(context, metrics),
    examples=_examples(context, scores),
    examples_note=_PICK_NOTE,
    selections=_selections(context),
    selected_by=_selected_by(context),
    **_trade_offs(context),
    curves=_curves(context),
    provenance=_provenance(context),
  )
  report.write_report(context.out / "report.html", content)


def _tables(metrics):
  """One table per first part of a name, variants in columns."""
  groups = {}
  for name, value in metrics.items():
    group, _, rest = name.partition("/")
    groups.setdefault(group, {})[rest] = value
  return tuple(
    _table(group, groups[group]) for group in sorted(groups, key=_rank)
  )


def _kind(group):
  """The name of a group without a number: that of fewshot5 is fewshot."""
  return re.sub(r"\d+$", "", group)


def _rank(group):
  """Where a table stands."""
  kind = _kind(group)
  if kind in _RESULTS:
    return _RESULTS.index(kind)
  return len(_RESULTS) + (1 + _STAGES.index(kind) if kind in _STAGES else 0)


def _table(group, values):
  """The table of one group: a row for what is measured, or for each number."""
  variants = dict.fromkeys(
    name.rpartition("/")[2] for name in values if "/" in name
  )
  if not variants and _kind(group) in _ROW_NAMES:
    variants = dict.fromkeys(values)
  rows = {}
  for name, value in values.items():
    row, _, variant = name.rpartition("/")
    if not row and variant in variants:
      row = _ROW_NAMES[_kind(group)]
    elif not row and variant.partition("_")[0] in variants:
      # Such as untransformed_temperature.
      variant, _, row = variant.partition("_")
    elif not row:
      row, variant = variant, "value"
      variants[variant] = None
    rows.setdefault(row, {})[variant] = value
  terms = (_kind(group), *rows, *variants)
  return report.Table(
    columns=("", *variants),
    rows=tuple(
      (name, *(row.get(variant) for variant in variants))
      for name, row in rows.items()
    ),
    title=group,
    note=" ".join(_GLOSSARY[term] for term in terms if term in _GLOSSARY),
  )


def _estimate(value, interval):
  return plots.Estimate(value, *interval)


def _levels(scores):
  """Accuracy per level, per single answer and against the majority."""
  if not scores.get("levels"):
    return ()
  by_model = scores["levels"]
  levels = list(next(iter(by_model.values())))
  bars = []
  for score, title, ceilings in (
    (
      "per_trial",
      "Single answers",
      [next(iter(by_model.values()))[name]["noise_ceiling"] for name in levels],
    ),
    ("majority", "Majority of people", None),
  ):
    bars.append(
      plots.Bars(
        groups=levels,
        series={
          model: [
            _estimate(
              of_level[name][score], of_level[name][f"{score}_interval"]
            )
            for name in levels
          ]
          for model, of_level in by_model.items()
        },
        title=title,
        ylabel="odd-one-out accuracy",
        chance=odd_one_out.CHANCE,
        ceilings=ceilings,
      )
    )
  return tuple(bars)


def _few_shot(scores):
  """Mean over draws, with the lowest and the highest draw."""
  if not scores.get("fewshot"):
    return None
  return plots.Bars(
    groups=[f"{scores['num_shots']}-shot"],
    series={
      model: [_estimate(float(np.mean(draws)), (min(draws), max(draws)))]
      for model, draws in scores["fewshot"].items()
    },
    ylabel="accuracy",
    chance=1 / scores["num_classes"],
    note="Bars: mean over draws of the shots; whiskers: lowest and highest.",
  )


def _rdms(context, metrics):
  path = context.inputs["evaluate"] / "rdms.npz"
  if not path.exists():
    return None
  matrices = artifacts.read_npz(path)
  exemplars = matrices.pop("exemplars")
  world = sources.make_world(context.config)
  return plots.Rdms(
    matrices={
      name: matrices[name]
      for name in ("base", "aligned", "control", "people")
      if name in matrices
    },
    categories=[world.superordinate_name(e) for e in exemplars],
    spearman={
      name: metrics[f"rsa/{name}"] for name in matrices if name != "people"
    },
    note="Mean features of each exemplar; cosine distance. People: the weights "
    "of the average simulated person.",
  )


def _examples(context, scores):
  """Triplets of every level with the choices of all models; see `_pick`."""
  if not scores.get("levels") or not context.config.report.num_examples:
    return ()
  answers = levels_lib.Levels(
    **artifacts.read_npz(context.inputs["judgments"] / "levels.npz")
  )
  embeddings = artifacts.read_npz(context.inputs["evaluate"] / "embeddings.npz")
  choices = {
    model: levels_lib.choices(x, answers.triplets)
    for model, x in embeddings.items()
  }
  size = artifacts.read_json(context.inputs["student"] / "backbone.json")[
    "size"
  ]
  images = sources.open_images(context.config, "evaluation", size=size)
  examples = []
  for row in _pick(answers, choices, context.config.report.num_examples):
    triplet = answers.triplets[row]
    examples.append(
      report.TripletExample(
        images=images.load(triplet),
        odd_counts=answers.odd_counts[row].tolist(),
        choices={model: int(odd[row]) for model, odd in choices.items()},
        level=answers.names[answers.level[row]],
        names=[images.names[item].partition(": ")[2] for item in triplet],
      )
    )
  return tuple(examples)


def _pick(answers, choices, number):
  """The first triplets of each level, half of them changed by alignment.

  Fewer than half where alignment changed fewer. No other choice is made, least
  of all by who is right.

  Args:
    answers: `levels_lib.Levels` of m triplets.
    choices: Model -> int[m].
    number: How many to pick in all.

  Returns:
    List of rows, level by level.
  """
  rows = []
  changed = choices["base"] != choices.get("aligned", choices["base"])
  per_level = -(-number // len(answers.names))
  for level in range(len(answers.names)):
    here = answers.level == level
    num_changed = -(-per_level // 2)
    picked = [
      *np.flatnonzero(here & changed)[:num_changed],
      *np.flatnonzero(here & ~changed),
    ]
    rows += picked[:per_level]
  return rows[:number]


def _selections(context):
  if "teacher" not in context.inputs:
    return ()
  selection = artifacts.read_json(context.inputs["teacher"] / "selection.json")
  return _selections_of(selection["variants"])


def _selections_of(tables):
  """The tables of several strengths, by the name of their variant."""
  return tuple(
    plots.Selection.from_table(name, table)
    for name, table in tables.items()
    if len(table) > 1  # Else nothing was chosen.
  )


def _trade_offs(context):
  """Accuracy against neighbours kept, on new objects where that is known."""
  if "teacher" not in context.inputs:
    return {}
  read = artifacts.read_json(context.inputs["teacher"] / "selection.json")
  by_objects = read.get("by_objects") or {}
  settings = manifest.read(context.inputs["teacher"]).config["teacher"]
  kept = (
    "config.teacher.local_features"
    if settings["local_features"]
    else "the objects that people judged"
  )
  judged = "that the fit did not see" if by_objects else "that the fit saw"
  return {
    "trade_offs": _selections_of(by_objects or read["variants"]),
    "trade_offs_note": (
      f"Accuracy is of held-out choices about objects {judged}; neighbours are"
      f" those among {kept}. Rings mark the best cross-entropy."
    ),
  }


def _selected_by(context):
  """What the strengths were selected by, in words."""
  if "teacher" not in context.inputs:
    return ""
  settings = manifest.read(context.inputs["teacher"]).config["teacher"]
  if settings["selection"] == "objects":
    return (
      f"choices about objects that the fit did not see, in"
      f" {settings['num_folds']} folds of the objects"
    )
  return (
    "held-out choices about objects that the fit saw in other triplets,"
    f" {settings['val_fraction']:.0%} of the training triplets"
  )


def _curves(context):
  if "student" not in context.inputs:
    return ()
  rows = {}
  with open(context.inputs["student"] / "losses.csv", newline="") as file:
    for row in csv.DictReader(file):
      rows.setdefault(row["variant"], []).append(row)
  return tuple(
    plots.Curve(
      name=variant,
      step=[int(row["step"]) for row in of_variant],
      loss=[float(row["loss"]) for row in of_variant],
      accuracy=[float(row["accuracy"]) for row in of_variant],
    )
    for variant, of_variant in rows.items()
  )


def _provenance(context):
  """Versions and the settings of every stage, as their manifests have them."""
  manifests = {
    name: manifest.read(directory) for name, directory in context.inputs.items()
  }
  provenance = {"versions": dict(next(iter(manifests.values())).versions)}
  for name, read in manifests.items():
    provenance[f"stage {name}"] = _flat(read.config)
  return provenance


def _flat(values, prefix=""):
  flat = {}
  for key, value in values.items():
    if isinstance(value, dict):
      flat |= _flat(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat
