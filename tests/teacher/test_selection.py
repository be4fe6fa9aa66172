import numpy as np
import pytest

from alignet_jax import odd_one_out
from alignet_jax.judgments import from_embedding
from alignet_jax.teacher import fit, selection

SETTINGS = {
  "strengths": (1e-4, 1e-2, 10.0),
  "lr": 0.02,
  "batch_size": 300,
  "num_epochs": 8,
  "patience": 0,
  "lr_decay": "cosine",
  "seed": 3,
}


@pytest.fixture
def judged(np_rng):
  """30 objects of 6 features, of which people see two."""
  features = np_rng.normal(size=(30, 6)).astype(np.float32)
  triplets = np.array([np_rng.permutation(30)[:3] for _ in range(4_000)])
  z = 1.5 * features[:, :2]
  logits = np.asarray(odd_one_out.logits_of_rows(z, triplets))
  odd = np.argmax(logits + np_rng.gumbel(size=logits.shape), axis=1)
  order = np.array([[1, 2, 0], [2, 0, 1], [0, 1, 2]])[odd]
  return features, np.take_along_axis(triplets, order, axis=1).astype(np.int32)


def test_by_objects_fits_and_judges_apart(judged, monkeypatch):
  features, triplets = judged
  calls = []
  original = fit.fit_transform

  def spy(features, triplets, **settings):
    calls.append((features, triplets, settings))
    return original(features, triplets, **settings)

  monkeypatch.setattr(fit, "fit_transform", spy)
  chosen = selection.by_objects(features, triplets, num_folds=3, **SETTINGS)
  assert len(calls) == 4
  seen_by_folds = []
  for seen, _, settings in calls[:3]:
    held_out = settings["val_features"]
    seen_rows = {row.tobytes() for row in seen}
    assert len(seen) == 20 and len(held_out) == 10
    # No object, and so none of its features, is on both sides.
    assert not seen_rows & {row.tobytes() for row in held_out}
    seen_by_folds += [row.tobytes() for row in held_out]
  assert len(set(seen_by_folds)) == 30
  # The last fit is to everything, with the chosen strength.
  final_features, final_triplets, settings = calls[3]
  np.testing.assert_array_equal(final_features, features)
  np.testing.assert_array_equal(final_triplets, triplets)
  assert settings["strengths"] == (chosen.best["strength"],)
  # The folds make as many steps, of about 8 / 27 of the triplets.
  for _, of_fold, fold_settings in calls[:3]:
    expected = SETTINGS["num_epochs"] * len(triplets) / len(of_fold)
    assert fold_settings["num_epochs"] == round(expected) > 24
  assert settings["num_epochs"] == SETTINGS["num_epochs"]
  assert "val_triplets" not in settings


def test_rows_go_with_their_features(judged):
  features, triplets = judged
  chosen = selection.by_objects(features, triplets, num_folds=3, **SETTINGS)
  # With any other correspondence of rows nothing could be learnt.
  assert chosen.best["val_accuracy"] > chosen.zero_shot + 0.05
  assert chosen.best["strength"] < 10.0
  assert [row["strength"] for row in chosen.table] == list(
    SETTINGS["strengths"]
  )
  assert sum(row["selected"] for row in chosen.table) == 1
  # A strong pull to the identity leaves neighbours, a weak one does not.
  kept = [row["neighbours_kept"] for row in chosen.table]
  assert max(kept[:2]) < 0.6 < 0.8 < kept[2]
  nlls = [row["val_nll"] for row in chosen.table]
  assert chosen.best["val_nll"] == min(nlls)
  logits = odd_one_out.logits_of_rows(features, triplets, cosine=True)
  whole = float(odd_one_out.accuracy(logits))
  assert abs(chosen.zero_shot - whole) < 0.1


def test_targets_go_with_their_triplets(judged):
  features, triplets = judged
  z = 1.5 * features[:, :2]
  targets = np.asarray(
    odd_one_out.log_probs(odd_one_out.logits_of_rows(z, triplets))
  )
  soft = selection.by_objects(
    features, triplets, num_folds=3, target_logprobs=targets, **SETTINGS
  )
  hard = selection.by_objects(features, triplets, num_folds=3, **SETTINGS)
  # Noise-free targets are the better teachers.
  assert soft.best["val_nll"] < hard.best["val_nll"]


def test_means_over_folds_are_weighted_by_their_choices():
  def row(nll, accuracy):
    return {
      "strength": 1.0,
      "epoch": 2,
      "val_nll": nll,
      "val_accuracy": accuracy,
      "val_entropy": 0.5,
      "neighbours_kept": 0.25,
    }

  tables = [[row(1.0, 0.4), row(0.9, 0.1)], [row(0.4, 0.8), row(0.9, 0.1)]]
  table = selection._mean_table(tables, np.array([0.75, 0.25]))
  np.testing.assert_allclose(
    [table[0]["val_nll"], table[0]["val_accuracy"]],
    [0.85, 0.5],
    rtol=1e-9,
    atol=0,
  )
  assert [r["selected"] for r in table] == [True, False]


