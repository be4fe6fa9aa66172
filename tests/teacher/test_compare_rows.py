import json
import types

import numpy as np
import pytest
import scipy.special

from alignet_jax import artifacts
from alignet_jax.judgments import from_embedding, splits
from alignet_jax.teacher import (
  compare_inputs,
  compare_rows,
  compare_table,
  selection,
  stage,
  zero_shot,
)
from alignet_jax.teacher import transform as transform_lib

NUM = 31

SETTINGS = {
  "selection": "objects",
  "val_fraction": 0.2,
  "strengths": [1e-2, 1e-1],
  "lr": 1e-2,
  "lr_decay": "constant",
  "batch_size": 500,
  "num_epochs": 4,
  "num_drawn": 0,
  "patience": 0,
  "rank": 0,
  "per_feature": False,
  "locality_weight": 0.1,
  "locality_temperature": 0.1,
  "num_folds": 2,
  "seed": 3,
  "temperature": "fit",
  "num_resamples": 50,
  "level": 0.9,
}


@pytest.fixture
def inputs(np_rng):
  """People who see two of seven features."""
  features = 1 + np_rng.normal(size=(NUM, 7)).astype(np.float32)
  people = 1.5 * (features - 1)[:, :2]

  def ask(triplets):
    logits = compare_inputs.logits(people, triplets)
    odd = np.argmax(logits + np_rng.gumbel(size=logits.shape), axis=1)
    order = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])[odd]
    return np.take_along_axis(triplets, order, axis=1)

  def draw(num):
    order = np.argsort(np_rng.random((num, NUM)), axis=1)
    return order[:, :3].astype(np.int32)

  train, test, repeats = ask(draw(2000)), ask(draw(600)), draw(40)
  logits = compare_inputs.logits(people, repeats).astype(np.float64)
  counts = np_rng.multinomial(50, scipy.special.softmax(logits, axis=1))
  targets = scipy.special.log_softmax(
    compare_inputs.logits(people, train), axis=1
  )
  return compare_inputs.Inputs(
    features={"seven": features, "two": features[:, :2].copy()},
    local_features={"two": np_rng.normal(size=(29, 2)).astype(np.float32)},
    train=train,
    test=test,
    repeats=(repeats, counts.astype(np.int32)),
    targets=targets,
    vice_embedding=people,
    digests={
      "features seven": "7",
      "features two": "2",
      "local_features two": "l",
      "triplets_train": "t",
      "triplets_test": "s",
      "repeats": "r",
      "vice_embedding": "v",
    },
  )


@pytest.fixture
def fits(monkeypatch):
  """Calls of the fit, which is replaced by a transform by hand."""
  calls = []

  def by_objects(features, triplets, **settings):
    del triplets
    calls.append(settings | {"num_features": features.shape[1]})
    width = features.shape[1]
    weights = np.diag(np.arange(width) < 2).astype(np.float32)
    rows = [
      {
        "strength": s,
        "val_nll": s,
        "val_accuracy": 0.5 + s,
        "selected": s < 0.1,
      }
      for s in settings["strengths"]
    ]
    rows[1]["val_nll"] = float("nan")
    transform = transform_lib.AffineTransform(weights, np.zeros(width), 1, 1)
    return types.SimpleNamespace(
      transform=transform, table=rows, zero_shot=0.4, best=rows[0]
    )

  monkeypatch.setattr(selection, "by_objects", by_objects)
  return calls


def _make(inputs, variants, out, **changes):
  lines = []
  rows = compare_rows.make(
    inputs, variants, SETTINGS | changes, out, log=lines.append
  )
  return rows, lines


def _kept(z, x, k=10):
  """Mean share of the k nearest by cosine that are the same, item by item."""
  shares = []
  for i in range(len(x)):
    near = []
    for a in (z, x):
      cosines = a @ a[i] / np.linalg.norm(a, axis=1) / np.linalg.norm(a[i])
      cosines[i] = -np.inf
      near.append(set(np.argsort(-cosines)[:k]))
    shares.append(len(near[0] & near[1]) / k)
  return np.mean(shares)


