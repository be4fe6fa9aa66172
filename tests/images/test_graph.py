import functools
import io

import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts
from alignet_jax.images import collections, graph, preprocess

SIZE = 11


def encode(pixels, kind, **options):
  f = io.BytesIO()
  Image.fromarray(pixels).save(f, kind, **options)
  return f.getvalue()


@pytest.fixture
def pixels(np_rng):
  # Smooth, so that JPEG keeps something, with edges in the chroma.
  y, x = np.mgrid[:37, :53]
  pixels = np.stack([4 * y, 3 * x, 90 + 80 * np.sin(x * y / 50)], axis=-1)
  return np.uint8(pixels + np_rng.integers(0, 20, pixels.shape))


def make_folder(folder, files):
  for name, data in files.items():
    (folder / name).write_bytes(data)
  return collections.FolderImages(folder, size=SIZE)


@functools.lru_cache(maxsize=1)
def make_function():
  tf = pytest.importorskip("tensorflow")
  return tf.function(
    lambda data, kind: graph.decode_square(data, kind, SIZE),
    input_signature=[tf.TensorSpec([], t) for t in (tf.string, tf.int32)],
  )


def by_graph(images, index, **options):
  """The image by way of a graph that knows no sizes, and what it came as."""
  data, kind = graph.prepare(images, index, **options)
  return make_function()(data, kind).numpy(), kind


def test_usual_files_are_the_same_bits_in_tensorflow(tmp_path, pixels):
  wide = np.tile(pixels, (1, 12, 1))  # 636 pixels: beyond the table.
  alpha = np.concatenate([pixels, pixels[..., :1]], axis=-1)
  files = {
    "444.jpg": encode(pixels, "JPEG", subsampling=0),
    "422.jpg": encode(pixels, "JPEG", subsampling=1),
    "420.jpg": encode(pixels, "JPEG", subsampling=2, quality=40),
    "progressive.jpg": encode(pixels, "JPEG", progressive=True),
    "grey.jpg": encode(pixels[..., 0], "JPEG"),
    "wide.jpg": encode(wide, "JPEG"),
    "exif.jpg": encode(pixels, "JPEG", exif=b"Exif\0\0" + bytes(900)),
    "rgb.png": encode(pixels, "PNG"),
    "rgba.png": encode(alpha, "PNG"),
    "grey.png": encode(pixels[..., 0], "PNG"),
    "png.jpg": encode(pixels, "PNG"),
  }
  images = make_folder(tmp_path, files)
  for index, name in enumerate(images.names):
    square, kind = by_graph(images, index)
    assert kind == graph.FILE, name
    np.testing.assert_array_equal(
      square, images.load([index])[0], err_msg=name, strict=True
    )


def test_unusual_files_are_decoded_by_python(tmp_path, pixels):
  four = np.concatenate([pixels, pixels[..., :1]], axis=-1)
  cmyk, palette = io.BytesIO(), io.BytesIO()
  Image.fromarray(four).convert("CMYK").save(cmyk, "JPEG")
  Image.fromarray(pixels).quantize(9).save(palette, "PNG")
  files = {
    "cmyk.jpg": cmyk.getvalue(),
    "palette.png": palette.getvalue(),
    "16.png": encode(pixels[..., 0].astype(np.uint16) * 251, "PNG"),
    "gif.jpg": encode(pixels[..., 0], "GIF"),
  }
  images = make_folder(tmp_path, files)
  for index, name in enumerate(images.names):
    square, kind = by_graph(images, index)
    assert kind == graph.PIXELS, name
    np.testing.assert_array_equal(square, images.load([index])[0], strict=True)


def test_as_told_a_usual_file_is_decoded_by_python_too(tmp_path, pixels):
  images = make_folder(tmp_path, {"a.jpg": encode(pixels, "JPEG")})
  square, kind = by_graph(images, 0, is_slow=True)
  assert kind == graph.PIXELS
  np.testing.assert_array_equal(square, images.load([0])[0])


def test_headers_that_no_decoder_should_see(pixels):
  jpeg = encode(pixels, "JPEG")
  frame = jpeg.index(b"\xff\xc0")
  assert graph.is_plain(jpeg)
  for size in (b"\xff\xff\xff\xff", b"\0\0\0\5"):
    bad = jpeg[: frame + 5] + size + jpeg[frame + 9 :]
    assert not graph.is_plain(bad)
  # 13,377 x 6,689 pixels are more than MAX_PIXELS, by one row in the height.
  assert 13_377 * 6_688 <= preprocess.MAX_PIXELS < 13_377 * 6_689
  for height, is_allowed in ((6_688, True), (6_689, False)):
    size = height.to_bytes(2, "big") + (13_377).to_bytes(2, "big")
    large = jpeg[: frame + 5] + size + jpeg[frame + 9 :]
    assert graph.is_plain(large) == is_allowed
  # 12 bits per value; bytes that fill up before a marker.
  assert not graph.is_plain(jpeg[: frame + 4] + b"\x0c" + jpeg[frame + 5 :])
  assert graph.is_plain(jpeg[:frame] + b"\xff\xff" + jpeg[frame:])
  # Cut anywhere before the frame; without a frame; not an image.
  assert not any(graph.is_plain(jpeg[:end]) for end in range(frame + 10))
  for data in (b"", b"\xff\xd8", b"\xff\xd8\xff\xd9" + bytes(20), b"GIF89a"):
    assert not graph.is_plain(data)
  png = encode(pixels, "PNG")
  assert not any(graph.is_plain(png[:end]) for end in range(29))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_files_that_are_cut_off_are_refused_by_both(tmp_path, pixels, kind):
  tf = pytest.importorskip("tensorflow")
  whole = encode(pixels, kind)
  images = make_folder(tmp_path, {"a.jpg": whole[: len(whole) // 2]})
  with pytest.raises(artifacts.InputError, match=r"a\.jpg cannot be decoded"):
    images.load([0])
  with pytest.raises(tf.errors.InvalidArgumentError):
    by_graph(images, 0)


def test_what_can_be_decoded(tmp_path, pixels):
  images = make_folder(tmp_path, {"a.jpg": encode(pixels, "JPEG")})
  assert graph.can_decode(images)
  assert not graph.can_decode(images.with_preprocessing(preprocess.DINOV2))
  assert not graph.can_decode(collections.ArrayImages(pixels[None, :37, :37]))
