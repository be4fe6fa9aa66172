"""Decodes image files, also hostile ones, to RGB with a known outcome.

What a file is decides its content, never its name:

  file                          outcome
  ----------------------------  ------------------------------------------------
  JPEG, PNG, GIF, BMP, WebP     decoded; of several frames the first
  PNG named JPEG and so on      decoded as what it is
  grey, 1 bit, palette          converted to RGB
  transparent                   transparency dropped, as TFDS does
  CMYK, YCCK                    converted to RGB without colour profile
  16 bits per value             the upper 8 bits, as TFDS does
  EXIF note of orientation      ignored, as TFDS does: the pixels as stored
  colour profile                ignored
  1 x 1 and other small ones    decoded
  empty, cut off, damaged       refused
  any other format              refused (PIL would start programs for some)
  more than MAX_PIXELS pixels   refused before anything is decoded

Refused: `artifacts.InputError` that names the file and says why.

Usage:
  image = decode.decode(data, "n01440764/x.JPEG")      # uint8[h w 3]
"""

import io

import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import preprocess

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")


def decode(data, name):
  """Decodes one image to RGB.

  Args:
    data: The bytes of the file.
    name: Its name, for the error message.

  Returns:
    uint8[h w 3].

  Raises:
    artifacts.InputError: If it is refused; see the table of the module.
    MemoryError: There is too little memory for its pixels.
  """
  from PIL import Image

  if not data:
    raise artifacts.InputError(f"The image file {name} is empty.")
  try:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
      # PIL only warns up to twice its limit.
      if image.width * image.height > preprocess.MAX_PIXELS:
        raise Image.DecompressionBombError(
          f"{image.width} x {image.height} pixels, more than the"
          f" {preprocess.MAX_PIXELS} allowed"
        )
      if image.mode.startswith("I;16"):  # PIL would cut off, not scale.
        grey = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
      if image.mode == "P":  # By way of RGBA, else PIL warns at transparency.
        image = image.convert("RGBA")
      return np.asarray(image.convert("RGB"))
  except Image.UnidentifiedImageError:
    # PIL's own sentence holds an address in memory, another one in every run.
    raise artifacts.InputError(
      f"The image file {name} cannot be decoded: it is none of"
      f" {', '.join(FORMATS)}, or its beginning is damaged."
    ) from None
  except MemoryError:  # Says nothing of the file, which may be whole.
    raise
  # Damaged files raise whatever the decoder stumbled over, even SyntaxError.
  except Exception as error:
    raise artifacts.InputError(
      f"The image file {name} cannot be decoded: {error}"
    ) from error
