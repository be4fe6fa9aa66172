"""Comparing two dissimilarity matrices: three correlations and their intervals.

Pairs that share an item vary together, so an interval that takes them for
independent is far too narrow. Each correlation is a smooth function of the mean
over pairs; its influence function says how much every pair moves it, and the
sum of the products of the influences of pairs that share an item is its
variance (`bootstrap.shared_variance`). No draws, no loops, right for 1,854
items. Of few items that is too narrow: the 95% intervals of Pearson's over 24
items covered the truth in 87% of 400 repetitions. There the interval is by the
jackknife, which leaves out one item at a time; with 12 to 40 items, with and
without ties, it covered the truth in 90 to 98%.

Usage:
  found = rdm_compare.compare(model_rdm, people_rdm, "spearman")
  found.value, found.low, found.high
  lower, upper = rdm_compare.noise_ceiling(per_person, "spearman")
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.stats

from alignet_jax.evals import bootstrap, rsa

METHODS = ("spearman", "pearson", "kendall_tau_a")

# Kendall's influences take every pair of pairs: 20,000 take some 4 seconds.
MAX_KENDALL_PAIRS = 20_000

# Items up to which one at a time is left out.
MAX_JACKKNIFE = 60

# Pairs of pairs at a time.
_BLOCK = 2**22


class Comparison(NamedTuple):
  """A correlation of two matrices and its 95% interval over items."""

  value: float
  low: float
  high: float


def correlate(a, b, method):
  """Correlates the pairs of two matrices.

  Args:
    a: f64[p] entries above a diagonal.
    b: f64[p], the same pairs.
    method: One of `METHODS`. tau-a counts pairs of pairs that are tied in
      either as neither alike nor unlike, and divides by all.

  Returns:
    float in [-1, 1]; NaN where one of them is constant.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if method not in METHODS:
    raise ValueError(f"Unknown method {method!r}; known: {', '.join(METHODS)}.")
  if (a == a[:1]).all() or (b == b[:1]).all():
    return math.nan
  if method == "kendall_tau_a":
    tau_b = scipy.stats.kendalltau(a, b).statistic
    # tau-b divides by the square root of pairs untied in a times those in b.
    every = len(a) * (len(a) - 1) / 2
    return float(tau_b * math.sqrt(_untied(a) * _untied(b)) / every)
  if method == "spearman":
    a, b = scipy.stats.rankdata(a), scipy.stats.rankdata(b)
  a, b = a - a.mean(), b - b.mean()
  scale = math.sqrt((a @ a) * (b @ b))
  return float(np.clip(a @ b / scale, -1, 1)) if scale > 0 else math.nan


def compare(rdm_a, rdm_b, method="spearman", *, level=0.95):
  """Correlates two matrices, with an interval over items.

  `Deviation:` rsatoolbox and the papers that use it draw items anew; there a
  pair of an item with itself is left out, which makes intervals too wide. This
  one is by the influence of each pair, or of up to `MAX_JACKKNIFE` items by the
  jackknife (see the module), with Student's t.
  `rsa_scores.rsatoolbox_rows` has the other beside it.

  Args:
    rdm_a: f64[n n], only entries above the diagonal are read.
    rdm_b: f64[n n], the same items in the same order.
    method: One of `METHODS`.
    level: Coverage.

  Returns:
    `Comparison`. Without an interval (NaN) for fewer than 4 items, and for
    Kendall's of more than `MAX_KENDALL_PAIRS` pairs.

  Raises:
    ValueError: Another method, or matrices of different sizes or with NaN.
  """
  a, b = rsa.upper_triangle(rdm_a), rsa.upper_triangle(rdm_b)
  if a.shape != b.shape:
    raise ValueError(
      f"RDMs of {len(rdm_a)} and {len(rdm_b)} items; they must be the same."
    )
  if np.isnan(a).any() or np.isnan(b).any():
    raise ValueError("An RDM holds NaN above the diagonal.")
  value = correlate(a, b, method)
  num_items = len(rdm_a)
  too_many = method == "kendall_tau_a" and len(a) > MAX_KENDALL_PAIRS
  if math.isnan(value) or num_items < 4 or too_many:
    return Comparison(value, math.nan, math.nan)
  influence = _INFLUENCES[method](a, b, value)
  if num_items <= MAX_JACKKNIFE:
    # The jackknife counts the noise of single pairs twice.
    single = np.var(influence) / len(a)
    without = _without_each(a, b, num_items, method)
    width = jackknife_reach(without, level=level, less=single)
  else:
    width = _influence_reach(influence, num_items, level)
  return Comparison(value, max(value - width, -1.0), min(value + width, 1.0))


