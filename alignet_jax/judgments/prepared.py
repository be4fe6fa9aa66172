"""Folders of prepared judgments: complete or absent, and of known origin.

Beside the arrays such a folder holds `prepared.json`: the data set, the options
and the sources with their checksums, the table of what was found, and the
checksums of the arrays. By it a second call sees that nothing has to be done,
and that the folder is its own to replace.

Usage:
  about = {"data_set": "things", "sources": [{"name": ..., "sha256": ...}]}
  if (tables := prepared.up_to_date(out, about)) is None:
    with prepared.writer(out, about) as (folder, tables):
      tables |= convert_files(files, folder)
  print(prepared.format_tables(tables))
"""

import contextlib
import pathlib
import shutil

from alignet_jax import artifacts

NAME = "prepared.json"

# Changes when the same sources would give other files.
FORMAT = 2


def check_free(out):
  """Raises InputError if a folder is there that is not a prepared one."""
  out = pathlib.Path(out)
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    if _read(out) is None:
      raise artifacts.InputError(
        f"{out} is there already, and not made by this command (it has no "
        f"{NAME}). Give another --out, or remove it."
      )


def up_to_date(out, about):
  """The tables of a folder that is made of the same and unchanged, or None.

  Args:
    out: The folder.
    about: Dict of what it would be made of, as JSON holds it.
  """
  found = _read(out)
  if found is None or found != found | about | {"format": FORMAT}:
    return None
  for name, digest in found["outputs"].items():
    path = pathlib.Path(out) / name
    if not path.is_file() or artifacts.sha256_file(path) != digest:
      return None
  return found["tables"]


@contextlib.contextmanager
def writer(out, about):
  """Makes a folder that appears, or replaces the old one, when it is complete.

  Args:
    out: The folder; what is missing above it is made.
    about: As `up_to_date`.

  Yields:
    (folder, tables): where to write, and a dict to fill: for each file a dict
    of numbers.
  """
  out = pathlib.Path(out)
  folder = out.with_name(f".{out.name}{artifacts.PARTIAL_SUFFIX}")
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  tables = {}
  try:
    yield folder, tables
    outputs = {
      path.name: artifacts.sha256_file(path)
      for path in sorted(folder.iterdir())
    }
    found = {"format": FORMAT, **about, "tables": tables, "outputs": outputs}
    artifacts.write_json(folder / NAME, found)
    artifacts.commit_directory(folder, out)
  except BaseException:
    shutil.rmtree(folder, ignore_errors=True)
    raise


def format_tables(tables):
  """The numbers of each file as text, in columns, "-" where not known."""
  names = list(dict.fromkeys(key for row in tables.values() for key in row))
  rows = [["", *(name.replace("_", " ") for name in names)]]
  for file, numbers in tables.items():
    rows.append([file, *(_shown(numbers.get(name)) for name in names)])
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join(
    "  ".join(
      [row[0].ljust(widths[0])]
      + [cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True)]
    ).rstrip()
    for row in rows
  )


def _shown(value):
  if value is None:
    return "-"
  return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _read(out):
  """What `prepared.json` says, if it is one."""
  try:
    found = artifacts.read_json(pathlib.Path(out) / NAME)
  except artifacts.InputError:
    return None
  if not isinstance(found, dict):
    return None
  known = all(isinstance(found.get(key), dict) for key in ("tables", "outputs"))
  return found if known and isinstance(found.get("format"), int) else None