def test_a_row_holds_the_scores_of_its_transform(inputs, fits, tmp_path):
  rows, lines = _make(inputs, ("zero_shot", "hard"), tmp_path)
  assert [(row["model"], row["variant"]) for row in rows] == [
    ("seven", "zero_shot"),
    ("seven", "hard"),
    ("two", "zero_shot"),
    ("two", "hard"),
  ]
  assert all(tuple(row) == compare_table.COLUMNS for row in rows)
  assert len(fits) == 2 and len(lines) == 4 and "seven hard" in lines[1]
  zero, hard = rows[:2]
  # By hand: dot products of the first two features minus one.
  z = inputs.features["seven"][:, :2] - 1
  sims = z @ z.T
  i, j, k = inputs.test.T
  logits = np.stack([sims[j, k], sims[i, k], sims[i, j]], axis=1)
  logprobs = scipy.special.log_softmax(logits, axis=1)
  correct = np.argmax(logits, axis=1) == 2
  np.testing.assert_allclose(hard["accuracy"], correct.mean(), rtol=1e-6)
  np.testing.assert_allclose(
    hard["nll"], -logprobs[:, 2].mean(), rtol=1e-5, atol=0
  )
  assert hard["strength"] == 1e-2 and hard["temperature"] == 1.0
  assert hard["object_heldout_accuracy"] == 0.51
  assert zero["neighbours_kept"] == 1.0
  kept = _kept(z, inputs.features["seven"])
  np.testing.assert_allclose(hard["neighbours_kept"], kept, rtol=1e-9, atol=0)
  assert 0.2 < hard["neighbours_kept"] < 1.0
  before = zero_shot.score(inputs.features["seven"], inputs.test)
  gain = zero_shot.paired_interval(
    correct,
    before.correct,
    inputs.test,
    num_resamples=50,
    level=0.9,
    seed=3,
  )
  assert (hard["gain"], hard["gain_low"], hard["gain_high"]) == gain
  assert gain.low > 0
  assert hard["accuracy_low"] < hard["accuracy"] < hard["accuracy_high"]
  assert hard["entropy_r"] > 0.6 and 0 < hard["kl"] < 0.2
  np.testing.assert_allclose(
    zero["accuracy"], before.accuracy.value, rtol=1e-6, atol=0
  )
  assert np.isnan([zero["gain"], zero["strength"]]).all()


def test_neighbours_are_those_among_the_local_features(inputs, fits, tmp_path):
  rows, _ = _make(inputs, ("hard",), tmp_path)
  local = inputs.local_features["two"]
  kept = _kept(local - 1, local)
  assert 0 < kept < 1
  np.testing.assert_allclose(rows[1]["neighbours_kept"], kept, rtol=1e-9)
  # Other ones are looked at without another fit.
  local[:] = np.roll(local, 1, axis=1) ** 2
  inputs.digests["local_features two"] = "other"
  again, lines = _make(inputs, ("hard",), tmp_path)
  assert again[1]["neighbours_kept"] != rows[1]["neighbours_kept"]
  assert "scored anew" in lines[1] and len(fits) == 2


def test_zero_shot_of_new_objects(inputs, tmp_path):
  rows, _ = _make(inputs, ("zero_shot",), tmp_path)
  folds = splits.by_object(inputs.train, NUM, num_folds=2, seed=3)
  held_out = np.concatenate([rows for _, rows, _ in folds])
  scored = zero_shot.score(inputs.features["seven"], inputs.train[held_out])
  np.testing.assert_allclose(
    rows[0]["object_heldout_accuracy"],
    scored.accuracy.value,
    rtol=1e-6,
    atol=0,
  )


def test_temperature_of_zero_shot(inputs, tmp_path):
  logits = zero_shot.logits(inputs.features["two"], inputs.train)
  expected = zero_shot.best_temperature(logits, np.exp(inputs.targets))
  rows, _ = _make(inputs, ("zero_shot",), tmp_path / "soft")
  np.testing.assert_allclose(
    rows[1]["temperature"], expected.temperature, rtol=1e-3, atol=0
  )
  hard = compare_inputs.Inputs(**vars(inputs) | {"targets": None})
  one, _ = _make(hard, ("zero_shot",), tmp_path / "hard")
  nlls = []
  for temperature in (0.8, 1.25):
    other, _ = _make(
      hard,
      ("zero_shot",),
      tmp_path / str(temperature),
      temperature=one[1]["temperature"] * temperature,
    )
    logprobs = scipy.special.log_softmax(
      logits / other[1]["temperature"], axis=1
    )
    nlls.append(-logprobs[:, 2].mean())
    assert other[1]["accuracy"] == one[1]["accuracy"]
  best = scipy.special.log_softmax(logits / one[1]["temperature"], axis=1)
  assert -best[:, 2].mean() < min(nlls)


