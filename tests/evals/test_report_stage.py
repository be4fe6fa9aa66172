"""What the report of a run shows, and in which order."""

import re
import types

import numpy as np
import pytest

from alignet_jax import artifacts, manifest
from alignet_jax.evals import levels, report_stage

METRICS = {
  "pretrain/loss": 4.5,
  "clusters/inertia/aligned": 20.5,
  "triplets/target_entropy/aligned": 1.0,
  "triplets/target_entropy/untransformed": 1.0,
  "triplets/untransformed_temperature": 133.5,
  "student/loss/aligned": 0.0005,
  "noise_ceiling/lower": 0.68,
  "noise_ceiling/upper": 0.71,
  "new/score/base": 0.5,
  "vice/accuracy": 0.59,
  "vice/nll": 0.78,
  "object_heldout/accuracy/soft": 0.44,
  "simulated/nll/zero_shot": 1.2,
  "simulated/kl/zero_shot": 0.5,
  "levels_majority/coarse/base": 0.33,
  "levels/coarse/base": 0.35,
  "fewshot5/base": 0.33,
  "fewshot5/aligned": 0.31,
  "rsa/base": 0.47,
}


@pytest.fixture(scope="module")
def tables():
  return {table.title: table for table in report_stage._tables(METRICS)}


def test_results_come_first_and_how_the_stages_went_last(tables):
  assert list(tables) == [
    "levels",
    "levels_majority",
    "fewshot5",
    "rsa",
    "simulated",
    "object_heldout",
    "vice",
    "noise_ceiling",
    "new",
    "pretrain",
    "clusters",
    "triplets",
    "student",
  ]


def test_no_table_says_its_title_again(tables):
  for title, table in tables.items():
    words = [*table.columns, *(row[0] for row in table.rows)]
    assert title not in words


def test_every_metric_is_in_a_table_once(tables):
  cells = [
    value
    for table in tables.values()
    for row in table.rows
    for value in row[1:]
    if value is not None
  ]
  assert sorted(cells) == sorted(METRICS.values())


def test_rows_and_columns(tables):
  assert tables["fewshot5"].columns == ("", "base", "aligned")
  assert tables["fewshot5"].rows == (("accuracy", 0.33, 0.31),)
  assert tables["vice"].columns == ("", "value")
  assert tables["vice"].rows == (("accuracy", 0.59), ("nll", 0.78))
  assert tables["triplets"].columns == ("", "aligned", "untransformed")
  assert tables["triplets"].rows == (
    ("target_entropy", 1.0, 1.0),
    ("temperature", None, 133.5),
  )


def test_terms_are_explained_below_the_tables_that_have_them(tables):
  for title, terms in {
    "simulated": ("nll:", "kl:", "zero_shot:"),
    "vice": ("nll:",),
    "rsa": ("rsa:",),
    "clusters": ("inertia:",),
  }.items():
    for term in terms:
      assert term in tables[title].note
  assert "kl:" not in tables["vice"].note
  assert tables["student"].note == ""


def _teacher(tmp_path, settings, num_strengths):
  """A context that reads a finished teacher."""
  folder = tmp_path / "teacher"
  folder.mkdir()
  rows = [
    {
      "strength": 10.0**-i,
      "val_nll": 1.0 + i,
      "val_accuracy": 0.5,
      "neighbours_kept": 0.25 + i,
      "selected": i == 0,
    }
    for i in range(num_strengths)
  ]
  artifacts.write_json(folder / "selection.json", {"variants": {"soft": rows}})
  fields = {
    name: {}
    for name in ("inputs", "external", "outputs", "versions", "metrics")
  }
  made = manifest.Manifest(
    stage="teacher",
    config={"teacher": settings},
    config_hash="",
    digest="",
    seed=0,
    seconds=0.0,
    created="",
    **fields,
  )
  manifest.write(folder, made)
  return types.SimpleNamespace(inputs={"teacher": folder})


@pytest.mark.parametrize(("num_strengths", "shown"), [(1, []), (2, ["soft"])])
def test_a_choice_is_shown_where_there_was_one(tmp_path, num_strengths, shown):
  context = _teacher(tmp_path, {}, num_strengths)
  selections = report_stage._selections(context)
  assert [selection.name for selection in selections] == shown


@pytest.mark.parametrize("folds", [False, True])
def test_trade_offs_are_of_new_objects_where_there_are_folds(tmp_path, folds):
  context = _teacher(tmp_path, {"local_features": ""}, 2)
  path = context.inputs["teacher"] / "selection.json"
  read = artifacts.read_json(path)
  if folds:
    rows = [{**row, "val_accuracy": 0.4} for row in read["variants"]["soft"]]
    artifacts.write_json(path, {**read, "by_objects": {"soft": rows}})
  made = report_stage._trade_offs(context)
  [selection] = made["trade_offs"]
  assert selection.neighbours_kept == [0.25, 1.25]
  assert selection.accuracy == [0.4 if folds else 0.5] * 2
  assert ("did not see" in made["trade_offs_note"]) == folds
  assert "objects that people judged" in made["trade_offs_note"]


def test_the_note_says_whose_neighbours_are_kept(tmp_path):
  made = report_stage._trade_offs(
    _teacher(tmp_path, {"local_features": "x.npy"}, 2)
  )
  assert "config.teacher.local_features" in made["trade_offs_note"]


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"selection": "objects", "num_folds": 3}, "did not see, in 3 folds"),
    ({"selection": "triplets", "val_fraction": 0.1}, "saw .* 10% of the"),
  ],
)
def test_what_the_choice_was_made_by_is_said(tmp_path, settings, words):
  text = report_stage._selected_by(_teacher(tmp_path, settings, 2))
  assert re.search(words, text)


def test_examples_are_the_first_of_each_level_half_of_them_changed():
  #       level 0 (rows 0 to 5)   level 1 (6 to 8)   level 2 (9, 10)
  base = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
  aligned = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0])
  answers = levels.Levels(
    triplets=np.tile(np.arange(3, dtype=np.int32), (11, 1)),
    odd_counts=np.ones((11, 3), np.int32),
    level=np.repeat(np.arange(3, dtype=np.int32), (6, 3, 2)),
  )
  choices = {"base": base, "aligned": aligned}
  # Two changed and one not; none changed; both changed, and no other there.
  assert report_stage._pick(answers, choices, 9) == [3, 4, 0, 6, 7, 8, 9, 10]
  assert report_stage._pick(answers, choices, 4) == [3, 0, 6, 7]
