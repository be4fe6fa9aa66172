"""Draws the objects of the generated world with signed distance functions.

Pure numpy: every function takes one value per picture and whole coordinate
grids, so that a few hundred pictures are drawn at once. An object's frame has
its centre at (0, 0), x to the right and y downwards, its outline within about
+-1; distances are negative inside.
"""

import colorsys
import dataclasses

import numpy as np

HUES = (0.0, 0.075, 0.15, 0.33, 0.49, 0.61, 0.75, 0.88)


@dataclasses.dataclass(frozen=True)
class Views:
  """What varies between two pictures of one exemplar.

  Attributes:
    centre: f32[n 2] in pixels from the middle of the picture.
    radius: f32[n] of the object in pixels.
    tilt: f32[n] in radians.
    light: f32[n], multiplies the object's brightness.
    hue_shift: f32[n], in turns of the colour circle.
    background: f32[n 2 3], colours at both ends of the gradient, 0 to 1.
    background_angle: f32[n] in radians.
    noise: f32[n size size 3], standard normal.
  """

  centre: np.ndarray
  radius: np.ndarray
  tilt: np.ndarray
  light: np.ndarray
  hue_shift: np.ndarray
  background: np.ndarray
  background_angle: np.ndarray
  noise: np.ndarray


def sample_views(num, *, size, seed, first):
  """Draws the views of pictures first .. first + num - 1 of a stream.

  Args:
    num: number of pictures.
    size: side of the picture in pixels.
    seed: sequence of ints that names the stream.
    first: position of the first picture; a view depends on `seed` and its own
      position alone.
  """
  rows = []
  for position in range(first, first + num):
    np_rng = np.random.default_rng([*seed, position])
    scalars = np_rng.random(13, np.float32)
    rows.append((scalars, np_rng.standard_normal((size, size, 3), np.float32)))
  scalars = np.stack([row[0] for row in rows])
  return Views(
    centre=(scalars[:, 0:2] - 0.5) * 0.064 * size,
    radius=size * (0.3 + 0.04 * scalars[:, 2]),
    tilt=(scalars[:, 3] - 0.5) * 0.2,
    light=0.8 + 0.3 * scalars[:, 4],
    hue_shift=(scalars[:, 5] - 0.5) * 0.03,
    background=0.55 + 0.35 * scalars[:, 6:12].reshape(num, 2, 3),
    background_angle=scalars[:, 12] * 2 * np.pi,
    noise=np.stack([row[1] for row in rows]),
  )


def render(views, *, size, outline, look, parts):
  """Draws pictures.

  Args:
    views: `Views` of n pictures.
    size: side in pixels.
    outline: int[n], 0 to 7.
    look: int[n], 0 to 31: pattern number `look // 8` in hue `look % 8`.
    parts: int[n], 0 to 5: which small parts the object has.

  Returns:
    uint8[n size size 3].
  """
  grid = np.arange(size, dtype=np.float32) - (size - 1) / 2
  x = grid[None, None, :] - views.centre[:, 0, None, None]
  y = grid[None, :, None] - views.centre[:, 1, None, None]
  cos = np.cos(views.tilt)[:, None, None]
  sin = np.sin(views.tilt)[:, None, None]
  radius = views.radius[:, None, None]
  u = (cos * x + sin * y) / radius
  v = (-sin * x + cos * y) / radius
  pixel = 1.0 / radius

  image = _background(views, size)
  distance = np.empty_like(u)
  for kind, outline_fn in enumerate(_OUTLINES):
    rows = outline == kind
    distance[rows] = outline_fn(u[rows], v[rows])
  body = _body_colours(views, look, u, v)
  image = _over(image, body, _coverage(distance, pixel))
  for kind, part_fn in enumerate(_PARTS):
    rows = parts == kind
    for shade, part_distance in part_fn(u[rows], v[rows]):
      cover = _coverage(part_distance, pixel[rows])
      image[rows] = _over(image[rows], np.float32(shade), cover)
  image = image + 0.03 * views.noise
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _coverage(distance, pixel):
  """Share of each pixel that lies inside, from the distance to the edge."""
  return np.clip(0.5 - distance / pixel, 0, 1)[..., None]


def _over(image, paint, cover):
  return image * (1 - cover) + paint * cover


