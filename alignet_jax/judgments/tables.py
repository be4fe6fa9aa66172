"""Tables of judgments as files hold them: numbers, or named columns of text.

Whatever is wrong with a file is an `artifacts.InputError` that names the file,
the row or line, the value met and the values allowed.

Usage:
  table = tables.read_table("train_90.txt")            # any shape and type
  table = tables.check_whole("train_90.txt", table)    # i64[n d]
  rows = tables.read_rows("answers.csv")               # (line, fields) each
"""

import csv
import os

import numpy as np

from alignet_jax import artifacts

# Objects are int32 in memory.
LARGEST = np.iinfo(np.int32).max

# What separates the columns of a table with a header.
DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon"}

# Nobody answers in 50 ms, nor takes 50 s as a rule: a median reaction time is
# on one side of this number in seconds and on the other one in milliseconds.
_RT_BORDER = 50.0


def read_table(path):
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


def check_table(where, table):
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
  check_finite(where, table)
  return table


def check_finite(where, table):
  """Raises if a number of the table is NaN or infinite."""
  bad = ~np.isfinite(table)
  if bad.any():
    row, column = np.argwhere(bad)[0]
    raise artifacts.InputError(
      f"{where}: row {row}, column {column} is {table[row, column]}, and so "
      f"are {bad.sum()} in all; every number must be finite and fit float32."
    )


def check_whole(where, table):
  """The table as int64, if it holds whole numbers."""
  table = check_table(where, table)
  if table.dtype.kind != "f":
    if table.dtype == np.uint64 and table.max() > np.iinfo(np.int64).max:
      raise artifacts.InputError(
        f"{where}: it holds {table.max()}; the largest number allowed is "
        f"{LARGEST}."
      )
    return table.astype(np.int64)
  # Beyond 2**53 floats skip integers, so such a number is not what was meant.
  bad = (table != np.floor(table)) | (np.abs(table) > 2**53)
  if bad.any():
    raise artifacts.InputError(
      f"{where}: it holds {first_marked(table, bad)}; only whole numbers are "
      "allowed."
    )
  return table.astype(np.int64)


def first_marked(table, bad):
  """The first marked value and where it stands, in words."""
  row, column = np.argwhere(bad)[0]
  return f"{table[row, column]} in row {row}, column {column}"


def read_rows(path, *, keep_blank=False):
  """Reads a text table line by line, the header first.

  The columns are separated by that one of comma, tab and semicolon which stands
  most often in the header. Quotes are those of csv, and may hold line ends. A
  byte-order mark is skipped, and so are rows with nothing in any column.

  Args:
    path: UTF-8 text file.
    keep_blank: Yield rows with nothing in any column below the header, too, for
      tables where the place of a row says which item it is about. A line
      without any character is such a row in a table of one column, but not at
      the end of the file, and none in a table of several.

  Yields:
    (line, fields): number of the line from 1, and its columns as str without
    space around them, as many as the header has.

  Raises:
    artifacts.InputError: If the file is missing, empty, not UTF-8, not a csv,
      or a row has more or fewer columns than the header.
  """
  try:
    with open(path, encoding="utf-8-sig", newline="") as f:
      header = next((line for line in f if line.strip()), None)
      if header is None:
        raise artifacts.InputError(f"{path} is empty; a header is needed.")
      f.seek(0)
      reader = csv.reader(
        f, delimiter=max(DELIMITERS, key=header.count), strict=True
      )
      num_columns, blank = None, []
      for fields in reader:
        fields = [field.strip() for field in fields]
        if not any(fields):
          if not keep_blank or num_columns is None:
            continue
          if len(fields) < min(num_columns, 2):
            # An empty line; of one column, a row if others follow.
            if num_columns == 1:
              blank.append((reader.line_num, [""]))
            continue
        yield from blank
        blank = []
        if num_columns is None:
          num_columns = len(fields)
        if len(fields) != num_columns:
          raise artifacts.InputError(
            f"{path}, line {reader.line_num}: it has {len(fields)} columns; "
            f"the header has {num_columns}."
          )
        yield reader.line_num, fields
  except FileNotFoundError:
    raise artifacts.InputError(f"There is no file {path}.") from None
  except IsADirectoryError:
    raise artifacts.InputError(
      f"{path} is a folder; a text table is needed."
    ) from None
  except UnicodeDecodeError as error:
    raise artifacts.InputError(
      f"{path}: it is no UTF-8 text: {error}. Save it as csv in UTF-8."
    ) from error
  except csv.Error as error:
    raise artifacts.InputError(
      f"{path}, line {reader.line_num}: it is no csv: {error}."
    ) from error
  except OSError as error:
    raise artifacts.InputError(
      f"{path} cannot be read: {error.strerror}."
    ) from error


