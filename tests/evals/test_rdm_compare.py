import numpy as np
import pytest
import scipy.stats

from alignet_jax.evals import rdm_compare


def distances(x):
  return np.sqrt(((x[:, None] - x) ** 2).sum(-1))


def pair_of_rdms(np_rng, n, noise):
  base = np_rng.normal(size=(n, 5))
  other = base + 0.7 * np_rng.normal(size=base.shape)
  extra = np.triu(noise * np_rng.normal(size=(n, n)), 1)
  return distances(base), distances(other) + extra + extra.T


def upper(matrix):
  return matrix[np.triu_indices(len(matrix), 1)]


def test_correlations_equal_scipy_and_a_loop(np_rng):
  a, b = (upper(m) for m in pair_of_rdms(np_rng, 11, 1.0))
  a, b = np.round(a), np.round(b)  # Ties.
  assert rdm_compare.correlate(a, b, "pearson") == pytest.approx(
    scipy.stats.pearsonr(a, b).statistic, rel=1e-9
  )
  assert rdm_compare.correlate(a, b, "spearman") == pytest.approx(
    scipy.stats.spearmanr(a, b).statistic, rel=1e-9
  )
  total = 0
  for i in range(len(a)):
    for j in range(i):
      total += np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])
  expected = total / (len(a) * (len(a) - 1) / 2)
  assert rdm_compare.correlate(a, b, "kendall_tau_a") == pytest.approx(
    expected, rel=1e-9
  )


@pytest.mark.parametrize("method", rdm_compare.METHODS)
def test_laws(np_rng, method):
  a, b = pair_of_rdms(np_rng, 13, 0.5)
  found = rdm_compare.compare(a, b, method)
  assert found.low < found.value < found.high
  # The order of the items and which is first do not matter.
  order = np_rng.permutation(13)
  swapped = rdm_compare.compare(
    b[np.ix_(order, order)], a[np.ix_(order, order)], method
  )
  np.testing.assert_allclose(swapped, found, rtol=1e-6, atol=1e-6)
  # Nor does the scale.
  np.testing.assert_allclose(
    rdm_compare.compare(3 * a, b + 2, method), found, rtol=1e-6, atol=1e-6
  )
  same = rdm_compare.compare(a, a, method)
  np.testing.assert_allclose(same.value, 1.0, rtol=0, atol=1e-12)
  if method != "kendall_tau_a":
    assert np.isnan(rdm_compare.correlate(np.ones(3), np.arange(3), method))


def test_influences_are_the_change_by_one_more_pair(np_rng):
  # Counting a pair twice moves the mean over pairs by its influence / p.
  a, b = (upper(m) for m in pair_of_rdms(np_rng, 30, 1.0))
  num = len(a)
  for method, influence in rdm_compare._INFLUENCES.items():
    value = rdm_compare.correlate(a, b, method)
    expected = influence(a, b, value)
    expected = expected - expected.mean()
    for row in (0, 17, 200):
      more = rdm_compare.correlate(
        np.append(a, a[row]), np.append(b, b[row]), method
      )
      np.testing.assert_allclose(
        (more - value) * (num + 1), expected[row], rtol=0.05, atol=0.05
      )


def tied_rdms(np_rng, n):
  """Ratings in a few steps, against distances."""
  base = np_rng.normal(size=(n, 3))
  other = base + 0.7 * np_rng.normal(size=base.shape)
  return distances(np.round(base)), distances(other)


def noisy_rdms(np_rng, n):
  return pair_of_rdms(np_rng, n, 3.0)


def smooth_rdms(np_rng, n):
  return pair_of_rdms(np_rng, n, 0.5)


