import types

import ml_collections
import numpy as np
import pytest

from alignet_jax import artifacts, odd_one_out
from alignet_jax.judgments import from_embedding
from alignet_jax.teacher import selection, stage
from alignet_jax.teacher import transform as transform_lib

NUM_ITEMS = 41


def _config(**changes):
  teacher = {
    "variants": ("hard", "soft"),
    "selected": "soft",
    "strengths": (1e-3, 1e-1),
    "lr": 1e-2,
    "lr_decay": "constant",
    "selection": "triplets",
    "num_folds": 2,
    "rank": 0,
    "per_feature": False,
    "local_features": "",
    "locality_weight": 0.1,
    "locality_temperature": 0.1,
    "batch_size": 200,
    "num_epochs": 3,
    "patience": 2,
    "val_fraction": 0.2,
    **changes,
  }
  return ml_collections.FrozenConfigDict({"teacher": teacher, "seed": 3})


@pytest.fixture
def inputs(np_rng, tmp_path):
  """Artefacts of the two stages before, with judgments that can be learnt."""
  features = 1.0 + np_rng.normal(size=(NUM_ITEMS, 7)).astype(np.float32)
  ranks = np_rng.random((600, NUM_ITEMS))
  triplets = np.argsort(ranks, axis=-1)[:, :3].astype(np.int32)
  z = features[:, :2] - 1.0
  odd = np.argmax(odd_one_out.logits_of_rows(z, triplets), axis=-1)
  order = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])[odd]
  triplets = np.take_along_axis(triplets, order, axis=-1)
  folders = {name: tmp_path / name for name in ("judgments", "features")}
  for folder in folders.values():
    folder.mkdir()
  artifacts.write_npy(folders["features"] / "stimuli.npy", features)
  judgments = folders["judgments"]
  artifacts.write_npz(judgments / "train.npz", triplets=triplets[:500])
  artifacts.write_npz(judgments / "test.npz", triplets=triplets[500:])
  logprobs = odd_one_out.log_probs(
    odd_one_out.logits_of_rows(z, triplets[:500])
  )
  artifacts.write_npz(judgments / "soft.npz", target_logprobs=logprobs)
  return folders


def _run(inputs, out, config):
  out.mkdir()
  lines = []
  context = types.SimpleNamespace(
    config=config,
    out=out,
    scratch=out.with_name("scratch"),
    inputs=inputs,
    log=lines.append,
  )
  metrics = stage.run_teacher(context)
  lines.append(metrics)
  return lines