def test_by_triplets_fits_everything_once_more(judged):
  features, triplets = judged
  chosen = selection.by_triplets(
    features, triplets, val_fraction=0.25, **SETTINGS
  )
  assert chosen.num_train + chosen.num_held_out == len(triplets)
  assert abs(chosen.num_held_out - 1_000) < 20
  alone = fit.fit_transform(
    features,
    triplets,
    **{**SETTINGS, "strengths": (chosen.best["strength"],)},
  )
  np.testing.assert_array_equal(
    chosen.transform.weights, alone.transform.weights
  )
  with pytest.raises(ValueError, match="val_fraction is 0"):
    selection.by_triplets(features, triplets, val_fraction=0, **SETTINGS)


def test_a_fold_without_triplets_is_named(judged):
  features, triplets = judged
  with pytest.raises(ValueError, match="Fold 1 of 10 has .* 0 to select by"):
    selection.by_objects(features, triplets[:40], num_folds=10, **SETTINGS)


def test_drawn_triplets_are_fitted_to_but_never_selected_by(
  judged, monkeypatch
):
  """Of a fold only those of objects that it sees; targets stay with theirs."""
  features, triplets = judged
  np_rng = np.random.default_rng(5)
  drawn = from_embedding.draw(features[:, :2], 900, seed=7)
  targets = np.log(np_rng.dirichlet(np.ones(3), len(triplets)))
  targets = targets.astype(np.float32)
  calls = []
  original = fit.fit_transform

  def spy(features, triplets, **settings):
    calls.append((features, triplets, settings))
    return original(features, triplets, **settings)

  monkeypatch.setattr(fit, "fit_transform", spy)
  known = {}
  for rows, logprobs in zip(
    (*triplets, *drawn.triplets),
    (*targets, *drawn.target_logprobs),
    strict=True,
  ):
    known.setdefault(features[rows].tobytes(), set()).add(logprobs.tobytes())
  selection.by_objects(
    features,
    triplets,
    num_folds=3,
    target_logprobs=targets,
    drawn=drawn,
    **SETTINGS,
  )
  fold = np.zeros(len(features), int)
  for number, (_, _, settings) in enumerate(calls[:3]):
    held = {row.tobytes() for row in settings["val_features"]}
    fold[[row.tobytes() in held for row in features]] = number
  for number, (seen, of_fold, settings) in enumerate(calls[:3]):
    outside = [(fold[t] != number).all(axis=1) for t in (triplets, drawn[0])]
    assert len(of_fold) == outside[0].sum() + outside[1].sum()
    assert outside[1].sum() > 150
    of_rows = zip(of_fold, settings["target_logprobs"], strict=True)
    for rows, logprobs in of_rows:
      assert logprobs.tobytes() in known[seen[rows].tobytes()]
    num_held_out = (fold[triplets] == number).all(axis=1).sum()
    assert len(settings["val_triplets"]) == num_held_out
    # As many steps as without them; the last fit passes through all of them.
    expected = SETTINGS["num_epochs"] * 4_000 / len(of_fold)
    assert settings["num_epochs"] == round(expected)
  _, final, settings = calls[3]
  assert settings["num_epochs"] == SETTINGS["num_epochs"]
  np.testing.assert_array_equal(final[4_000:], drawn.triplets)
  np.testing.assert_array_equal(
    settings["target_logprobs"][4_000:], drawn.target_logprobs
  )
  with pytest.raises(ValueError, match="Drawn triplets need target_logprobs"):
    selection.by_triplets(
      features, triplets, val_fraction=0.1, drawn=drawn, **SETTINGS
    )


def test_drawn_triplets_do_not_tell_choices_that_are_left_out(
  judged, monkeypatch
):
  features, triplets = judged
  triplets = triplets[:400]
  calls = []
  original = fit.fit_transform

  def spy(features, triplets, **settings):
    calls.append((triplets, settings))
    return original(features, triplets, **settings)

  monkeypatch.setattr(fit, "fit_transform", spy)
  # Of the same objects as every judged triplet, turned around; and one other.
  everything = {frozenset(t) for t in triplets.tolist()}
  other = next(
    t
    for t in np.ndindex(3, 30, 30)
    if len({*t}) == 3 and frozenset(t) not in everything
  )
  rows = np.concatenate([triplets[:, ::-1], [other]]).astype(np.int32)
  targets = np.full((len(triplets), 3), -np.log(3), np.float32)
  drawn = from_embedding.Drawn(rows, np.full((401, 3), -np.log(3), np.float32))
  selection.by_triplets(
    features,
    triplets,
    val_fraction=0.25,
    target_logprobs=targets,
    drawn=drawn,
    **{**SETTINGS, "num_epochs": 1, "strengths": (1e-2,)},
  )
  (fitted, settings), (final, _) = calls
  held_out = {frozenset(t) for t in settings["val_triplets"].tolist()}
  assert len(held_out) > 80
  assert not held_out & {frozenset(t) for t in fitted.tolist()}
  assert fitted[-1].tolist() == list(other)
  assert len(fitted) == 2 * (400 - len(settings["val_triplets"])) + 1
  assert len(settings["target_logprobs"]) == len(fitted)
  assert len(final) == 801
