"""The table of an evaluation, put into a Markdown file between two marks.

A number that was typed can be wrong; one that the command wrote is what it
measured. The block holds the command itself, so that anybody can make it again.

Usage, with these two lines in README.md:
  <!-- evaluation things: begin -->
  <!-- evaluation things: end -->

  readme_table.replace("README.md", "things", readme_table.block(rows, argv))
"""

import fnmatch
import pathlib
import re
import shlex

from alignet_jax import artifacts
from alignet_jax.evals import score

COMMAND = "python -m alignet_jax.evaluate"

# Name of the block where none is given.
DEFAULT_NAME = "table"

_WIDTH = 80


def target(text):
  """(path, name) of FILE or FILE#NAME."""
  path, separator, name = text.rpartition("#")
  if not separator:
    return pathlib.Path(text), DEFAULT_NAME
  if not path or not name or not name.replace("-", "").isalnum():
    raise artifacts.InputError(
      f"--into is {text!r}; expected FILE or FILE#NAME, the name of letters, "
      "digits and -"
    )
  return pathlib.Path(path), name


def marks(name):
  """The two lines that the block stands between."""
  return tuple(f"<!-- evaluation {name}: {edge} -->" for edge in _EDGES)


_EDGES = ("begin", "end")


def check(path, name):
  """Refuses a file without the marks, before anything is measured."""
  _find(path, name)


def replace(path, name, block):
  """Puts a block between the marks of its name, whatever stood there.

  Args:
    path: Markdown file.
    name: Of the block.
    block: Lines, as of `block`.

  Raises:
    artifacts.InputError: No such file, or it has not each mark once, the first
      one first.
  """
  path = pathlib.Path(path).resolve()  # A link stays one.
  lines, first, last = _find(path, name)
  end = "\r\n" if lines[first].endswith("\r\n") else "\n"
  middle = [line + end for line in ["", *block.split("\n"), ""]]
  artifacts.write_text(
    path, "".join([*lines[: first + 1], *middle, *lines[last:]])
  )


def check_measures(patterns):
  """Refuses patterns of `select` whose measure there is none of."""
  for pattern, (_, measure, _) in _split(patterns):
    # "all" is the measure of a data set that was skipped.
    if not fnmatch.filter((*score.MEASURES, "all"), measure):
      raise artifacts.InputError(
        f"--rows={pattern} names no row: {measure!r} is none of the measures "
        f"{', '.join(score.MEASURES)}."
      )


def _split(patterns):
  """(pattern, (data, measure, variant)) of each; none of no patterns."""
  if not patterns:
    return []
  found = re.split(",(?! )", ",".join(patterns))
  parts = [pattern.split("/", 2) for pattern in found]
  return [
    (pattern, part if len(part) == 3 else ["*", *part, "*"][:3])
    for pattern, part in zip(found, parts, strict=True)
  ]


def select(rows, patterns):
  """The rows that any pattern names, in the order of the patterns.

  Args:
    rows: Of `score.Score`.
    patterns: Each "MEASURE", "MEASURE/VARIANT" or "DATA/MEASURE/VARIANT", with
      * and ? for any text; several in one are separated by commas without a
      space, as variants have ", " in them. None at all keeps all rows.

  Returns:
    List of `score.Score`, each once.

  Raises:
    artifacts.InputError: A pattern names no row; lists what there is.
  """
  if not patterns:
    return list(rows)
  chosen = {}
  for pattern, parts in _split(patterns):
    found = [
      index
      for index, row in enumerate(rows)
      if all(
        fnmatch.fnmatchcase(text, part)
        for text, part in zip(
          (row.dataset, row.measure, row.variant), parts, strict=True
        )
      )
    ]
    if not found:
      known = dict.fromkeys(
        f"{row.dataset}/{row.measure}/{row.variant}" for row in rows
      )
      raise artifacts.InputError(
        f"--rows={pattern} names no row; there are {', '.join(known)}."
      )
    chosen |= dict.fromkeys(found)
  return [rows[index] for index in chosen]


def block(rows, argv):
  """The command and its table, in Markdown.

  Args:
    rows: Of `score.Score`; those that were skipped for all models are left out.
    argv: Arguments of the command, as they were given.

  Returns:
    str of several lines, without a last line end.
  """
  lines = [f"    {line}" for line in command_lines(argv)]
  notes = dict.fromkeys(
    note for note in map(_interval_of, rows) if note is not None
  )
  drawn = [note for note in notes if " lowest and highest " in note]
  others = [note for note in notes if note not in drawn]
  told = " ".join(
    f"In brackets, {what}: {'; '.join(found)}."
    for what, found in (("95% intervals", others), ("ranges", drawn))
    if found
  )
  table = score.format_markdown(rows)
  return "\n".join([*lines, "", table, *(["", told] if told else [])])


def command_lines(argv):
  """The command as a shell takes it, broken into lines of 76 characters."""
  words = []
  for word in map(shlex.quote, argv):
    # A flag and its value stay on one line.
    after_flag = words and words[-1].startswith("--") and "=" not in words[-1]
    if after_flag and " " not in words[-1] and not word.startswith("--"):
      words[-1] += f" {word}"
    else:
      words.append(word)
  lines, current = [], COMMAND
  for word in words:
    # Room for the indent of Markdown and for what goes on.
    if len(current) + len(word) + 3 > _WIDTH - 4:
      lines.append(f"{current} \\")
      current = f"  {word}"
    else:
      current = f"{current} {word}"
  return [*lines, current]


def _interval_of(row):
  """What the brackets of a row are, as its note says; None without any."""
  if row.is_skipped or row.low != row.low:
    return None
  found = [
    part
    for part in row.note.split("; ")
    if part.startswith(("over ", "lowest and highest "))
  ]
  return f"{row.measure} {found[0]}" if found else None


def _find(path, name):
  """Lines of the file with their ends, and where the two marks are."""
  try:
    with open(path, encoding="utf-8", newline="") as f:
      lines = f.read().splitlines(keepends=True)
  except (OSError, UnicodeDecodeError) as error:
    raise artifacts.InputError(
      f"--into: {path} cannot be read: {error}."
    ) from error
  places = []
  for mark in marks(name):
    here = [n for n, line in enumerate(lines) if line.strip() == mark]
    if len(here) != 1:
      raise artifacts.InputError(
        f"--into: {path} has the line {mark} {len(here)} times; expected it "
        f"once. The table stands between {' and '.join(marks(name))}."
      )
    places += here
  if places[0] > places[1]:
    raise artifacts.InputError(
      f"--into: in {path} the line {marks(name)[1]} stands before "
      f"{marks(name)[0]}."
    )
  return lines, *places