def _bytes(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_writes_every_variant_and_the_selected_one(inputs, tmp_path, capsys):
  lines = _run(inputs, tmp_path / "teacher", _config())
  files = _bytes(tmp_path / "teacher")
  assert sorted(files) == [
    "hard.npz",
    "selection.json",
    "soft.npz",
    "transform.npz",
  ]
  assert files["transform.npz"] == files["soft.npz"] != files["hard.npz"]
  record = artifacts.read_json(tmp_path / "teacher" / "selection.json")
  assert record["selected"] == "soft"
  assert record["num_train"] + record["num_held_out"] == 500
  assert 90 < record["num_held_out"] < 110
  for variant in ("hard", "soft"):
    table = record["variants"][variant]
    assert [row["strength"] for row in table] == [1e-3, 1e-1]
    assert sum(row["selected"] for row in table) == 1
  assert sum(": strength" in line for line in lines[:-1]) == 4
  assert "teacher hard: " in capsys.readouterr().out  # The progress.


def test_soft_targets_go_with_their_own_triplets(inputs, tmp_path):
  _run(inputs, tmp_path / "teacher", _config(variants=("soft",)))
  met = transform_lib.AffineTransform.load(tmp_path / "teacher" / "soft.npz")
  judgments = inputs["judgments"]
  triplets = artifacts.read_npz(judgments / "train.npz")["triplets"]
  logprobs = artifacts.read_npz(judgments / "soft.npz")["target_logprobs"]
  expected = selection.by_triplets(
    artifacts.read_npy(inputs["features"] / "stimuli.npy"),
    triplets,
    val_fraction=0.2,
    target_logprobs=logprobs,
    strengths=(1e-3, 1e-1),
    lr=1e-2,
    batch_size=200,
    num_epochs=3,
    patience=2,
    seed=3,
  )
  np.testing.assert_array_equal(met.weights, expected.transform.weights)


def test_test_judgments_are_never_read_and_the_same_run_gives_the_same_bytes(
  inputs, tmp_path
):
  _run(inputs, tmp_path / "first", _config())
  (inputs["judgments"] / "test.npz").write_bytes(b"not an archive")
  _run(inputs, tmp_path / "second", _config())
  (inputs["judgments"] / "test.npz").unlink()
  _run(inputs, tmp_path / "third", _config())
  assert _bytes(tmp_path / "first") == _bytes(tmp_path / "second")
  assert _bytes(tmp_path / "first") == _bytes(tmp_path / "third")


def test_every_published_variant_is_fitted_and_selected_by_objects(
  inputs, tmp_path
):
  soft = inputs["judgments"] / "soft.npz"
  soft.with_name("soft_own_vice.npz").write_bytes(soft.read_bytes())
  variants = tuple(stage.VARIANTS)
  config = _config(variants=variants, selection="objects")
  lines = _run(inputs, tmp_path / "teacher", config)
  metrics = lines[-1]
  assert set(metrics) == {
    f"object_heldout/accuracy/{name}" for name in ("zero_shot", *variants)
  }
  files = _bytes(tmp_path / "teacher")
  assert files["soft.npz"] == files["soft_own_vice.npz"]
  others = [files[f"{name}.npz"] for name in variants if name != "soft"]
  assert len(set(others)) == len(others)


def test_hard_alone_needs_no_soft_targets(inputs, tmp_path):
  (inputs["judgments"] / "soft.npz").unlink()
  _run(
    inputs, tmp_path / "teacher", _config(variants=("hard",), selected="hard")
  )
  assert (tmp_path / "teacher" / "transform.npz").exists()
  with pytest.raises(artifacts.InputError, match="no file .*soft.npz"):
    _run(inputs, tmp_path / "again", _config())


def test_features_with_nan_are_refused_with_file_and_rows(inputs, tmp_path):
  path = inputs["features"] / "stimuli.npy"
  features = artifacts.read_npy(path)
  features[[4, 9]] = np.nan
  artifacts.write_npy(path, features)
  with pytest.raises(
    artifacts.InputError, match=r"stimuli.npy: 2 of 41 rows .*\(rows 4, 9\)"
  ):
    _run(inputs, tmp_path / "teacher", _config())


def test_triplets_of_missing_rows_are_refused_with_the_file(inputs, tmp_path):
  path = inputs["features"] / "stimuli.npy"
  artifacts.write_npy(path, artifacts.read_npy(path)[:-1])
  with pytest.raises(
    artifacts.InputError, match=r"train.npz: .* rows 0 to 40; .* rows 0 to 39"
  ):
    _run(inputs, tmp_path / "teacher", _config())


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"variants": ("hard", "sfot")}, "'sfot'; known are hard, soft"),
    ({"selection": "people"}, "'people'; known are objects, triplets"),
    ({"selected": "naive"}, "'naive'; it must be one of .*: hard, soft"),
  ],
)
def test_unknown_variants_are_refused(inputs, tmp_path, changes, message):
  with pytest.raises(artifacts.InputError, match=message):
    _run(inputs, tmp_path / "teacher", _config(**changes))


def test_own_vice_keeps_peoples_choices_beside_drawn_targets(inputs, tmp_path):
  judgments = inputs["judgments"]
  soft = artifacts.read_npz(judgments / "soft.npz")["target_logprobs"]
  artifacts.write_npz(judgments / "soft_own_vice.npz", target_logprobs=soft)
  config = _config(variants=("soft", "soft_own_vice"), num_folds=0)
  asked = {}

  def spy(features, triplets, *, target_logprobs, drawn, **settings):
    asked[len(asked)] = target_logprobs, drawn
    return original(
      features,
      triplets,
      target_logprobs=target_logprobs,
      drawn=drawn,
      **settings,
    )

  original = selection.by_triplets
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(selection, "by_triplets", spy)
    _run(inputs, tmp_path / "without", config)
    drawn = from_embedding.draw(np.eye(NUM_ITEMS), 570, seed=1)
    artifacts.write_npz(
      judgments / "drawn.npz",
      triplets=drawn.triplets,
      soft=drawn.target_logprobs,
      soft_own_vice=drawn.target_logprobs[:, ::-1],
    )
    _run(inputs, tmp_path / "with", config)
  for number in (0, 1, 2):  # Both without drawn ones, and soft with them.
    np.testing.assert_array_equal(asked[number][0], soft)
  assert asked[0][1] is None and asked[1][1] is None
  np.testing.assert_array_equal(np.exp(asked[3][0]), [[0.0, 0.0, 1.0]] * 500)
  for number, step in ((2, 1), (3, -1)):
    # Choices are outnumbered by no more than there are of them.
    some = slice(None) if step == 1 else slice(500)
    met = asked[number][1]
    np.testing.assert_array_equal(met.triplets, drawn.triplets[some])
    np.testing.assert_array_equal(
      met.target_logprobs, drawn.target_logprobs[some, ::step]
    )
  for name in ("soft", "soft_own_vice"):
    before, after = (
      (tmp_path / folder / f"{name}.npz").read_bytes()
      for folder in ("without", "with")
    )
    assert before != after