def jackknife_reach(without, num_items=None, level=0.95, less=0.0):
  """How far an interval goes to either side, by leaving out single items.

  Args:
    without: f64[n] values without each item.
    num_items: Items that decide, for Student's t; all by default.
    level: Coverage.
    less: Variance that is taken off, but not below as much.

  Returns:
    float.
  """
  num = len(without)
  num_items = num_items or num
  variance = max((num - 1) * np.var(without) - less, less)
  return scipy.stats.t.ppf((1 + level) / 2, num_items - 1) * math.sqrt(variance)


def _without_each(a, b, num_items, method):
  """f64[n], the correlation of the pairs that lack each item; NaN as 0."""
  pairs = np.stack(np.triu_indices(num_items, 1))
  kept = [~(pairs == item).any(axis=0) for item in range(num_items)]
  if method == "kendall_tau_a":
    found = [correlate(a[rows], b[rows], method) for rows in kept]
  else:
    a, b = (np.stack([x[rows] for rows in kept]) for x in (a, b))
    if method == "spearman":
      a, b = (scipy.stats.rankdata(x, axis=1) for x in (a, b))
    found = bootstrap.row_correlations(a, b)
  # What is constant without an item is like nothing.
  return np.nan_to_num(np.asarray(found))


def _influence_reach(influence, num_items, level):
  """The same by the influence of each pair, for many items."""
  by_pair = np.zeros((num_items, num_items))
  by_pair[np.triu_indices(num_items, 1)] = influence - influence.mean()
  by_item = by_pair.sum(axis=0) + by_pair.sum(axis=1)
  # Of `bootstrap.shared_variance` for pairs: a pair with itself stands in the
  # sums of both its items.
  single = np.sum(by_pair**2)
  variance = max(by_item @ by_item - single, single) / len(influence) ** 2
  variance *= num_items / (num_items - 1)
  reach = scipy.stats.t.ppf((1 + level) / 2, num_items - 1)
  return reach * math.sqrt(variance)


def noise_ceiling(per_person, method="spearman"):
  """What one person's matrix and what the best matrix reach, on average.

  Lower: each person against the mean of the others. Upper: each against the
  mean of all. Before the mean, matrices are brought to one scale: ranked, or
  for Pearson's standardised. So does rsatoolbox.

  Args:
    per_person: f64[p n n], p > 1.
    method: One of `METHODS`.

  Returns:
    (lower, upper); NaN for one person, and where one's distances are all equal.
  """
  vectors = np.stack([rsa.upper_triangle(rdm) for rdm in per_person])
  if len(vectors) < 2:
    return math.nan, math.nan
  if method == "pearson":
    scaled = vectors - vectors.mean(axis=1, keepdims=True)
    std = scaled.std(axis=1, keepdims=True)
    scaled = scaled / np.where(std > 0, std, np.nan)
  else:
    scaled = scipy.stats.rankdata(vectors, axis=1)
  total = scaled.sum(axis=0)
  lower = [
    correlate(vector, total - own, method)
    for vector, own in zip(vectors, scaled, strict=True)
  ]
  upper = [correlate(vector, total, method) for vector in vectors]
  return float(np.mean(lower)), float(np.mean(upper))


def _pearson_influence(a, b, value):
  a, b = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
  return a * b - value * (a * a + b * b) / 2


def _spearman_influence(a, b, value):
  """12 times F G + E[F 1(y < Y)] + E[G 1(x < X)], per standard deviation."""
  num = len(a)
  f = (scipy.stats.rankdata(a) - 0.5) / num
  g = (scipy.stats.rankdata(b) - 0.5) / num
  influence = f * g + _mean_above(a, g) + _mean_above(b, f)
  # With ties the grades spread less than 1 / sqrt(12).
  return influence / (f.std() * g.std())


def _mean_above(x, values):
  """Mean over all of values whose x is greater; equal ones count half."""
  order = np.argsort(x, kind="stable")
  _, first, times = np.unique(x[order], return_index=True, return_counts=True)
  from_here = np.append(np.cumsum(values[order][::-1])[::-1], 0.0)
  half = (from_here[first] + from_here[first + times]) / 2
  above = np.empty(len(x))
  above[order] = np.repeat(half, times)
  return above / len(x)


def _kendall_influence(a, b, value):
  """2 (mean sign of a pair with all others - tau)."""
  num = len(a)
  means = np.empty(num)
  step = max(1, _BLOCK // num)
  a, b = a.astype(np.float32), b.astype(np.float32)
  for start in range(0, num, step):
    rows = slice(start, start + step)
    alike = np.sign(a[rows, None] - a) * np.sign(b[rows, None] - b)
    means[rows] = alike.sum(axis=1, dtype=np.float64) / (num - 1)
  return 2 * (means - value)


def _untied(x):
  """Pairs of entries that differ."""
  _, times = np.unique(x, return_counts=True)
  return len(x) * (len(x) - 1) / 2 - np.sum(times * (times - 1.0)) / 2


_INFLUENCES = {
  "pearson": _pearson_influence,
  "spearman": _spearman_influence,
  "kendall_tau_a": _kendall_influence,
}
