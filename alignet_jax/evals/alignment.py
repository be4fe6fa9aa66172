"""The suite "alignment": every model against everything people said.

Usage:
  rows, seconds = alignment.run({"clip": model}, data, base="clip")
"""

import time

from alignet_jax.evals import (
  choice_scores,
  hierarchy,
  human_data,
  level_scores,
  models,
  rsa_scores,
  score,
)


def run(of_models, data, *, base=None, rsatoolbox_draws=0, log=None):
  """Scores all models on all data sets.

  Args:
    of_models: Dict from name to `models.Model`.
    data: List of `choice_scores.Choices`, `level_scores.LevelAnswers`,
      `rsa_scores.RdmSet` and `human_data.Taxonomy`.
    base: Name of the model that others are compared with in the hierarchy; the
      first by default.
    rsatoolbox_draws: Draws of rsatoolbox's bootstrap beside ours, or 0.
    log: Called with a line per model and data set, or None.

  Returns:
    (rows, seconds): list of `score.Score`, and a dict from (model, data set) to
    seconds.
  """
  base = base or next(iter(of_models))
  rows, seconds = [], {}
  for name, model in of_models.items():
    for people in data:
      start = time.monotonic()
      made = _score(model, people, of_models[base], rsatoolbox_draws)
      rows += [row.of(name) for row in made]
      seconds[name, people.name] = time.monotonic() - start
      if log is not None:
        log(
          f"{name}, {people.name}: {len(made)} scores, "
          f"{seconds[name, people.name]:.1f} s"
        )
  return rows, seconds


def _score(model, people, base, rsatoolbox_draws):
  """Rows of one model on one data set; one that was skipped says why."""
  try:
    embedding = models.rows_of(
      model, people.name, items=people.items, num_items=people.num_items
    )
    if isinstance(people, choice_scores.Choices):
      return choice_scores.rows(embedding, people)
    if isinstance(people, level_scores.LevelAnswers):
      return level_scores.rows(embedding, people)
    if isinstance(people, rsa_scores.RdmSet):
      made = rsa_scores.rows(embedding, people)
      if rsatoolbox_draws:
        made += rsa_scores.rsatoolbox_rows(
          embedding, people, num_draws=rsatoolbox_draws
        )
      return made
    if isinstance(people, human_data.Taxonomy):
      return _hierarchy(embedding, people, model, base)
  except (models.Missing, ValueError) as error:
    return [score.skipped("alignment", people.name, "all", str(error))]
  raise TypeError(f"{type(people).__name__} is no data set of people.")


def _hierarchy(embedding, taxonomy, model, base):
  """Relative distances of each kind of pairs, and how they moved from base."""
  kinds = hierarchy.pair_kinds(taxonomy.levels)
  made = _of_kinds(
    taxonomy.name,
    "relative_distance",
    hierarchy.mean_distances(embedding, kinds),
    1.0,
    "cosine distance over its mean; over items",
  )
  if model is base:
    return made
  try:
    before = models.rows_of(
      base, taxonomy.name, items=taxonomy.items, num_items=taxonomy.num_items
    )
    moved = hierarchy.changes(before, embedding, kinds)
  except ValueError as error:
    # What the base lacks takes nothing from the model's own distances.
    lacks = f"the base {base.name} lacks it ({str(error).removesuffix('.')})."
    return [
      *made,
      score.skipped("alignment", taxonomy.name, "distance_change", lacks),
    ]
  return made + _of_kinds(
    taxonomy.name,
    "distance_change",
    moved,
    0.0,
    f"minus that of {base.name}; over items",
  )


def _of_kinds(dataset, measure, of_kinds, chance, note):
  return [
    score.Score(
      "alignment",
      dataset,
      measure,
      kind,
      change.value,
      change.low,
      change.high,
      chance=chance,
      num=change.num,
      note=note,
    )
    for kind, change in of_kinds.items()
  ]
