import tracemalloc

import numpy as np
import pytest

from alignet_jax.images import resize


def _pattern(height, width):
  i, j, c = np.ogrid[:height, :width, :3]
  return ((37 * i + 91 * j + 53 * c + 17 * i * j) % 256).astype(np.uint8)


# Made with OpenCV 4.10 and, the same, 5.0:
#   cv2.resize(_pattern(7, 11), (s, s), interpolation=cv2.INTER_CUBIC)[..., 0]
# and for s = 13 its row 6, all channels.
GOLDEN_3 = [[184, 94, 198], [239, 53, 137], [81, 65, 204]]
GOLDEN_5 = [
  [52, 53, 172, 128, 92],
  [135, 181, 144, 111, 168],
  [210, 29, 53, 98, 152],
  [82, 179, 127, 207, 143],
  [184, 52, 138, 71, 154],
]
GOLDEN_13_ROW_6 = [
  [104, 170, 223],
  [235, 59, 112],
  [203, 144, 197],
  [63, 142, 217],
  [59, 112, 79],
  [162, 215, 28],
  [53, 106, 159],
  [184, 237, 50],
  [105, 186, 153],
  [160, 48, 123],
  [187, 68, 121],
  [127, 153, 206],
  [255, 42, 95],
]


def test_equals_stored_values_of_opencv():
  image = _pattern(7, 11)
  np.testing.assert_array_equal(resize.resize_cubic(image, 3)[..., 0], GOLDEN_3)
  np.testing.assert_array_equal(resize.resize_cubic(image, 5)[..., 0], GOLDEN_5)
  np.testing.assert_array_equal(
    resize.resize_cubic(image, 13)[6], GOLDEN_13_ROW_6
  )


def _cubic(distance):
  """The kernel of Keys (1981) with a = -0.75."""
  a, t = -0.75, abs(distance)
  if t <= 1:
    return (a + 2) * t**3 - (a + 3) * t**2 + 1
  if t < 2:
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
  return 0.0


def _resize_by_loop(image, size):
  height, width, channels = image.shape
  result = np.zeros((size, size, channels))
  for row in range(size):
    y = (row + 0.5) * height / size - 0.5
    for column in range(size):
      x = (column + 0.5) * width / size - 0.5
      for i in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
        for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
          value = image[np.clip(i, 0, height - 1), np.clip(j, 0, width - 1)]
          result[row, column] += _cubic(y - i) * _cubic(x - j) * value
  return result


@pytest.mark.parametrize(
  ("height", "width", "size"), [(7, 11, 5), (13, 5, 17), (1, 3, 4), (29, 31, 2)]
)
def test_equals_a_plain_loop(height, width, size):
  image = _pattern(height, width)
  want = np.clip(_resize_by_loop(image, size), 0, 255)
  got = resize.resize_cubic(image, size).astype(np.float64)
  # Half a unit from rounding; 1e-3 for weights rounded to 2^-22.
  np.testing.assert_allclose(got, want, rtol=0, atol=0.501)


def test_leading_axes_are_a_batch():
  images = np.stack([_pattern(5, 7), _pattern(5, 7)[::-1]])[:, None]
  got = resize.resize_cubic(images, 3)
  assert got.shape == (2, 1, 3, 3, 3)
  want = resize.resize_cubic(images[1, 0], 3)
  np.testing.assert_array_equal(got[1, 0], want)


def test_a_pair_is_height_and_width():
  image = _pattern(7, 11)
  got = resize.resize_cubic(image, (3, 5))
  assert got.shape == (3, 5, 3)
  # Each axis by itself: the columns of one square, the rows of another.
  turned = resize.resize_cubic(image.transpose(1, 0, 2), (5, 3))
  np.testing.assert_array_equal(turned.transpose(1, 0, 2), got)
  np.testing.assert_array_equal(
    resize.resize_cubic(image, (7, 11)), image, strict=True
  )
  np.testing.assert_array_equal(
    resize.resize_cubic(np.repeat(image[:1], 3, axis=0), (3, 5))[0],
    resize.resize_cubic(np.repeat(image[:1], 5, axis=0), 5)[0],
  )


def test_long_thin_images_need_little_memory():
  """The other axis first would take 38 MB for the one, then the other."""
  for shape in ((1, 100_000, 3), (100_000, 1, 3)):
    image = np.zeros(shape, np.uint8)
    tracemalloc.start()
    try:
      resize.resize_cubic(image, 16)
      assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
      tracemalloc.stop()


def test_keeps_constant_images_and_images_of_the_same_size():
  constant = np.full((11, 7, 3), 201, np.uint8)
  assert np.all(resize.resize_cubic(constant, 5) == 201)
  image = _pattern(13, 13)
  np.testing.assert_array_equal(resize.resize_cubic(image, 13), image)


@pytest.mark.parametrize(
  ("height", "width", "size"), [(7, 11, 5), (375, 500, 24), (64, 64, 224)]
)
def test_tensorflow_gives_the_same_bits(height, width, size):
  tf = pytest.importorskip("tensorflow")
  image = np.random.default_rng([height, width]).integers(
    0, 256, (height, width, 3), dtype=np.uint8
  )
  # A signature without sizes: the shape is known only when the graph runs.
  signature = [tf.TensorSpec([None, None, 3], tf.uint8)]
  function = tf.function(
    lambda image: resize.resize_cubic_tf(image, size),
    input_signature=signature,
  )
  np.testing.assert_array_equal(
    function(image).numpy(), resize.resize_cubic(image, size)
  )


def test_refuses_anything_but_bytes():
  with pytest.raises(ValueError, match=r"float32\[4, 4, 3\]"):
    resize.resize_cubic(np.zeros((4, 4, 3), np.float32), 2)
  with pytest.raises(ValueError, match=r"uint8\[4, 4\]"):
    resize.resize_cubic(np.zeros((4, 4), np.uint8), 2)
