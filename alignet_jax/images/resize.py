"""Cubic resizing without antialiasing, as the released AligNet models saw.

The released preprocessing squeezes the whole image into a square with OpenCV's
`INTER_CUBIC`: four taps per output value however much the image shrinks, and
no aspect kept (paper.md, sections C and J7). PIL and `tf.image` widen the
kernel when shrinking, which gives other features (correlation about .986).

Usage:
  small = resize.resize_cubic(image, 224)          # uint8[224 224 3]
  small = resize.resize_cubic_tf(tf_image, 224)    # the same inside tf.data
"""

import functools

import numpy as np

# Free parameter of the cubic kernel. OpenCV uses -0.75, PIL -0.5.
CUBIC_A = -0.75

# Weights are multiples of 2^-22, handled as integers. Every product and sum of
# the two passes is then an integer of at most 255 * 1.375^2 * 2^44 < 2^53,
# which float64 holds exactly: no order of summation, library or machine can
# change the result.
WEIGHT_SCALE = 2.0**22

# Weights are kept for axes of up to 512 pixels, most photographs of ImageNet;
# at 224 pixels 11 MB.
MAX_TABLE_SIZE, MAX_TABLE_ENTRIES = 512, 2**20


def resize_cubic(image, size):
  """Resizes images by cubic interpolation without antialiasing.

  Kernel with a = -0.75, half-pixel centres, edge values replicated, result
  rounded half to even. Against OpenCV 4.10 and 5.0 (x86-64), on noise, smooth
  and black-and-white images of 12 sizes, the largest difference was 1, and for
  images of at least 5 pixels fewer than one value in 5000 differed.

  Each output value mixes four inputs per axis, hence gathers and not products
  with matrices that would be nearly all zeros. The longer axis goes first: no
  bit depends on that (see `WEIGHT_SCALE`), but the memory for a long, thin
  image does.

  Args:
    image: uint8[*b h w c], h and w at least 1.
    size: Height and width of the result in pixels, at least 1; or a pair of
      both.

  Returns:
    uint8[*b size size c].
  """
  height, width = size if np.ndim(size) else (size, size)
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim < 3:
    raise ValueError(
      "An image to resize must be uint8[*b h w c], not"
      f" {image.dtype}{list(image.shape)}."
    )
  total = image
  axes = ((-3, height), (-2, width))
  for axis, num_out in sorted(axes, key=lambda axis: -image.shape[axis[0]]):
    index, weights = _taps(image.shape[axis], num_out)
    shorter, total = total, 0.0
    for tap in range(4):
      taken = np.take(shorter, index[:, tap], axis=axis)
      column = weights[:, tap].reshape([-1] + [1] * (-1 - axis))
      total = total + taken * column
  rounded = np.rint(total / WEIGHT_SCALE**2)
  return np.clip(rounded, 0, 255).astype(np.uint8)


def resize_cubic_tf(image, size):
  """Does the same as `resize_cubic` with TensorFlow ops, to the last bit.

  Per axis one product with a sparse matrix of four weights per row: two ops
  instead of a gather, a product and a sum for each of eight taps.

  Args:
    image: uint8[h w c] tensor; h and w may be unknown until it runs.
    size: Height and width of the result in pixels, at least 1.

  Returns:
    uint8[size size c] tensor.
  """
  import tensorflow as tf

  channels = image.shape[-1]
  shape = tf.shape(image)
  height, width = shape[0], shape[1]
  # The axis that is mixed must come first. Turned while it is bytes.
  total = tf.cast(tf.transpose(image, [1, 0, 2]), tf.float64)
  total = _mix_tf(tf.reshape(total, [width, height * channels]), width, size)
  total = tf.reshape(total, [size, height, channels])
  total = tf.transpose(total, [1, 0, 2])
  total = _mix_tf(tf.reshape(total, [height, size * channels]), height, size)
  rounded = tf.clip_by_value(tf.round(total), 0.0, 255.0)
  return tf.reshape(tf.cast(rounded, tf.uint8), [size, size, channels])


