"""Pictures made worse in five ways and five degrees.

`Deviation:` own simple versions of five of the usual corruptions (Hendrycks and
Dietterich, 2019), on a probe's accuracy: numbers taken with them compare models
with each other, not with those of ImageNet-C, whose parameters and resizing
differ. The paper has none.

Usage:
  worse = corruptions.apply(image, "gaussian_noise", severity=3, seed=0)
"""

import io

import numpy as np
import PIL.Image
import scipy.ndimage

SEVERITIES = (1, 2, 3, 4, 5)

# Standard deviation, of pixels of 0 to 255.
_NOISE = (10, 20, 35, 50, 75)
# Standard deviation, as a share of the picture's side.
_BLUR = (0.004, 0.008, 0.014, 0.02, 0.03)
# Share of the contrast that is left.
_CONTRAST = (0.6, 0.45, 0.3, 0.2, 0.1)
# Share of the pixels of a side that is left.
_PIXELATE = (0.6, 0.45, 0.3, 0.2, 0.12)
# Quality of the encoder.
_JPEG = (40, 25, 15, 10, 5)


def apply(image, name, *, severity, seed=0):
  """Corrupts a batch.

  Args:
    image: u8[b h w 3].
    name: One of `CORRUPTIONS`.
    severity: 1 to 5.
    seed: Of the noise; the same for the same seed, whatever the model.

  Returns:
    u8[b h w 3].

  Raises:
    ValueError: Another name, severity or type.
  """
  image = np.asarray(image)
  if name not in CORRUPTIONS:
    raise ValueError(
      f"There is no corruption {name!r}; known are {', '.join(CORRUPTIONS)}."
    )
  if severity not in SEVERITIES:
    raise ValueError(f"The severity is {severity}; expected 1 to 5.")
  if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] != 3:
    raise ValueError(
      f"The images are {image.dtype}{list(image.shape)}; expected u8[b h w 3]."
    )
  return CORRUPTIONS[name](image, severity - 1, np.random.default_rng(seed))


def _gaussian_noise(image, index, np_rng):
  noise = np_rng.normal(0.0, _NOISE[index], image.shape)
  return _as_pixels(image + noise)


def _blur(image, index, np_rng):
  sigma = _BLUR[index] * min(image.shape[1:3])
  return _as_pixels(
    scipy.ndimage.gaussian_filter(
      image.astype(np.float32), (0, sigma, sigma, 0), mode="nearest"
    )
  )


def _contrast(image, index, np_rng):
  mean = image.mean(axis=(1, 2), keepdims=True)
  return _as_pixels((image - mean) * _CONTRAST[index] + mean)


def _pixelate(image, index, np_rng):
  height, width = image.shape[1:3]
  small = (
    max(1, round(width * _PIXELATE[index])),
    max(1, round(height * _PIXELATE[index])),
  )
  return np.stack(
    [
      np.asarray(
        PIL.Image.fromarray(one)
        .resize(small, PIL.Image.Resampling.BOX)
        .resize((width, height), PIL.Image.Resampling.NEAREST)
      )
      for one in image
    ]
  )


def _jpeg(image, index, np_rng):
  made = []
  for one in image:
    buffer = io.BytesIO()
    PIL.Image.fromarray(one).save(buffer, "jpeg", quality=_JPEG[index])
    made.append(np.asarray(PIL.Image.open(buffer)))
  return np.stack(made)


def _as_pixels(values):
  return np.clip(np.rint(values), 0, 255).astype(np.uint8)


CORRUPTIONS = {
  "gaussian_noise": _gaussian_noise,
  "blur": _blur,
  "contrast": _contrast,
  "pixelate": _pixelate,
  "jpeg": _jpeg,
}
