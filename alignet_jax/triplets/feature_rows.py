"""Rows of features from a file or a folder, with the names of their images.

A folder is what `python -m alignet_jax.features` writes: `features.npy` and
`index.csv`. A `.npy` file beside an `index.csv` of as many rows has names too.

Usage:
  rows = feature_rows.load("features/dinov2")
  rows.features, rows.names                        # [n d] mapped, str[n]
  z = feature_rows.transformed(rows.features, transform)   # f32[n e]
"""

import csv
import dataclasses
import pathlib

import numpy as np

from alignet_jax import artifacts, manifest

# Rows that are transformed at once.
CHUNK_SIZE = 16384


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureRows:
  """Features, one row per image.

  Attributes:
    path: The `.npy` file.
    features: [n d] numbers, mapped from it.
    names: str[n] files of the images, or None if unknown.
    sha256: Of the file, as 64 hexadecimal digits.
  """

  path: pathlib.Path
  features: np.ndarray
  names: np.ndarray | None
  sha256: str


def load(path):
  """Opens features.

  Args:
    path: A folder with `features.npy`, or a `.npy` file.

  Returns:
    `FeatureRows`.

  Raises:
    artifacts.InputError: If something is missing, or not [n d] numbers; names
      it. The files of a folder must be those that its manifest names, which
      takes reading them once.
  """
  path, made = pathlib.Path(path), None
  if path.is_dir():
    made = manifest.read(path)
    if made is None:
      raise artifacts.InputError(
        f"{path} holds no manifest.json; python -m alignet_jax.features writes"
        " it when all features are there."
      )
    outputs = sorted(name for name in made.outputs if name.endswith(".npy"))
    if "features.npy" not in outputs:
      raise artifacts.InputError(
        f"{path} holds no features.npy; give one of its files:"
        f" {', '.join(outputs)}."
      )
    _check_written(path, made)
    path = path / "features.npy"
  features = artifacts.read_npy(path, mmap=True)
  if (
    features.ndim != 2 or features.dtype.kind not in "fiu" or not features.size
  ):
    raise artifacts.InputError(
      f"{path} must be numbers[n d], one row per image, not"
      f" {features.dtype}{list(features.shape)}."
    )
  names = None
  index = path.with_name("index.csv")
  if index.is_file():
    names = _read_names(index, len(features))
  if made is None:
    sha256 = artifacts.sha256_file(path)
  else:
    sha256 = made.outputs["features.npy"]["sha256"]
  return FeatureRows(path, features, names, sha256)


def transformed(features, transform):
  """Transforms rows in chunks.

  Args:
    features: [n d] numbers; may be mapped.
    transform: `AffineTransform`, or None to leave them as they are.

  Returns:
    f32[n e] in memory.
  """
  if transform is None:
    return np.array(features, np.float32)
  width = transform.weights.shape[1]
  embedding = np.empty((len(features), width), np.float32)
  for first in range(0, len(features), CHUNK_SIZE):
    rows = slice(first, first + CHUNK_SIZE)
    embedding[rows] = transform.apply(features[rows])
  return embedding


def _check_written(folder, made):
  """Refuses rows or names that are not those of the manifest."""
  outputs = {
    name: made.outputs[name]
    for name in ("features.npy", "index.csv")
    if name in made.outputs
  }
  used = dataclasses.replace(made, outputs=outputs)
  damaged = manifest.damaged_output(folder, used, read=True)
  if damaged is not None:
    raise artifacts.InputError(
      f"{folder / damaged} is not the file that {manifest.FILE} beside it was"
      " written for; make the features again, or give the .npy file itself."
    )


def _read_names(index, num_rows):
  with index.open(newline="", encoding="utf-8") as f:
    reader = csv.DictReader(f)
    if "file" not in (reader.fieldnames or ()):
      raise artifacts.InputError(f"{index} has no column file.")
    names = np.array([row["file"] for row in reader], np.str_)
  if len(names) != num_rows:
    raise artifacts.InputError(
      f"{index} has {len(names)} rows; the features have {num_rows}."
    )
  return names