def test_selected_by_triplets(inputs, fits, monkeypatch, tmp_path):
  def by_triplets(features, triplets, *, val_fraction, **settings):
    assert val_fraction == 0.2 and len(triplets) == 2000
    found = selection.by_objects(features, triplets, **settings)
    found.best = {"strength": 7.0, "val_accuracy": 0.99}
    return found

  monkeypatch.setattr(selection, "by_triplets", by_triplets)
  inputs.features.pop("two")
  rows, _ = _make(inputs, ("hard",), tmp_path, selection="triplets")
  assert rows[0]["strength"] == 7.0
  assert rows[0]["object_heldout_accuracy"] == 0.51
  assert [call.pop("num_folds", None) for call in fits] == [2, None]
  assert fits[0] == fits[1]


def test_without_repeats_two_scores_are_missing(inputs, fits, tmp_path):
  inputs = compare_inputs.Inputs(**vars(inputs) | {"repeats": None})
  rows, _ = _make(inputs, ("hard",), tmp_path)
  assert np.isnan([rows[0]["kl"], rows[0]["entropy_r"]]).all()
  assert len(fits) == 2


def test_every_variant_is_fitted_as_it_is_defined(inputs, fits, tmp_path):
  names = compare_rows.VARIANTS[1:]
  assert {"naive", "global", "glocal", "hard", "soft"} == set(names)
  _make(inputs, names, tmp_path, rank=2, per_feature=True)
  for name, call in zip(names * 2, fits, strict=True):
    definition, objective = stage.VARIANTS[name], call["objective"]
    assert objective.penalty == definition.objective.penalty
    assert objective.scale == definition.objective.scale
    assert objective.rank == 2 and call["per_feature"]
    assert objective.locality_weight == (0.1 if name == "glocal" else 0.0)
    if name == "soft":
      assert call["target_logprobs"] is inputs.targets
    else:
      assert call.get("target_logprobs") is None
    local = call.get("local_features")
    assert (local is not None) == (
      name == "glocal" and call["num_features"] == 2
    )
    assert call["strengths"] == (1e-2, 1e-1) and call["lr"] == 1e-2
    assert call["num_folds"] == 2 and call["seed"] == 3
    assert call["batch_size"] == 500 and call["num_epochs"] == 4
    assert call["patience"] == 0 and call["lr_decay"] == "constant"


def test_soft_draws_triplets_of_the_embedding(inputs, fits, tmp_path):
  _make(inputs, ("soft", "hard"), tmp_path, num_drawn=67)
  every = from_embedding.draw(inputs.vice_embedding, 67, seed=3)
  # None of the three objects of a test triplet, whose answers it would tell.
  tests = {frozenset(t) for t in inputs.test.tolist()}
  is_other = [frozenset(t) not in tests for t in every.triplets.tolist()]
  assert 40 < sum(is_other) < 67
  expected = [x[is_other] for x in every]
  assert [call.get("drawn") is None for call in fits] == [False, True] * 2
  for call in fits[::2]:
    for met, drawn in zip(call["drawn"], expected, strict=True):
      np.testing.assert_array_equal(met, drawn)
  # Their number matters to soft alone.
  _make(inputs, ("soft", "hard"), tmp_path, num_drawn=68)
  assert len(fits) == 6 and all("drawn" in call for call in fits[4:])


