"""Rows about odd-one-out choices: accuracy, likelihood, uncertainty.

Per trial: share of single answers that the model gives too. Majority: share of
repeated triplets on which it names what most people name. The two are never
mixed (paper.md, section D). Ties of the model are wrong; chance is 1/3. A noise
ceiling is known of repeated triplets only, which may be harder or easier than
the others; so the accuracy on them stands beside it in a row of its own.

Probabilities are those at temperature 1, and where the variant says "fitted",
at the temperature that is best on the very triplets that are scored: the
uncertainty that a model could have, not one that was predicted.
`Deviation:` human_alignment fits a temperature from a short list, by the
Jensen-Shannon distance to VICE's probabilities (paper.md, section F); here it
is by KL from people's answers.

Usage:
  people = choice_scores.Choices("things", triplets, repeats=(trips, counts))
  for row in choice_scores.rows(embedding, people): print(row)
"""

import dataclasses
import functools
import math

import numpy as np

from alignet_jax import odd_one_out
from alignet_jax.evals import (
  bootstrap,
  calibration,
  score,
  triplet_logits,
  uncertainty,
)
from alignet_jax.judgments import noise_ceiling, records
from alignet_jax.teacher import concepts, zero_shot

SIMILARITIES = ("cosine", "dot")

# Why a row of choices has no number.
NO_TRIPLET = "there is no triplet of items that the model has."
ALL_TIED = "people's majority is tied in every triplet."


@dataclasses.dataclass(frozen=True, eq=False)
class Choices:
  """What people called odd.

  Attributes:
    name: Of the data set.
    triplets: i32[n 3] rows of the items, odd one last; one per answer.
    repeats: (i32[m 3] triplets, i32[m 3] odd_counts) that several people
      answered, or None.
    participant: i32[n], or None.
    rt: f[n] seconds, NaN where not known, or None.
    categories: Name -> int[k] items in it; empty for none.
    items: Names of the items, or empty if their order is all there is.
    num_items: How many there are; by default as many as occur.
  """

  name: str
  triplets: np.ndarray
  repeats: tuple | None = None
  participant: np.ndarray | None = None
  rt: np.ndarray | None = None
  categories: dict = dataclasses.field(default_factory=dict)
  items: tuple = ()
  num_items: int = 0

  def __post_init__(self):
    highest = self.triplets.max(initial=-1)
    if self.repeats is not None:
      highest = max(highest, self.repeats[0].max(initial=-1))
    if not self.num_items:
      object.__setattr__(self, "num_items", len(self.items) or int(highest) + 1)
    if highest >= self.num_items:
      raise ValueError(
        f"{self.name}: the triplets hold item {highest}; there are "
        f"{self.num_items} items."
      )

  @functools.cached_property
  def group(self):
    """int32[n], which answers are about the same three items."""
    return records.group_triplets(self.triplets)[1]

  @functools.cached_property
  def ceiling(self):
    """(lower, upper) noise ceiling of single answers; NaN without repeats."""
    if self.repeats is None:
      return math.nan, math.nan
    return _ceiling(self.repeats[1])


def rows(embedding, people, *, similarities=SIMILARITIES, seed=0):
  """All scores of one embedding against choices.

  Args:
    embedding: f32[n d], a row per item; rows that are not finite stand for
      items that the model does not have, and their triplets are left out.
    people: `Choices`.
    similarities: Some of `SIMILARITIES`.
    seed: Of the intervals.

  Returns:
    List of `score.Score` without the name of a model.
  """
  embedding = np.asarray(embedding, np.float32)
  known = np.isfinite(embedding).all(axis=1)
  if len(embedding) != people.num_items:
    raise ValueError(
      f"{people.name}: {len(embedding)} rows for {people.num_items} items."
    )
  made = []
  for similarity in similarities:
    made += _accuracy(embedding, known, people, similarity, seed)
    if people.repeats is not None:
      made += _repeats(embedding, known, people, similarity, seed)
  return made


def logits(embedding, triplets, similarity):
  """Scores of triplets, f32[n 3], as `triplet_logits.of`."""
  return triplet_logits.of(embedding, triplets, similarity)


def left_out_note(num):
  """What a note says last of triplets of items that the model does not have."""
  return f"; {num} triplets of unknown items left out" if num else ""


