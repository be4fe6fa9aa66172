"""What is evaluated: features by image set, however they come.

A model has a row of features per item of each data set. A path is

  a folder of `python -m alignet_jax.features` or of any other program
    (features.npy, perhaps index.csv with a column file), a .npy file (perhaps
    with index.csv beside it), a .npz file with `features` and perhaps `files`,
    or a text table: the same rows for every data set that they fit;
  a folder with one of these per image set: PATH/things, PATH/mur92.npy,
    PATH/pets/train and so on.

Rows are matched by the names of the images where both sides have names (see
`item_names`), and else taken in order if there are as many rows as items.

Usage:
  model = models.open_model("clip", "features/clip")
  x = models.rows_of(model, "mur92", items=names, num_items=92)    # f32[92 d]
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable

import numpy as np

from alignet_jax import artifacts
from alignet_jax.evals import item_names
from alignet_jax.judgments import tables
from alignet_jax.teacher import transform as transform_lib
from alignet_jax.triplets import feature_rows

# How records of TensorFlow Datasets are named: "train/17".
_RECORD = re.compile(r"[^/.]+/\d+")

_ENDINGS = (".npy", ".npz", ".csv", ".tsv", ".txt")

# Images given to a callable at a time.
_BATCH = 64


class Missing(ValueError):
  """A model has no rows for a data set; the text says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """Features of one image set.

  Attributes:
    features: f[n d].
    names: Files of the images, or None if not known.
  """

  features: np.ndarray
  names: tuple | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A model under evaluation.

  Attributes:
    name: In the table.
    find: Function from the name of an image set to `Rows`; raises `Missing`.
    transform: `AffineTransform` that is applied to all features, or None.
    embed: Function u8[b h w 3] -> f[b d], for corrupted images, or None.
    preprocessing: What collections of images must be opened with for `embed`,
      or None if as they are.
  """

  name: str
  find: Callable
  transform: transform_lib.AffineTransform | None = None
  embed: Callable | None = None
  preprocessing: object = None


def open_model(name, path):
  """Opens a model's features; see the module.

  Args:
    name: In the table.
    path: File or folder.

  Returns:
    `Model`.

  Raises:
    artifacts.InputError: Nothing is there, or of no known kind.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise artifacts.InputError(
      f"--model={name}: there is nothing at {path}; expected a folder or file "
      "of features (python -m alignet_jax.features writes them)."
    )
  if path.is_file() or _holds_features(path):
    rows = read_rows(path)
    return Model(name, lambda image_set: rows)
  held = {}

  def find(image_set):
    if image_set not in held:
      held[image_set] = _below(path, image_set)
    return held[image_set]

  return Model(name, find)


def from_features(name, features, names=None):
  """A model from an array, or a dict from image set to an array.

  Args:
    name: In the table.
    features: f[n d], or dict from image set to f[n d] or to `Rows`.
    names: Files of the images of a single array, or None.

  Returns:
    `Model`.

  Raises:
    artifacts.InputError: An array is not one of numbers [n d], or has another
      number of names.
  """
  if not isinstance(features, dict):
    rows = Rows(np.asarray(features), None if names is None else tuple(names))
    _check(f"The model {name}", rows)
    return Model(name, lambda image_set: rows)
  features = {
    key: rows if isinstance(rows, Rows) else Rows(np.asarray(rows))
    for key, rows in features.items()
  }
  for key, rows in features.items():
    _check(f"The model {name} for {key}", rows)

  def find(image_set):
    if image_set not in features:
      raise Missing(
        f"the model has no features of {image_set}; it has "
        f"{', '.join(features)}."
      )
    return features[image_set]

  return Model(name, find)


def from_callable(name, function, images):
  """A model from a function of images.

  Args:
    name: In the table.
    function: Maps u8[b h w 3] to f[b d].
    images: Dict from image set to u8[n h w 3] or a collection with `load` and
      `names`.

  Returns:
    `Model`; every image set is embedded once, when it is needed.
  """
  held = {}

  def find(image_set):
    if image_set not in images:
      raise Missing(
        f"there are no images of {image_set}; there are "
        f"{', '.join(images) or 'none'}."
      )
    if image_set not in held:
      shown = images[image_set]
      held[image_set] = Rows(
        embed_all(function, shown), getattr(shown, "names", None)
      )
    return held[image_set]

  return Model(name, find, embed=function)


def embed_all(function, images):
  """Features of all images, in batches."""
  load = getattr(images, "load", None)
  parts = []
  for start in range(0, len(images), _BATCH):
    rows = np.arange(start, min(start + _BATCH, len(images)))
    batch = load(rows) if load else np.asarray(images)[rows]
    parts.append(np.asarray(function(batch), np.float32))
  return np.concatenate(parts)


def transformed(name, model, transform):
  """The same model through a fitted transform."""
  embed = None
  if model.embed is not None:

    def embed(image):
      return transform.apply(np.asarray(model.embed(image)))

  return Model(name, model.find, transform, embed, model.preprocessing)


def load_head(path):
  """Reads the linear head of a student, which the stage student wrote.

  Args:
    path: `<variant>_head.npz`, beside `head.json`.

  Returns:
    `AffineTransform`, and the name of the backbone's output that it reads.
  """
  arrays = artifacts.read_npz(path)
  transform = transform_lib.AffineTransform(
    arrays["kernel"], arrays["bias"], mean=0.0, std=1.0
  )
  described = artifacts.read_json(path.with_name("head.json"))
  return transform, described["representation"]


