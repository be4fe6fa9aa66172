import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts
from alignet_jax.images import preprocess, resize


def pattern(height, width):
  i, j, c = np.ogrid[:height, :width, :3]
  return ((37 * i + 91 * j + 53 * c + 17 * i * j) % 256).astype(np.uint8)


def test_aligned_students_see_the_whole_image_by_cubic_without_antialias():
  """The settings of the release: each of them written out."""
  assert preprocess.ALIGNET.to_dict() == {
    "size": 224,
    "resize": "squash",
    "short_side": 0,
    "interpolation": "cubic_no_antialias",
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
  }
  image = pattern(31, 47)
  got = preprocess.ALIGNET.apply(image)
  np.testing.assert_array_equal(got, resize.resize_cubic(image, 224))
  x = preprocess.ALIGNET.normalise(np.array([[[0, 51, 255]]], np.uint8))
  np.testing.assert_allclose(np.ravel(x), [0, 0.2, 1], rtol=1e-6, atol=0)
  assert x.dtype == np.float32


# Sides by hand: 11 * 29 / 13 = 24.5 -> 24, 11 * 23 / 13 = 19.4 -> 19. Margins
# (24 - 7) / 2 = 8.5 -> 8 and (19 - 7) / 2 = 6; (11 - 7) / 2 = 2.
@pytest.mark.parametrize(
  ("shape", "sides", "corner"),
  [
    ((13, 29), (11, 24), (2, 8)),
    ((29, 13), (24, 11), (8, 2)),
    ((23, 13), (19, 11), (6, 2)),
    ((13, 13), (11, 11), (2, 2)),
    ((1, 1), (11, 11), (2, 2)),
  ],
)
@pytest.mark.parametrize("interpolation", preprocess.INTERPOLATIONS)
def test_short_side_and_crop_by_hand(shape, sides, corner, interpolation):
  settings = preprocess.Preprocessing(
    7, resize="short_side", short_side=11, interpolation=interpolation
  )
  image = pattern(*shape)
  if interpolation == "cubic_no_antialias":
    whole = resize.resize_cubic(image, sides)
  else:
    kernel = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}
    whole = np.asarray(
      Image.fromarray(image).resize(sides[::-1], kernel[interpolation])
    )
  top, left = corner
  np.testing.assert_array_equal(
    settings.apply(image), whole[top : top + 7, left : left + 7], strict=True
  )


def test_odd_margins_are_rounded_half_to_even_as_torchvision_does():
  def corner_of(length):
    settings = preprocess.Preprocessing(4, resize="short_side")
    wide = np.zeros((4, length, 3), np.uint8)
    wide[:] = np.arange(length, dtype=np.uint8)[:, None]
    tall = wide.transpose(1, 0, 2)
    return [int(settings.apply(image)[0, 0, 0]) for image in (wide, tall)]

  # Margins of 0.5, 1.5, 2.5 and 3.5 pixels; int(round(x)) in torchvision.
  corners = [corner_of(length) for length in (5, 7, 9, 11)]
  assert corners == [[0, 0], [2, 2], [2, 2], [4, 4]]


def test_no_short_side_means_the_size():
  short = preprocess.Preprocessing(5, resize="short_side", short_side=5)
  none = dataclasses.replace(short, short_side=0)
  np.testing.assert_array_equal(
    short.apply(pattern(7, 13)), none.apply(pattern(7, 13))
  )


def test_antialiasing_is_that_of_pil():
  """Shrinking one black row in eight: PIL gives grey, four taps may miss it."""
  image = np.full((64, 64, 3), 255, np.uint8)
  image[::8] = 0
  settings = preprocess.Preprocessing(8, interpolation="bilinear")
  got = settings.apply(image)
  want = Image.fromarray(image).resize((8, 8), Image.BILINEAR)
  np.testing.assert_array_equal(got, np.asarray(want))
  assert got.min() > 200
  plain = dataclasses.replace(settings, interpolation="cubic_no_antialias")
  assert not np.array_equal(plain.apply(image), got)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 5, 7, 3)])
def test_normalise_by_a_plain_loop(np_rng, shape):
  settings = preprocess.Preprocessing(
    7, mean=(0.5, 0.25, 0.125), std=preprocess.IMAGENET_STD
  )
  image = np_rng.integers(0, 256, shape, np.uint8)
  want = np.zeros(shape)
  for c in range(3):
    want[..., c] = (image[..., c] / 255 - settings.mean[c]) / settings.std[c]
  got = settings.normalise(image)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_json_round_trip_gives_an_equal_and_hashable_value():
  text = json.dumps(preprocess.DINOV2.to_dict())
  again = preprocess.from_dict(json.loads(text))
  assert again == preprocess.DINOV2 and hash(again) == hash(preprocess.DINOV2)
  assert preprocess.from_dict({"size": 224}) == preprocess.ALIGNET


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"resize": "crop"}, "resize 'crop'; known are squash, short_side"),
    ({"interpolation": "cubic"}, "interpolation 'cubic'; known are cubic_no"),
    ({"size": 0}, "size 0; expected 1 to"),
    ({"size": 224.0}, "size 224.0; expected whole"),
    ({"size": True}, "size True; expected whole"),
    ({"size": 10**6}, "size 1000000; expected 1 to"),
    ({"short_side": 4}, "short_side 4; expected 0 or at least its size, 5"),
    ({"mean": (0.5, 0.5)}, r"mean \(0.5, 0.5\); expected three"),
    ({"mean": (0, 0, float("nan"))}, "three finite"),
    ({"std": (1, 0, 1)}, "std .*; expected more than 0"),
    ({"colour": 1}, "no field 'colour'; it has size, resize"),
  ],
)
def test_wrong_fields_are_refused(fields, message):
  with pytest.raises(artifacts.InputError, match=message):
    preprocess.from_dict({"size": 5, **fields})


def test_size_is_needed():
  with pytest.raises(artifacts.InputError, match="needs the field size"):
    preprocess.from_dict({"resize": "squash"})


def test_a_thread_of_pixels_cannot_fill_the_memory():
  settings = preprocess.Preprocessing(
    224, resize="short_side", interpolation="bilinear"
  )
  with pytest.raises(artifacts.InputError, match="4000 x 1 .*896000 x 224"):
    settings.apply(np.zeros((1, 4000, 3), np.uint8))
  squashed = dataclasses.replace(settings, resize="squash")
  assert (
    squashed.apply(np.zeros((1, 4000, 3), np.uint8)).shape[:2] == (224,) * 2
  )
