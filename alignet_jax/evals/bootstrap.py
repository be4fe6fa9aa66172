"""Bootstrap intervals over triplets, objects and people, without loops.

What is drawn anew decides what the interval speaks about. Over triplets: the
same objects and people, other questions. Over objects: other objects, so that
triplets which share one are not taken for independent. Over people: other
people. Each interval is the range of the middle 95% of the draws. Those of few
rows spread too little: ratios and means of fewer than `FEW` have Student's t
instead; correlations and draws of objects have not, and are too short for few.

Usage:
  low, high = bootstrap.ratio(hits, totals, seed=0)
  low, high = bootstrap.ratio_over_objects(hits, totals, triplets, seed=0)
  low, high = bootstrap.ratio(*bootstrap.sums(person, hits, totals), seed=0)
"""

import itertools
import math

import numpy as np
import scipy.stats

# Numbers drawn at a time: 2**22 rows take 32 MB.
_BLOCK = 2**22

# Below so many rows an interval is by Student's t.
FEW = 30

# Above so many items, ranks are not computed anew in every draw.
MAX_RANKED = 2000


def ratio(
  hits,
  totals,
  *,
  num_resamples=1000,
  level=0.95,
  bounds=(-math.inf, math.inf),
  seed=0,
):
  """Percentile interval of sum(hits) / sum(totals), rows drawn anew.

  The draws of n rows spread by 1 - 1/n of what the rows do, and their middle
  95% is that of a normal distribution: of 5 people such intervals covered the
  truth in 84% of repetitions. So of fewer than `FEW` rows the interval is
  Student's t, of the deviations of hits from the ratio, which is right from 2
  rows on if they are near normal, as the scores of people are. If they are 0
  or 1 it needs some ten of each, as the other way does.

  Rows with equal numbers are drawn together, by how often they occur: the same
  distribution as row by row (`intervals.bootstrap_ratio`), a hundred times as
  fast for choices that are right or wrong.

  Args:
    hits: f64[m], what each row adds to the numerator.
    totals: f64[m], what it adds to the denominator; not negative.
    num_resamples: Number of draws, at least 1.
    level: Coverage, in (0, 1).
    bounds: (lowest, highest) that the ratio can be, for few rows.
    seed: Of the draws.

  Returns:
    (low, high); NaN for fewer than two rows.
  """
  pairs = np.stack(
    [np.asarray(hits, np.float64), np.asarray(totals, np.float64)], axis=1
  )
  if len(pairs) < 2:
    return math.nan, math.nan
  if len(pairs) < FEW:
    return _student(pairs, level, bounds)
  np_rng = np.random.default_rng([seed, num_resamples])
  different, times = np.unique(pairs, axis=0, return_counts=True)
  if len(different) <= 64:
    drawn = np_rng.multinomial(
      len(pairs), times / times.sum(), size=num_resamples
    )
    sums_of_draws = drawn @ different
  else:
    sums_of_draws = np.empty((num_resamples, 2))
    for rows, part in _draws(len(pairs), num_resamples, np_rng):
      sums_of_draws[part] = pairs[rows].sum(axis=1)
  return percentiles(_divided(*sums_of_draws.T), level)


def _student(pairs, level, bounds):
  """Student's t interval of the ratio of the sums of two columns."""
  total, num = pairs[:, 1].sum(), len(pairs)
  value = pairs[:, 0].sum() / total
  deviation = pairs[:, 0] - value * pairs[:, 1]
  error = math.sqrt(num / (num - 1) * (deviation @ deviation)) / total
  reach = scipy.stats.t.ppf((1 + level) / 2, num - 1) * error
  lowest, highest = bounds
  return max(value - reach, lowest), min(value + reach, highest)


def mean(
  values,
  *,
  num_resamples=1000,
  level=0.95,
  bounds=(-math.inf, math.inf),
  seed=0,
):
  """Percentile interval of a mean; as `ratio`."""
  values = np.asarray(values, np.float64)
  return ratio(
    values,
    np.ones_like(values),
    num_resamples=num_resamples,
    level=level,
    bounds=bounds,
    seed=seed,
  )


def sums(group, hits, totals):
  """Hits and totals of each group, such as a person, that has any rows.

  Args:
    group: int[m] >= 0.
    hits: f64[m].
    totals: f64[m].

  Returns:
    f64[g], f64[g].
  """
  group = np.asarray(group)
  num = np.bincount(group, totals)
  met = num > 0
  return np.bincount(group, hits)[met], num[met]


