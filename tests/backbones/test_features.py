"""Extraction: same rows as image by image, whatever the batch, one compile."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.backbones import features
from alignet_jax.images import collections


class Probe(nn.Module):
  """Stands for a backbone: image -> its mean colour, scaled by a parameter."""

  @nn.compact
  def __call__(self, image):
    gain = self.param("gain", nn.initializers.ones, ())
    x = gain * jnp.mean(image, axis=(1, 2))
    return x, {"pre_logits": x, "double": 2 * x, "half": x.astype(jnp.bfloat16)}


PARAMS = {"gain": jnp.float32(3.0)}


def make_images(np_rng, n=11):
  return collections.ArrayImages(
    np_rng.integers(0, 256, size=(n, 5, 5, 3), dtype=np.uint8)
  )


@pytest.mark.parametrize("batch_size", [1, 3, 4, 11, 64])
def test_rows_are_those_of_the_images_in_order(np_rng, batch_size):
  images = make_images(np_rng)
  done = []
  x = features.extract(
    Probe(), PARAMS, images, batch_size=batch_size, callback=done.append
  )
  pixels = images.load(np.arange(11)).astype(np.float64) / 255
  np.testing.assert_allclose(x, 3 * pixels.mean((1, 2)), rtol=1e-5, atol=1e-6)
  assert x.dtype == np.float32
  assert done == [min(i, 11) for i in range(batch_size, 11, batch_size)] + [11]


def test_value_range_and_output(np_rng):
  images = make_images(np_rng)
  pixels = images.load(np.arange(11)).astype(np.float64) / 255
  x = features.extract(
    Probe(),
    PARAMS,
    images,
    batch_size=4,
    value_range=(-1, 1),
    output="double",
  )
  expected = 6 * (2 * pixels - 1).mean((1, 2))
  np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)
  half = features.extract(Probe(), PARAMS, images, batch_size=4, output="half")
  assert half.dtype == np.float32


def test_scale_pixels_by_hand():
  image = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3)
  np.testing.assert_allclose(
    features.scale_pixels(image, (0, 1)).ravel(), [0, 0.2, 1], rtol=1e-6, atol=0
  )
  np.testing.assert_allclose(
    features.scale_pixels(image, (-1, 1)).ravel(),
    [-1, -0.6, 1],
    rtol=0,
    atol=1e-6,
  )


def test_one_compilation_for_all_batches_and_calls(np_rng):
  images = make_images(np_rng)
  before = features.forward._cache_size()
  for _ in range(2):
    features.extract(
      Probe(), PARAMS, images, batch_size=7, value_range=(0, 255)
    )
  assert features.forward._cache_size() == before + 1


def test_an_unknown_output_is_refused_with_the_known_ones(np_rng):
  images = make_images(np_rng)
  with pytest.raises(
    artifacts.InputError, match="no output 'block99'.*pre_logits, double, half"
  ):
    features.extract(Probe(), PARAMS, images, batch_size=4, output="block99")


def test_an_empty_collection_is_refused():
  with pytest.raises(artifacts.InputError, match="no image"):
    features.extract(Probe(), PARAMS, [], batch_size=4)
