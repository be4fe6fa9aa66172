"""Whether a model is as sure as it is right, and slow where people are slow.

Of the answers to triplets that a model is 70% sure of, 70% should be the one
that it names. The expected calibration error is the mean distance from that
(paper.md, section D, on uncertainty); the bins are what a reliability diagram
shows. Reaction times stand for the uncertainty of single people.

Usage:
  bins = calibration.reliability(logprobs, odd_counts)
  calibration.expected_error(bins)                      # 0.063
  calibration.reaction_time_correlation(logprobs, triplets, rt).value
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.stats

from alignet_jax import odd_one_out
from alignet_jax.evals import bootstrap
from alignet_jax.judgments import records

NUM_BINS = 10


class Bins(NamedTuple):
  """Answers by how sure the model is of its choice.

  Attributes:
    confidence: f64[bins] mean probability of the model's choice; NaN if empty.
    accuracy: f64[bins] share of answers that are its choice; NaN if empty.
    count: int64[bins] answers.
  """

  confidence: np.ndarray
  accuracy: np.ndarray
  count: np.ndarray


class Correlation(NamedTuple):
  """A correlation, its interval, and the triplets that it is over."""

  value: float
  low: float
  high: float
  num: int


def reliability(logprobs, counts, *, num_bins=NUM_BINS):
  """Sorts answers by the model's confidence into bins of equal width.

  The bins divide 1/3 to 1, as no choice among three is less sure. A tie of the
  model is never right, as everywhere (`odd_one_out.choose`).

  Args:
    logprobs: f[m 3] log probabilities.
    counts: int[m 3], how many people called each item the odd one.
    num_bins: At least 1.

  Returns:
    `Bins`.

  Raises:
    ValueError: Shapes that differ, or no bin.
  """
  place, confidence, hits, answers = _sorted(logprobs, counts, num_bins)
  count = np.bincount(place, answers, num_bins)
  safe = np.where(count > 0, count, np.nan)
  return Bins(
    np.bincount(place, answers * confidence, num_bins) / safe,
    np.bincount(place, hits, num_bins) / safe,
    count.astype(np.int64),
  )


def expected_error(bins):
  """Mean over answers of the distance between confidence and accuracy."""
  filled = bins.count > 0
  if not filled.any():
    return math.nan
  gap = np.abs(bins.confidence[filled] - bins.accuracy[filled])
  return float(np.average(gap, weights=bins.count[filled]))


def expected_error_interval(
  logprobs, counts, *, num_bins=NUM_BINS, num_resamples=1000, seed=0
):
  """Interval of `expected_error`, triplets drawn anew.

  The error is a mean of distances, so it is too large by chance, as large as
  `error_by_chance` for a model that is calibrated. A draw from the sample is
  too large by as much again, about; that much, twice, is taken off the lower
  end, and the upper end is the value and the upper reach of the draws. The
  lower end is 0 where a calibrated model would have such an error: where the
  value is within 97.5% of the errors of draws whose bins were moved to a mean
  of 0. So it covers the truth also near 0 (see the test); the value itself may
  then stand close to the upper end.

  Args:
    logprobs: f[m 3].
    counts: int[m 3].
    num_bins: As `reliability`.
    num_resamples: Draws.
    seed: Of the draws.

  Returns:
    (low, high); NaN for fewer than two triplets.
  """
  gaps, answers = _gaps(logprobs, counts, num_bins)
  if len(gaps) < 2:
    return math.nan, math.nan
  np_rng = np.random.default_rng([seed, num_resamples])
  times = np_rng.multinomial(
    len(gaps), np.full(len(gaps), 1 / len(gaps)), size=num_resamples
  )
  drawn = (times @ gaps) / (times @ answers)[:, None]
  by_bin = gaps.sum(axis=0) / answers.sum()
  value = np.abs(by_bin).sum()
  draws = np.abs(drawn).sum(axis=1)
  low, high = bootstrap.percentiles(draws - draws.mean() + value)
  low -= 2 * (draws.mean() - value)
  calibrated = np.abs(drawn - by_bin).sum(axis=1)
  if low < 0 or value <= np.quantile(calibrated, 0.975):
    low = 0.0
  return float(low), float(high)


def error_by_chance(logprobs, counts, *, num_bins=NUM_BINS):
  """What `expected_error` would be, on average, if the truth were 0.

  Args:
    logprobs: f[m 3].
    counts: int[m 3].
    num_bins: As `reliability`.

  Returns:
    float, the sum over bins of the mean size of a normal number with the bin's
    standard error over triplets.
  """
  gaps, answers = _gaps(logprobs, counts, num_bins)
  by_bin = gaps.sum(axis=0) / answers.sum()
  deviation = gaps - by_bin * answers[:, None]
  error = np.sqrt((deviation**2).sum(axis=0)) / answers.sum()
  return float(math.sqrt(2 / math.pi) * error.sum())


def _gaps(logprobs, counts, num_bins):
  """f64[m bins] confidence less right answers, and f64[m] answers."""
  place, confidence, hits, answers = _sorted(logprobs, counts, num_bins)
  gaps = np.zeros((len(counts), num_bins))
  gaps[np.arange(len(counts)), place] = answers * confidence - hits
  return gaps, answers.astype(np.float64)


def reaction_time_correlation(logprobs, triplets, rt, *, seed=0):
  """Spearman's correlation of a model's entropy with people's reaction times.

  Of several answers to the same three items the median time is taken, and the
  model's entropy is the same for all of them, whatever the order.

  Args:
    logprobs: f[n 3] log probabilities of each answer's triplet.
    triplets: int[n 3], the items, odd one last.
    rt: f[n] seconds, NaN where not known.
    seed: Of the interval's draws, which are of triplets.

  Returns:
    `Correlation`; positive where a model is unsure and people are slow.
  """
  known = np.isfinite(np.asarray(rt, np.float64))
  entropy = np.asarray(
    odd_one_out.entropy(np.asarray(logprobs, np.float32)), np.float64
  )[known]
  rt = np.asarray(rt, np.float64)[known]
  unordered, group, _ = records.group_triplets(np.asarray(triplets)[known])
  if len(unordered) < 3:
    return Correlation(math.nan, math.nan, math.nan, len(unordered))
  order = np.lexsort((rt, group))
  first = np.searchsorted(group[order], np.arange(len(unordered)))
  times = np.bincount(group)
  middle = (
    rt[order][first + (times - 1) // 2] + rt[order][first + times // 2]
  ) / 2
  unsure = np.bincount(group, entropy) / times
  ranked = (
    scipy.stats.rankdata(unsure)[None],
    scipy.stats.rankdata(middle)[None],
  )
  low, high = bootstrap.correlation(unsure, middle, ranks=True, seed=seed)
  return Correlation(
    float(bootstrap.row_correlations(*ranked)[0]), low, high, len(unordered)
  )


def _sorted(logprobs, counts, num_bins):
  """Bin, confidence, answers that are the model's choice, and all answers."""
  logprobs, counts = np.asarray(logprobs, np.float64), np.asarray(counts)
  if logprobs.shape != counts.shape or num_bins < 1:
    raise ValueError(
      f"logprobs have shape {logprobs.shape}, counts {counts.shape} and there "
      f"are {num_bins} bins; expected equal shapes and at least 1 bin."
    )
  confidence = np.exp(logprobs.max(axis=1))
  chosen = np.asarray(odd_one_out.choose(logprobs.astype(np.float32)))
  picked = counts[np.arange(len(counts)), np.maximum(chosen, 0)]
  hits = np.where(chosen == odd_one_out.TIE, 0, picked)
  edges = np.linspace(odd_one_out.CHANCE, 1.0, num_bins + 1)[1:-1]
  place = np.searchsorted(edges, confidence, side="right")
  return place, confidence, hits, counts.sum(axis=1)
