import numpy as np
import pytest
import sklearn.decomposition

from alignet_jax.evals import item_map


def test_equals_sklearn(np_rng):
  x = np_rng.normal(size=(13, 7))
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  other = sklearn.decomposition.PCA(2).fit(unit)
  places, share = item_map.project(x)
  np.testing.assert_allclose(
    np.abs(places), np.abs(other.transform(unit)), rtol=1e-4, atol=1e-5
  )
  assert share == pytest.approx(other.explained_variance_ratio_.sum(), rel=1e-5)
  assert (places.max(axis=0) >= -places.min(axis=0)).all()
  assert item_map.project(np.ones((3, 1)))[0].shape == (3, 2)


def test_drawings(np_rng):
  places = np_rng.normal(size=(7, 2))
  plain = item_map.draw("m", places, 0.5)
  marked = item_map.draw("m", places, 0.5, ["a", "b", "a", "c", "a", "b", "c"])
  pictures = np_rng.integers(0, 255, (7, 60, 50, 3), np.uint8)
  shown = item_map.draw("m", places, 0.5, pictures=pictures)
  assert len({plain, marked, shown}) == 3
  assert shown.count("<image") == 7
  assert shown == item_map.draw("m", places, 0.5, pictures=pictures)
