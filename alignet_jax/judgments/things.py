"""Readers of the THINGS odd-one-out data, in the formats of the releases.

A triplet file is an N x 3 table of objects, 0-based, with the odd item in the
last column: `train_90.txt` and `test_10.txt` as numpy's `savetxt` writes them,
or the same as `.npy`. Nothing in such a file says whether it counts from 0 or
from 1, or which column is odd; what can be checked is checked, and an error
names the file, the value met and the values allowed.

Usage:
  triplets = things.load_triplets("train_90.txt", num_objects=1854)  # i32[n 3]
  triplets, odd_counts = things.load_repeats("repeats.npz", num_objects=1854)
  embedding = things.load_embedding("spose_embedding_49d.txt")       # f32[n d]
"""

import os

import numpy as np

from alignet_jax import artifacts

# Number of object concepts in THINGS (Hebart et al. 2019).
NUM_OBJECTS = 1854

# Objects are int32 in memory.
_LARGEST_OBJECT = np.iinfo(np.int32).max


def load_triplets(path, *, num_objects=None):
  """Reads triplets of objects.

  Args:
    path: `.npy` or `.txt` (or `.csv`) file of N x 3 whole numbers, written as
      integers or as floats such as 1.000e+01. Text is separated by white space
      or commas.
    num_objects: Number of objects, for the check of the range, or None to check
      only that no number is negative. A file that counts from 1 is recognised
      only if this is given.

  Returns:
    int32[n 3], n >= 1, rows in the order of the file, odd item last.

  Raises:
    artifacts.InputError: If the file is missing or damaged, has another shape,
      or holds anything but distinct objects in [0, num_objects).
  """
  table = _read_table(path)
  return _check_triplets(path, table, num_objects)


def load_repeats(path, *, num_objects=None):
  """Reads triplets that many people answered.

  Args:
    path: `.npz` file with the arrays `triplets`, whole numbers [m 3], and
      `odd_counts`, whole numbers [m 3].
    num_objects: As `load_triplets`.

  Returns:
    triplets: int32[m 3] objects, in any order.
    odd_counts: int32[m 3]. Entry p counts the people who called item p odd;
      every row has at least one.

  Raises:
    artifacts.InputError: As `load_triplets`, or if an array is missing, a count
      is negative, or a triplet has no answer.
  """
  try:
    arrays = artifacts.read_npz(path, required=("triplets", "odd_counts"))
  except MemoryError as error:
    raise artifacts.InputError(
      f"{path} claims to hold more than fits into memory; it is damaged, or "
      "no file of repeated triplets."
    ) from error
  triplets = _check_triplets(
    f"{os.fspath(path)}, array triplets", arrays["triplets"], num_objects
  )
  where = f"{os.fspath(path)}, array odd_counts"
  counts = _check_whole(where, arrays["odd_counts"])
  if counts.shape != triplets.shape:
    raise artifacts.InputError(
      f"{where}: its shape is {counts.shape}; expected {triplets.shape}, one "
      "count per item of each triplet."
    )
  if counts.min() < 0 or counts.max() > _LARGEST_OBJECT:
    raise artifacts.InputError(
      f"{where}: it holds {_first(counts, (counts < 0) | (counts > 2**31 - 1))}"
      f"; counts are between 0 and {_LARGEST_OBJECT}."
    )
  unanswered = np.flatnonzero(counts.sum(axis=1) == 0)
  if unanswered.size:
    raise artifacts.InputError(
      f"{where}: row {unanswered[0]} is 0, 0, 0; every triplet needs at least "
      f"one answer, and {unanswered.size} have none."
    )
  return triplets, counts.astype(np.int32)


def load_embedding(path, *, num_objects=None):
  """Reads a table of numbers with one row per object.

  Args:
    path: `.npy`, `.txt` or `.csv` file, [n d].
    num_objects: Number of rows expected, or None for any.

  Returns:
    f32[n d], n >= 1, d >= 1, all finite.

  Raises:
    artifacts.InputError: If the file is missing or damaged, has another shape,
      or holds a NaN or an infinite number.
  """
  table = _check_table(path, _read_table(path))
  if num_objects is not None and len(table) != num_objects:
    hint = ""
    if table.shape[1] == num_objects:
      hint = " Is it transposed?"
    raise artifacts.InputError(
      f"{path}: it has {len(table)} rows of {table.shape[1]}; expected "
      f"{num_objects} rows, one per object.{hint}"
    )
  with np.errstate(over="ignore"):
    embedding = table.astype(np.float32)
  _check_finite(path, embedding)
  return embedding


