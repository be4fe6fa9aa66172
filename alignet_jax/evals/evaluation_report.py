"""The page of an evaluation: every score of every model, and figures of them.

Usage:
  content = evaluation_report.make(rows, of_models, data, about=about)
  report.write_report(out / "report.html", content)
"""

import collections
import math

import numpy as np

from alignet_jax import odd_one_out, progress
from alignet_jax.evals import (
  calibration,
  choice_scores,
  human_data,
  item_map,
  item_names,
  models,
  plots,
  report,
  rsa,
  rsa_scores,
  score,
  uncertainty,
)

# Larger matrices would be a picture of nothing.
_MAX_RDM_ITEMS = 500

# Models whose single figures are shown; the tables have all.
_MAX_FIGURES = 6

# Triplets shown as pictures, and how many are drawn to find them where people
# judged pairs.
_NUM_EXAMPLES = 6
_NUM_DRAWN = 5000

# Share of the items that a category needs for a name of its own beside a
# matrix: a line of text takes as much of its height. Others share one name.
_MIN_SHARE = 0.06
_OTHER = "other"

_GUIDE = (
  "Numbers in brackets are 95% intervals, but of few_shot the lowest and "
  "highest draw of the shots; what they are over stands in the column note of "
  "the files scores.csv and scores.json. A dash is what was not "
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
  rows = score.with_common_ceilings(rows)
  return report.ReportContent(
    title=title,
    intro=(_GUIDE,),
    tables=tables(rows, names),
    levels=accuracy_bars(rows, names),
    few_shot=_bars(rows, names, "few_shot", "accuracy"),
    hierarchy=_bars(
      rows, names, "relative_distance", "distance / mean distance", "mean"
    ),
    rdms=_rdms(rows, of_models, data, images or {}),
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
        ceilings[key] = (
          plots.Range(row.ceiling_low, row.ceiling_high)
          if math.isfinite(row.ceiling_low)
          else row.ceiling_high
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


def _pair_sets(data, images):
  """Data sets of pairs, those with pictures at hand first."""
  sets = [people for people in data if isinstance(people, rsa_scores.RdmSet)]
  return sorted(sets, key=lambda people: people.name not in images)


def _categories(people, data):
  """Category of each item, or (): its own, or a taxonomy's superordinate."""
  found = people.categories
  for other in data:
    if found or not isinstance(other, human_data.Taxonomy):
      continue
    names = other.levels["superordinate"]
    if people.items and other.items:
      try:
        picked = item_names.match(people.items, other.items)
      except item_names.Unmatched:
        continue  # It is about other items.
      found = tuple(names[row] for row in picked)
    elif len(names) == people.num_items:
      found = tuple(names)
  return found


def _few(categories):
  """The largest categories by name; the others, and none, are one."""
  least = _MIN_SHARE * len(categories)
  times = collections.Counter(name for name in categories if name)
  kept = {name for name, num in times.items() if num >= least}
  return [name if name in kept else _OTHER for name in categories]


def _sorted_rdms(matrices, categories):
  """Matrices and categories with the items category by category.

  In the order of the names, so that two pages compare; what has none is last.
  """
  few = _few(categories)
  order = sorted(
    range(len(few)),
    key=lambda item: (few[item] == _OTHER, few[item], categories[item]),
  )
  places = np.ix_(order, order)
  return (
    {name: np.asarray(matrix)[places] for name, matrix in matrices.items()},
    [few[item] for item in order],
  )


def _rdms(rows, of_models, data, images):
  """Matrices of the first data set of pairs that is not too large."""
  for people in _pair_sets(data, images):
    if people.num_items > _MAX_RDM_ITEMS:
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
    categories = _categories(people, data)
    sorted_as = "" if categories else " Items stand in their own order."
    if categories:
      matrices, categories = _sorted_rdms(matrices, categories)
      if _OTHER in categories:
        sorted_as = (
          f" {_OTHER}: no category, then those with less than "
          f"{_MIN_SHARE:.0%} of the items, sorted too."
        )
    else:
      categories = ("",) * people.num_items
    return plots.Rdms(
      matrices,
      categories,
      spearman,
      note=f"{people.name}: cosine distance of the models.{sorted_as}",
    )
  return None


def _maps(of_models, data, images):
  """Maps of the first data set of pairs, with pictures if there are some."""
  for people in _pair_sets(data, images):
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
          name, *item_map.project(x), _categories(people, data), pictures
        )
    if made:
      return made
  return {}


def _pictures(people, images):
  """u8[n h w 3] of a data set's items, or None if they are not at hand."""
  shown = images.get(people.name)
  if shown is None:
    return None
  places = _places(people, shown)
  return None if places is None else shown.load(places)


def _places(people, shown):
  """int[n], where each item's picture is in a collection; None if not all."""
  if not people.items:
    if len(shown) != people.num_items:
      return None
    return np.arange(people.num_items)
  try:
    return item_names.match(people.items, shown.names)
  except item_names.Unmatched as error:
    # What was measured is not lost for want of pictures.
    progress.write(f"note: no pictures of {people.name}: {error}")
    return None


def _examples(of_models, data, images, base):
  """The triplets whose choice moved most from the base, as pictures."""
  base = base or next(iter(of_models), None)
  others = [name for name in of_models if name != base]
  for people in data:
    if not others or people.name not in images:
      continue
    asked = _asked(people)
    places = _places(people, images[people.name])
    if asked is None or places is None:
      continue
    triplets, counts, drawn = asked
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
    changed = [name for name in scores if name != base]
    # The base itself, transformed, before models that are others altogether.
    last = next(
      (
        name for name in changed if of_models[name].find is of_models[base].find
      ),
      changed[0],
    )
    moved = np.abs(probs[last] - probs[base]).sum(axis=1)
    rows = _without_repeats(
      np.argsort(-moved, kind="stable"), triplets, _NUM_EXAMPLES
    )
    shown = images[people.name]
    choices = {
      name: np.asarray(odd_one_out.choose(s)) for name, s in scores.items()
    }
    made = []
    for row in rows:
      made.append(
        report.TripletExample(
          images=shown.load(places[triplets[row]]),
          odd_counts=counts[row].tolist(),
          choices={name: int(odd[row]) for name, odd in choices.items()},
        )
      )
    return {
      "examples": tuple(made),
      "examples_note": (
        f"{people.name}: the {len(made)} triplets{drawn} on which the "
        f"probabilities of {last} differ most from those of {base}, by cosine. "
        "Who is right played no part, and no item is shown twice."
      ),
    }
  return {}


def _without_repeats(order, triplets, number):
  """The first rows in an order that share no item with one before them."""
  rows, met = [], set()
  for row in order:
    items = set(triplets[row].tolist())
    if not items & met:
      rows.append(row)
      met |= items
    if len(rows) == number:
      break
  return rows


def _asked(people):
  """(triplets, odd_counts, how they were drawn) of a data set, or None.

  Of pairs, triplets are drawn, and everybody whose dissimilarities are known
  calls that item odd whose other two are the least unlike.
  """
  if isinstance(people, choice_scores.Choices) and people.repeats is not None:
    return *people.repeats, ""
  if not isinstance(people, rsa_scores.RdmSet) or people.num_items < 3:
    return None
  np_rng = np.random.default_rng(0)
  triplets = np.stack(
    [
      np_rng.choice(people.num_items, 3, replace=False)
      for _ in range(_NUM_DRAWN)
    ]
  )
  triplets = np.unique(np.sort(triplets, axis=1), axis=0)
  a, b, c = triplets.T
  matrices = (
    people.per_person if people.per_person is not None else [people.rdm]
  )
  counts = np.zeros(triplets.shape, np.int64)
  for rdm in matrices:
    rdm = np.asarray(rdm)
    scores = -np.stack([rdm[b, c], rdm[a, c], rdm[a, b]], axis=1)
    odd = np.asarray(odd_one_out.choose(scores.astype(np.float32)))
    made = odd != odd_one_out.TIE
    counts[np.flatnonzero(made), odd[made]] += 1
  kept = counts.sum(axis=1) > 0
  whose = (
    f"by the dissimilarities of {len(matrices)} people"
    if people.per_person is not None
    else "by people's similarities, which count as one person"
  )
  return (
    triplets[kept],
    counts[kept],
    f" of {int(kept.sum()):,} drawn ones, answered {whose},",
  )


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
    return {
      "scatters": tuple(scatters),
      "reliability": tuple(diagrams),
      "uncertainty_note": (
        f"{people.name}: probabilities of all models by dot product, at "
        "temperature 1; those by cosine, and with a fitted temperature, are in "
        "the table."
      ),
    }
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
