"""Decodes and resizes images in TensorFlow's C++, to the bits of Python's.

Features are made with PIL and numpy, students are trained with tf.data: the
same image must be the same pixels in both. JPEG and PNG files of the usual
kinds are, bit for bit; others (`is_plain`), and other preprocessing than that
of the released students, go through Python.

Usage:
  data, kind = graph.prepare(images, 7)            # in a numpy_function
  graph.decode_square(data, kind, 224)             # in a tf.data map
"""

from alignet_jax.images import collections, preprocess

# What the bytes of an image are: none, to fill up a batch; pixels; a file.
NOTHING, PIXELS, FILE = 0, 1, 2

_PNG = b"\x89PNG\r\n\x1a\n"
# Colour types of PNG: grey, RGB, RGB with transparency.
_PNG_TYPES = (0, 2, 6)
# Start of frame: baseline, extended and progressive, all by Huffman codes.
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)
_JPEG_ALONE = (0x01, *range(0xD0, 0xD9))  # Markers without a length.
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9


def can_decode(images):
  """Whether a collection can be decoded and resized here."""
  if not isinstance(images, collections.EncodedImages):
    return False
  asked = images.preprocessing
  return (asked.resize, asked.interpolation) == ("squash", "cubic_no_antialias")


def prepare(images, index, *, is_slow=False):
  """Reads an image; decodes it too if TensorFlow would give other pixels.

  Args:
    images: A collection for which `can_decode`.
    index: In [0, n).
    is_slow: Whether to decode it here in any case.

  Returns:
    bytes, and `FILE` or `PIXELS`: what they are.

  Raises:
    artifacts.InputError: If it cannot be read or decoded; names it.
  """
  data = images.read(index)
  if is_plain(data) and not is_slow:
    return data, FILE
  return images.decode(data, index).tobytes(), PIXELS


def decode_square(data, kind, size):
  """Decodes what `prepare` gave, inside a graph.

  Args:
    data: string[] tensor.
    kind: int32[] tensor, `NOTHING`, `PIXELS` or `FILE`.
    size: Height and width in pixels.

  Returns:
    uint8[size size 3] tensor; of `NOTHING`, zeros.
  """
  import tensorflow as tf

  from alignet_jax.images import resize as resize_lib

  def of_file():
    # Takes PNG too. TensorFlow's own default is a faster, less exact
    # transform than that of PIL.
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return resize_lib.resize_cubic_tf(image, size)

  def of_pixels():
    pixels = tf.io.decode_raw(data, tf.uint8)
    return tf.reshape(pixels, [size, size, 3])

  def of_nothing():
    return tf.zeros([size, size, 3], tf.uint8)

  return tf.switch_case(kind, [of_nothing, of_pixels, of_file])


def is_plain(data):
  """Whether TensorFlow decodes a file to the same pixels as `decode.decode`.

  So it is for JPEG with 8 bits in one or three components and PNG with 8 bits
  of grey, RGB or RGB with transparency, of no more than
  `preprocess.MAX_PIXELS`. Not so for CMYK, palettes and 16 bits.

  Args:
    data: The bytes of the file; only its header is looked at.

  Returns:
    bool.
  """
  if data.startswith(b"\xff\xd8"):
    return _is_plain_jpeg(data)
  if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) > 28:
    width = int.from_bytes(data[16:20], "big")
    height = int.from_bytes(data[20:24], "big")
    is_known = data[24] == 8 and data[25] in _PNG_TYPES
    return is_known and _is_allowed(width, height)
  return False


def _is_plain_jpeg(data):
  """`is_plain` of a JPEG file, by the header of its frame."""
  place = 2
  while place + 10 <= len(data) and data[place] == 0xFF:
    marker = data[place + 1]
    if marker == 0xFF:  # Filling.
      place += 1
    elif marker in _JPEG_ALONE:
      place += 2
    elif marker in _JPEG_FRAMES:
      height = int.from_bytes(data[place + 5 : place + 7], "big")
      width = int.from_bytes(data[place + 7 : place + 9], "big")
      is_known = data[place + 4] == 8 and data[place + 9] in (1, 3)
      return is_known and _is_allowed(width, height)
    elif marker in (_JPEG_SCAN, _JPEG_END):
      return False
    else:
      place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
  return False


def _is_allowed(width, height):
  return 0 < width * height <= preprocess.MAX_PIXELS
