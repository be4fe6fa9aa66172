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
from alignet_jax.evals import bootstrap, calibration, choice_scores, score
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
    embedding: f32[n d], a row per image.
    people: `LevelAnswers`.
    similarities: Some of `choice_scores.SIMILARITIES`.
    seed: Of the intervals.

  Returns:
    List of `score.Score`.
  """
  made = []
  for similarity in similarities:
    scored = levels_lib.score_levels(
      embedding,
      people.counts,
      cosine=similarity == "cosine",
      num_resamples=200,
      seed=seed,
    )
    for level, of_level in scored.items():
      made += _level(people, level, of_level, similarity)
    made += _other_intervals(embedding, people, similarity, seed)
  return made


def _level(people, level, of_level, similarity):
  row = functools.partial(
    score.Score, "alignment", people.name, chance=odd_one_out.CHANCE
  )
  return [
    row(
      "accuracy",
      f"{similarity}, {level}",
      of_level["per_trial"],
      *of_level["per_trial_interval"],
      ceiling_low=of_level["noise_ceiling"][0],
      ceiling_high=of_level["noise_ceiling"][1],
      num=of_level["num_answers"],
      note=f"over triplets; {of_level['num_tied_model']} ties",
    ),
    row(
      "accuracy_majority",
      f"{similarity}, {level}",
      of_level["majority"],
      *of_level["majority_interval"],
      ceiling_high=1.0,
      num=of_level["num_triplets"] - of_level["num_tied_majority"],
      note=f"{of_level['num_tied_majority']} tied majorities left out",
    ),
  ]


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
      hits, ones, people.triplets[here], seed=seed
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
      low, high = bootstrap.ratio(*by_person, bounds=(0, 1), seed=seed)
      made.append(
        row(
          variant=f"{similarity}, {level}, people drawn",
          low=low,
          high=high,
          note=f"over {len(by_person[0])} people",
        )
      )
    if people.rt is not None:
      found = calibration.reaction_time_correlation(
        logprobs[here], people.triplets[here], people.rt[here], seed=seed
      )
      made.append(
        score.Score(
          "alignment",
          people.name,
          "reaction_time",
          f"{similarity}, {level}",
          found.value,
          found.low,
          found.high,
          chance=0.0,
          num=found.num,
          note="Spearman, entropy against median time; over triplets",
        )
      )
  return made
