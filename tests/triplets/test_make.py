import json
import re

import numpy as np
import pytest

from alignet_jax import artifacts, manifest
from alignet_jax.triplets import cluster_files, feature_rows, kmeans, make

NUM_ROWS, WIDTH = 31, 3


@pytest.fixture(name="features")
def _features(tmp_path, np_rng):
  path = tmp_path / "features.npy"
  np.save(path, np_rng.normal(size=(NUM_ROWS, WIDTH)).astype(np.float32))
  return path


def _flags(features, *more):
  out = features.parent / "out"
  given = {flag.split("=")[0] for flag in more}
  flags = [f"--features={features}", f"--out={out}", "--number=7"]
  flags += ["--num_clusters=5", "--num_restarts=1", "--num_iters=2"]
  return [f for f in flags if f.split("=")[0] not in given] + list(more)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e19])
def test_features_that_cannot_be_clustered_are_refused(features, value, capsys):
  rows = np.load(features)
  rows[11, 2] = value
  np.save(features, rows)
  assert make.main(_flags(features)) == 2
  said = capsys.readouterr().err.lower()
  assert "features.npy: " in said and "row 11" in said


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--seed=-1", "--seed is -1"),
    ("--seed=50000000000000000000", "--seed is 50000000000000000000"),
    ("--name=../../x", "must be the name of a folder"),
    ("--name=..", "must be the name of a folder"),
    ("--name=", "must be the name of a folder"),
  ],
)
def test_flags_out_of_range_are_named(features, flag, message, capsys):
  with pytest.raises(SystemExit) as ended:
    make.main(_flags(features, flag))
  assert ended.value.code == 2 and message in capsys.readouterr().err


def test_more_triplets_than_fit_are_refused_before_the_work(
  features, capsys, monkeypatch
):
  assert make.main(_flags(features, "--number=1000000000000000")) == 2
  assert "need 36000000.0 GB of memory" in capsys.readouterr().err
  usage = type("Usage", (), {"free": 7 * 36 - 1})
  monkeypatch.setattr(make.shutil, "disk_usage", lambda path: usage)
  assert make.main(_flags(features)) == 2
  assert "--number is 7; so many triplets need" in capsys.readouterr().err
  usage.free += 1
  make._refuse_too_many(features, 7, None)
  with pytest.raises(artifacts.InputError, match="GB on the disk of"):
    make._refuse_too_many(features, 7, np.array(["a.jpg"]))


def test_a_class_below_zero_is_named_by_file_and_row(features, capsys):
  labels = features.with_name("labels.npy")
  np.save(labels, np.where(np.arange(NUM_ROWS) == 13, -1, 0))
  flags = ["--sampling=within_class", f"--labels={labels}"]
  assert make.main(_flags(features, *flags)) == 2
  assert "labels.npy: row 13 has the class -1" in capsys.readouterr().err


def test_a_file_is_replaced_only_if_asked(features, capsys):
  def run(*flags):
    return make.main(_flags(features, "--sampling=random", *flags))

  assert run() == 0
  path = features.parent / "out" / "untransformed" / "train_random.npz"
  first, time = path.read_bytes(), path.stat().st_mtime_ns
  assert run() == 0 and path.stat().st_mtime_ns == time
  for flag in ("--seed=1", "--match_entropy=0.5", "--number=8"):
    assert run(flag) == 2
    assert "give --overwrite" in capsys.readouterr().err
  assert path.read_bytes() == first
  assert run("--seed=1", "--overwrite") == 0
  second = path.read_bytes()
  assert second != first and run() == 2 and run("--seed=1") == 0
  # Not as it was written; without a record; a record that is none.
  path.write_bytes(second[:-1] + b"x")
  assert run("--seed=1") == 2
  path.write_bytes(second)
  path.with_suffix(".json").write_text("[]")
  assert run("--seed=1") == 2
  path.with_suffix(".json").unlink()
  assert run("--seed=1") == 2


