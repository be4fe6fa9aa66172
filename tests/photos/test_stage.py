"""The photograph run as a whole, on a generated world: it must not leak."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from alignet_jax import artifacts, pipeline, stages, validate
from alignet_jax import config as config_lib
from alignet_jax.backbones import families, load, weights
from alignet_jax.photos import source

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
CONFIG = str(REPOSITORY / "configs" / "photos_vits14.py")
SMALL = {
  "photo_teacher.num_triplets": "600",
  "photo_teacher.strengths": "(0.3,)",
  "photo_teacher.num_epochs": "1",
  "photo_student.num_steps": "3",
  "photo_student.warmup_steps": "1",
}


def run(workdir, **overrides):
  config = config_lib.load(CONFIG + ":runlocal")
  config = config_lib.apply_overrides(config, {**SMALL, **overrides})
  validate.check(config)
  return pipeline.run(stages.stages(), config, workdir, log=lambda line: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("photos")
  return workdir, run(workdir)


def test_results_have_what_the_run_is_for(finished):
  workdir, metrics = finished
  for measure in ("rsa", "knn_accuracy", "one_shot"):
    for model in ("base", "aligned", "control"):
      assert -1 <= metrics[f"photos/{measure}/{model}"] <= 1
  assert metrics["photos/num_concepts"] == 60
  assert metrics["photos/num_categories"] == 6
  by_fold = json.loads((workdir / "photo_scores" / "folds.json").read_text())
  np.testing.assert_allclose(
    metrics["photos/rsa/aligned"], np.mean(by_fold["aligned"]["rsa"])
  )
  assert sum(map(len, by_fold["base"]["one_shot"])) == 60


def test_whole_students_are_backbones_of_which_the_last_blocks_moved(finished):
  folder = finished[0] / "photo_students"
  base, aligned = (
    weights.read(folder / f"{name}.npz") for name in ("base", "aligned")
  )
  assert set(base) == set(aligned)
  moved = {k for k in base if not np.array_equal(base[k], aligned[k])}
  assert moved and all(
    "encoderblock_1/" in name or "encoder_norm/" in name for name in moved
  )


def test_a_whole_student_is_loaded_as_the_run_had_it(finished):
  """Positions of 24 pixels, and the family's crops: the file says both."""
  folder = finished[0] / "photo_students"
  backbone = load.load("noted", folder / "aligned.npz")
  assert (backbone.family, backbone.grid) == ("dinov2", (3, 3))
  family, _ = families.get("dinov2_s14")
  assert backbone.preprocessing == families.preprocessing(family, 24)
  # Of a fold there are the trained blocks alone, and no model to speak of.
  assert weights.read_architecture(folder / "aligned_fold0.npz") is None


def test_a_fold_learns_nothing_about_its_concepts(
  finished, tmp_path, monkeypatch
):
  """People who see the fold's concepts otherwise change none of its files."""
  workdir, metrics = finished
  record = json.loads((workdir / "photo_features" / "folds.json").read_text())
  fold = np.array(record["folds"][0])
  make = source.make

  def make_other(config):
    photos = make(config)
    embedding = photos.embedding.copy()
    embedding[fold] = embedding[np.roll(fold, 7)]
    return dataclasses.replace(photos, embedding=embedding)

  monkeypatch.setattr(source, "make", make_other)
  other = run(tmp_path)
  for name, is_same in (
    ("photo_teachers/fold0.npz", True),
    ("photo_students/aligned_fold0.npz", True),
    ("photo_teachers/fold1.npz", False),
    ("photo_students/aligned_fold1.npz", False),
  ):
    first, second = (
      artifacts.read_npz(folder / name) for folder in (workdir, tmp_path)
    )
    same = [np.array_equal(first[key], second[key]) for key in first]
    assert all(same) == is_same, name
  assert other["photos/rsa/aligned"] != metrics["photos/rsa/aligned"]


@pytest.mark.parametrize(
  ("field", "value", "sentence"),
  [
    ("photo_scores.min_photos", "40", "0 categories have 40 photographs"),
    ("photo_student.batch_size", "103", "is 103; .* at most 102"),
    ("photos.first_block", "2", "of 2 blocks it may be 1 to 1"),
    ("photos.num_folds", "21", "of 60 concepts there may be 2 to 20 folds"),
    ("photos.backbone.name", "dino_x14", "dino_x14"),
  ],
)
def test_what_only_the_data_can_tell_is_refused_in_words(
  finished, tmp_path, field, value, sentence
):
  workdir = tmp_path / "copy"
  shutil.copytree(finished[0], workdir)
  with pytest.raises(artifacts.InputError, match=sentence):
    run(workdir, **{field: value})


def test_a_full_run_names_every_missing_file(tmp_path):
  config = config_lib.load(CONFIG)
  with pytest.raises(artifacts.InputError) as error:
    pipeline.run(stages.stages(), config, tmp_path, log=lambda line: None)
  for field in (
    "images",
    "index",
    "vice_embedding",
    "concepts",
    "backbone.weights",
  ):
    assert f"config.photos.{field} is not set" in str(error.value)
