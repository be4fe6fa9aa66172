import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.evals import (
  evaluation_report,
  human_data,
  item_names,
  models,
  rsa_scores,
)

CATS_AND_DOGS = [f"{kind}/{i}.jpg" for kind in ("cat", "dog") for i in range(5)]


@pytest.mark.parametrize(
  "items, names, expected",
  [
    (CATS_AND_DOGS, CATS_AND_DOGS[::-1], range(9, -1, -1)),
    # Other folders above, and another ending.
    (["cat/0", "dog/0"], ["/p/dog/0.png", "./p/cat/0.JPEG"], [1, 0]),
    (
      ["s\\cat\\0.jpg", "s\\dog\\0.jpg"],
      ["t/cat/0.jpg", "t/dog/0.jpg"],
      [0, 1],
    ),
    # The ending counts where it is all that differs.
    (["a.png", "a.jpg"], ["x/a.jpg", "x/a.png"], [1, 0]),
    # One of several; the others are not asked about.
    (["dog/3"], CATS_AND_DOGS, [8]),
    # Names of files alone, and folders that have nothing in common.
    (["a", "x/b"], ["c/a.jpg", "b.JPEG", "d/z.jpg", "e/z.jpg"], [0, 1]),
    (["train/n1/n1_2.JPEG", "train/n3/n3_4"], ["1/n3_4", "0/n1_2"], [1, 0]),
  ],
)
def test_rows_of_items(items, names, expected):
  assert item_names.match(items, names).tolist() == list(expected)


@pytest.mark.parametrize(
  "items, names, message",
  [
    (["cat/0", "dog/0"], ["0.jpg"], "cat/0 and dog/0 both fit the name 0.jpg"),
    (["0"], CATS_AND_DOGS, "cat/0.jpg and dog/0.jpg both fit the item 0"),
    (["0.jpg", "0.jpg"], ["0.jpg"], "both fit"),
    (["a.jpg"], ["a.jpg", "a.jpg"], "both fit the item a.jpg"),
    (["cat/0", "dog/1"], ["cat/0", "cat/1"], "dog/1 is not among .*cat/1 lies"),
    (["a", "b", "c"], ["a"], "2 of 3 items are not among the 1 names.* is b"),
  ],
)
def test_what_cannot_be_told_apart(items, names, message):
  with pytest.raises(item_names.Unmatched, match=message):
    item_names.match(items, names)


def test_folders_tell_items_apart_everywhere(tmp_path, capsys):
  """Features, groups and pictures of two folders with the same file names."""
  x = np.arange(10.0)[:, None]
  model = models.from_features("m", x, CATS_AND_DOGS)
  rows = models.rows_of(model, "p", items=CATS_AND_DOGS[::-1])
  np.testing.assert_allclose(rows, x[::-1], rtol=0, atol=0)
  plain = [name.partition("/")[2] for name in CATS_AND_DOGS]
  with pytest.raises(models.Missing, match="both fit the item 0.jpg"):
    models.rows_of(model, "p", items=plain)
  people = rsa_scores.RdmSet(
    "p", np.ones((10, 10)) - np.eye(10), items=tuple(CATS_AND_DOGS)
  )
  table = tmp_path / "groups.csv"
  lines = "".join(f"{name},{name[:3]}\n" for name in reversed(CATS_AND_DOGS))
  table.write_text(f"file,kind\n{lines}")
  assert human_data.read_groups(table, "kind", people) == (
    *["cat"] * 5,
    *["dog"] * 5,
  )
  table.write_text("file,kind\n" + "".join(f"{i},k\n" for i in range(5)))
  with pytest.raises(artifacts.InputError, match="cat/0.jpg and dog/0.jpg"):
    human_data.read_groups(table, "kind", people)

  class Shown:
    names = CATS_AND_DOGS[::-1]

  places = evaluation_report._places(people, Shown)
  assert places.tolist() == list(range(9, -1, -1))
  Shown.names = plain[:5]
  assert evaluation_report._places(people, Shown) is None
  assert "no pictures of p" in capsys.readouterr().out
