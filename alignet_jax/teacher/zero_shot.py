"""How human-like features are before anything is fitted to people.

A model's odd one out is the item that is left when the two most similar ones
are paired (paper.md, section F), by cosine, dot product or Euclidean distance.
Choices do not depend on a temperature, probabilities do: `best_temperature`
finds the one at which a model is unsure where people are.

Deviation: human_alignment multiplies by its temperature and tries 1 to 1e-5;
here a temperature divides similarities, as everywhere in this package, and is
not held to powers of ten.

Usage:
  scored = zero_shot.score(features, triplets, similarity="cosine")
  scored.accuracy.value, scored.accuracy.low, scored.accuracy.high
  logits = zero_shot.logits(features, triplets, similarity="cosine")
  zero_shot.best_temperature(logits, np.exp(target_logprobs)).temperature
  zero_shot.paired_interval(soft_is_correct, hard_is_correct, triplets)
"""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special

from alignet_jax import intervals, odd_one_out
from alignet_jax.judgments import records
from alignet_jax.teacher import checks

SIMILARITIES = ("cosine", "dot", "euclidean")
DISTANCES = ("jensen_shannon", "kl")

# Triplets whose rows are gathered at a time: 4096 of width 1152 take 57 MB.
_BLOCK = 4096

# Temperatures tried, relative to the spread of the similarities: from where
# every choice is certain to where every choice is a guess.
_DECADES = 3
_PER_DECADE = 5


class Interval(NamedTuple):
  """A number and its bootstrap interval.

  Attributes:
    value: The number for all triplets.
    low: Lower end; NaN if there are no triplets.
    high: Upper end.
  """

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroShot:
  """Odd-one-out accuracy of features.

  Attributes:
    accuracy: `Interval`, ties counting as wrong.
    correct: bool[t], whether the model chose as people did.
    num_ties: Triplets without a choice.
    chance: Accuracy of a guess, 1/3. Constant features have 0, as all ties are
      wrong.
  """

  accuracy: Interval
  correct: np.ndarray
  num_ties: int
  chance: float = odd_one_out.CHANCE


class Temperature(NamedTuple):
  """The temperature that matches given probabilities best.

  Attributes:
    temperature: Positive; divides the similarities.
    distance: Mean distance to the probabilities that is left, in nats ("kl") or
      their square root ("jensen_shannon").
    at_edge: Whether it is the smallest or largest one tried. Then the model is
      as good as certain, or as good as guessing, at its best.
  """

  temperature: float
  distance: float
  at_edge: bool


def logits(features, triplets, *, similarity="cosine"):
  """Scores triplets by the similarities of features as they are.

  Args:
    features: f32[n d].
    triplets: int[t 3] rows of `features`.
    similarity: One of `SIMILARITIES`; "euclidean" is the negative distance, not
      squared.

  Returns:
    f32[t 3]. Entry p scores item p for being the odd one; temperature 1.

  Raises:
    ValueError: Another similarity; features or triplets that cannot be used;
      similarities too large for float32.
  """
  if similarity not in SIMILARITIES:
    raise ValueError(
      f"Unknown similarity {similarity!r}; known: {', '.join(SIMILARITIES)}."
    )
  checks.standardise(features)  # Refuses NaN and constants in words.
  triplets = checks.check_triplets(triplets, len(features), "triplets")
  x = jnp.asarray(np.asarray(features, np.float32))
  scores = np.concatenate(
    [
      np.asarray(_block_logits(x, triplets[start : start + _BLOCK], similarity))
      for start in range(0, len(triplets), _BLOCK)
    ]
  )
  if not np.isfinite(scores).all():
    raise ValueError(
      "Similarities of the features are too large for float32 (the largest "
      f"feature is {np.abs(features).max():g}); divide all features by it."
    )
  return scores


