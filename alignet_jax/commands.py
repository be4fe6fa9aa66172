"""What the commands besides `main` have in common: exit codes and flags.

Usage:
  def main(argv=None):
    return commands.exit_code(lambda: run(parse(argv)))
"""

import argparse
import sys

from alignet_jax import artifacts


def exit_code(function):
  """Runs a command, and turns what stops it into one line and a code.

  Args:
    function: Called without arguments.

  Returns:
    0; 2 if something that the user gave is wrong, 1 for an error of the disk,
    130 if it was interrupted.
  """
  try:
    function()
  except artifacts.InputError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    return 130
  except OSError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


def whole(least):
  """The type of a flag: a whole number, at least `least`."""

  def convert(text):
    if not (text.isascii() and text.isdigit() and int(text) >= least):
      raise argparse.ArgumentTypeError(
        f"it is {text!r}; expected a whole number, at least {least}."
      )
    return int(text)

  return convert
