import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats

from alignet_jax.evals import rsa


def make_features(n=13, d=7, seed=0):
  return np.random.default_rng(seed).normal(1.0, 2.0, size=(n, d))


def test_by_hand():
  # Angles 0, 90 and 45 degrees: 1 - cos = 0, 1, 1 - .7071.
  features = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
  h = 1 - np.sqrt(0.5)
  expected = [[0, 1, h], [1, 0, h], [h, h, 0]]
  np.testing.assert_allclose(rsa.rdm(features), expected, rtol=0, atol=1e-12)
  # With two features only the sign of their difference correlates: 2 - 0 and
  # 0 - 3 are opposite; the third is constant and has no direction.
  expected = [[0, 2, 1], [2, 0, 1], [1, 1, 0]]
  np.testing.assert_allclose(
    rsa.rdm(features, metric="correlation"), expected, rtol=0, atol=1e-12
  )


@pytest.mark.parametrize("metric", rsa.METRICS)
def test_rdm_equals_scipy(metric):
  features = make_features()
  expected = scipy.spatial.distance.squareform(
    scipy.spatial.distance.pdist(features, metric)
  )
  actual = rsa.rdm(features.astype(np.float32), metric)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", rsa.METRICS)
def test_rdm_is_symmetric_with_zero_diagonal(metric):
  matrix = rsa.rdm(make_features(31, 5), metric)
  np.testing.assert_array_equal(matrix, matrix.T)
  np.testing.assert_array_equal(np.diag(matrix), np.zeros(31))
  assert matrix.min() >= 0 and matrix.max() <= 2


def test_laws_of_the_metrics():
  features = make_features()
  lengths = np.linspace(0.5, 3, 13)[:, None]
  np.testing.assert_allclose(
    rsa.rdm(features * lengths), rsa.rdm(features), rtol=0, atol=1e-12
  )
  np.testing.assert_allclose(
    rsa.rdm(features * lengths + 7, "correlation"),
    rsa.rdm(features, "correlation"),
    rtol=0,
    atol=1e-12,
  )


def test_zero_and_constant_items_have_no_direction():
  features = make_features(4, 5)
  features[1] = 0
  np.testing.assert_array_equal(rsa.rdm(features)[1], [1, 0, 1, 1])
  # The mean of 0.1 is not exactly 0.1 in floating point.
  features[1] = 0.1
  matrix = rsa.rdm(features, "correlation")
  np.testing.assert_array_equal(matrix[1], [1, 0, 1, 1])


def test_spearman_by_hand():
  # Ranks 1, 2, 3 against 2, 1, 3 of the pairs 01, 02, 12:
  # 1 - 6 * (1 + 1 + 0) / (3 * 8) = .5.
  a = np.array([[0, 1, 2], [9, 0, 3], [9, 9, 0]])
  b = np.array([[0, 50, 10], [0, 0, 60], [0, 0, 0]])
  assert rsa.spearman(a, b) == pytest.approx(0.5)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_equals_scipy(ties):
  a = rsa.rdm(make_features(seed=1))
  b = rsa.rdm(make_features(seed=1) + make_features(seed=2))
  if ties:
    a, b = np.round(3 * a), np.round(2 * b)
  rows, columns = np.triu_indices(13, 1)
  expected = scipy.stats.spearmanr(a[rows, columns], b[rows, columns])
  assert rsa.spearman(a, b) == pytest.approx(expected.statistic, abs=1e-12)


def test_spearman_laws():
  a, b = rsa.rdm(make_features(seed=1)), rsa.rdm(make_features(seed=2))
  value = rsa.spearman(a, b)
  assert rsa.spearman(b, a) == value
  assert rsa.spearman(np.exp(3 * a), b) == pytest.approx(value, abs=1e-12)
  assert rsa.spearman(-a, b) == pytest.approx(-value, abs=1e-12)
  assert rsa.spearman(a, a) == pytest.approx(1, abs=1e-12)
  order = np.random.default_rng(3).permutation(13)
  grid = np.ix_(order, order)
  assert rsa.spearman(a[grid], b[grid]) == pytest.approx(value, abs=1e-12)


def test_spearman_without_variance_is_nan():
  assert np.isnan(rsa.spearman(np.ones((5, 5)), rsa.rdm(make_features(5))))


def test_wrong_input_is_refused():
  with pytest.raises(ValueError, match="cosine, correlation"):
    rsa.rdm(make_features(), "euclidean")
  with pytest.raises(ValueError, match="NaN or infinity"):
    rsa.rdm(np.array([[np.inf, 1.0]]))
  with pytest.raises(ValueError, match="5 and 7 items"):
    rsa.spearman(np.zeros((5, 5)), np.zeros((7, 7)))
  with pytest.raises(ValueError, match="shape \\(5, 7\\)"):
    rsa.spearman(np.zeros((5, 7)), np.zeros((5, 7)))
  with pytest.raises(ValueError, match="holds NaN"):
    rsa.spearman(np.full((5, 5), np.nan), np.zeros((5, 5)))
