"""Images that a csv file lists, in its order.

Usage:
  images = lists.CsvImages("things.csv", preprocessing=preprocess.ALIGNET)
  images.columns["concept"]                        # the other columns
"""

import csv
import pathlib

import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import collections

# The first of these that the header has holds the paths.
FILE_COLUMNS = ("file", "path", "image")


class CsvImages(collections.EncodedImages):
  """Image files in the order of the rows of a csv file.

  Any file may be listed, with any extension, also several times. The columns
  that features come with, `index.csv`, make such a list again.

  Attributes:
    names: The paths as they stand in the csv, one str per image.
    labels: int32[n] from the column `label`: its whole numbers, or else the
      index of its words in `class_names`. None without that column.
    class_names: Sorted words of the column `label`, or None.
    columns: Dict from name to list of str, the columns but that of the paths.
    size: Height and width in pixels after preprocessing.
  """

  def __init__(self, path, *, root=None, preprocessing=None):
    """Reads the list; opens no image.

    Args:
      path: A csv file in UTF-8 whose header has one of `FILE_COLUMNS`.
      root: Folder that the paths are relative to; that of the csv by default.
      preprocessing: `preprocess.Preprocessing`, or None.

    Raises:
      artifacts.InputError: If the csv is missing, empty or malformed; names the
        line.
    """
    path = pathlib.Path(path)
    self._root = path.parent if root is None else pathlib.Path(root)
    header, rows = _read(path)
    column = next((name for name in FILE_COLUMNS if name in header), None)
    if column is None:
      raise artifacts.InputError(
        f"{path} has the columns {', '.join(header)}; one must be"
        f" {' or '.join(FILE_COLUMNS)}."
      )
    self.columns = {
      name: [row[i] for row in rows] for i, name in enumerate(header)
    }
    names = self.columns.pop(column)
    if "" in names:
      raise artifacts.InputError(
        f"{path} has no {column} in its row {names.index('') + 1}."
      )
    labels, class_names = labels_of_words(self.columns.get("label"))
    super().__init__(
      names,
      preprocessing=preprocessing,
      labels=labels,
      class_names=class_names,
    )

  def read(self, index):
    """The content of file `index`."""
    return collections.read_file(self._root / self.names[index])

  def num_bytes(self, start, stop):
    """Sizes of files."""
    names = self.names[start:stop]
    return collections.file_sizes(self._root / name for name in names)


def _read(path):
  """Header and rows of a csv file."""
  try:
    with open(path, encoding="utf-8-sig", newline="") as f:
      reader = csv.reader(f, strict=True)
      header = [name.strip() for name in next(reader, [])]
      rows = []
      for row in reader:
        if row and len(row) != len(header):
          raise artifacts.InputError(
            f"{path}, line {reader.line_num}: {len(row)} fields; the header has"
            f" {len(header)}."
          )
        if row:
          rows.append(row)
  except FileNotFoundError:
    raise artifacts.InputError(f"There is no file {path}.") from None
  except UnicodeDecodeError as error:
    raise artifacts.InputError(f"{path} is not UTF-8: {error}.") from error
  except csv.Error as error:
    raise artifacts.InputError(
      f"{path}, line {reader.line_num}: {error}."
    ) from error
  if len(set(header)) < len(header):
    raise artifacts.InputError(
      f"{path} has a column twice: {', '.join(header)}."
    )
  if not rows:
    raise artifacts.InputError(f"{path} lists no image below its header.")
  return header, rows


def labels_of_words(values):
  """Labels and class names of the column `label`, or (None, None)."""
  if values is None:
    return None, None
  if all(value.isascii() and value.isdigit() for value in values):
    numbers = [int(value) for value in values]
    if max(numbers) < 2**31:
      return np.array(numbers, np.int32), None
  class_names = sorted(set(values))
  index = {name: i for i, name in enumerate(class_names)}
  return np.array([index[value] for value in values], np.int32), class_names