def ratio_over_objects(
  hits,
  totals,
  items,
  *,
  num_resamples=1000,
  level=0.95,
  bounds=(-math.inf, math.inf),
  seed=0,
):
  """Percentile interval of sum(hits) / sum(totals), objects drawn anew.

  A row is about several objects (three of a triplet, two of a pair), and rows
  that share one vary together. To weigh a row by the *product* of how often its
  objects were drawn multiplies the noise of single rows by up to 2**3, so such
  intervals are far too wide. Here weights add up, and the draws are pulled
  together until their spread is the square root of the variance that is robust
  to shared objects: the sum over pairs of rows that share any object of the
  product of their deviations, counted once however many they share.

  Args:
    hits: f64[m].
    totals: f64[m], not negative.
    items: int[m k], the different objects of each row, k from 1 to 3.
    num_resamples: As of `ratio`, and so are the next three.
    level: See `num_resamples`.
    bounds: See `num_resamples`.
    seed: See `num_resamples`.

  Returns:
    (low, high); NaN for no rows.
  """
  hits, totals = np.asarray(hits, np.float64), np.asarray(totals, np.float64)
  items = np.asarray(items)
  if not len(hits):
    return math.nan, math.nan
  _, items = np.unique(items, return_inverse=True)
  items = items.reshape(len(hits), -1)
  num_items, width = items.max() + 1, items.shape[1]
  value = hits.sum() / totals.sum()
  deviation = hits - value * totals
  # By chance the sum over shared objects can be less than that of single rows,
  # and one mean is taken from all: hence the floor and the factor.
  variance = max(shared_variance(deviation, items), deviation @ deviation)
  variance *= num_items / max(num_items - width, 1)
  by_object = np.zeros((num_items, 3))
  for column in items.T:
    for place, numbers in enumerate((hits, totals, deviation)):
      by_object[:, place] += np.bincount(column, numbers, num_items)
  naive = np.sum(by_object[:, 2] ** 2)
  np_rng = np.random.default_rng([seed, num_resamples])
  drawn = np_rng.multinomial(
    num_items, np.full(num_items, 1 / num_items), size=num_resamples
  )
  # A row's weight is 1 + the sum of (times drawn - 1) of its objects.
  numerator = drawn @ by_object[:, 0] - (width - 1) * hits.sum()
  denominator = drawn @ by_object[:, 1] - (width - 1) * totals.sum()
  pull = math.sqrt(variance / naive) if naive > 0 else 0.0
  draws = value + pull * (_divided(numerator, denominator) - value)
  # Pulling can push a draw beyond what a ratio can be.
  return percentiles(np.clip(draws, *bounds), level)


def shared_variance(deviation, items):
  """Sum of d_s d_t over all pairs of rows (s, t) that share an object.

  A row shares with itself. By inclusion and exclusion: sums over single
  objects, minus those over pairs of objects, plus those over triples.

  Args:
    deviation: f64[m].
    items: int[m k], different objects in each row, k from 1 to 3.

  Returns:
    float. It can be a little below zero, by chance.
  """
  items = np.sort(np.asarray(items, np.int64), axis=1)
  base = int(items.max()) + 1
  total = 0.0
  for size in range(1, items.shape[1] + 1):
    sign = 1.0 if size % 2 else -1.0
    keys = []
    for columns in itertools.combinations(range(items.shape[1]), size):
      key = np.zeros(len(items), np.int64)
      for column in columns:
        key = key * base + items[:, column]
      keys.append(key)
    _, group = np.unique(np.concatenate(keys), return_inverse=True)
    joined = np.bincount(group.reshape(-1), np.tile(deviation, len(keys)))
    total += sign * float(joined @ joined)
  return total


def correlation(a, b, *, ranks=False, num_resamples=1000, level=0.95, seed=0):
  """Percentile interval of Pearson's or Spearman's correlation, rows drawn.

  Args:
    a: f64[m].
    b: f64[m].
    ranks: Whether to correlate ranks. Of more than `MAX_RANKED` rows the ranks
      are those of all rows in every draw.
    num_resamples: As of `ratio`, and so are the next two.
    level: See `num_resamples`.
    seed: See `num_resamples`.

  Returns:
    (low, high); NaN for fewer than three rows.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if len(a) < 3:
    return math.nan, math.nan
  anew = ranks and len(a) <= MAX_RANKED
  if ranks and not anew:
    a, b = scipy.stats.rankdata(a), scipy.stats.rankdata(b)
  np_rng = np.random.default_rng([seed, num_resamples])
  draws = np.empty(num_resamples)
  for rows, part in _draws(len(a), num_resamples, np_rng):
    drawn_a, drawn_b = a[rows], b[rows]
    if anew:
      drawn_a = scipy.stats.rankdata(drawn_a, axis=1)
      drawn_b = scipy.stats.rankdata(drawn_b, axis=1)
    draws[part] = row_correlations(drawn_a, drawn_b)
  return percentiles(draws, level)


def row_correlations(a, b):
  """Pearson's r of each row of f64[k m] with the same row; NaN if constant."""
  a = a - a.mean(axis=1, keepdims=True)
  b = b - b.mean(axis=1, keepdims=True)
  scale = np.sqrt(np.sum(a * a, axis=1) * np.sum(b * b, axis=1))
  return _divided(np.sum(a * b, axis=1), scale)


def percentiles(draws, level=0.95):
  """The middle `level` of draws; those that are NaN are left out."""
  draws = np.asarray(draws, np.float64)
  draws = draws[~np.isnan(draws)]
  if not 0 < level < 1:
    raise ValueError(f"level is {level}; expected a share between 0 and 1.")
  if not draws.size:
    return math.nan, math.nan
  tail = (1 - level) / 2
  low, high = np.quantile(draws, [tail, 1 - tail])
  return float(low), float(high)


def _draws(num, num_resamples, np_rng):
  """Yields int[k num] rows drawn with replacement, and which draws they are."""
  step = max(1, _BLOCK // num)
  for start in range(0, num_resamples, step):
    stop = min(start + step, num_resamples)
    yield np_rng.integers(num, size=(stop - start, num)), slice(start, stop)


def _divided(a, b):
  """a / b, NaN where b is 0."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)
