import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.judgments import tables


def test_rows_and_their_lines(tmp_path):
  path = tmp_path / "a.csv"
  path.write_bytes(b'\xef\xbb\xbf\na;"b\nc"\n\n; \n1;2\n')
  # The first row ends in line 3, because a line end is within its quotes.
  assert list(tables.read_rows(path)) == [(3, ["a", "b\nc"]), (6, ["1", "2"])]


def test_blank_rows_are_kept_where_places_count(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text("\na,b\n1,2\n,\n\n  \n3,4\n")
  found = [fields for _, fields in tables.read_rows(path, keep_blank=True)]
  assert found == [["a", "b"], ["1", "2"], ["", ""], ["3", "4"]]
  # One column: an empty line is an empty cell, but at the end of the file.
  path.write_text('a\n1\n\n""\n \n2\n""\n\n')
  found = list(tables.read_rows(path, keep_blank=True))
  assert [fields[0] for _, fields in found] == ["a", "1", "", "", "", "2", ""]
  assert [line for line, _ in found] == [1, 2, 3, 4, 5, 6, 7]
  assert len(list(tables.read_rows(path))) == 3


def test_columns_are_found_by_name():
  aliases = {"x": ("x", "first"), "y": ("y",), "z": ("z",)}
  header = ["Y", "other", "First"]
  found = tables.find_columns("a.csv", header, aliases, optional=("z",))
  assert found == {"x": 2, "y": 0, "z": None}
  with pytest.raises(artifacts.InputError, match="a.csv: there is no column z"):
    tables.find_columns("a.csv", header, aliases)
  with pytest.raises(artifacts.InputError, match="'X' and 'First' both"):
    tables.find_columns("a.csv", ["X", "First", "y", "z"], aliases)


@pytest.mark.parametrize("text", ["", "NA", "NaN", "null", "None"])
def test_nothing_is_nan(text):
  assert np.isnan(tables.number("a.csv", "rt", text))


def test_numbers():
  assert tables.number("a.csv", "rt", "1.5e2") == 150.0
  with pytest.raises(artifacts.InputError, match="a.csv: rt is '1,5'; expec"):
    tables.number("a.csv", "rt", "1,5")


def test_sorted_rows():
  names, rows = tables.sorted_rows(("c", "a", "b"), [[0, 1], [2, 0]])
  assert names == ("a", "b", "c")
  assert rows.tolist() == [[2, 0], [1, 2]]
  assert rows.dtype == np.int32


def test_seconds():
  for unit, factor in (("s", 1), ("ms", 1000)):
    seconds = tables.check_seconds(
      "a", np.array([0.5, np.nan, 60]) * factor, unit=unit
    )
    np.testing.assert_allclose(seconds, [0.5, np.nan, 60], rtol=1e-6, atol=0)
    assert seconds.dtype == np.float32
    assert np.isnan(tables.check_seconds("a", [np.nan], unit=unit)).all()
  with pytest.raises(artifacts.InputError, match="is 1e[+]300; expected sec"):
    tables.check_seconds("a", [1e300, 1, 1], unit="s")


def test_shown_values_are_short():
  assert tables.shown("a\n") == r"'a\n'"
  assert len(tables.shown("a" * 10**6)) < 210
  assert tables.shown([["a"] * 10**6]) == "a list"
  assert tables.shown(10**5000) == "a number of thousands of digits"
