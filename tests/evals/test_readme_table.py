import shlex

import pytest

from alignet_jax import artifacts
from alignet_jax.evals import readme_table, score

ROWS = [
  score.Score(
    "alignment", data, measure, variant, 0.5, 0.25, 0.75, note=note
  ).of("m")
  for data, measure, variant, note in (
    ("things", "accuracy", "cosine", "over triplets; 3 ties"),
    ("things", "accuracy", "cosine, objects drawn", "over objects"),
    ("things", "nll", "dot", "nats; over triplets"),
    ("mur92", "spearman", "cosine", "over items"),
  )
]


def test_only_what_is_between_the_marks_changes(tmp_path):
  path = tmp_path / "README.md"
  begin, end = readme_table.marks("a-1")
  before = f"# Title\r\n {begin}\r\nold\r\nolder\r\n{end}\r\nlast, no end"
  path.write_bytes(before.encode())
  readme_table.replace(path, "a-1", "x\ny")
  expected = f"# Title\r\n {begin}\r\n\r\nx\r\ny\r\n\r\n{end}\r\nlast, no end"
  assert path.read_bytes() == expected.encode()
  readme_table.replace(path, "a-1", "x\ny")  # Once more: the same.
  assert path.read_bytes() == expected.encode()
  assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_a_link_stays_a_link(tmp_path):
  begin, end = readme_table.marks("table")
  (tmp_path / "real.md").write_text(f"{begin}\n{end}\n")
  (tmp_path / "link.md").symlink_to("real.md")
  readme_table.replace(tmp_path / "link.md", "table", "x")
  assert (tmp_path / "link.md").is_symlink()
  assert "\nx\n" in (tmp_path / "real.md").read_text()


@pytest.mark.parametrize(
  "text, message",
  [
    ("nothing", "begin --> 0 times.*begin --> and .*end -->"),
    ("{0}\n{0}\n{1}", "begin --> 2 times"),
    ("{0}\nx", "end --> 0 times"),
    ("{1}\n{0}", "stands before"),
  ],
)
def test_marks_that_are_wrong_are_named(tmp_path, text, message):
  path = tmp_path / "README.md"
  path.write_text(text.format(*readme_table.marks("n")))
  before = path.read_bytes()
  with pytest.raises(artifacts.InputError, match=message):
    readme_table.replace(path, "n", "x")
  assert path.read_bytes() == before
  with pytest.raises(artifacts.InputError, match="cannot be read"):
    readme_table.check(tmp_path / "absent.md", "n")


def test_rows_by_pattern():
  def select(*patterns):
    return [
      (row.dataset, row.measure, row.variant)
      for row in readme_table.select(ROWS, patterns)
    ]

  assert len(select()) == 4
  assert select("accuracy/cosine") == [("things", "accuracy", "cosine")]
  assert len(select("accuracy")) == 2
  # In the order of the patterns, and none twice.
  assert select("mur92/*/*", "nll", "*/*/dot") == [
    ("mur92", "spearman", "cosine"),
    ("things", "nll", "dot"),
  ]
  assert select("nll,accuracy/cosine, objects drawn,mur92/*/*") == [
    ("things", "nll", "dot"),
    ("things", "accuracy", "cosine, objects drawn"),
    ("mur92", "spearman", "cosine"),
  ]
  with pytest.raises(artifacts.InputError, match="names no row.*mur92/spear"):
    select("accuracy", "spearmann")


def test_the_command_can_be_run_again():
  argv = ["--model", "a=some where/b.npy", *["--rows=things/nll/*"] * 5]
  lines = readme_table.command_lines(argv)
  assert max(map(len, lines)) <= 76 and len(lines) > 1
  assert "--model 'a=some where/b.npy'" in lines[0]
  joined = "\n".join(lines).replace("\\\n", "")
  assert shlex.split(joined) == [
    *("python", "-m", "alignet_jax.evaluate"),
    *argv,
  ]


def test_block_says_what_the_brackets_are():
  block = readme_table.block(ROWS, ["--out=o"]).split("\n")
  assert block[0] == "    python -m alignet_jax.evaluate --out=o"
  assert block[2] == "| data | measure | m |"
  assert block[4] == "| things | accuracy, cosine | 0.5000 [0.2500, 0.7500] |"
  assert block[-1] == (
    "In brackets, 95% intervals: accuracy over triplets; accuracy over "
    "objects; nll over triplets; spearman over items."
  )


def test_targets():
  assert readme_table.target("a/b.md")[1] == "table"
  path, name = readme_table.target("a/b.md#one-2")
  assert (path.name, name) == ("b.md", "one-2")
  for bad in ("#x", "a.md#", "a.md#x y"):
    with pytest.raises(artifacts.InputError, match="FILE#NAME"):
      readme_table.target(bad)
