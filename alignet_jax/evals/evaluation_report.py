"""The page of an evaluation: every score of every model, and figures of them.

Usage:
  content = evaluation_report.make(rows, of_models, data, about=about)
  report.write_report(out / "report.html", content)
"""

import math

import numpy as np

from alignet_jax import odd_one_out
from alignet_jax.evals import (
  calibration,
  choice_scores,
  item_map,
  models,
  plots,
  report,
  rsa,
  rsa_scores,
  score,
  uncertainty,
)
from alignet_jax.judgments import levels_file

# Larger matrices would be a picture of nothing.
_MAX_RDM_ITEMS = 500

# Models whose single figures are shown; the tables have all.
_MAX_FIGURES = 6

# Triplets shown as pictures.
_NUM_EXAMPLES = 6

_GUIDE = (
  "Numbers in brackets are 95% intervals; what they are over stands in the "
  "column note of the files scores.csv and scores.json. A dash is what was not "
  "measured; what was skipped, and why, is the last table."
)
_SHORT = {
  "same_subordinate": "same\nsubordinate",
  "same_basic": "same\nbasic",
  "same_superordinate": "same\nsuperordinate",
  "different_superordinate": "different\nsuperordinate",
}


def make(
  rows,
  of_models,
  data,
  *,
  title="Evaluation",
  about=None,
  images=None,
  base=None,
):
  """Everything the page shows.

  Args:
    rows: Of `score.Score`, with names of models.
    of_models: Dict from name to `models.Model`.
    data: Data sets of people, as of `alignment.run`.
    title: Heading of the page.
    about: Heading -> text or mapping, for the provenance.
    images: Dict from image set to a collection with `load` and `names`, for
      thumbnails; or None.
    base: Name of the model that others are compared with; the first if None.

  Returns:
    `report.ReportContent`.
  """
  names = list(of_models)
  return report.ReportContent(
    title=title,
    intro=(_GUIDE,),
    tables=tables(rows, names),
    levels=accuracy_bars(rows, names),
    few_shot=_bars(rows, names, "few_shot", "accuracy"),
    hierarchy=_bars(
      rows, names, "relative_distance", "distance / mean distance", "mean"
    ),
    rdms=_rdms(rows, of_models, data),
    maps=_maps(of_models, data, images or {}),
    **_examples(of_models, data, images or {}, base),
    **_uncertainty(of_models, data),
    provenance=about or {},
  )


def tables(rows, names):
  """One table per data set, models in columns; then what was skipped."""
  made = []
  measured = [row for row in rows if not row.is_skipped]
  for dataset in dict.fromkeys(row.dataset for row in measured):
    here = [row for row in measured if row.dataset == dataset]
    cells, ceilings = {}, {}
    for row in here:
      key = f"{row.measure}, {row.variant}" if row.variant else row.measure
      cells.setdefault(key, {})[row.model] = _estimate(row)
      if math.isfinite(row.ceiling_high):
        ceilings[key] = plots.Estimate(
          row.ceiling_low
          if math.isfinite(row.ceiling_low)
          else row.ceiling_high,
          row.ceiling_low,
          row.ceiling_high,
        )
    columns = ["", *names, *(["noise ceiling"] if ceilings else [])]
    made.append(
      report.Table(
        columns,
        [
          [
            key,
            *(values.get(name) for name in names),
            *([ceilings.get(key)] if ceilings else []),
          ]
          for key, values in cells.items()
        ],
        title=dataset,
        note=f"Over {max(row.num for row in here):,} answers, pairs or images.",
      )
    )
  missing = {}
  for row in rows:
    if row.is_skipped:
      key = (row.dataset, row.measure, row.note.removeprefix(score.SKIPPED))
      missing.setdefault(key, []).append(row.model)
  if missing:
    made.append(
      report.Table(
        ("data", "measure", "models", "why"),
        [
          (dataset, measure, ", ".join(of), why)
          for (dataset, measure, why), of in missing.items()
        ],
        title="Skipped",
      )
    )
  return tuple(made)


