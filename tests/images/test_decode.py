"""Every row of the table in `images.decode`."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts
from alignet_jax.images import decode


def pattern(height, width):
  i, j, c = np.ogrid[:height, :width, :3]
  return ((7 * i + 11 * j + 53 * c) % 256).astype(np.uint8)


def encode(image, format="PNG", **options):
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  f = io.BytesIO()
  image.save(f, format=format, **options)
  return f.getvalue()


def png(width, height, depth, colour, rows=b""):
  """A PNG by hand: also what PIL does not write."""

  def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

  header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(rows))
    + chunk(b"IEND", b"")
  )


GREY = pattern(5, 7)[..., 0]
THREE = np.repeat(GREY[..., None], 3, axis=-1)


@pytest.mark.parametrize("name", ["a.png", "really_a_png.JPEG", "no_extension"])
def test_the_content_decides_and_not_the_name(name):
  got = decode.decode(encode(pattern(5, 7)), name)
  np.testing.assert_array_equal(got, pattern(5, 7), strict=True)


@pytest.mark.parametrize("format", ["BMP", "WEBP", "GIF", "JPEG"])
def test_formats(format):
  flat = np.full((8, 8, 3), [250, 40, 90], np.uint8)
  options = {"lossless": True} if format == "WEBP" else {}
  got = decode.decode(encode(flat, format, **options), "x")
  np.testing.assert_allclose(got.astype(int), flat, rtol=0, atol=3)


def test_first_of_several_frames():
  frames = [Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (10, 200)]
  data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
  assert np.all(decode.decode(data, "x.gif") == 10)


def test_grey_one_bit_and_palette_become_rgb():
  np.testing.assert_array_equal(decode.decode(encode(GREY), "grey"), THREE)
  black_and_white = Image.fromarray(GREY > 100)
  got = decode.decode(encode(black_and_white), "one bit")
  np.testing.assert_array_equal(got, np.where(THREE > 100, 255, 0))
  palette = Image.fromarray(GREY).convert("P")
  got = decode.decode(encode(palette), "palette.JPEG")
  np.testing.assert_array_equal(got, THREE)
  data = encode(palette, transparency=bytes(256))
  np.testing.assert_array_equal(decode.decode(data, "palette"), THREE)


def test_transparency_is_dropped():
  clear = np.dstack([pattern(5, 7), np.zeros((5, 7), np.uint8)])
  got = decode.decode(encode(clear), "clear")
  np.testing.assert_array_equal(got, pattern(5, 7))


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_16_bits_are_scaled(colour):
  """Upper byte kept, whatever the lower one: 0xABCD -> 0xAB."""
  channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
  values = np.arange(3 * 2 * channels).reshape(3, 2, channels) * 9 + 20
  deep = (values * 256 + 255 - values).astype(">u2")
  rows = b"".join(b"\0" + row.tobytes() for row in deep)
  got = decode.decode(png(2, 3, 16, colour, rows), "deep.png")
  want = values[..., :3] if channels > 2 else np.repeat(values[..., :1], 3, -1)
  np.testing.assert_array_equal(got, want)


def test_cmyk():
  # Full cyan ink and no other: red is dark, green and blue are bright.
  inks = np.zeros((16, 16, 4), np.uint8)
  inks[..., 0] = 255
  ink = Image.frombytes("CMYK", (16, 16), inks.tobytes())
  red, green, blue = decode.decode(encode(ink, "JPEG"), "ink.jpg")[8, 8]
  assert red < 20 and green > 235 and blue > 235


def test_exif_orientation_is_ignored():
  flat = np.zeros((8, 16, 3), np.uint8)
  exif = Image.Exif()
  exif[0x0112] = 6  # To be shown turned by a quarter.
  data = encode(flat, "JPEG", exif=exif)
  assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
  assert decode.decode(data, "turned.jpg").shape == (8, 16, 3)


def test_one_pixel():
  data = encode(np.full((1, 1, 3), [1, 2, 3], np.uint8))
  np.testing.assert_array_equal(decode.decode(data, "dot"), [[[1, 2, 3]]])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_truncated_files_are_refused_and_named(format, kept):
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  data = encode(noise, format)
  assert decode.decode(data, "whole").shape == (64, 64, 3)
  with pytest.raises(artifacts.InputError, match="image file b/half.jpg"):
    decode.decode(data[: int(kept * len(data))], "b/half.jpg")


def test_empty_and_foreign_files_are_refused_in_the_same_words_each_time():
  with pytest.raises(artifacts.InputError, match="file x.jpg is empty"):
    decode.decode(b"", "x.jpg")
  with pytest.raises(artifacts.InputError, match="x.jpg .* none of JPEG") as e:
    decode.decode(b"these are not the bytes of an image", "x.jpg")
  assert "0x" not in str(e.value)


@pytest.mark.parametrize("format", ["EPS", "TIFF", "PPM", "PDF"])
def test_formats_that_nobody_needs_are_refused(format):
  data = encode(pattern(5, 7), format)
  with pytest.raises(artifacts.InputError, match="none of"):
    decode.decode(data, "x.jpg")


# Above the limit but below twice the limit PIL itself only warns.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width", [9_500, 12_000, 2**31 - 1])
def test_decompression_bombs_are_refused_before_decoding(width):
  """Only the header is large: were it decoded, the error would be another."""
  data = png(width, 9_500, 8, 2)
  with pytest.raises(artifacts.InputError, match=r"bomb.png .*pixels"):
    decode.decode(data, "bomb.png")


def test_too_little_memory_says_nothing_of_the_file(monkeypatch):
  def fail(self, mode):
    raise MemoryError

  monkeypatch.setattr(Image.Image, "convert", fail)
  data = encode(pattern(2, 3))
  with pytest.raises(MemoryError):
    decode.decode(data, "x.png")
