"""Position embeddings for another grid of patches, as each library does it.

A model that was trained at one resolution runs at another once its grid of
position embeddings is resampled, and the published implementations disagree on
how. Each rule here is separable: one matrix for rows, one for columns.

Usage:
  x = posemb.resample(x, (16, 16), rule="bicubic")          # f32[1 256 d]
"""

import math

import numpy as np


def resample(x, grid, *, rule, old_grid=None):
  """Resamples position embeddings to another grid of patches.

  Args:
    x: f32[1 n d], without the class token's.
    grid: Rows and columns that are wanted.
    rule: A name in `RULES`.
    old_grid: Rows and columns that there are; None for a square.

  Returns:
    f32[1 rows*columns d]; the input itself if it has that grid.

  Raises:
    ValueError: The rule is not known.
  """
  if rule not in RULES:
    raise ValueError(
      f"Unknown rule {rule!r} for position embeddings; known are "
      f"{', '.join(RULES)}."
    )
  old_rows, old_columns = old_grid or (math.isqrt(x.shape[1]),) * 2
  rows, columns = (int(n) for n in grid)
  if (rows, columns) == (old_rows, old_columns):
    return x
  matrix = RULES[rule]
  x = np.asarray(x, np.float32).reshape(old_rows, old_columns, -1)
  x = np.einsum(
    "ri,cj,ijd->rcd",
    matrix(old_rows, rows),
    matrix(old_columns, columns),
    x,
    optimize=True,
  )
  return x.astype(np.float32).reshape(1, rows * columns, -1)


def bilinear_corners(old, new):
  """Linear; the first and last point stay: f64[new old]."""
  place = np.linspace(0, old - 1, new)
  return np.maximum(1 - np.abs(place[:, None] - np.arange(old)), 0)


def bicubic(old, new, *, offset=0.0):
  """Cubic between the centres of pixels, edges repeated: f64[new old].

  Args:
    old: Number of points that there are.
    new: Number of points that are wanted.
    offset: Added to `new` in the ratio of both, and to nothing else.
  """
  place = (np.arange(new) + 0.5) * (old / (new + offset)) - 0.5
  first = np.floor(place).astype(int)
  matrix = np.zeros((new, old))
  for tap in range(-1, 3):
    weight = _cubic(place - (first + tap), -0.75)
    column = np.clip(first + tap, 0, old - 1)
    np.add.at(matrix, (np.arange(new), column), weight)
  return matrix


def bicubic_offset(old, new):
  """`bicubic` as DINO and DINOv2 call it, with 0.1 against rounding."""
  return bicubic(old, new, offset=0.1)


def bicubic_antialias(old, new):
  """Cubic over as many old points as a new one covers: f64[new old]."""
  return _antialiased(old, new, lambda x: _cubic(x, -0.5), radius=2)


def bilinear_antialias(old, new):
  """Linear over as many old points as a new one covers: f64[new old]."""
  return _antialiased(
    old, new, lambda x: np.maximum(1 - np.abs(x), 0), radius=1
  )


# big_vision and vit_jax: scipy.ndimage.zoom of order 1. The others: PyTorch's
# interpolate with align_corners=False; its two cubic kernels differ.
RULES = {
  "bilinear_corners": bilinear_corners,
  "bicubic": bicubic,
  "bicubic_offset": bicubic_offset,
  "bicubic_antialias": bicubic_antialias,
  "bilinear_antialias": bilinear_antialias,
}


def _cubic(x, a):
  """Keys' convolution kernel with slope `a` at distance 1."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = a * (((x - 5) * x + 8) * x - 4)
  return np.where(x < 1, near, np.where(x < 2, far, 0))


def _antialiased(old, new, kernel, *, radius):
  """Weights of a kernel as wide as a new point; what lies outside is cut."""
  scale = old / new
  width = max(scale, 1)
  centre = scale * (np.arange(new) + 0.5)[:, None]
  index = np.arange(old)
  first = np.maximum((centre - radius * width + 0.5).astype(int), 0)
  last = np.minimum((centre + radius * width + 0.5).astype(int), old)
  matrix = kernel((index - centre + 0.5) / width)
  matrix = np.where((index >= first) & (index < last), matrix, 0)
  return matrix / matrix.sum(axis=1, keepdims=True)
