import csv
import json

import numpy as np
import pytest

from alignet_jax import odd_one_out
from alignet_jax.teacher import concept_table, concepts, transform

NUM = 40


@pytest.fixture
def files(np_rng, tmp_path):
  """Objects of two kinds; features hold the first two dimensions only."""
  dimensions = np.abs(np_rng.normal(size=(NUM, 3))).astype(np.float32)
  features = np.concatenate(
    [dimensions[:, :2], np_rng.normal(size=(NUM, 4))], axis=1
  ).astype(np.float32)
  triplets = np.argsort(np_rng.random((900, NUM)), axis=1)[:, :3]
  logits = np.asarray(odd_one_out.logits_of_rows(dimensions, triplets))
  order = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])[logits.argmax(axis=1)]
  triplets = np.take_along_axis(triplets, order, axis=1)
  np.save(tmp_path / "features.npy", features)
  np.save(tmp_path / "vice.npy", dimensions)
  np.save(tmp_path / "test.npy", triplets)
  names = ["animal" if i % 2 else "tool, thing" for i in range(NUM)]
  lines = ["name\tkind", *(f"o{i}\t{name}" for i, name in enumerate(names))]
  (tmp_path / "concepts.tsv").write_text("\n".join(lines) + "\n")
  weights = np.eye(6, dtype=np.float32)[:, :2]
  transform.AffineTransform(weights, np.zeros(2), 0.0, 1.0).save(
    tmp_path / "teacher.npz"
  )
  return tmp_path


def _run(files, *flags):
  common = ["--features", "features.npy", "--triplets", "test.npy"]
  argv = [
    str(files / word) if word.endswith((".npy", ".tsv", ".npz")) else word
    for word in [*common, *flags]
  ]
  return concept_table.main([*argv, "--out", str(files / "out")])


def _read(path):
  with open(path, newline="") as f:
    return list(csv.DictReader(f))


def test_dimensions_that_the_features_hold_are_predicted(files, capsys):
  assert _run(files, "--dimensions", "vice.npy") == 0
  r2 = [float(row["r2"]) for row in _read(files / "out" / "dimensions.csv")]
  assert r2[0] > 0.9 and r2[1] > 0.9 and r2[2] < 0.3
  summary = json.loads((files / "out" / "concepts.json").read_text())
  assert summary["dimensions"]["accuracy_of_given"] == 1.0
  np.testing.assert_allclose(summary["dimensions"]["r2_mean"], np.mean(r2))
  assert "worst dimensions (R2): " in capsys.readouterr().out


@pytest.mark.parametrize("with_transform", [False, True])
def test_categories_are_scored_as_by_the_function(files, with_transform):
  flags = ["--categories", "concepts.tsv", "--column", "kind"]
  flags += ["--transform", "teacher.npz"] if with_transform else []
  assert _run(files, *flags) == 0
  x = np.load(files / "features.npy")
  x = x[:, :2] if with_transform else x / np.linalg.norm(x, axis=1)[:, None]
  triplets = np.load(files / "test.npy")
  sims = x @ x.T
  i, j, k = triplets.T
  correct = (sims[i, j] > sims[i, k]) & (sims[i, j] > sims[j, k])
  kinds = concepts.load_categories(files / "concepts.tsv", "kind")
  expected = concepts.by_category(correct, triplets, kinds)
  rows = _read(files / "out" / "categories.csv")
  assert [row["name"] for row in rows] == [row.name for row in expected]
  assert {row["name"] for row in rows} == {"animal", "tool", "thing"}
  for row, score in zip(rows, expected, strict=True):
    np.testing.assert_allclose(float(row["accuracy"]), score.accuracy)
    assert int(row["num_triplets"]) == score.num_triplets


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ((), "--dimensions, --categories"),
    (("--categories", "concepts.tsv"), "--column belong"),
    (("--dimensions", "vice.npy", "--transform", "t.npz"), "--categories only"),
  ],
)
def test_flags_that_do_not_go_together_are_refused(
  files, capsys, flags, message
):
  with pytest.raises(SystemExit, match="2"):
    _run(files, *flags)
  assert message in capsys.readouterr().err


def test_another_column_is_named(files, capsys):
  flags = ["--categories", "concepts.tsv", "--column", "sort"]
  assert _run(files, *flags) == 2
  assert "concepts.tsv" in capsys.readouterr().err


def test_nan_features_are_named(files, capsys):
  features = np.load(files / "features.npy")
  features[3] = np.nan
  np.save(files / "features.npy", features)
  assert _run(files, "--dimensions", "vice.npy") == 2
  assert "features.npy" in capsys.readouterr().err


def test_membership_folds_and_seed_are_passed_on(files):
  flags = ["--categories", "concepts.tsv", "--column", "kind"]
  assert _run(files, *flags, "--membership", "odd") == 0
  odd = _read(files / "out" / "categories.csv")
  assert _run(files, *flags) == 0
  both = _read(files / "out" / "categories.csv")
  assert sum(int(row["num_triplets"]) for row in odd) < sum(
    int(row["num_triplets"]) for row in both
  )
  numbers = []
  for more in ([], ["--num_folds", "4"], ["--seed", "1"]):
    assert _run(files, "--dimensions", "vice.npy", *more) == 0
    summary = json.loads((files / "out" / "concepts.json").read_text())
    numbers.append(summary["dimensions"]["num_triplets"])
  assert len(set(numbers)) == 3


def test_without_a_triplet_in_a_fold_there_is_no_accuracy(files, capsys):
  np.save(files / "test.npy", np.load(files / "test.npy")[:3])
  assert _run(files, "--dimensions", "vice.npy", "--num_folds", "13") == 0
  assert "use fewer folds" in capsys.readouterr().out
  text = (files / "out" / "concepts.json").read_text()
  assert "NaN" not in text
  assert json.loads(text)["dimensions"]["accuracy"] is None


def test_a_folder_that_cannot_be_made_is_named(files, capsys):
  argv = ["--features", str(files / "features.npy")]
  argv += ["--triplets", str(files / "test.npy")]
  argv += ["--dimensions", str(files / "vice.npy")]
  assert concept_table.main([*argv, "--out", "/dev/null/x"]) == 2
  assert "/dev/null/x" in capsys.readouterr().err
