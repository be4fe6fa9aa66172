"""Rows about the three levels of the Levels data set.

Global coarse, local fine and class boundary, each per single answer and against
the majority (paper.md, section D): `levels.score_levels` with intervals over
objects and people besides, and reaction times.

Usage:
  people = level_scores.LevelAnswers(triplets, level, participant=participant)
  for row in level_scores.rows(embedding, people): print(row)
"""

import dataclasses
import functools

import numpy as np

from alignet_jax import odd_one_out
from alignet_jax.evals import bootstrap, choice_scores, score
from alignet_jax.evals import levels as levels_lib
from alignet_jax.judgments import records


@dataclasses.dataclass(frozen=True, eq=False)
class LevelAnswers:
  """Single answers on several levels.

  Attributes:
    triplets: i32[n 3] rows of the items, odd one last.
    level: i32[n], index into `names`.
    names: Names of the levels; each occurs.
    participant: i32[n], or None.
    rt: f[n] seconds, or None.
    items: Names of the images, or empty.
    name: Of the data set.
  """

  triplets: np.ndarray
  level: np.ndarray
  names: tuple = levels_lib.NAMES
  participant: np.ndarray | None = None
  rt: np.ndarray | None = None
  items: tuple = ()
  name: str = "levels"

  @property
  def num_items(self):
    """How many images there are."""
    return len(self.items) or int(self.triplets.max()) + 1

  @functools.cached_property
  def counts(self):
    """`levels.Levels`: one row per triplet and level."""
    triplets, counts, level = [], [], []
    for index in range(len(self.names)):
      here = self.triplets[self.level == index]
      unordered, group, column = records.group_triplets(here)
      odd_counts = np.zeros(unordered.shape, np.int32)
      np.add.at(odd_counts, (group, column), 1)
      triplets.append(unordered)
      counts.append(odd_counts)
      level.append(np.full(len(unordered), index, np.int32))
    return levels_lib.Levels(
      np.concatenate(triplets),
      np.concatenate(counts),
      np.concatenate(level),
      tuple(self.names),
    )


def rows(embedding, people, *, similarities=choice_scores.SIMILARITIES, seed=0):
  """Scores of every level.

  Args:
    embedding: f32[n d], a row per image; rows that are not finite stand for
      images that the model does not have, and their triplets are left out, also
      of the noise ceiling.
    people: `LevelAnswers`.
    similarities: Some of `choice_scores.SIMILARITIES`.
    seed: Of the intervals.

  Returns:
    List of `score.Score`.
  """
  embedding = np.asarray(embedding, np.float32)
  if len(embedding) < people.num_items:
    raise ValueError(
      f"{people.name}: {len(embedding)} rows for {people.num_items} items."
    )
  known = np.isfinite(embedding).all(axis=1)[people.triplets].all(axis=1)
  left_out = {
    name: int((~known & (people.level == index)).sum())
    for index, name in enumerate(people.names)
  }
  people, empty = _of_known(people, known)
  made = [
    score.skipped(
      "alignment",
      people.name,
      "accuracy",
      choice_scores.NO_TRIPLET,
      f"{similarity}, {level}",
    )
    for similarity in similarities
    for level in empty
  ]
  if not people.names:
    return made
  for similarity in similarities:
    scored = levels_lib.score_levels(
      embedding,
      people.counts,
      cosine=similarity == "cosine",
      num_resamples=200,
      seed=seed,
    )
    for level, of_level in scored.items():
      made += _level(people, level, of_level, similarity, left_out[level])
    made += _other_intervals(embedding, people, similarity, seed)
  return made


def _of_known(people, known):
  """The answers that are known, and the names of levels that have none."""
  if known.all():
    return people, ()
  met = np.unique(people.level[known])
  part = dataclasses.replace(
    people,
    triplets=people.triplets[known],
    level=np.searchsorted(met, people.level[known]),
    names=tuple(people.names[index] for index in met),
    participant=None
    if people.participant is None
    else people.participant[known],
    rt=None if people.rt is None else people.rt[known],
  )
  return part, tuple(name for name in people.names if name not in part.names)


def _level(people, level, of_level, similarity, left_out):
  row = functools.partial(
    score.Score, "alignment", people.name, chance=odd_one_out.CHANCE
  )
  unknown = choice_scores.left_out_note(left_out)
  tied = of_level["num_tied_majority"]
  made = [
    row(
      "accuracy",
      f"{similarity}, {level}",
      of_level["per_trial"],
      *of_level["per_trial_interval"],
      ceiling_low=of_level["noise_ceiling"][0],
      ceiling_high=of_level["noise_ceiling"][1],
      num=of_level["num_answers"],
      note=f"over triplets; {of_level['num_tied_model']} ties{unknown}",
    )
  ]
  if tied == of_level["num_triplets"]:
    made.append(
      score.skipped(
        "alignment",
        people.name,
        "accuracy_majority",
        choice_scores.ALL_TIED,
        f"{similarity}, {level}",
      )
    )
    return made
  made.append(
    row(
      "accuracy_majority",
      f"{similarity}, {level}",
      of_level["majority"],
      *of_level["majority_interval"],
      ceiling_high=1.0,
      num=of_level["num_triplets"] - tied,
      note=f"over triplets; {tied} tied majorities left out{unknown}",
    )
  )
  return made


def _other_intervals(embedding, people, similarity, seed):
  """Intervals over objects and people, and reaction times."""
  scores = choice_scores.logits(embedding, people.triplets, similarity)
  correct = np.asarray(odd_one_out.choose(scores)) == 2
  logprobs = np.asarray(odd_one_out.log_probs(scores))
  made = []
  for index, level in enumerate(people.names):
    here = people.level == index
    hits, ones = correct[here].astype(np.float64), np.ones(int(here.sum()))
    row = functools.partial(
      score.Score,
      "alignment",
      people.name,
      "accuracy",
      value=hits.mean(),
      chance=odd_one_out.CHANCE,
      num=len(hits),
    )
    low, high = bootstrap.ratio_over_objects(
      hits, ones, people.triplets[here], bounds=(0, 1), seed=seed
    )
    made.append(
      row(
        variant=f"{similarity}, {level}, objects drawn",
        low=low,
        high=high,
        note="over objects",
      )
    )
    if people.participant is not None:
      by_person = bootstrap.sums(people.participant[here], hits, ones)
      num, interval = len(by_person[0]), {}
      if num > 1:
        low, high = bootstrap.ratio(*by_person, bounds=(0, 1), seed=seed)
        interval = {"low": low, "high": high}
      made.append(
        row(
          variant=f"{similarity}, {level}, people drawn",
          **interval,
          note=f"over {num} people" if interval else "one person, no interval",
        )
      )
    if people.rt is not None:
      made.append(
        choice_scores.reaction_time_row(
          people.name,
          f"{similarity}, {level}",
          logprobs[here],
          people.triplets[here],
          people.rt[here],
          seed,
        )
      )
  return made