def find_columns(path, header, aliases, *, optional=()):
  """Finds columns by name, whatever their order and case.

  Args:
    path: The file, for messages.
    header: Names of the columns, as `read_rows` yields them first.
    aliases: Dict from what is looked for to the names it may have.
    optional: Keys of `aliases` that may be absent.

  Returns:
    A dict from key to the index of the column, or None if it is absent.

  Raises:
    artifacts.InputError: If a column is missing or there are two of it.
  """
  folded = [name.casefold() for name in header]
  found = {}
  for key, names in aliases.items():
    names = {name.casefold() for name in names}
    columns = [i for i, name in enumerate(folded) if name in names]
    if len(columns) > 1:
      met = " and ".join(repr(header[i]) for i in columns)
      raise artifacts.InputError(
        f"{path}: columns {met} both hold what is called {key!r}; there may "
        "be one."
      )
    if not columns and key not in optional:
      raise artifacts.InputError(
        f"{path}: there is no column {' or '.join(sorted(names))}; the header "
        f"is {shown(', '.join(header))}."
      )
    found[key] = columns[0] if columns else None
  return found


def number(where, name, text):
  """The number of a field, NaN for none: an empty field, NA, NaN or null."""
  if text.casefold() in ("", "na", "nan", "null", "none"):
    return np.nan
  try:
    return float(text)
  except ValueError:
    raise artifacts.InputError(
      f"{where}: {name} is {shown(text)}; expected a number, or nothing where "
      "it is not known."
    ) from None


def number_or_none(where, name, value):
  """The number of a field of a structured file, NaN for none.

  Args:
    where: File and place, for the message.
    name: Name of the field.
    value: A number, text as of `number`, or None.

  Returns:
    float.

  Raises:
    artifacts.InputError: Anything else, bool included.
  """
  if value is None:
    return np.nan
  if isinstance(value, str):
    return number(where, name, value)
  try:
    if isinstance(value, bool):
      raise TypeError
    return float(value)
  except (TypeError, OverflowError):
    raise artifacts.InputError(
      f"{where}: {name} is {shown(value)}; expected a number or nothing."
    ) from None


def sorted_rows(names, rows):
  """Puts names in sorted order, whatever order they were met in.

  Args:
    names: Names, each once.
    rows: int[*n], rows of `names`.

  Returns:
    (names, rows): the sorted names, and int32[*n] rows of these.
  """
  order = sorted(range(len(names)), key=names.__getitem__)
  place = np.empty(len(names), np.int32)
  place[order] = np.arange(len(names), dtype=np.int32)
  return tuple(names[i] for i in order), place[np.asarray(rows, np.int32)]


def check_seconds(where, rt, *, unit):
  """Turns reaction times into seconds, if that is what they can be.

  Args:
    where: File and column, for messages.
    rt: f64[n] reaction times; NaN where not known.
    unit: "s" or "ms", what the file holds.

  Returns:
    f32[n] seconds.

  Raises:
    artifacts.InputError: If a time is negative or infinite, or if half of the
      times can only be in the other unit.
  """
  if unit not in ("s", "ms"):
    raise artifacts.InputError(
      f"rt_unit is {unit!r}; it is 's' for seconds or 'ms' for milliseconds."
    )
  rt = np.asarray(rt, np.float64)
  bad = np.flatnonzero((rt < 0) | np.isinf(rt))
  if bad.size:
    raise artifacts.InputError(
      f"{where}: reaction time {bad[0] + 1} of {len(rt)} is {rt[bad[0]]}, and "
      f"so or alike are {bad.size} in all; expected numbers >= 0, or nothing "
      "where it is not known."
    )
  known = rt[~np.isnan(rt)]
  if known.size:
    median = np.median(known)
    if unit == "s" and median > _RT_BORDER:
      raise artifacts.InputError(
        f"{where}: half of the reaction times are above {median:g}, which "
        "looks like milliseconds and not seconds. State it: rt_unit='ms'."
      )
    if unit == "ms" and median < _RT_BORDER:
      raise artifacts.InputError(
        f"{where}: half of the reaction times are below {median:g}, which "
        "looks like seconds and not milliseconds. State it: rt_unit='s'."
      )
    if known.max() > np.finfo(np.float32).max:
      raise artifacts.InputError(
        f"{where}: a reaction time is {known.max()}; expected seconds or "
        "milliseconds."
      )
  return (rt / (1000.0 if unit == "ms" else 1.0)).astype(np.float32)


def shown(value):
  """A value as an error message shows it: quoted, and never too long."""
  if isinstance(value, (list, dict, tuple, set)):
    return f"a {type(value).__name__}"
  try:
    text = repr(value)
  except ValueError:  # Python writes no integer of many digits.
    return "a number of thousands of digits"
  return text if len(text) <= 200 else f"{text[:200]}..."