def _ceiling(counts):
  """(lower, upper) noise ceiling of single answers."""
  bounds = noise_ceiling.noise_ceiling(counts, num_resamples=1, num_splits=1)
  return bounds["lower"].value, bounds["upper"].value


def _accuracy(embedding, known, people, similarity, seed):
  """Rows of single answers."""
  kept = known[people.triplets].all(axis=1)
  triplets, group = people.triplets[kept], people.group[kept]
  left_out = len(kept) - int(kept.sum())
  if not len(triplets):
    return [
      score.skipped(
        "alignment",
        people.name,
        "accuracy",
        NO_TRIPLET,
        similarity,
      )
    ]
  scores = logits(embedding, triplets, similarity)
  odd = np.asarray(odd_one_out.choose(scores))
  logprobs = np.asarray(odd_one_out.log_probs(scores), np.float64)
  correct, ones = (odd == 2).astype(np.float64), np.ones(len(odd))
  note = f"{int((odd == odd_one_out.TIE).sum())} ties{left_out_note(left_out)}"
  row = functools.partial(
    score.Score,
    "alignment",
    people.name,
    chance=odd_one_out.CHANCE,
    num=len(odd),
  )
  value = float(correct.mean())
  by_triplet = bootstrap.sums(group, correct, ones)
  made = [
    row(
      "accuracy",
      similarity,
      value,
      *bootstrap.ratio(*by_triplet, bounds=(0, 1), seed=seed),
      note=f"over triplets; {note}",
    ),
    row(
      "accuracy",
      f"{similarity}, objects drawn",
      value,
      *bootstrap.ratio_over_objects(
        correct, ones, triplets, bounds=(0, 1), seed=seed
      ),
      note="over objects",
    ),
  ]
  if people.participant is not None:
    by_person = bootstrap.sums(people.participant[kept], correct, ones)
    num = len(by_person[0])
    # One person says nothing about another.
    several = num > 1
    made.append(
      row(
        "accuracy",
        f"{similarity}, people drawn",
        value,
        *(
          bootstrap.ratio(*by_person, bounds=(0, 1), seed=seed)
          if several
          else ()
        ),
        note=f"over {num} people" if several else "one person, no interval",
      )
    )
  made.append(
    score.Score(
      "alignment",
      people.name,
      "nll",
      similarity,
      uncertainty.nll(logprobs),
      *bootstrap.ratio(
        *bootstrap.sums(group, -logprobs[:, 2], ones),
        bounds=(0, math.inf),
        seed=seed,
      ),
      chance=math.log(3),
      num=len(odd),
      note="nats, temperature 1; over triplets",
    )
  )
  if people.rt is not None:
    made.append(
      reaction_time_row(
        people.name, similarity, logprobs, triplets, people.rt[kept], seed
      )
    )
  if people.categories:
    for found in concepts.by_category(
      odd == 2, triplets, people.categories, num_resamples=200, seed=seed
    ):
      if found.num_triplets:
        made.append(
          row(
            "accuracy_by_category",
            f"{similarity}, {found.name}",
            found.accuracy,
            found.low,
            found.high,
            note="over triplets; any item of the category",
          )
        )
        made[-1] = dataclasses.replace(made[-1], num=found.num_triplets)
  return made


def reaction_time_row(name, variant, logprobs, triplets, rt, seed):
  """The correlation of a model's entropy with people's reaction times."""
  found = calibration.reaction_time_correlation(
    logprobs, triplets, rt, seed=seed
  )
  if math.isnan(found.value):
    reason = (
      f"{found.num} triplets have a known time; it takes 3."
      if found.num < 3
      else "all entropies of the model or all times of people are equal."
    )
    return score.skipped("alignment", name, "reaction_time", reason, variant)
  return score.Score(
    "alignment",
    name,
    "reaction_time",
    variant,
    found.value,
    found.low,
    found.high,
    chance=0.0,
    num=found.num,
    note="Spearman, entropy against median time; over triplets",
  )