def accuracy_bars(rows, names):
  """Figures of odd-one-out accuracy, per single answer and majority."""
  made = []
  for measure, title in (
    ("accuracy", "Single answers"),
    ("accuracy_repeats", "Single answers to repeated triplets"),
    ("accuracy_majority", "Majority of people"),
  ):
    for similarity in choice_scores.SIMILARITIES:
      found, ceilings = {}, {}
      for row in rows:
        kind, _, level = row.variant.partition(", ")
        if (
          row.measure != measure
          or kind != similarity
          or row.is_skipped
          or level.endswith("drawn")
        ):
          continue
        group = level or row.dataset
        found.setdefault(group, {})[row.model] = _estimate(row)
        if math.isfinite(row.ceiling_low):
          ceilings[group] = (row.ceiling_low, row.ceiling_high)
      if found:
        made.append(
          plots.Bars(
            groups=list(found),
            series=_series(found, names),
            title=f"{title}, by {similarity}",
            ylabel="odd-one-out accuracy",
            chance=odd_one_out.CHANCE,
            ceilings=[ceilings.get(group) for group in found],
          )
        )
  return tuple(made)


def _bars(rows, names, measure, ylabel, line="chance"):
  """A figure of one measure, a group per variant; None without it."""
  found, chance = {}, None
  here = [row for row in rows if row.measure == measure and not row.is_skipped]
  several = len({row.dataset for row in here}) > 1
  for row in here:
    group = _SHORT.get(row.variant, row.variant)
    if several:
      group = f"{row.dataset}\n{group}"
    found.setdefault(group, {})[row.model] = _estimate(row)
    chance = row.chance
  if not found:
    return None
  return plots.Bars(
    groups=list(found),
    series=_series(found, names),
    ylabel=ylabel,
    chance=None if several and line == "chance" else chance,
    line=line,
    note=here[0].note if measure == "few_shot" else "",
  )


def _rdms(rows, of_models, data):
  """Matrices of the first data set of pairs that is not too large."""
  for people in data:
    if (
      not isinstance(people, rsa_scores.RdmSet)
      or people.num_items > _MAX_RDM_ITEMS
    ):
      continue
    matrices, spearman = {"people": people.rdm}, {}
    for name, model in list(of_models.items())[:_MAX_FIGURES]:
      try:
        x = models.rows_of(
          model, people.name, items=people.items, num_items=people.num_items
        )
        matrices[name] = rsa.rdm(x)
      except (models.Missing, ValueError):
        continue
      for row in rows:
        key = (row.model, row.dataset, row.measure, row.variant)
        if key == (name, people.name, "spearman", "cosine"):
          spearman[name] = _estimate(row)
    if len(matrices) < 2:
      continue
    categories = people.categories or ("",) * people.num_items
    sorted_as = "" if people.categories else " Items stand in their own order."
    return plots.Rdms(
      matrices,
      categories,
      spearman,
      note=f"{people.name}: cosine distance of the models.{sorted_as}",
    )
  return None


def _maps(of_models, data, images):
  """Maps of the first data set of pairs, with pictures if there are some."""
  for people in data:
    if not isinstance(people, rsa_scores.RdmSet):
      continue
    made = {}
    pictures = _pictures(people, images)
    for name, model in list(of_models.items())[:_MAX_FIGURES]:
      try:
        x = models.rows_of(
          model, people.name, items=people.items, num_items=people.num_items
        )
      except models.Missing:
        continue
      if len(x) > 2 and np.isfinite(x).all():
        made[name] = item_map.draw(
          name, *item_map.project(x), people.categories, pictures
        )
    if made:
      return made
  return {}


