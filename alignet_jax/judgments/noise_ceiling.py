"""How well people's answers can be predicted at all, given that they disagree.

Scores are shares of single answers, so a predictor that knew what most people
say is still wrong about everyone else. Two bounds, both from triplets that many
people answered. Upper: the best fixed answer to each triplet; it knows the
answers that it is scored on. Lower: each person is predicted by the majority of
the others; where items are tied, each has an equal share of the credit.
A model can lie between the two, and above the lower one.

Usage:
  lower, upper = noise_ceiling.noise_ceiling(odd_counts)
  intervals = noise_ceiling.bootstrap_intervals(odd_counts, seed=0)
  low, high = intervals["lower"]

Deviation: paper.md, section D, gives no definition for the published ceilings,
so numbers of these functions may not be compared with them to the last digit.
"""

import numpy as np


def upper_by_triplet(odd_counts):
  """Share of the most frequent answer, for each triplet.

  Args:
    odd_counts: int[m 3]. Entry p counts the people who called item p odd; at
      least one per triplet.

  Returns:
    f64[m] in [1/3, 1].
  """
  counts = _check_counts(odd_counts)
  return counts.max(axis=1) / counts.sum(axis=1)


def lower_by_triplet(odd_counts):
  """Leave-one-person-out agreement, for each triplet.

  Each person's answer is predicted by the majority of the other people's
  answers to the same triplet. Where t items tie for the majority and the
  answer is one of them, the prediction is worth 1 / t. Counts do not tell who
  answered, so two answers of one person count as those of two.

  Args:
    odd_counts: int[m 3], as `upper_by_triplet`.

  Returns:
    f64[m] in [0, 1], the mean over the people who answered; NaN where there is
    one answer only, which leaves no others.
  """
  counts = _check_counts(odd_counts)
  totals = counts.sum(axis=1)
  credit = np.zeros(len(counts))
  for item in range(3):
    others = counts - np.eye(3, dtype=counts.dtype)[item]
    leads = others == others.max(axis=1, keepdims=True)
    # Where nobody answered `item`, nobody is left out: the weight is zero.
    credit += counts[:, item] * leads[:, item] / leads.sum(axis=1)
  return np.where(totals > 1, credit / totals, np.nan)


def noise_ceiling(odd_counts):
  """Bounds of the accuracy on single answers.

  Args:
    odd_counts: int[m 3], as `upper_by_triplet`.

  Returns:
    (lower, upper), each the mean over triplets, every triplet weighted alike
    however many people answered it; lower <= upper if all have two answers or
    more. Triplets with one answer count for upper only. NaN without any.
  """
  lower = lower_by_triplet(odd_counts)
  return _mean(lower), _mean(upper_by_triplet(odd_counts))


def bootstrap_intervals(odd_counts, *, num_resamples=1000, level=0.95, seed=0):
  """Percentile intervals of `noise_ceiling`, drawing triplets anew.

  Triplets are drawn with replacement, each with all its answers: answers to
  the same triplet are not independent.

  Args:
    odd_counts: int[m 3], as `upper_by_triplet`.
    num_resamples: Number of draws.
    level: Coverage, in (0, 1).
    seed: Decides the draws.

  Returns:
    {"lower": (low, high), "upper": (low, high)}.
  """
  if not 0 < level < 1:
    raise ValueError(f"level is {level}; expected a share between 0 and 1.")
  if num_resamples < 1:
    raise ValueError(f"num_resamples is {num_resamples}; expected at least 1.")
  by_triplet = {
    "lower": lower_by_triplet(odd_counts),
    "upper": upper_by_triplet(odd_counts),
  }
  num = len(odd_counts)
  np_rng = np.random.default_rng([seed, num_resamples])
  draws = {name: np.empty(num_resamples) for name in by_triplet}
  for draw in range(num_resamples):
    rows = np_rng.integers(num, size=num) if num else []
    for name, values in by_triplet.items():
      draws[name][draw] = _mean(values[rows])
  tail = (1 - level) / 2
  intervals = {}
  for name, values in draws.items():
    values = values[np.isfinite(values)]
    if not values.size:
      values = np.array([np.nan])
    low, high = np.quantile(values, [tail, 1 - tail])
    intervals[name] = (float(low), float(high))
  return intervals


def _mean(values):
  """Mean of the finite values, NaN if there are none."""
  values = values[np.isfinite(values)]
  return float(values.mean()) if values.size else float("nan")


def _check_counts(odd_counts):
  """The counts as int64[m 3], or an error in words."""
  counts = np.asarray(odd_counts)
  if counts.ndim != 2 or counts.shape[1] != 3:
    raise ValueError(f"odd_counts has shape {counts.shape}; expected (m, 3).")
  if not np.issubdtype(counts.dtype, np.integer):
    raise ValueError(f"odd_counts has type {counts.dtype}; expected integers.")
  counts = counts.astype(np.int64)
  if counts.size and counts.min() < 0:
    raise ValueError(f"odd_counts holds {counts.min()}; counts are >= 0.")
  unanswered = np.flatnonzero(counts.sum(axis=1) == 0)
  if unanswered.size:
    raise ValueError(
      f"Row {unanswered[0]} of odd_counts is 0, 0, 0; every triplet needs at "
      "least one answer."
    )
  return counts
