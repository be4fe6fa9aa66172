import json
import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest

from alignet_jax.teacher import compare, selection
from alignet_jax.teacher import transform as transform_lib
from configs import things_teacher

NUM = 17


@pytest.fixture
def files(np_rng, tmp_path):
  for name, width in (("a", 5), ("b", 3)):
    np.save(tmp_path / f"{name}.npy", np_rng.normal(size=(NUM, width)))
  order = np.argsort(np_rng.random((900, NUM)), axis=1)[:, :3]
  np.save(tmp_path / "train.npy", order[:600])
  np.savetxt(tmp_path / "test.txt", order[600:])
  np.savez(
    tmp_path / "repeats.npz",
    triplets=order[:9],
    odd_counts=np_rng.integers(1, 20, size=(9, 3)),
  )
  np.save(tmp_path / "vice.npy", np_rng.random((NUM, 3)))
  return tmp_path


def _flags(files, *more):
  return [
    "--features",
    f"a={files / 'a.npy'}",
    f"b={files / 'b.npy'}",
    f"--triplets_train={files / 'train.npy'}",
    f"--triplets_test={files / 'test.txt'}",
    f"--repeats={files / 'repeats.npz'}",
    f"--out={files / 'out'}",
    "--num_resamples=20",
    "--selection=objects",
    "--num_drawn=50",
    *more,
  ]


@pytest.fixture
def fits(monkeypatch):
  calls = []

  def by_objects(features, triplets, **settings):
    del triplets
    calls.append(settings)
    width = features.shape[1]
    best = {"strength": 0.01, "val_accuracy": 0.5, "selected": True}
    return types.SimpleNamespace(
      transform=transform_lib.AffineTransform(
        np.eye(width), np.zeros(width), 0, 1
      ),
      table=[best],
      zero_shot=0.4,
      best=best,
    )

  monkeypatch.setattr(selection, "by_objects", by_objects)
  monkeypatch.setattr(selection, "by_triplets", by_objects)
  return calls


def test_makes_the_table_once(files, fits, capsys):
  flags = _flags(files, f"--vice_embedding={files / 'vice.npy'}")
  assert compare.main(flags) == 0
  printed = capsys.readouterr()
  lines = printed.out.strip().split("\n")
  names = ["zero_shot", "naive", "global", "glocal", "hard", "soft"]
  assert [line.split()[:2] for line in lines[1:-1]] == [
    [model, name] for model in "ab" for name in names
  ]
  assert "noise ceiling" in lines[-1]
  assert {p.name for p in (files / "out").iterdir()} == {
    "models",
    "table.csv",
    "table.json",
    "table.png",
    "table.svg",
  }
  table = json.loads((files / "out" / "table.json").read_text())
  assert len(table["rows"]) == 12 and table["settings"]["num_resamples"] == 20
  assert (table["num_train"], table["num_test"]) == (600, 300)
  assert (
    table["num_objects"] == NUM and len(table["sha256"]["features a"]) == 64
  )
  # Some random triplets of so few objects are in both files.
  num = table["num_test_also_in_train"]
  assert num > 0 and f"warning: {num} of 300 test triplets" in printed.err
  assert len(fits) == 10
  assert compare.main(flags) == 0
  assert len(fits) == 10 and capsys.readouterr().out == printed.out


def test_soft_is_left_out_without_targets(files, fits, capsys):
  assert compare.main(_flags(files)) == 0
  printed = capsys.readouterr()
  assert " soft " not in printed.out and "soft is left out" in printed.err
  assert len(fits) == 8


def test_defaults_are_those_of_the_config():
  args = compare.parse(
    "--features a=b --triplets_train=c --triplets_test=d --out=e".split()
  )
  config = things_teacher.get_config("all")
  for name in (
    "lr",
    "lr_decay",
    "batch_size",
    "num_epochs",
    "patience",
    "num_folds",
    "selection",
    "val_fraction",
    "rank",
    "per_feature",
    "locality_weight",
    "locality_temperature",
  ):
    assert getattr(args, name) == config.teacher[name], name
  assert tuple(args.strengths) == config.teacher.strengths
  assert args.seed == config.seed
  assert args.num_drawn == config.judgments.num_drawn


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--variants=hard,sofd"], "'sofd'; known are zero_shot, hard, soft"),
    (["--variants=soft_own_vice"], "'soft_own_vice'; known are"),
    (["--variants=hard,soft"], "'soft' needs soft targets; give --vice_emb"),
    (["--variants=hard,hard"], "'hard' twice"),
    (
      ["--features", "a.npy"],
      "'a.npy'; expected NAME=PATH, such as clip=a.npy",
    ),
    (["--features", "../a=x"], "the name '../a', which becomes a folder"),
    (["--features", "a/b=x"], "the name 'a/b', which becomes a folder"),
    (["--features", "a=x", "a=y"], "the name 'a' twice"),
    (["--num_folds=1"], "num_folds: it is '1'; expected a whole .*at least 2"),
    (["--lr=0"], "lr: it is '0'; expected a number, more than 0"),
    (["--lr=nan"], "lr: it is 'nan'"),
    (["--strengths", "1", "-2"], "it is '-2'; .*at least 0"),
    (["--level=1"], "more than 0 and less than 1"),
    (["--batch_size=2.5"], "it is '2.5'; expected a whole number"),
    (["--temperature=warm"], "'warm'; expected a number, more than 0"),
    (["--lr_decay=step"], "invalid choice: 'step'"),
    (["--vice=x"], "unrecognized arguments: --vice"),
  ],
)
def test_wrong_flags_end_with_2(files, capsys, flags, message):
  with pytest.raises(SystemExit) as end:
    compare.main(_flags(files, *flags))
  assert end.value.code == 2
  error = capsys.readouterr().err
  assert re.search(message, error), error


def test_bad_files_end_with_2(files, capsys):
  features = np.load(files / "b.npy")
  features[3, 1] = np.nan
  np.save(files / "b.npy", features)
  assert compare.main(_flags(files)) == 2
  error = capsys.readouterr().err
  assert "b.npy: 1 of 17 rows" in error and "(rows 3). Replace" in error
  assert not (files / "out" / "table.csv").exists()


def test_out_may_be_no_file(files, capsys):
  (files / "out").write_text("")
  assert compare.main(_flags(files)) == 2
  assert "--out is" in capsys.readouterr().err


def test_runs_as_a_command_without_traceback(files):
  flags = _flags(files, f"--triplets_test={files / 'none.npy'}")
  ended = subprocess.run(
    [sys.executable, "-m", "alignet_jax.teacher.compare", *flags],
    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    capture_output=True,
    text=True,
  )
  assert ended.returncode == 2
  assert "error: There is no file" in ended.stderr
  assert "Traceback" not in ended.stderr


def test_word_vectors_of_things(shared_data, tmp_path, capsys):
  folder = shared_data / "things"
  flags = [
    "--features",
    f"word2vec={folder / 'features_word2vec.npy'}",
    f"--triplets_train={folder / 'triplets_test.npy'}",
    f"--triplets_test={folder / 'triplets_test.npy'}",
    "--variants=zero_shot",
    "--num_resamples=20",
    f"--out={tmp_path}",
  ]
  code = compare.main(flags)
  printed = capsys.readouterr()
  features = np.load(folder / "features_word2vec.npy")
  if np.isnan(features).any():
    assert code == 2
    assert "features_word2vec.npy: " in printed.err
  else:
    # As measured beside the data.
    assert code == 0 and "0.464" in printed.out