def _repeats(embedding, known, people, similarity, seed):
  """Rows of triplets that several people answered."""
  triplets, counts = people.repeats
  kept = known[triplets].all(axis=1)
  triplets, counts = triplets[kept], counts[kept]
  if not len(triplets):
    return [
      score.skipped(
        "alignment", people.name, "accuracy_repeats", NO_TRIPLET, similarity
      )
    ]
  # A ceiling of other triplets, harder or easier, would bound nothing.
  ceiling = people.ceiling if kept.all() else _ceiling(counts)
  unknown = left_out_note(int((~kept).sum()))
  scores = logits(embedding, triplets, similarity)
  logprobs = np.asarray(odd_one_out.log_probs(scores), np.float64)
  odd = np.asarray(odd_one_out.choose(scores))
  majority = np.asarray(odd_one_out.choose(counts))
  clear = majority != odd_one_out.TIE
  agrees = (odd == majority)[clear].astype(np.float64)
  row = functools.partial(score.Score, "alignment", people.name)
  totals = counts.sum(axis=1)
  hits = np.where(
    odd == odd_one_out.TIE,
    0,
    counts[np.arange(len(odd)), np.maximum(odd, 0)],
  )
  made = [
    row(
      "accuracy_repeats",
      similarity,
      hits.sum() / totals.sum(),
      *bootstrap.ratio(hits, totals, bounds=(0, 1), seed=seed),
      chance=odd_one_out.CHANCE,
      ceiling_low=ceiling[0],
      ceiling_high=ceiling[1],
      num=int(totals.sum()),
      note=f"single answers to {len(odd)} triplets; over triplets{unknown}",
    )
  ]
  if not clear.any():
    made.append(
      score.skipped(
        "alignment", people.name, "accuracy_majority", ALL_TIED, similarity
      )
    )
  else:
    made.append(
      row(
        "accuracy_majority",
        similarity,
        float(agrees.mean()),
        *bootstrap.mean(agrees, bounds=(0, 1), seed=seed),
        chance=odd_one_out.CHANCE,
        ceiling_high=1.0,
        num=int(clear.sum()),
        note=f"over triplets; {int((~clear).sum())} tied majorities left out"
        f"{unknown}",
      )
    )
  made += uncertainty_rows(
    people.name,
    logprobs,
    counts,
    similarity,
    seed,
    note=f"over triplets{unknown}",
  )
  try:
    best = zero_shot.best_temperature(
      scores, counts / counts.sum(axis=1, keepdims=True), distance="kl"
    )
  except ValueError as error:
    reason = f"no temperature fits: {error}"
    return [
      *made,
      score.skipped(
        "alignment", people.name, "kl", reason, f"{similarity}, fitted"
      ),
    ]
  fitted = np.asarray(odd_one_out.log_probs(scores / best.temperature))
  return made + uncertainty_rows(
    people.name,
    fitted.astype(np.float64),
    counts,
    f"{similarity}, fitted",
    seed,
    note=f"over triplets; temperature {best.temperature:.4g}, fitted on the "
    f"same triplets{unknown}",
  )


def uncertainty_rows(name, logprobs, counts, variant, seed, note=""):
  """Entropy correlation, KL and calibration error of repeated triplets."""
  row = functools.partial(
    score.Score, "alignment", name, num=len(counts), note=note
  )
  entropy = np.asarray(
    odd_one_out.entropy(logprobs.astype(np.float32)), np.float64
  )
  people = uncertainty.response_entropy(counts)
  shares = counts / counts.sum(axis=1, keepdims=True)
  cross = shares * np.where(shares > 0, logprobs, 0.0)
  kl = -people - cross.sum(axis=1)
  bins = calibration.reliability(logprobs, counts)
  by_chance = calibration.error_by_chance(logprobs, counts)
  too_large = f"a calibrated model would have {by_chance:.4f} by chance"
  equal = [
    whose
    for whose, values in (("the model", entropy), ("people", people))
    if np.ptp(values) <= 1e-12  # Rounding.
  ]
  if equal:
    reason = f"all entropies of {equal[0]} are equal."
    entropy_r = score.skipped("alignment", name, "entropy_r", reason, variant)
  else:
    entropy_r = row(
      "entropy_r",
      variant,
      uncertainty.entropy_correlation(logprobs, counts),
      *bootstrap.correlation(entropy, people, seed=seed),
      chance=0.0,
    )
  return [
    entropy_r,
    row(
      "kl",
      variant,
      uncertainty.kl_from_people(counts, logprobs),
      *bootstrap.mean(kl, bounds=(0, math.inf), seed=seed),
    ),
    row(
      "calibration_error",
      variant,
      calibration.expected_error(bins),
      *calibration.expected_error_interval(logprobs, counts, seed=seed),
      note=f"{note}; {too_large}" if note else too_large,
    ),
  ]
