"""A map of items in two dimensions, as pictures or as marks by category.

The two directions in which unit vectors of the features spread most (principal
components): no random start, no neighbourhood size to choose, and the same map
for the same features. Distances on the map are only a part of those of the
features; the share that it shows stands in the title.

Usage:
  places, share = item_map.project(features)
  svg = item_map.draw("clip", places, share, categories, pictures)
"""

import numpy as np

from alignet_jax.evals import drawing, nearest

# More thumbnails would cover each other.
MAX_PICTURES = 120
_SIDE = 5.0  # Inches.


def project(features):
  """The first two principal components of the items' directions.

  Args:
    features: f32[n d], n > 2.

  Returns:
    (f64[n 2], share of the variance that they have). The signs are such that
    the largest entry of each component is positive.
  """
  x = nearest.unit(features).astype(np.float64)
  x = x - x.mean(axis=0)
  left, scales, _ = np.linalg.svd(x, full_matrices=False)
  places = left[:, :2] * scales[:2]
  if places.shape[1] < 2:
    places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
  largest = np.abs(places).argmax(axis=0)
  signs = np.sign(places[largest, [0, 1]])
  total = float(np.sum(scales**2))
  share = float(np.sum(scales[:2] ** 2)) / total if total > 0 else 0.0
  return places * np.where(signs == 0, 1, signs), share


def draw(name, places, share, categories=(), pictures=None):
  """Draws the map as SVG.

  Args:
    name: Of the model.
    places: f64[n 2].
    share: As of `project`.
    categories: Category of each item, or empty; the first seven have marks of
      their own.
    pictures: u8[n h w 3] or None for marks. Of more than `MAX_PICTURES` items
      every so-manieth has its picture.

  Returns:
    str.
  """
  import matplotlib.offsetbox

  with drawing.settings():
    figure, axes = drawing.figure(_SIDE, _SIDE)
    if pictures is not None:
      step = -(-len(places) // MAX_PICTURES)
      axes.scatter(*places.T, s=4, color=drawing.GRID)
      for place, picture in zip(places[::step], pictures[::step], strict=True):
        shown = np.asarray(picture)[:: max(1, len(picture) // 48)]
        shown = shown[:, :: max(1, picture.shape[1] // 48)]
        box = matplotlib.offsetbox.OffsetImage(shown, zoom=24 / len(shown))
        axes.add_artist(
          matplotlib.offsetbox.AnnotationBbox(box, place, frameon=False, pad=0)
        )
    else:
      _marks(axes, places, categories)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{name}: {share:.0%} of the variance")
    return drawing.svg(figure)


def _marks(axes, places, categories):
  names = list(dict.fromkeys(categories))
  if len(names) < 2:
    style = drawing.style_of("aligned")
    axes.scatter(*places.T, s=16, color=style.colour, linewidths=0)
    return
  handles = []
  for name in names[: len(_ORDER)]:
    chosen = np.array([category == name for category in categories])
    style = drawing.style_of(_ORDER[len(handles)], _ORDER)
    handles.append(
      axes.scatter(
        *places[chosen].T,
        s=20,
        color=style.colour,
        marker=style.marker,
        linewidths=0,
      )
    )
  drawing.legend(axes, handles, names[: len(_ORDER)])


# Styles in the order in which categories take them.
_ORDER = ("aligned", "control", "a", "b", "c", "d", "base")
