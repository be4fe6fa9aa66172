"""Resampling of position embeddings: by hand, against scipy, laws."""

import numpy as np
import pytest
import scipy.ndimage

from alignet_jax.backbones import posemb


@pytest.mark.parametrize("rule", posemb.RULES)
@pytest.mark.parametrize("grid", [(3, 7), (5, 2), (13, 11)])
def test_what_is_constant_stays_constant(rule, grid):
  x = np.full((1, 25, 2), 3.0, np.float32)
  y = posemb.resample(x, grid, rule=rule)
  assert y.dtype == np.float32
  np.testing.assert_allclose(
    y, np.full((1, grid[0] * grid[1], 2), 3.0), rtol=1e-6, atol=0
  )


@pytest.mark.parametrize("rule", posemb.RULES)
def test_rows_are_rows_and_mirrored_in_is_mirrored_out(np_rng, rule):
  x = np_rng.normal(size=(1, 25, 2)).astype(np.float32)
  grid = x.reshape(5, 5, 2)
  y = posemb.resample(x, (3, 7), rule=rule).reshape(3, 7, 2)
  turned = posemb.resample(
    grid.transpose(1, 0, 2).reshape(1, 25, 2), (7, 3), rule=rule
  )
  np.testing.assert_allclose(
    turned.reshape(7, 3, 2).transpose(1, 0, 2), y, rtol=0, atol=1e-6
  )
  mirrored = posemb.resample(grid[::-1].reshape(1, 25, 2), (3, 7), rule=rule)
  difference = np.max(np.abs(mirrored.reshape(3, 7, 2)[::-1] - y))
  if rule == "bicubic_offset":  # Its 0.1 shifts all to one side.
    assert difference > 1e-3
  else:
    assert difference < 1e-6


@pytest.mark.parametrize("rule", posemb.RULES)
def test_the_same_grid_is_the_same_array(np_rng, rule):
  x = np_rng.normal(size=(1, 16, 3)).astype(np.float32)
  assert posemb.resample(x, (4, 4), rule=rule) is x


def test_corners_stay_as_in_scipy(np_rng):
  x = np_rng.normal(size=(1, 16, 3)).astype(np.float32)
  y = posemb.resample(x, (7, 5), rule="bilinear_corners")
  expected = scipy.ndimage.zoom(x.reshape(4, 4, 3), (7 / 4, 5 / 4, 1), order=1)
  np.testing.assert_allclose(
    y, expected.reshape(1, 35, 3), rtol=1e-5, atol=1e-6
  )


def test_bicubic_by_hand():
  """Two points to one: it lies between them. One to two: both are it."""
  np.testing.assert_allclose(
    posemb.bicubic(2, 1), [[0.5, 0.5]], rtol=0, atol=1e-12
  )
  np.testing.assert_allclose(posemb.bicubic(1, 2), [[1], [1]], rtol=0, atol=0)
  # Four points to two: new centres at 0.5 and 2.5. Taps at distances 1.5, 0.5,
  # 0.5, 1.5 weigh -3/32, 19/32, 19/32, -3/32; what falls outside goes to the
  # edge.
  near, far = 19 / 32, -3 / 32
  np.testing.assert_allclose(
    posemb.bicubic(4, 2),
    [[near + far, near, far, 0], [0, far, near, near + far]],
    rtol=0,
    atol=1e-12,
  )


def test_antialias_by_hand():
  """Four points to two: weights of a triangle of radius 2 around 1 and 3."""
  expected = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
  np.testing.assert_allclose(
    posemb.bilinear_antialias(4, 2), expected, rtol=0, atol=1e-12
  )


def test_the_offset_is_in_the_ratio_only():
  place = (np.arange(5) + 0.5) * 7 / 5.1 - 0.5
  line = np.arange(7.0)
  inner = slice(1, 4)  # Cubic weights reproduce a line away from the edges.
  np.testing.assert_allclose(
    (posemb.bicubic_offset(7, 5) @ line)[inner], place[inner], atol=0.11, rtol=0
  )
  difference = posemb.bicubic_offset(7, 5) - posemb.bicubic(7, 5)
  assert np.max(np.abs(difference)) > 0.01


def test_unknown_rules_are_refused_with_the_known_ones():
  with pytest.raises(ValueError, match="bilinear_corners, bicubic, bicubic_of"):
    posemb.resample(np.zeros((1, 4, 1)), (3, 3), rule="nearest")


def test_a_grid_that_is_not_square_is_resampled_from_its_rows(np_rng):
  x = np_rng.normal(size=(1, 4 * 9, 2)).astype(np.float32)
  y = posemb.resample(x, (7, 9), rule="bicubic", old_grid=(4, 9))
  columns = np.asarray(x).reshape(4, 9, 2)
  expected = np.einsum("ri,icd->rcd", posemb.bicubic(4, 7), columns)
  np.testing.assert_allclose(y.reshape(7, 9, 2), expected, rtol=0, atol=1e-5)