def score(
  features,
  triplets,
  *,
  similarity="cosine",
  num_resamples=1000,
  level=0.95,
  seed=0,
):
  """Odd-one-out accuracy of features as they are, with its interval.

  Tie rule, that of `odd_one_out.choose`: where two or three items share the
  highest score there is no choice, which counts as wrong.

  Args:
    features: f32[n d].
    triplets: int[t 3] rows of `features`, odd item last.
    similarity: One of `SIMILARITIES`.
    num_resamples: As of `accuracy_interval`, and so are the next two.
    level: See `num_resamples`.
    seed: See `num_resamples`.

  Returns:
    `ZeroShot`.

  Raises:
    ValueError: As `logits`.
  """
  odd = np.asarray(
    odd_one_out.choose(logits(features, triplets, similarity=similarity))
  )
  accuracy = accuracy_interval(
    odd == 2, triplets, num_resamples=num_resamples, level=level, seed=seed
  )
  return ZeroShot(
    accuracy=accuracy,
    correct=odd == 2,
    num_ties=int((odd == odd_one_out.TIE).sum()),
  )


def accuracy_interval(
  correct, triplets=None, *, num_resamples=1000, level=0.95, seed=0
):
  """Share of correct choices, with a bootstrap interval over triplets.

  Args:
    correct: bool[t].
    triplets: int[t 3] that the choices are about: answers to the same three
      items are drawn together, as they are not independent. None if no two are
      about the same.
    num_resamples: Draws of triplets with replacement.
    level: Coverage, in (0, 1).
    seed: Decides the draws. Equal seeds and triplets are drawn alike.

  Returns:
    `Interval`, from the level's percentiles.

  Raises:
    ValueError: No bool per triplet, or a level or number that cannot be.
  """
  return _mean_interval(
    _checked_correct("correct", correct, triplets),
    triplets,
    num_resamples=num_resamples,
    level=level,
    seed=seed,
  )


def paired_interval(
  correct_a,
  correct_b,
  triplets=None,
  *,
  num_resamples=1000,
  level=0.95,
  seed=0,
):
  """Accuracy of a minus that of b, with a bootstrap interval.

  Triplets are drawn, and both models are scored on the same draw. What is hard
  for both cancels, so this interval is much narrower than the two intervals of
  the accuracies suggest.

  Args:
    correct_a: bool[t], choices of one model.
    correct_b: bool[t], choices of the other about the same triplets.
    triplets: As of `accuracy_interval`, and so are the others.
    num_resamples: See `triplets`.
    level: See `triplets`.
    seed: See `triplets`.

  Returns:
    `Interval`, in [-1, 1]; above zero where a is the better one.

  Raises:
    ValueError: As `accuracy_interval`, or choices of different numbers.
  """
  a = _checked_correct("correct_a", correct_a, triplets)
  b = _checked_correct("correct_b", correct_b, triplets)
  if a.shape != b.shape:
    raise ValueError(
      f"correct_a has {len(a)} choices and correct_b {len(b)}; they must be "
      "about the same triplets."
    )
  return _mean_interval(
    a - b, triplets, num_resamples=num_resamples, level=level, seed=seed
  )


