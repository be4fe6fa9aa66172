import numpy as np
import pytest
import sklearn.linear_model

from alignet_jax import artifacts
from alignet_jax.teacher import concepts


@pytest.mark.parametrize(("n", "d"), [(31, 7), (13, 29), (11, 11)])
@pytest.mark.parametrize("noise", [0.01, 3.0, 1e3])
def test_ridge_equals_scikit_learn(np_rng, n, d, noise):
  x = np_rng.normal(size=(n, d)) + 5.0
  y = x @ np_rng.normal(size=(d, 3)) + noise * np_rng.normal(size=(n, 3)) + 2.0
  ours = concepts.fit_ridge(x, y)
  theirs = sklearn.linear_model.RidgeCV(
    alphas=concepts.ALPHAS, store_cv_results=True
  ).fit(x, y)
  assert ours.alpha == theirs.alpha_
  np.testing.assert_allclose(ours.weights, theirs.coef_.T, rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(ours.bias, theirs.intercept_, rtol=1e-6, atol=1e-8)
  np.testing.assert_allclose(
    ours.loo_mse, theirs.cv_results_.mean(axis=(0, 1)), rtol=1e-6, atol=0
  )


def test_leave_one_out_equals_leaving_out(np_rng):
  x, y = np_rng.normal(size=(11, 5)), np_rng.normal(size=(11, 2))
  for alpha in (0.3, 40.0):
    errors = []
    for i in range(11):
      rest = np.delete(np.arange(11), i)
      model = sklearn.linear_model.Ridge(alpha=alpha).fit(x[rest], y[rest])
      errors.append((model.predict(x[i : i + 1])[0] - y[i]) ** 2)
    loo = concepts.fit_ridge(x, y, alphas=[alpha]).loo_mse
    np.testing.assert_allclose(loo, [np.mean(errors)], rtol=1e-9, atol=0)


@pytest.mark.parametrize(
  ("x", "y", "alphas", "message"),
  [
    (np.ones((5, 2)), np.ones((4, 3)), [1.0], r"\(5, 2\) and y \(4, 3\)"),
    (np.ones((5, 2)), np.ones(5), [1.0], r"y \(5,\)"),
    (np.ones((5, 2)), np.full((5, 3), np.nan), [1.0], "NaN"),
    (np.ones((5, 2)), np.ones((5, 3)), [1.0, 0.0], r"\[1.0, 0.0\]; .*positive"),
    (np.ones((5, 2)), np.ones((5, 3)), [], "one or more"),
  ],
)
def test_ridge_refuses(x, y, alphas, message):
  with pytest.raises(ValueError, match=message):
    concepts.fit_ridge(x, y, alphas=alphas)


def _world(np_rng, num=61):
  """Features that hold two of three dimensions, and judgments by all three."""
  dimensions = np_rng.random((num, 3)) * [3, 3, 1]
  mixed = dimensions[:, :2] @ np_rng.normal(size=(2, 7))
  features = 40 + 9 * (mixed + 0.05 * np_rng.normal(size=(num, 7)))
  triplets = np.argsort(np_rng.random((3000, num)), axis=1)[:, :3]
  sims = dimensions @ dimensions.T
  i, j, k = triplets.T
  odd = np.argmax([sims[j, k], sims[i, k], sims[i, j]], axis=0)
  order = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])[odd]
  return features, dimensions, np.take_along_axis(triplets, order, axis=1)


def test_regression_equals_a_loop(np_rng):
  features, dimensions, triplets = _world(np_rng)
  found = concepts.regress(features, dimensions, triplets, num_folds=3, seed=5)
  assert np.bincount(found.fold).tolist() == [21, 20, 20]
  error, total = np.zeros(3), np.zeros(3)
  for fold in range(3):
    out = found.fold == fold
    mean, std = features[~out].mean(), features[~out].std()
    x = (features - mean) / std
    model = sklearn.linear_model.RidgeCV(alphas=concepts.ALPHAS)
    model.fit(x[~out], dimensions[~out])
    predicted = model.predict(x[out])
    np.testing.assert_allclose(
      found.predicted[out], predicted, rtol=1e-5, atol=1e-6
    )
    assert found.alphas[fold] == model.alpha_
    error += ((predicted - dimensions[out]) ** 2).sum(axis=0)
    total += ((dimensions[~out].mean(axis=0) - dimensions[out]) ** 2).sum(0)
  np.testing.assert_allclose(found.r2, 1 - error / total, rtol=1e-5, atol=1e-6)
  hits, truth = [], []
  for i, j, k in triplets:
    if found.fold[i] == found.fold[j] == found.fold[k]:
      for z, into in ((found.predicted, hits), (dimensions, truth)):
        into.append(z[i] @ z[j] > max(z[i] @ z[k], z[j] @ z[k]))
  assert found.num_triplets == len(hits) > 200
  assert found.accuracy.value == np.mean(hits)
  assert found.target_accuracy == np.mean(truth) == 1.0
  assert found.accuracy.low < found.accuracy.value < found.accuracy.high


def test_dimensions_that_the_features_hold_are_found(np_rng):
  features, dimensions, triplets = _world(np_rng)
  found = concepts.regress(features, dimensions, triplets)
  assert (found.r2[:2] > 0.95).all() and found.r2[2] < 0.1
  assert found.accuracy.value > 0.8
  shuffled = features[np_rng.permutation(len(features))]
  nothing = concepts.regress(shuffled, dimensions, triplets)
  assert (nothing.r2 < 0.1).all()


def test_a_constant_dimension_has_no_r2(np_rng):
  features, dimensions, _ = _world(np_rng)
  dimensions[:, 1] = 0.7
  found = concepts.regress(features, dimensions)
  assert np.isnan(found.r2).tolist() == [False, True, False]
  assert np.isnan(found.accuracy).all() and found.num_triplets == 0
  assert np.isnan(found.target_accuracy)