def _pictures(people, images):
  """u8[n h w 3] of a data set's items, or None if they are not at hand."""
  shown = images.get(people.name)
  if shown is None or not people.items:
    return None
  place = {
    levels_file.base_name(str(name)): row
    for row, name in enumerate(shown.names)
  }
  wanted = [levels_file.base_name(str(name)) for name in people.items]
  if any(name not in place for name in wanted):
    return None
  return shown.load(np.array([place[name] for name in wanted]))


def _examples(of_models, data, images, base):
  """The triplets whose choice moved most from the base, as pictures."""
  base = base or next(iter(of_models), None)
  others = [name for name in of_models if name != base]
  for people in data:
    if not isinstance(people, choice_scores.Choices) or not others:
      continue
    if people.repeats is None or people.name not in images:
      continue
    triplets, counts = people.repeats
    scores = {}
    for name in [base, *others][:_MAX_FIGURES]:
      try:
        x = models.rows_of(
          of_models[name],
          people.name,
          items=people.items,
          num_items=people.num_items,
        )
      except models.Missing:
        continue
      scores[name] = choice_scores.logits(x, triplets, "cosine")
    if base not in scores or len(scores) < 2:
      continue
    probs = {
      name: np.exp(odd_one_out.log_probs(s)) for name, s in scores.items()
    }
    last = next(name for name in scores if name != base)
    moved = np.abs(probs[last] - probs[base]).sum(axis=1)
    rows = np.argsort(-moved, kind="stable")[:_NUM_EXAMPLES]
    shown = images[people.name]
    choices = {
      name: np.asarray(odd_one_out.choose(s)) for name, s in scores.items()
    }
    place = None
    if people.items:
      place = {
        levels_file.base_name(str(name)): row
        for row, name in enumerate(shown.names)
      }
      names = [levels_file.base_name(str(name)) for name in people.items]
      if any(name not in place for name in names):
        continue
    made = []
    for row in rows:
      items = triplets[row]
      if place is not None:
        items = np.array([place[names[item]] for item in items])
      made.append(
        report.TripletExample(
          images=shown.load(items),
          odd_counts=counts[row].tolist(),
          choices={name: int(odd[row]) for name, odd in choices.items()},
        )
      )
    return {
      "examples": tuple(made),
      "examples_note": (
        f"The {len(made)} triplets on which the probabilities of {last} differ "
        f"most from those of {base}. Who is right played no part."
      ),
    }
  return {}


def _uncertainty(of_models, data):
  """Scatters and reliability diagrams of the first repeated triplets."""
  for people in data:
    if not isinstance(people, choice_scores.Choices) or people.repeats is None:
      continue
    triplets, counts = people.repeats
    scatters, diagrams = [], []
    for name, model in list(of_models.items())[:_MAX_FIGURES]:
      try:
        x = models.rows_of(
          model, people.name, items=people.items, num_items=people.num_items
        )
      except models.Missing:
        continue
      if not np.isfinite(x).all():
        continue
      logprobs = np.asarray(
        odd_one_out.log_probs(choice_scores.logits(x, triplets, "dot")),
        np.float64,
      )
      bins = calibration.reliability(logprobs, counts)
      scatters.append(
        plots.Scatter(
          name,
          uncertainty.response_entropy(counts),
          np.asarray(odd_one_out.entropy(logprobs.astype(np.float32))),
          uncertainty.entropy_correlation(logprobs, counts),
        )
      )
      diagrams.append(
        plots.Reliability(
          name,
          np.nan_to_num(bins.confidence),
          np.nan_to_num(bins.accuracy),
          bins.count,
          calibration.expected_error(bins),
        )
      )
    return {"scatters": tuple(scatters), "reliability": tuple(diagrams)}
  return {}


def _series(found, names):
  """Values of each group for the models that have any."""
  return {
    name: [values.get(name, math.nan) for values in found.values()]
    for name in names
    if any(name in values for values in found.values())
  }


def _estimate(row):
  if math.isfinite(row.low) and math.isfinite(row.high):
    return plots.Estimate(row.value, row.low, row.high)
  return plots.Estimate(row.value)
