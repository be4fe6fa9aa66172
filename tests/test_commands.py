import argparse

import pytest

from alignet_jax import artifacts, commands


@pytest.mark.parametrize(
  ("error", "code"),
  [
    (None, 0),
    (artifacts.InputError("x.npy is empty"), 2),
    (KeyboardInterrupt(), 130),
    (OSError("no space left"), 1),
  ],
)
def test_what_stops_a_command_is_one_line_and_a_code(capsys, error, code):
  def function():
    if error is not None:
      raise error

  assert commands.exit_code(function) == code
  expected = f"error: {error}\n" if code in (1, 2) else ""
  assert capsys.readouterr().err == expected


def test_mistakes_of_the_programmer_are_not_hidden():
  with pytest.raises(ZeroDivisionError):
    commands.exit_code(lambda: 1 / 0)


def test_whole_numbers_from_the_least_on():
  convert = commands.whole(2)
  assert [convert(text) for text in ("2", "17")] == [2, 17]
  for text in ("1", "-3", "2.5", "", "x", "²"):
    with pytest.raises(argparse.ArgumentTypeError, match="at least 2"):
      convert(text)