def rows_of(model, image_set, *, items=(), num_items=None):
  """Features of a data set's items, in their order.

  Args:
    model: `Model`.
    image_set: Name of the data set.
    items: Names of the items, with or without folder and ending, or empty.
    num_items: How many there are; by default as many as `items`.

  Returns:
    f32[n d].

  Raises:
    Missing: The model has none, another number, or lacks an image; or the
      names do not tell images apart.
  """
  rows = model.find(image_set)
  num_items = num_items or len(items)
  if rows.names is not None and items:
    try:
      picked = item_names.match(items, rows.names)
    except item_names.Unmatched as error:
      raise Missing(f"the features' names do not fit: {error}") from error
    return _finish(model, rows.features[picked])
  if len(rows.features) != num_items:
    raise Missing(
      f"the features have {len(rows.features)} rows for {num_items} items."
    )
  return _finish(model, rows.features)


def labelled(model, image_set, images=None):
  """Features and classes of images that lie in a folder per class.

  Args:
    model: `Model`, with names "class/file".
    image_set: Such as "pets/train".
    images: Dict from image set to a collection, or None. One that can read its
      classes (`images.tfds.TfdsImages.read_classes`) is asked for them instead
      of the names.

  Returns:
    (f32[n d], str[n] names of the classes, tuple of names of the files).

  Raises:
    Missing: There are none, they have no names with a folder, or some are not
      finite.
  """
  rows = model.find(image_set)
  if rows.names is None:
    raise Missing(
      f"the features of {image_set} have no index.csv that names the images."
    )
  read_classes = getattr((images or {}).get(image_set), "read_classes", None)
  if read_classes:
    known = dict(
      zip(map(str, images[image_set].names), read_classes(), strict=True)
    )
    absent = [name for name in rows.names if str(name) not in known]
    if absent:
      raise Missing(
        f"{len(absent)} of {len(rows.names)} images are not among the "
        f"{len(known)} of --images={image_set}, the first is {absent[0]}."
      )
    classes = [known[str(name)] for name in rows.names]
    return (
      _all_finite(model, rows, image_set),
      np.array(classes, np.str_),
      tuple(rows.names),
    )
  folders = [
    pathlib.PurePosixPath(str(name)).parent.name for name in rows.names
  ]
  # A split is a folder by its look only: all images would be of one class.
  if len(set(folders)) == 1 and all(
    _RECORD.fullmatch(str(name)) for name in rows.names
  ):
    raise Missing(
      f"the images of {image_set} are named as TensorFlow Datasets' records "
      f"are ({rows.names[0]}), without their class; give --images="
      f"{image_set}=tfds:NAME/SPLIT."
    )
  if not all(folders):
    raise Missing(
      f"images of {image_set} do not lie in a folder per class; the first that "
      f"does not is {rows.names[folders.index('')]}."
    )
  return (
    _all_finite(model, rows, image_set),
    np.array(folders, np.str_),
    tuple(rows.names),
  )


def read_rows(path):
  """Reads features of a file or a folder of `alignet_jax.features`."""
  path = pathlib.Path(path)
  if path.suffix == ".npz":
    arrays = artifacts.read_npz(path, required=("features",))
    found = [key for key in ("files", "names") if key in arrays]
    names = tuple(map(str, arrays[found[0]])) if found else None
    rows = Rows(arrays["features"], names)
  elif path.suffix in (".csv", ".tsv", ".txt"):
    rows = Rows(tables.read_table(path))
  else:
    # Of other programs there is no manifest to be checked.
    plain = path.is_dir() and not (path / "manifest.json").is_file()
    read = feature_rows.load(path / "features.npy" if plain else path)
    names = None if read.names is None else tuple(read.names.tolist())
    rows = Rows(read.features, names)
  _check(path, rows)
  return rows


def _check(where, rows):
  """Refuses what is no table of numbers, or has other names than rows."""
  shape = rows.features.shape
  if len(shape) != 2 or rows.features.dtype.kind not in "fiu":
    raise artifacts.InputError(
      f"{where} is {rows.features.dtype}{list(shape)}; expected numbers [n d], "
      "a row per image."
    )
  if rows.names is not None and len(rows.names) != shape[0]:
    raise artifacts.InputError(
      f"{where} has {shape[0]} rows and {len(rows.names)} names."
    )


def _holds_features(folder):
  """Whether it is a folder of features itself, ours or of other programs."""
  return any((folder / name).is_file() for name in _OF_FEATURES)


_OF_FEATURES = ("manifest.json", "features.npy")


def _below(folder, image_set):
  """The rows of an image set in a folder of several."""
  path = folder / image_set
  if path.is_dir():
    return read_rows(path)
  for ending in _ENDINGS:
    file = path.with_name(path.name + ending)
    if file.is_file():
      return read_rows(file)
  raise Missing(f"there are no features at {path}.")


def check_finite(features, image_set, names):
  """Raises `Missing` for NaN, which would be scored as the first class.

  Args:
    features: f[n d].
    image_set: What they are of, for the message.
    names: Of the n images.
  """
  bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
  if bad.size:
    raise Missing(
      f"{bad.size} of {len(features)} images of {image_set} have features that "
      f"are not finite, the first is {names[bad[0]]}."
    )


def _all_finite(model, rows, image_set):
  features = _finish(model, rows.features)
  check_finite(features, image_set, rows.names)
  return features


def _finish(model, features):
  features = np.asarray(features, np.float32)
  if model.transform is None:
    return features
  if features.shape[1] != len(model.transform.weights):
    raise Missing(
      f"the transform takes {len(model.transform.weights)} features and there "
      f"are {features.shape[1]}."
    )
  return feature_rows.transformed(features, model.transform)