@pytest.mark.parametrize(
  "draw, num, limit",
  [
    (noisy_rdms, 24, 60),
    (smooth_rdms, 24, 60),
    (tied_rdms, 24, 60),
    (noisy_rdms, 40, 0),  # By influences, as of more than 60 items.
    (smooth_rdms, 40, 0),
  ],
)
def test_coverage_over_items(draw, num, limit, monkeypatch):
  monkeypatch.setattr(rdm_compare, "MAX_JACKKNIFE", limit)
  methods = ("spearman", "pearson")
  truth = {method: [] for method in methods}
  for seed in range(20):
    a, b = draw(np.random.default_rng([1, seed]), 120)
    for method in methods:
      truth[method].append(rdm_compare.correlate(upper(a), upper(b), method))
  hits = dict.fromkeys(methods, 0)
  for seed in range(300):
    a, b = draw(np.random.default_rng([2, seed]), num)
    for method in methods:
      found = rdm_compare.compare(a, b, method)
      hits[method] += found.low <= np.mean(truth[method]) <= found.high
  for method in methods:
    assert 0.90 <= hits[method] / 300 <= 0.99, (method, hits[method])


@pytest.mark.parametrize("method", rdm_compare.METHODS)
def test_interval_of_few_items_equals_a_loop(np_rng, method):
  a, b = pair_of_rdms(np_rng, 13, 1.0)
  found = rdm_compare.compare(a, b, method)
  left = []
  for item in range(13):
    kept = np.ix_(*[np.delete(np.arange(13), item)] * 2)
    left.append(rdm_compare.correlate(upper(a[kept]), upper(b[kept]), method))
  variance = 12 / 13 * np.sum((left - np.mean(left)) ** 2)
  influence = rdm_compare._INFLUENCES[method](upper(a), upper(b), found.value)
  error = np.sqrt(variance - np.var(influence) / 78)
  reach = scipy.stats.t.ppf(0.975, 12) * error
  assert found.low == pytest.approx(found.value - reach, rel=1e-9)
  assert found.high == pytest.approx(min(found.value + reach, 1), rel=1e-9)


def test_interval_of_many_items_equals_a_loop(np_rng):
  a, b = pair_of_rdms(np_rng, 61, 1.0)
  found = rdm_compare.compare(a, b, "pearson")
  places = list(zip(*np.triu_indices(61, 1), strict=True))
  influence = rdm_compare._pearson_influence(upper(a), upper(b), found.value)
  matrix = np.zeros((61, 61))
  for (i, j), of_pair in zip(places, influence, strict=True):
    matrix[i, j] = matrix[j, i] = of_pair - influence.mean()
  total = 0.0
  for i, j in places:  # All pairs that share an item with this one.
    total += matrix[i, j] * (matrix[i].sum() + matrix[j].sum() - matrix[i, j])
  error = np.sqrt(total * 61 / 60) / len(places)
  reach = scipy.stats.t.ppf(0.975, 60) * error
  assert found.high == pytest.approx(found.value + reach, rel=1e-9)
  assert found.low == pytest.approx(found.value - reach, rel=1e-9)


def test_noise_ceiling_by_a_loop(np_rng):
  base = distances(np_rng.normal(size=(9, 4)))
  people = np.stack(
    [base + np.abs(distances(np_rng.normal(size=(9, 4)))) for _ in range(5)]
  )
  ranks = [scipy.stats.rankdata(upper(p)) for p in people]
  lower, higher = [], []
  for p in range(5):
    others = np.mean([ranks[q] for q in range(5) if q != p], axis=0)
    lower.append(scipy.stats.spearmanr(ranks[p], others).statistic)
    higher.append(
      scipy.stats.spearmanr(ranks[p], np.mean(ranks, axis=0)).statistic
    )
  actual = rdm_compare.noise_ceiling(people, "spearman")
  expected = np.mean(lower), np.mean(higher)
  np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
  assert np.isnan(rdm_compare.noise_ceiling(people[:1])).all()


def test_bad_input():
  with pytest.raises(ValueError, match="Unknown method 'mean'"):
    rdm_compare.correlate([1.0, 2.0], [1.0, 2.0], "mean")
  with pytest.raises(ValueError, match="RDMs of 3 and 4 items"):
    rdm_compare.compare(np.ones((3, 3)), np.ones((4, 4)))
  with pytest.raises(ValueError, match="NaN"):
    rdm_compare.compare(np.full((3, 3), np.nan), np.ones((3, 3)))
