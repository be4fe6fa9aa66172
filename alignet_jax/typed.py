"""Text of the command line, read as the type of a value that is there.

The type of a config field is that of its present value, so `--config.lr=1` is a
float, and `--config.name=1` a str.

Usage:
  parse("1e-3", 0.1, "config.teacher.lr")            # 0.001
  parse("(1,2)", (0.5,), "config.strengths")         # (1.0, 2.0)
"""

import ast
import math

from alignet_jax import artifacts

BOOLS = {"true": True, "True": True, "false": False, "False": False}


def parse(text, present, name):
  """Reads text as the type of a present value.

  Args:
    text: The text, such as "1e-3", "true", "(1, 2)" or "1,2".
    present: A bool, int, float, str, tuple or list; where it is None, or an
      empty tuple or list, numbers are recognised and all else is a str.
    name: What is set, for the error message.

  Returns:
    A value of the type of `present`; a float may be written as an int.

  Raises:
    artifacts.InputError: If the text is not of that type; names both.
  """
  try:
    return _parse(text, present)
  except (ValueError, KeyError):
    raise artifacts.InputError(
      f"{name} is {describe(present)}, and {text!r} is not."
    ) from None


def describe(value):
  """Names type and value, such as "a float (now 0.1)"."""
  if isinstance(value, (tuple, list)):
    return f"a {type(value).__name__} (now {value})"
  kind = {bool: "true or false", int: "an int", str: "a str"}.get(
    type(value), f"a {type(value).__name__}"
  )
  return f"{kind} (now {value!r})"


def _parse(text, present):
  """`parse` with a bare ValueError or KeyError."""
  if isinstance(present, bool):
    return BOOLS[text]
  if isinstance(present, int):
    return int(text)
  if isinstance(present, float):
    value = float(text)
    if math.isnan(value):
      raise ValueError
    return value
  if isinstance(present, str):
    return text
  if isinstance(present, (tuple, list)):
    return type(present)(_parse_items(text, present))
  return _guess(text)


def _parse_items(text, present):
  """Reads a sequence, each item as one of the types of the present items."""
  items = _split_items(text)
  for kind in (bool, int, float, str):
    matching = [item for item in present if type(item) is kind]
    if present and len(matching) == len(present):
      return [_parse(item, matching[0]) for item in items]
  values = [_guess(item) for item in items]
  kinds = {type(item) for item in present}
  # A whole number may stand where numbers with a fraction do.
  kinds |= {int} if float in kinds else set()
  if kinds and not {type(value) for value in values} <= kinds:
    raise ValueError
  return values


def _split_items(text):
  """Splits "(1, 2)", "1,2", "a,b" or "('a', 'b')" into the texts of items."""
  try:
    literal = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    literal = None
  if isinstance(literal, str):
    return [literal]
  if isinstance(literal, (tuple, list)):
    if any(isinstance(item, str) for item in literal):
      return [i if isinstance(i, str) else repr(i) for i in literal]
  inner = text.strip()
  if inner[:1] + inner[-1:] in ("()", "[]"):
    inner = inner[1:-1]
  items = [item.strip() for item in inner.split(",")]
  return items if items[-1] else items[:-1]


def _guess(text):
  """Reads a number, bool or none if the text is one, else leaves it a str."""
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      pass
  return {**BOOLS, "None": None, "none": None}.get(text, text)
