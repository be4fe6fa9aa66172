import numpy as np
import pytest
import scipy.ndimage

from alignet_jax.evals import corruptions


@pytest.fixture(scope="module")
def image():
  noise = np.random.default_rng(3).normal(size=(2, 97, 101, 3))
  smooth = scipy.ndimage.gaussian_filter(noise, (0, 2, 2, 0))
  return np.clip(128 + 400 * smooth, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_each_degree_is_worse(image, name):
  errors = []
  for severity in corruptions.SEVERITIES:
    worse = corruptions.apply(image, name, severity=severity, seed=1)
    assert worse.shape == image.shape and worse.dtype == np.uint8
    again = corruptions.apply(image, name, severity=severity, seed=1)
    np.testing.assert_array_equal(worse, again)
    errors.append(np.abs(worse.astype(float) - image).mean())
  assert errors[0] > 0 and errors[-1] > 1.5 * errors[0]
  assert all(b > 0.98 * a for a, b in zip(errors, errors[1:], strict=False))


def test_by_hand():
  image = np.zeros((1, 2, 2, 3), np.uint8)
  image[0, 0] = 200
  # Mean 100, and a tenth of the contrast is left.
  low = corruptions.apply(image, "contrast", severity=5)
  np.testing.assert_array_equal(low[0, :, 0, 0], [110, 90])
  one = corruptions.apply(image, "pixelate", severity=5)
  np.testing.assert_array_equal(one, np.full_like(image, 100))
  flat = np.full((1, 13, 11, 3), 77, np.uint8)
  blurred = corruptions.apply(flat, "blur", severity=5)
  np.testing.assert_array_equal(blurred, flat)
  noisy = corruptions.apply(
    np.full((1, 101, 103, 3), 128, np.uint8), "gaussian_noise", severity=1
  )
  assert noisy.std() == pytest.approx(10, abs=0.3)


def test_bad_input(image):
  with pytest.raises(ValueError, match="no corruption 'fog'"):
    corruptions.apply(image, "fog", severity=1)
  with pytest.raises(ValueError, match="severity is 6"):
    corruptions.apply(image, "blur", severity=6)
  with pytest.raises(ValueError, match="float64"):
    corruptions.apply(image / 255, "blur", severity=1)