def test_failed_write_leaves_no_record_of_another_file(features, monkeypatch):
  assert make.main(_flags(features, "--sampling=random")) == 0

  def fail(*args, **keywords):
    raise OSError("disk full")

  monkeypatch.setattr(make.files, "write", fail)
  flags = ["--sampling=random", "--seed=1", "--overwrite"]
  assert make.main(_flags(features, *flags)) == 1
  folder = features.parent / "out" / "untransformed"
  assert [path.name for path in folder.iterdir()] == ["train_random.npz"]


SETTINGS = {"num_clusters": 5, "num_iters": 2, "num_restarts": 1, "seed": 0}


@pytest.fixture(name="fitted")
def _fitted(monkeypatch):
  """K-means that needs no time."""
  clusters = kmeans.KMeans(
    np.arange(NUM_ROWS, dtype=np.int32)[::-1] % 5,
    np.zeros((5, WIDTH), np.float32),
    7.0,
    2,
  )
  monkeypatch.setattr(kmeans, "fit", lambda *args, **keywords: clusters)


def _take_or_make(folder, rows, lines, **source):
  return cluster_files.take_or_make(
    folder,
    rows,
    settings=SETTINGS,
    source={"features_sha256": "a", **source},
    log=lines.append,
  )[0]


def _change_ids(folder, change):
  """Other clusters, with a record that is honest about the file."""
  path, record = folder / "clusters.npz", folder / "clusters.json"
  ids = change(artifacts.read_npz(path)["cluster_ids"])
  artifacts.write_npz(path, cluster_ids=ids)
  made = artifacts.read_json(record)
  made["sha256"] = artifacts.sha256_file(path)
  artifacts.write_json(record, made)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda f: (f / "clusters.json").write_text("[3]"), "no record of clus"),
    (lambda f: (f / "clusters.json").write_text("{"), "not JSON"),
    (
      lambda f: artifacts.write_npz(
        f / "clusters.npz", cluster_ids=np.arange(NUM_ROWS) % 5
      ),
      "not as its record was written",
    ),
    (lambda f: _change_ids(f, lambda ids: ids[1:]), r"must be int\[31\]"),
    (lambda f: _change_ids(f, lambda ids: ids + 4), r"in \[0, 4\]"),
    (lambda f: _change_ids(f, lambda ids: ids - 1), r"in \[0, 4\]"),
    (lambda f: _change_ids(f, lambda ids: ids * 1.0), "not float64"),
  ],
)
def test_clusters_that_are_not_those_are_made_anew(
  features, damage, message, fitted
):
  folder, rows = features.parent, np.load(features)
  want = _take_or_make(folder, rows, [])
  damage(folder)
  lines = []
  np.testing.assert_array_equal(_take_or_make(folder, rows, lines), want)
  assert re.search(message, lines[0]) and "made anew" in lines[0]
  lines.clear()
  _take_or_make(folder, rows, lines)
  assert lines == [f"taking the clusters of {folder / 'clusters.npz'}"]


def test_clusters_of_a_transform_are_not_taken_without_it(features, fitted):
  folder, rows, lines = features.parent, np.load(features), []
  _take_or_make(folder, rows, lines, transform_sha256="b")
  _take_or_make(folder, rows, lines)
  assert "of something else" in lines[0]


def test_a_folder_whose_rows_were_exchanged_is_refused(features):
  folder = features.parent
  (folder / "index.csv").write_text(
    "row,file\n" + "".join(f"{i},{i}.jpg\n" for i in range(NUM_ROWS))
  )
  record = dict.fromkeys(manifest.Manifest.__dataclass_fields__, 0)
  for name in ("config", "inputs", "external", "metrics"):
    record[name] = {}
  record["outputs"] = manifest.describe_outputs(folder)
  (folder / "manifest.json").write_text(json.dumps(record))
  assert len(feature_rows.load(folder).names) == NUM_ROWS
  rows = np.load(features)
  np.save(features, rows[::-1].copy())
  with pytest.raises(artifacts.InputError, match=r"features\.npy is not the f"):
    feature_rows.load(folder)
  np.save(features, rows)
  index = folder / "index.csv"
  index.write_text(index.read_text().replace("1,1.jpg", "1,3.jpg"))
  with pytest.raises(artifacts.InputError, match=r"index\.csv is not the file"):
    feature_rows.load(folder)
