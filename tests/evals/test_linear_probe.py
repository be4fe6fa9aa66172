import numpy as np
import pytest
import sklearn.linear_model

from alignet_jax.evals import linear_probe


def test_equals_sklearn(np_rng):
  x = np_rng.normal(2.0, 3.0, size=(61, 5))
  ids = np.arange(61) % 3
  x[:, 0] += 2 * ids
  probe = linear_probe.fit(x, ids, 3, l2=0.1)
  mean, std = x.mean(axis=0), x.std(axis=0) + 1e-5
  # Its penalty is 1/2 |w|^2 beside C times the sum of the losses.
  other = sklearn.linear_model.LogisticRegression(
    C=1 / (0.1 * 61), tol=1e-8, max_iter=1000
  ).fit((x - mean) / std, ids)
  test = np_rng.normal(2.0, 3.0, size=(7, 5))
  expected = other.predict_log_proba((test - mean) / std)
  actual = probe(test)
  actual = actual - np.log(np.exp(actual).sum(axis=1, keepdims=True))
  np.testing.assert_allclose(actual, expected, rtol=1e-2, atol=1e-2)


def test_bad_input():
  with pytest.raises(ValueError, match="1 classes"):
    linear_probe.fit(np.ones((3, 2)), [0, 0, 0], 1)
  with pytest.raises(ValueError, match="training features hold NaN"):
    linear_probe.fit(np.full((3, 2), np.nan), [0, 1, 0], 2)
  probe = linear_probe.fit(np.eye(3, 2), [0, 1, 0], 2)
  with pytest.raises(ValueError, match="features hold NaN"):
    probe([[1.0, np.nan]])
  with pytest.raises(ValueError, match=r"shape \(1, 3\); the probe takes"):
    probe(np.ones((1, 3)))