def best_temperature(logits, target_probs, *, distance="jensen_shannon"):
  """The temperature that matches people's uncertainty best.

  Minimises the mean over triplets of the distance between softmax(logits /
  temperature) and the target: first on a logarithmic grid over six decades
  around the spread of the logits, because the mean may have several minima;
  then, bounded, between the neighbours of the best grid point.
  Deterministic, in float64.

  Args:
    logits: f[t 3], entry p scores item p, temperature 1.
    target_probs: f[t 3] probabilities of each item being called odd, such as
      those of VICE or the shares of many people's answers, or of single ones:
      with (0, 0, 1) and "kl" this minimises the negative log likelihood.
    distance: "jensen_shannon", the square root of the divergence (in nats), as
      published; or "kl", KL(target || model).

  Returns:
    `Temperature`.

  Raises:
    ValueError: Other distances, shapes that differ, targets that are no
      probabilities, or logits without any difference, which no temperature
      can scale.
  """
  if distance not in DISTANCES:
    raise ValueError(
      f"Unknown distance {distance!r}; known: {', '.join(DISTANCES)}."
    )
  logits = np.asarray(logits, np.float64)
  targets = np.asarray(target_probs, np.float64)
  if logits.ndim != 2 or logits.shape[1] != 3 or not len(logits):
    raise ValueError(
      f"logits have shape {logits.shape}; expected (t, 3) with t > 0."
    )
  if targets.shape != logits.shape:
    raise ValueError(
      f"target_probs have shape {targets.shape}; expected {logits.shape}, as "
      "of the logits."
    )
  off = ~((targets >= 0).all(axis=1) & (np.abs(targets.sum(axis=1) - 1) < 1e-3))
  if off.any():
    row = int(np.argmax(off))
    raise ValueError(
      f"{off.sum()} rows of target_probs are no probabilities, first row {row}:"
      f" {targets[row].tolist()}; expected three numbers >= 0 that sum to 1."
    )
  centred = logits - logits.mean(axis=1, keepdims=True)
  spread = math.sqrt(np.mean(centred**2))
  if not (0 < spread < math.inf):
    raise ValueError(
      f"The spread of the logits is {spread}; it must be positive and finite "
      "for a temperature to matter."
    )

  def mean_distance(log_temperature):
    logprobs = scipy.special.log_softmax(
      centred / math.exp(log_temperature), axis=1
    )
    return _mean_distance(targets, logprobs, distance)

  steps = np.linspace(-_DECADES, _DECADES, 2 * _DECADES * _PER_DECADE + 1)
  grid = math.log(spread) + steps * math.log(10)
  values = [mean_distance(point) for point in grid]
  best = int(np.argmin(values))
  if best in (0, len(grid) - 1):
    return Temperature(math.exp(grid[best]), values[best], at_edge=True)
  found = scipy.optimize.minimize_scalar(
    mean_distance,
    bounds=(grid[best - 1], grid[best + 1]),
    method="bounded",
    options={"xatol": 1e-7},
  )
  return Temperature(math.exp(found.x), float(found.fun), at_edge=False)


def _block_logits(x, triplets, similarity):
  """Scores of one block, f32[b 3]."""
  if similarity != "euclidean":
    return odd_one_out.logits_of_rows(
      x, triplets, cosine=similarity == "cosine"
    )
  z = x[triplets]
  # The pair without item p, for p = 0, 1, 2: as `odd_one_out.logits`.
  offsets = z[:, (1, 0, 0)] - z[:, (2, 2, 1)]
  return -jnp.linalg.norm(offsets, axis=-1)


def _checked_correct(name, correct, triplets):
  """The choices as f64[t]."""
  correct = np.asarray(correct)
  if correct.ndim != 1 or correct.dtype != np.bool_:
    raise ValueError(
      f"{name} is {correct.dtype}{list(correct.shape)}; expected a bool per "
      "triplet."
    )
  if triplets is not None and len(triplets) != len(correct):
    raise ValueError(
      f"{name} has {len(correct)} choices for {len(triplets)} triplets."
    )
  return correct.astype(np.float64)


def _mean_interval(values, triplets, *, num_resamples, level, seed):
  totals, sums = np.ones(len(values)), values
  if triplets is not None:
    _, group, _ = records.group_triplets(triplets)
    totals, sums = np.bincount(group), np.bincount(group, values)
  low, high = intervals.bootstrap_ratio(
    sums,
    totals,
    num_resamples=num_resamples,
    level=level,
    np_rng=np.random.default_rng([seed, num_resamples]),
  )
  value = float(values.mean()) if len(values) else math.nan
  return Interval(value, low, high)


def _mean_distance(targets, logprobs, distance):
  """Mean over triplets of the distance of targets and model."""
  if distance == "kl":
    # 0 log 0 = 0, also where the model excludes what nobody chose.
    cross = targets * np.where(targets > 0, logprobs, 0.0)
    return float(-np.mean(np.sum(scipy.special.entr(targets) + cross, axis=1)))
  probs = np.exp(logprobs)
  middle = (targets + probs) / 2
  divergence = (
    scipy.special.entr(middle)
    - (scipy.special.entr(targets) + scipy.special.entr(probs)) / 2
  )
  # Rounding may leave -1e-17 where the two are equal.
  return float(np.mean(np.sqrt(np.maximum(divergence.sum(axis=1), 0.0))))
