import numpy as np
import pytest

from alignet_jax.teacher import checks


def test_standardise_gives_one_mean_and_one_std(np_rng):
  features = np_rng.normal(size=(7, 5)) * [1, 2, 3, 4, 5] + 100
  mean, std = checks.standardise(features.astype(np.float32))
  np.testing.assert_allclose(mean, np.mean(features), rtol=1e-6, atol=0)
  np.testing.assert_allclose(std, np.std(features), rtol=1e-5, atol=0)


def test_rows_with_nan_are_refused_by_number():
  features = np.ones((9, 5))
  features[2:8, 3] = np.nan
  features[8, 0] = np.inf
  with pytest.raises(ValueError, match=r"7 of 9 rows .*\(rows 2, 3, 4, 5, 6, "):
    checks.standardise(features)


@pytest.mark.parametrize(
  "features", [np.full((7, 5), 0.3), np.tile([1.0, 2.0, 3.0], (7, 1))]
)
def test_constant_features_are_refused(features):
  with pytest.raises(ValueError, match="constant features"):
    checks.standardise(features)


def test_per_feature_gives_one_of_each(np_rng):
  features = np_rng.normal(size=(7, 5)) * [1, 2, 3, 4, 5] + 100
  mean, std = checks.standardise(features, per_feature=True)
  np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-6, atol=0)
  np.testing.assert_allclose(std, features.std(axis=0), rtol=1e-5, atol=0)
  features[:, 3] = 2.0
  checks.standardise(features)
  with pytest.raises(ValueError, match=r"1 features are equal .*columns \[3\]"):
    checks.standardise(features, per_feature=True)


def test_a_constant_column_in_float64_is_refused_too(np_rng):
  features = np_rng.normal(size=(1854, 4))
  features[:, 1] = 0.1  # Its computed deviation is not zero.
  assert features[:, 1].std() > 0
  with pytest.raises(ValueError, match=r"columns \[1\]"):
    checks.standardise(features, per_feature=True)