def test_folds_are_seeded(np_rng):
  features, dimensions, _ = _world(np_rng)
  one, two, other = (
    concepts.regress(features, dimensions, seed=seed) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(one.predicted, two.predicted)
  assert (one.fold != other.fold).any()


def test_bad_objects_are_refused(np_rng):
  features, dimensions, triplets = _world(np_rng)
  with pytest.raises(ValueError, match=r"\(60, 3\); .* 61 rows"):
    concepts.regress(features, dimensions[1:])
  with pytest.raises(ValueError, match="dimensions hold NaN"):
    concepts.regress(features, dimensions * np.nan)
  with pytest.raises(ValueError, match="rows 1 to 61"):
    concepts.regress(features, dimensions, triplets + 1)
  features[4, 2] = np.nan
  with pytest.raises(ValueError, match="1 of 61 rows"):
    concepts.regress(features, dimensions)


# Objects 0 to 2 are animals, 3 to 5 tools, 6 belongs to both, 7 to neither.
CATEGORIES = {"tool": [3, 4, 5, 6], "animal": [2, 1, 0, 6], "royal": [8]}
TRIPLETS = np.array([[0, 1, 2], [0, 1, 3], [3, 4, 0], [3, 7, 6], [3, 4, 5]])
CORRECT = np.array([True, True, False, True, False])


@pytest.mark.parametrize(
  ("membership", "expected"),
  [
    # Triplets of animals: 0, 1, 2, 3; of tools: 1, 2, 3, 4.
    ("any", [("animal", 3 / 4, 4), ("tool", 2 / 4, 4)]),
    # Odd animals: 0, 2, 3; odd tools: 1, 3, 4.
    ("odd", [("animal", 2 / 3, 3), ("tool", 2 / 3, 3)]),
    ("all", [("animal", 1.0, 1), ("tool", 0.0, 1)]),
  ],
)
def test_categories_by_hand(membership, expected):
  rows = concepts.by_category(
    CORRECT, TRIPLETS, CATEGORIES, membership=membership
  )
  assert [(row.name, row.accuracy, row.num_triplets) for row in rows[:2]] == [
    (name, pytest.approx(accuracy), num) for name, accuracy, num in expected
  ]
  assert rows[2].name == "royal" and np.isnan(rows[2].accuracy)
  assert [row.num_objects for row in rows] == [4, 4, 1]


def test_best_comes_first(np_rng):
  triplets = np.argsort(np_rng.random((500, 30)), axis=1)[:, :3]
  correct = np.sort(triplets, axis=1)[:, 0] > 4
  categories = {str(i): [i] for i in range(30)}
  rows = concepts.by_category(correct, triplets, categories)
  accuracies = [row.accuracy for row in rows]
  assert accuracies == sorted(accuracies, reverse=True)
  assert {row.name for row in rows[-5:]} == set("01234")
  assert all(row.low <= row.accuracy <= row.high for row in rows)


def test_bad_categories_are_refused():
  with pytest.raises(ValueError, match="'some'; known: any, odd, all"):
    concepts.by_category(CORRECT, TRIPLETS, CATEGORIES, membership="some")
  with pytest.raises(ValueError, match=r"\(4, 3\); expected \(5, 3\)"):
    concepts.by_category(CORRECT, TRIPLETS[1:], CATEGORIES)


def test_categories_are_read(tmp_path):
  path = tmp_path / "concepts.tsv"
  path.write_text('name\tkind\nfox\tanimal\naxe\t"tool, weapon"\nfog\t\n')
  found = concepts.load_categories(path, "kind", num_objects=3)
  assert {name: rows.tolist() for name, rows in found.items()} == {
    "animal": [0],
    "tool": [1],
    "weapon": [1],
  }
  with pytest.raises(artifacts.InputError, match="3 objects; expected 4"):
    concepts.load_categories(path, "kind", num_objects=4)
  with pytest.raises(artifacts.InputError, match="no column colour"):
    concepts.load_categories(path, "colour")
  path.write_text("name\tkind\nfog\t\n")
  with pytest.raises(artifacts.InputError, match="column 'kind' is empty"):
    concepts.load_categories(path, "kind")


def test_empty_cells_keep_their_place(tmp_path):
  path = tmp_path / "kinds.csv"
  path.write_text("kind\na\n\n\nb\na\n")
  found = concepts.load_categories(path, "kind", num_objects=5)
  assert {name: rows.tolist() for name, rows in found.items()} == {
    "a": [0, 4],
    "b": [3],
  }


def test_real_concepts(shared_data):
  folder = shared_data / "things"
  categories = concepts.load_categories(
    folder / "things_concepts.tsv",
    "Top-down Category (WordNet)",
    num_objects=1854,
  )
  assert len(categories["animal"]) > 131 and len(categories) < 30
  # A part of the columns: the decomposition takes long on a busy machine.
  features = np.load(folder / "features_clip_vit_b32.npy")[:, :128]
  vice = np.load(folder / "vice_embedding_42d.npy")
  triplets = np.load(folder / "triplets_test.npy")
  found = concepts.regress(
    features, vice, triplets, num_folds=3, num_resamples=50
  )
  # A ninth of the triplets; CLIP predicts choices about objects it was not
  # fitted to better than it does untouched (.4855 on all test triplets).
  assert 0.1 < found.num_triplets / len(triplets) < 0.12
  assert found.accuracy.low > 0.49
  assert found.target_accuracy > found.accuracy.value
  assert 0.2 < np.mean(found.r2) < 0.8