def _mix_tf(rows, num_in, num_out):
  """Resizes the first axis of f64[num_in m] to f64[num_out m]."""
  import tensorflow as tf

  # Some twenty ops on a few hundred numbers cost more than the product, so
  # the usual sizes are looked up. Lifted out of the graph that is traced: a
  # constant of some megabytes would go through its serialisation.
  with tf.init_scope():
    places, weights = (tf.constant(x) for x in _matrices(num_out))

  def computed():
    index, whole = _taps_tf(num_in, num_out)
    out = tf.repeat(tf.range(num_out, dtype=tf.int64), 4)
    index = tf.cast(tf.reshape(index, [-1]), tf.int64)
    return tf.stack([out, index], axis=1), tf.reshape(
      whole / WEIGHT_SCALE, [-1]
    )

  place, weight = tf.cond(
    num_in < len(places),
    lambda: (places[num_in], weights[num_in]),
    computed,
  )
  return tf.raw_ops.SparseTensorDenseMatMul(
    a_indices=place,
    a_values=weight,
    a_shape=tf.cast(tf.stack([num_out, num_in]), tf.int64),
    b=rows,
  )


@functools.lru_cache(maxsize=4)
def _matrices(num_out):
  """Sparse matrices that resize an axis of 0, 1, ... pixels to `num_out`.

  Args:
    num_out: Pixels, at least 1.

  Returns:
    int64[s 4 * num_out 2] and f64[s 4 * num_out]: places and values of the
    entries, whole weights divided by `WEIGHT_SCALE`. Those of 0 pixels, which
    no image has, are zeros.
  """
  num_sizes = min(MAX_TABLE_SIZE, MAX_TABLE_ENTRIES // (4 * num_out)) + 1
  places = np.zeros((num_sizes, 4 * num_out, 2), np.int64)
  values = np.zeros((num_sizes, 4 * num_out))
  places[..., 0] = np.repeat(np.arange(num_out), 4)
  for num_in in range(1, num_sizes):
    index, weights = _taps(num_in, num_out)
    places[num_in, :, 1] = index.reshape(-1)
    values[num_in] = weights.reshape(-1) / WEIGHT_SCALE
  return places, values


def _kernel(fraction):
  """Real weights of the first three taps; the fourth makes the sum one."""
  a, x, y = CUBIC_A, fraction, 1.0 - fraction
  return [
    a * x * y * y,
    ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
    ((a + 2.0) * y - (a + 3.0)) * y * y + 1.0,
  ]


def _taps(num_in, num_out):
  """Positions int[num_out 4] and whole weights f64[num_out 4] of one axis."""
  position = (np.arange(num_out) + 0.5) * (num_in / num_out) - 0.5
  below = np.floor(position)
  weights = [np.rint(w * WEIGHT_SCALE) for w in _kernel(position - below)]
  weights.append(WEIGHT_SCALE - sum(weights))
  index = below.astype(np.int64)[:, None] + np.arange(-1, 3)
  return np.clip(index, 0, num_in - 1), np.stack(weights, axis=1)


def _taps_tf(num_in, num_out):
  """The same as `_taps` where `num_in` is an int32[] tensor."""
  import tensorflow as tf

  scale = tf.cast(num_in, tf.float64) / num_out
  position = (tf.range(num_out, dtype=tf.float64) + 0.5) * scale - 0.5
  below = tf.floor(position)
  weights = [tf.round(w * WEIGHT_SCALE) for w in _kernel(position - below)]
  weights.append(WEIGHT_SCALE - sum(weights))
  index = tf.cast(below, tf.int32)[:, None] + tf.range(-1, 3)
  return tf.clip_by_value(index, 0, num_in - 1), tf.stack(weights, axis=1)
