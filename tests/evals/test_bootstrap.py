import numpy as np
import pytest
import scipy.stats

from alignet_jax import intervals
from alignet_jax.evals import bootstrap

REPETITIONS = 300


def coverage(draw, truth):
  hits = 0
  for seed in range(REPETITIONS):
    low, high = draw(np.random.default_rng(seed), seed)
    hits += low <= truth <= high
  return hits / REPETITIONS


def test_ratio_equals_the_row_by_row_bootstrap(np_rng):
  hits = np_rng.integers(0, 3, 211).astype(float)
  totals = np.full(211, 2.0)
  fast = bootstrap.ratio(hits, totals, num_resamples=4000, seed=1)
  slow = intervals.bootstrap_ratio(
    hits, totals, num_resamples=4000, np_rng=np.random.default_rng(2)
  )
  np.testing.assert_allclose(fast, slow, rtol=0, atol=0.006)
  # Numbers that all differ take the other way.
  noisy = hits + 1e-6 * np_rng.normal(size=211)
  other = bootstrap.ratio(noisy, totals, num_resamples=4000, seed=3)
  np.testing.assert_allclose(other, fast, rtol=0, atol=0.006)


def test_nothing_has_no_interval():
  assert np.isnan(bootstrap.ratio([], [])).all()
  empty = np.zeros((0, 3), int)
  assert np.isnan(bootstrap.ratio_over_objects([], [], empty)).all()
  # One miss of many: what is drawn around it goes beyond 1.
  items = np.argsort(np.random.default_rng(0).random((60, 9)), axis=1)[:, :3]
  hits = np.arange(60) > 0
  assert bootstrap.ratio_over_objects(hits, hits + ~hits, items)[1] > 1
  assert (
    bootstrap.ratio_over_objects(hits, hits + ~hits, items, bounds=(0, 1))[1]
    == 1
  )
  assert np.isnan(bootstrap.correlation([1.0], [2.0])).all()
  with pytest.raises(ValueError, match="level is 2"):
    bootstrap.percentiles([1.0], 2)


def test_sums_leaves_out_groups_without_rows():
  hits, totals = bootstrap.sums([0, 3, 3], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0])
  np.testing.assert_array_equal(hits, [1, 1])
  np.testing.assert_array_equal(totals, [1, 2])


@pytest.mark.parametrize("width", [1, 2, 3])
def test_shared_variance_equals_a_loop(np_rng, width):
  items = np.argsort(np_rng.random((23, 7)), axis=1)[:, :width]
  deviation = np_rng.normal(size=23)
  expected = 0.0
  for s in range(23):
    for t in range(23):
      if set(items[s]) & set(items[t]):
        expected += deviation[s] * deviation[t]
  actual = bootstrap.shared_variance(deviation, items)
  np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


def test_objects_permuted_and_renamed_change_nothing(np_rng):
  items = np.argsort(np_rng.random((50, 11)), axis=1)[:, :3]
  hits, ones = np_rng.integers(0, 2, 50).astype(float), np.ones(50)
  base = bootstrap.ratio_over_objects(hits, ones, items)
  np.testing.assert_allclose(
    bootstrap.ratio_over_objects(hits, ones, items[:, ::-1] * 7 + 3),
    base,
    rtol=1e-9,
    atol=0,
  )
  order = np_rng.permutation(50)
  np.testing.assert_allclose(
    bootstrap.ratio_over_objects(hits[order], ones, items[order]),
    base,
    rtol=1e-9,
    atol=1e-12,
  )


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_coverage_over_objects(spread):
  def draw(np_rng, seed):
    # Every object makes the triplets that it is in easier or harder.
    ease = spread * np_rng.normal(size=60)
    items = np.argsort(np_rng.random((400, 60)), axis=1)[:, :3]
    chance = 1 / (1 + np.exp(-ease[items].sum(axis=1)))
    hits = (np_rng.random(400) < chance).astype(float)
    return bootstrap.ratio_over_objects(
      hits, np.ones(400), items, num_resamples=300, seed=seed
    )

  assert 0.90 <= coverage(draw, 0.5) <= 0.99


def test_coverage_over_people_and_triplets():
  def over_people(np_rng, seed):
    skill = np_rng.normal(size=50)
    person = np_rng.integers(50, size=600)
    chance = 1 / (1 + np.exp(-skill[person]))
    hits = (np_rng.random(600) < chance).astype(float)
    return bootstrap.ratio(
      *bootstrap.sums(person, hits, np.ones(600)), num_resamples=300, seed=seed
    )

  def over_triplets(np_rng, seed):
    hits = (np_rng.random(200) < 0.4).astype(float)
    return bootstrap.mean(hits, num_resamples=300, seed=seed)

  assert 0.90 <= coverage(over_people, 0.5) <= 0.99
  assert 0.90 <= coverage(over_triplets, 0.4) <= 0.99


@pytest.mark.parametrize("num", [2, 5, 29, 30])
def test_coverage_of_few_rows(num):
  def draw(np_rng, seed):
    return bootstrap.mean(np_rng.normal(size=num), num_resamples=200, seed=seed)

  assert 0.90 <= coverage(draw, 0.0) <= 0.99


def test_few_rows_by_hand():
  # Mean 2, deviation 1, so 2 +- 4.303 / sqrt(3).
  found = bootstrap.mean([1.0, 2.0, 3.0])
  np.testing.assert_allclose(found, [-0.484, 4.484], rtol=0, atol=1e-3)
  assert bootstrap.mean([1.0, 2.0, 3.0], bounds=(0, 4))[0] == 0
  assert bootstrap.mean([1.0, 2.0, 3.0], bounds=(0, 4))[1] == 4
  # Rows of unlike weight, against scipy's where they have the same.
  values = np.array([0.2, 0.7, 0.4, 0.9])
  expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
  np.testing.assert_allclose(
    bootstrap.ratio(7 * values, np.full(4, 7.0)), expected, rtol=1e-9, atol=0
  )
  assert np.isnan(bootstrap.mean([0.5])).all()  # One person is no interval.


@pytest.mark.parametrize("ranks", [False, True])
def test_coverage_of_correlations(ranks):
  r = 0.6
  truth = 6 / np.pi * np.arcsin(r / 2) if ranks else r

  def draw(np_rng, seed):
    a, b = np_rng.normal(size=(2, 60))
    b = r * a + np.sqrt(1 - r * r) * b
    return bootstrap.correlation(
      a, b, ranks=ranks, num_resamples=150, seed=seed
    )

  assert 0.90 <= coverage(draw, truth) <= 0.99


def test_row_correlations_equal_scipy(np_rng):
  a, b = np_rng.normal(size=(2, 3, 17))
  expected = [
    scipy.stats.pearsonr(x, y).statistic for x, y in zip(a, b, strict=True)
  ]
  actual = bootstrap.row_correlations(a, b)
  np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