def load_features(path, *, num_objects=None):
  """Reads features of the objects: as `load_embedding`, under its own name."""
  return load_embedding(path, num_objects=num_objects)


def _read_table(path):
  """The table of a `.npy` or text file, of any shape and number type."""
  name = os.fspath(path)
  if name.endswith(".npy"):
    # Mapped, because a header that claims more than the file holds is then an
    # error before any memory is asked for.
    return artifacts.read_npy(path, mmap=True)
  if name.endswith((".txt", ".csv", ".tsv")):
    return _read_text(path)
  raise artifacts.InputError(
    f"{path}: the name of a table ends in .npy, .txt, .csv or .tsv."
  )


def _read_text(path):
  """The numbers of a text file, f64[n d]."""
  try:
    with open(path, encoding="utf-8") as f:
      first = next((line for line in f if line.strip()), None)
      if first is None:
        raise ValueError("it is empty")
      f.seek(0)
      delimiter = "," if "," in first else None
      return np.loadtxt(f, ndmin=2, comments=None, delimiter=delimiter)
  except FileNotFoundError:
    raise artifacts.InputError(f"There is no file {path}.") from None
  except IsADirectoryError:
    raise artifacts.InputError(
      f"{path} is a folder; a table of numbers is needed."
    ) from None
  except OSError as error:
    raise artifacts.InputError(
      f"{path} cannot be read: {error.strerror}."
    ) from error
  except ValueError as error:
    raise artifacts.InputError(
      f"{path}: it is no table of numbers with equal rows: {error}."
    ) from error


def _check_table(where, table):
  """The table, if it is a non-empty matrix of finite real numbers."""
  if table.dtype.kind not in "iuf":
    raise artifacts.InputError(
      f"{where}: its type is {table.dtype}; expected integers or floats."
    )
  if table.ndim != 2 or not table.size:
    raise artifacts.InputError(
      f"{where}: its shape is {table.shape}; expected a table of rows and "
      "columns, not empty."
    )
  _check_finite(where, table)
  return table


def _check_finite(where, table):
  bad = ~np.isfinite(table)
  if bad.any():
    row, column = np.argwhere(bad)[0]
    raise artifacts.InputError(
      f"{where}: row {row}, column {column} is {table[row, column]}, and so "
      f"are {bad.sum()} in all; every number must be finite and fit float32."
    )


def _check_whole(where, table):
  """The table as int64, if it holds whole numbers."""
  table = _check_table(where, table)
  if table.dtype.kind != "f":
    if table.dtype == np.uint64 and table.max() > np.iinfo(np.int64).max:
      raise artifacts.InputError(
        f"{where}: it holds {table.max()}; the largest number allowed is "
        f"{_LARGEST_OBJECT}."
      )
    return table.astype(np.int64)
  # Beyond 2**53 floats skip integers, so such a number is not what was meant.
  bad = (table != np.floor(table)) | (np.abs(table) > 2**53)
  if bad.any():
    raise artifacts.InputError(
      f"{where}: it holds {_first(table, bad)}; only whole numbers are allowed."
    )
  return table.astype(np.int64)


def _check_triplets(where, table, num_objects):
  """The table as int32[n 3], if it holds triplets of distinct objects."""
  if table.ndim != 2 or table.shape[1] != 3:
    raise artifacts.InputError(
      f"{where}: its shape is {table.shape}; expected N rows of 3 objects."
    )
  triplets = _check_whole(where, table)
  if num_objects is not None:
    low = triplets.min()
    if low >= 1 and triplets.max() == num_objects:
      raise artifacts.InputError(
        f"{where}: its objects run from {low} to {num_objects}, so it "
        f"probably counts from 1; expected 0 to {num_objects - 1}. Subtract 1 "
        "from every number."
      )
    highest = num_objects - 1
  else:
    highest = _LARGEST_OBJECT
  outside = (triplets < 0) | (triplets > highest)
  if outside.any():
    row, column = np.argwhere(outside)[0]
    raise artifacts.InputError(
      f"{where}: row {row}, column {column} is {triplets[row, column]}, and "
      f"{outside.sum()} numbers in all are out of range; expected objects "
      f"from 0 to {highest}."
    )
  ordered = np.sort(triplets, axis=1)
  equal = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
  if equal.size:
    met = ", ".join(str(item) for item in triplets[equal[0]])
    raise artifacts.InputError(
      f"{where}: row {equal[0]} is {met}; the three objects must differ, and "
      f"in {equal.size} rows they do not."
    )
  return triplets.astype(np.int32)


def _first(table, bad):
  """The first marked value and where it stands, in words."""
  row, column = np.argwhere(bad)[0]
  return f"{table[row, column]} in row {row}, column {column}"