def _background(views, size):
  """A gradient between two pale colours."""
  grid = np.linspace(-0.5, 0.5, size, dtype=np.float32)
  angle = views.background_angle[:, None, None]
  ramp = (
    np.cos(angle) * grid[None, None, :] + np.sin(angle) * grid[None, :, None]
  )
  ramp = np.clip(ramp + 0.5, 0, 1)[..., None]
  ends = views.background[:, :, None, None, :]
  return ends[:, 0] * (1 - ramp) + ends[:, 1] * ramp


def _body_colours(views, look, u, v):
  """Paint of the body: its colour, darkened where the pattern is."""
  dark = np.zeros_like(u)
  for kind, pattern_fn in enumerate(_PATTERNS):
    rows = look // len(HUES) == kind
    dark[rows] = pattern_fn(u[rows], v[rows])
  hues = np.asarray(HUES, np.float32)[look % len(HUES)] + views.hue_shift
  rgb = [colorsys.hsv_to_rgb(hue % 1.0, 0.75, 0.95) for hue in hues]
  rgb = np.asarray(rgb, np.float32)[:, None, None, :]
  brightness = views.light[:, None, None] * (1 - 0.55 * dark)
  return rgb * brightness[..., None]


def _polar(u, v):
  return np.hypot(u, v), np.arctan2(v, u)


def _star(u, v):
  r, angle = _polar(u, v)
  return r * (1 - 0.3 * np.cos(5 * (angle + np.pi / 2))) - 0.7


def _flower(u, v):
  r, angle = _polar(u, v)
  return r - 0.76 - 0.2 * np.cos(6 * angle)


def _box(u, v, half_width, half_height):
  return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _disc(u, v, x, y, radius):
  return np.hypot(u - x, v - y) - radius


def _wedge(u, v):
  sides = 0.87 * np.abs(u) - 0.5 * v - 0.52
  return np.maximum(v - 0.65, sides)


_OUTLINES = (
  lambda u, v: _disc(u, v, 0, 0, 0.9),
  lambda u, v: _box(u, v, 0.8, 0.8),
  _wedge,
  _star,
  lambda u, v: (np.hypot(u / 1.2, v / 0.6) - 1) * 0.6,
  _flower,
  lambda u, v: np.minimum(_box(u, v, 0.95, 0.36), _box(u, v, 0.36, 0.95)),
  lambda u, v: _box(u, v, 0.48, 1.0),
)

_PATTERNS = (
  lambda u, v: np.zeros_like(u),
  lambda u, v: (np.sin(2 * np.pi * 1.6 * u) > 0.2).astype(u.dtype),
  lambda u, v: (
    np.sin(2 * np.pi * 1.3 * u) * np.sin(2 * np.pi * 1.3 * v) > 0.35
  ).astype(u.dtype),
  lambda u, v: (np.sin(2 * np.pi * 1.3 * v) > 0.2).astype(u.dtype),
)


# Each superordinate's parts, as (grey value, distance) pairs painted in order.
# All are grey, small and outside or at the edge of the body, so that neither
# the colour nor the outline of the body tells the superordinate.
def _eyes(u, v):
  for x in (-0.28, 0.28):
    yield 1.0, _disc(u, v, x, -0.3, 0.2)
    yield 0.05, _disc(u, v, x, -0.27, 0.1)


def _wheels(u, v):
  for x in (-0.5, 0.5):
    yield 0.1, _disc(u, v, x, 0.85, 0.26)
    yield 0.7, _disc(u, v, x, 0.85, 0.1)


def _leaves(u, v):
  yield 0.25, _box(u, v - 1.0, 0.06, 0.35)
  for side in (-1, 1):
    along = (u * side - 0.25) * 0.8 - (v - 1.05) * 0.6
    across = (u * side - 0.25) * 0.6 + (v - 1.05) * 0.8
    yield 0.35, (np.hypot(along / 0.28, across / 0.12) - 1) * 0.12


def _handle(u, v):
  along = (u - 0.95) * 0.7 + (v - 0.95) * 0.7
  across = (u - 0.95) * 0.7 - (v - 0.95) * 0.7
  yield 0.15, _box(along, across, 0.5, 0.13)


def _plate(u, v):
  yield 0.98, (np.hypot(u / 1.1, (v - 0.95) / 0.22) - 1) * 0.22
  yield 0.6, (np.hypot(u / 0.7, (v - 0.95) / 0.1) - 1) * 0.1


def _legs(u, v):
  for x in (-0.55, 0.55):
    yield 0.2, _box(u - x, v - 0.95, 0.07, 0.35)
  yield 0.2, _box(u, v - 0.72, 0.62, 0.06)


_PARTS = (_eyes, _wheels, _leaves, _handle, _plate, _legs)
