import numpy as np
import pytest
import sklearn.metrics
import sklearn.neighbors

from alignet_jax.evals import nearest


def test_one_neighbour_equals_sklearn(np_rng):
  train, test = np_rng.normal(size=(53, 7)), np_rng.normal(size=(19, 7))
  ids = np_rng.integers(0, 5, 53)
  other = sklearn.neighbors.KNeighborsClassifier(1, metric="cosine")
  expected = other.fit(train, ids).predict(test)
  actual = nearest.classify(train, ids, test, num_classes=5, k=1)
  np.testing.assert_array_equal(actual, expected)


def test_votes_equal_a_loop(np_rng):
  train, test = np_rng.normal(size=(31, 5)), np_rng.normal(size=(17, 5))
  ids = np_rng.integers(0, 3, 31)
  actual = nearest.classify(train, ids, test, num_classes=3, k=4)
  for row, x in enumerate(test):
    sims = train @ x / np.linalg.norm(train, axis=1) / np.linalg.norm(x)
    best = np.argsort(-sims)[:4]
    votes = [
      (np.sum(ids[best] == c), sims[best][ids[best] == c].sum())
      for c in range(3)
    ]
    assert actual[row] == max(range(3), key=lambda c: votes[c])


def test_auc_equals_sklearn(np_rng):
  scores = np.round(np_rng.normal(size=101), 1)  # Ties.
  is_positive = np_rng.random(101) < 0.3
  expected = sklearn.metrics.roc_auc_score(is_positive, scores)
  np.testing.assert_allclose(
    nearest.auc(scores, is_positive), expected, rtol=1e-12, atol=0
  )
  assert np.isnan(nearest.auc([1.0, 2.0], [True, True]))


def test_anomalies(np_rng):
  centre = 4 * np_rng.normal(size=(3, 7))
  ids = np.arange(60) % 3
  x = centre[ids] + np_rng.normal(size=(60, 7))
  areas = nearest.anomaly_auc(x[:30], ids[:30], x[30:], ids[30:])
  assert areas.shape == (3,) and areas.min() > 0.9
  noise = np_rng.normal(size=(60, 7))
  areas = nearest.anomaly_auc(noise[:30], ids[:30], noise[30:], ids[30:])
  assert abs(areas.mean() - 0.5) < 0.25
  # Three of the own class decide for one, and k beyond them is all of them.
  areas = nearest.anomaly_auc(x[:9], ids[:9], x[30:], ids[30:], k=99)
  assert np.isfinite(areas).all()


def test_bad_features_do_not_vote():
  good, ids = np.eye(3), np.array([0, 1, 1])
  for train, test, message in (
    (good, good + [np.nan, 0, 0], "test features hold NaN"),
    (np.full((3, 3), np.inf), good, "training features hold NaN"),
    (good, good[:, :2], "3 features and test images 2"),
  ):
    with pytest.raises(ValueError, match=message):
      nearest.classify(train, ids, test, num_classes=2)
    with pytest.raises(ValueError, match=message):
      nearest.anomaly_auc(train, ids, test, ids)
