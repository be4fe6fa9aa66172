import csv
import dataclasses
import json
import math

import pytest

from alignet_jax.evals import score


@pytest.fixture
def rows():
  return [
    score.Score(
      "alignment",
      "things",
      "accuracy",
      "cosine",
      0.48554,
      0.479,
      0.492,
      1 / 3,
      0.6,
      0.673,
      num=24709,
      note="over triplets",
      model="clip|b",
    ),
    score.Score(
      "alignment", "things", "kl", "dot", math.inf, num=3, model="clip|b"
    ),
    score.skipped("alignment", "mur92", "all", "no features.").of("clip|b"),
  ]


def test_files_hold_every_row(tmp_path, rows):
  names, _ = score.write(tmp_path / "scores", rows, about={"seed": 0})
  read = json.loads((tmp_path / "scores.json").read_text())
  assert read["seed"] == 0 and len(read["scores"]) == 3
  assert read["scores"][0]["value"] == 0.48554
  assert read["scores"][1]["value"] == "inf"
  assert read["scores"][2]["value"] is None
  assert read["scores"][2]["note"] == "skipped: no features."
  with open(tmp_path / "scores.csv", newline="") as f:
    table = list(csv.DictReader(f))
  assert list(table[0]) == list(score.COLUMNS)
  assert float(table[0]["ceiling_high"]) == 0.673 and table[2]["value"] == ""
  if "scores.parquet" in names:
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = parquet.read_table(tmp_path / "scores.parquet").to_pydict()
    assert columns["num"] == [24709, 3, 0] and math.isnan(columns["value"][2])


def test_without_pyarrow_it_says_so(tmp_path, rows, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
  (tmp_path / "scores.parquet").write_text("old")
  names, note = score.write(tmp_path / "scores", rows)
  assert names == ["scores.json", "scores.csv"] and "pyarrow" in note
  # That of an earlier run would not be about these rows.
  assert not (tmp_path / "scores.parquet").exists()


def test_text_and_markdown(rows):
  text = score.format_text([*rows, rows[-1]])  # The model is named once.
  assert "0.4855" in text and "[0.4790, 0.4920]" in text
  assert "mur92, all: skipped: no features. (clip|b)" in text
  lines = score.format_markdown(rows).splitlines()
  assert lines[0] == r"| data | measure | clip\|b | noise ceiling |"
  assert lines[2] == (
    "| things | accuracy, cosine | 0.4855 [0.4790, 0.4920] | [0.6000, 0.6730] |"
  )
  assert len(lines) == 4
  plain = score.format_markdown(rows[:1], with_interval=False)
  assert "[0.4790" not in plain


def test_ceilings_that_differ_stand_beside_no_model(rows):
  few = dataclasses.replace(rows[0], ceiling_low=0.5, model="few")
  majority = dataclasses.replace(
    rows[0], measure="accuracy_majority", ceiling_low=math.nan
  )
  every = [rows[0], few, majority, majority.of("few")]
  found = score.with_common_ceilings(every)
  assert [math.isfinite(row.ceiling_high) for row in found] == [0, 0, 1, 1]
  assert [row.value for row in found] == [row.value for row in every]
  unknown = dataclasses.replace(
    rows[0], ceiling_low=math.nan, ceiling_high=math.nan, model="unknown"
  )
  found = score.with_common_ceilings([rows[0], unknown])
  assert not any(math.isfinite(row.ceiling_high) for row in found)
  skipped = dataclasses.replace(unknown, note=f"{score.SKIPPED}no features.")
  assert score.with_common_ceilings([rows[0], skipped])[0] == rows[0]
  table = score.format_markdown(every).splitlines()
  assert table[2].endswith("|  |") and table[3].endswith("| 0.6730 |")
  assert score.with_common_ceilings(rows[:1]) == rows[:1]


def test_unknown_suite():
  with pytest.raises(ValueError, match="suite is 'speed'"):
    score.Score("speed", "things", "accuracy")