def test_what_is_saved_is_not_done_again(inputs, fits, tmp_path):
  first, _ = _make(inputs, ("zero_shot", "hard"), tmp_path)
  saved = {p: p.read_bytes() for p in tmp_path.rglob("*.*")}
  assert {p.name for p in saved} == {
    "zero_shot.json",
    "hard.json",
    "hard.npz",
  }
  second, lines = _make(inputs, ("zero_shot", "hard"), tmp_path)
  assert len(fits) == 2 and all("saved" in line for line in lines)
  np.testing.assert_equal(second, first)
  assert {p: p.read_bytes() for p in tmp_path.rglob("*.*")} == saved
  # Strict JSON, which has no NaN.
  for path in tmp_path.rglob("*.json"):
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["key"]
  # A kill after the transform, before its scores.
  (tmp_path / "two" / "hard.json").unlink()
  _make(inputs, ("zero_shot", "hard"), tmp_path)
  assert len(fits) == 3
  (tmp_path / "two" / "hard.npz").unlink()
  _make(inputs, ("zero_shot", "hard"), tmp_path)
  assert len(fits) == 4


@pytest.mark.parametrize(
  ("digest", "setting", "variants"),
  [
    ("features seven", None, {"hard", "soft", "glocal"}),
    ("triplets_train", None, {"hard", "soft", "glocal"}),
    ("vice_embedding", None, {"soft"}),
    ("local_features seven", None, {"glocal"}),
    ("triplets_test", None, set()),
    ("repeats", None, set()),
    (None, {"lr": 2e-2}, {"hard", "soft", "glocal"}),
    (None, {"strengths": [1e-2, 2e-1]}, {"hard", "soft", "glocal"}),
    (None, {"seed": 4}, {"hard", "soft", "glocal"}),
    (None, {"num_folds": 3}, {"hard", "soft", "glocal"}),
    (None, {"locality_weight": 0.2}, {"glocal"}),
    (None, {"val_fraction": 0.3}, {"hard", "soft", "glocal"}),
    (None, {"level": 0.8}, set()),
  ],
)
def test_only_what_changed_is_fitted(
  inputs, fits, tmp_path, digest, setting, variants
):
  names = ("hard", "soft", "glocal")
  inputs.features.pop("two")
  first, _ = _make(inputs, names, tmp_path)
  fits.clear()
  if digest:
    inputs.digests[digest] = "other"
  rows, lines = _make(inputs, names, tmp_path, **(setting or {}))
  assert len(fits) == len(variants)
  for name, line in zip(names, lines, strict=True):
    assert ("done" in line) == (name in variants), line
  if not variants:
    assert all("scored anew" in line for line in lines)
    accuracies = [row["accuracy"] for row in rows]
    assert accuracies == [row["accuracy"] for row in first]
    assert rows[1]["strength"] == first[1]["strength"]


def test_zero_shot_depends_on_no_fit(inputs, tmp_path):
  inputs.features.pop("two")

  def how(**changes):
    return _make(inputs, ("zero_shot",), tmp_path, **changes)[1][0]

  assert "done" in how() and "saved" in how(lr=1.0, strengths=[2.0])
  inputs.digests["vice_embedding"] = "other"  # They decide the temperature.
  assert "scored anew" in how()
  assert "scored anew" in how(temperature=0.1)
  assert "done" in how(temperature=0.1, seed=4)


def test_a_failed_fit_keeps_what_was_done(inputs, fits, monkeypatch, tmp_path):
  def fail(*args, **kwargs):
    raise FloatingPointError("The fit diverged")

  _make(inputs, ("hard",), tmp_path)
  monkeypatch.setattr(selection, "by_objects", fail)
  with pytest.raises(artifacts.InputError, match="seven, naive: The fit div"):
    _make(inputs, ("hard", "naive"), tmp_path)
  rows, _ = _make(inputs, ("hard",), tmp_path)
  assert len(rows) == 2


def test_a_folder_in_the_way_is_named(inputs, tmp_path):
  (tmp_path / "seven").write_text("")
  with pytest.raises(artifacts.InputError, match="seven cannot be made"):
    _make(inputs, ("zero_shot",), tmp_path)


def test_fits_beat_zero_shot(inputs, tmp_path):
  inputs.features.pop("two")
  rows, _ = _make(
    inputs, ("zero_shot", "hard"), tmp_path, num_epochs=10, lr=3e-2
  )
  assert rows[1]["gain_low"] > 0
  assert rows[1]["nll"] < rows[0]["nll"] < np.log(3) + 0.02
  transform = transform_lib.AffineTransform.load(
    tmp_path / "seven" / "hard.npz"
  )
  assert transform.apply(inputs.features["seven"]).shape == (NUM, 7)
