"""Which photograph shows which THINGS concept, and what kind of thing that is.

Usage:
  photos = index.read("images.csv", images, num_objects=1854)
  photos.concepts                            # int64[n], -1 where there is none
  kinds = index.categories("things_concepts.tsv", column, photos.concepts)
"""

import csv
import dataclasses
import pathlib

import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import lists

CONCEPT_COLUMN = "things_index"


@dataclasses.dataclass(frozen=True, eq=False)
class Photographs:
  """Photographs in the order of a csv file.

  Attributes:
    names: One path each, relative to the folder of the images.
    concepts: int64[n] row of the THINGS concept that it shows, or -1.
  """

  names: list[str]
  concepts: np.ndarray

  @property
  def matched(self):
    """Rows of the photographs that show a concept, int64[m], ascending."""
    return np.flatnonzero(self.concepts >= 0)


def read(path, *, num_objects):
  """Reads the list of photographs.

  Args:
    path: A csv file with a column of files, see `lists.FILE_COLUMNS`, and a
      column `things_index`, empty where the photograph shows no concept.
    num_objects: Concepts are 0 to this, exclusive.

  Returns:
    `Photographs`.

  Raises:
    artifacts.InputError: The file is missing or malformed, or a concept is not
      one, or is shown twice; names the row.
  """
  listed = lists.CsvImages(path)
  if CONCEPT_COLUMN not in listed.columns:
    raise artifacts.InputError(
      f"{path} has no column {CONCEPT_COLUMN}, which says what concept a"
      " photograph shows; add it, empty where there is none."
    )
  concepts = np.full(len(listed), -1)
  for row, text in enumerate(listed.columns[CONCEPT_COLUMN]):
    if not text:
      continue
    # Tables that went through floats write 17.0.
    whole = text.removesuffix(".0")
    if not (whole.isascii() and whole.isdigit()) or int(whole) >= num_objects:
      raise artifacts.InputError(
        f"{path} has {CONCEPT_COLUMN} {text!r} in its row {row + 1}; expected"
        f" nothing, or a whole number from 0 to {num_objects - 1}."
      )
    if int(whole) in concepts:
      raise artifacts.InputError(
        f"{path} has {CONCEPT_COLUMN} {text} again in its row {row + 1}; each"
        " concept may be shown by one photograph, else folds would leak."
      )
    concepts[row] = int(whole)
  return Photographs(list(listed.names), concepts)


def open_images(path, root, preprocessing):
  """Opens the listed photographs; `root` is the folder of their paths."""
  if not pathlib.Path(root).is_dir():
    raise artifacts.InputError(f"There is no folder {root} of photographs.")
  return lists.CsvImages(path, root=root, preprocessing=preprocessing)


def categories(path, column, concepts):
  """Superordinate category of photographs, where it is one and no more.

  A concept of several categories ("container, vehicle") has no single right
  answer, so it counts as having none.

  Args:
    path: things_concepts.tsv.
    column: Name of its column of categories.
    concepts: int[n] rows of the table, or -1.

  Returns:
    n strings, empty where there is no category.

  Raises:
    artifacts.InputError: The file or the column is missing, or it has too few
      rows.
  """
  try:
    with open(path, encoding="utf-8-sig", newline="") as f:
      table = list(csv.DictReader(f, delimiter="\t"))
  except FileNotFoundError:
    raise artifacts.InputError(f"There is no file {path}.") from None
  except (UnicodeDecodeError, csv.Error) as error:
    raise artifacts.InputError(f"{path} is no table: {error}.") from error
  names = list(table[0]) if table else []
  if column not in names:
    raise artifacts.InputError(
      f"{path} has no column {column!r}; it has {', '.join(names)}."
    )
  if len(table) <= max(concepts, default=-1):
    raise artifacts.InputError(
      f"{path} has {len(table)} concepts; the photographs show concept"
      f" {max(concepts)}."
    )
  found = [table[i][column] or "" if i >= 0 else "" for i in concepts]
  return ["" if "," in name else name.strip() for name in found]
