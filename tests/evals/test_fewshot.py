import numpy as np
import pytest
import sklearn.linear_model

from alignet_jax.evals import fewshot


def make_data(n, *, num_classes=5, d=7, spread=1.0, seed=0):
  """Gaussian blobs whose labels are not 0, 1, 2: 10, 13, 16, ..."""
  np_rng = np.random.default_rng(seed)
  centres = np.random.default_rng(99).normal(size=(num_classes, d)) * 2
  ids = np.arange(n) % num_classes
  features = centres[ids] + spread * np_rng.normal(size=(n, d))
  return features.astype(np.float32), 10 + 3 * ids


@pytest.mark.parametrize("n, d", [(23, 7), (13, 29)])
def test_scores_equal_ridge_of_sklearn(n, d):
  # 23 x 8 takes the form over features, 13 x 30 the form over images.
  np_rng = np.random.default_rng(1)
  x = np_rng.normal(3.0, 2.0, size=(n, d)).astype(np.float32)
  class_ids = np.arange(n) % 3
  test = np_rng.normal(3.0, 2.0, size=(11, d)).astype(np.float32)
  score = fewshot.fit_least_squares(x, class_ids, 3)

  def prepare(raw):
    standard = (raw - np.mean(x, 0, np.float64)) / (
      np.std(x, 0, np.float64) + 1e-5
    )
    return np.pad(standard, ((0, 0), (0, 1)), constant_values=100.0)

  ridge = sklearn.linear_model.Ridge(alpha=1024.0, fit_intercept=False)
  ridge.fit(prepare(x), 2.0 * np.eye(3)[class_ids] - 1.0)
  expected = ridge.predict(prepare(test))
  np.testing.assert_allclose(score(test), expected, rtol=1e-8, atol=1e-10)


def test_both_forms_agree_at_the_border():
  # Width 7 + 1: seven images take one form, fourteen the other. All images
  # twice and twice the penalty is the same problem.
  np_rng = np.random.default_rng(2)
  x = np_rng.normal(size=(7, 7))
  ids = np.arange(7) % 2
  few = fewshot.fit_least_squares(x, ids, 2, l2=3.0)
  many = fewshot.fit_least_squares(np.tile(x, (2, 1)), np.tile(ids, 2), 2, l2=6)
  np.testing.assert_allclose(few(x), many(x), rtol=1e-9, atol=1e-11)


def test_one_feature_two_classes_by_hand():
  # Features -1 and 1: mean 0, std 1. With features (x, 100) the two columns
  # are orthogonal: weight of x = 2 / (2 + l2), times +-1 targets; bias 0.
  score = fewshot.fit_least_squares([[-1.0], [1.0]], [0, 1], 2, l2=1.0)
  std = 1.0 + 1e-5
  w = (2 / std) / (2 / std**2 + 1)
  expected = [[-w * 3 / std, w * 3 / std]]
  np.testing.assert_allclose(score([[3.0]]), expected, rtol=1e-9, atol=0)


def test_accuracy_between_chance_and_one():
  train, test = make_data(100, seed=3), make_data(50, seed=4)
  mean, per_draw = fewshot.k_shot_accuracy(
    *train, *test, num_shots=5, num_draws=4
  )
  assert per_draw.shape == (4,)
  assert mean == pytest.approx(per_draw.mean())
  assert 0.8 < mean <= 1.0
  np_rng = np.random.default_rng(5)
  noise = [(np_rng.normal(size=x.shape), y) for x, y in (train, test)]
  mean, _ = fewshot.k_shot_accuracy(
    *noise[0], *noise[1], num_shots=5, num_draws=10
  )
  assert mean == pytest.approx(1 / 5, abs=0.1)


def test_constant_features_give_the_first_class():
  (x, y), (x_test, y_test) = make_data(20), make_data(10)
  _, per_draw = fewshot.k_shot_accuracy(
    np.ones_like(x), y, np.ones_like(x_test), y_test, num_shots=2
  )
  np.testing.assert_allclose(per_draw, 1 / 5, rtol=0, atol=1e-12)


def test_shifting_and_scaling_features_changes_nothing():
  (x, y), (x_test, y_test) = make_data(40, spread=4.0), make_data(30, seed=1)
  # A power of two scales without rounding; the floor of the std stays tiny.
  scale = 2.0 ** np.arange(7)
  kwargs = dict(num_shots=3, seed=6)
  mean, per_draw = fewshot.k_shot_accuracy(x, y, x_test, y_test, **kwargs)
  _, scaled = fewshot.k_shot_accuracy(
    x * scale + 5, y, x_test * scale + 5, y_test, **kwargs
  )
  np.testing.assert_array_equal(scaled, per_draw)
  assert mean < 1  # Else nothing could differ.


def test_labels_are_only_names():
  (x, y), (x_test, y_test) = make_data(40, spread=4.0), make_data(30, seed=1)
  one = fewshot.k_shot_accuracy(x, y, x_test, y_test, num_shots=3)
  two = fewshot.k_shot_accuracy(x, 7 * y, x_test, 7 * y_test, num_shots=3)
  np.testing.assert_array_equal(one[1], two[1])


def test_draws_are_seeded_nested_and_complete():
  labels = np.array([4, 9, 4, 9, 4, 9, 9, 4])

  def draw(num_shots, seed):
    return fewshot.draw_shots(labels, num_shots, np.random.default_rng(seed))

  three = draw(3, 0).reshape(2, 3)
  assert labels[three].tolist() == [[4] * 3, [9] * 3]
  assert len(set(three.ravel().tolist())) == 6
  np.testing.assert_array_equal(three[:, :1].ravel(), draw(1, 0))
  np.testing.assert_array_equal(three.ravel(), draw(3, 0))
  assert any((draw(3, s).ravel() != three.ravel()).any() for s in (1, 2, 3))


def test_draws_differ_and_seeds_repeat():
  (x, y), (x_test, y_test) = make_data(60, spread=4.0), make_data(60, seed=1)
  kwargs = dict(num_shots=2, num_draws=5)
  _, one = fewshot.k_shot_accuracy(x, y, x_test, y_test, seed=1, **kwargs)
  _, same = fewshot.k_shot_accuracy(x, y, x_test, y_test, seed=1, **kwargs)
  _, other = fewshot.k_shot_accuracy(x, y, x_test, y_test, seed=2, **kwargs)
  assert one.tolist() == same.tolist() != other.tolist()
  assert len(set(one.tolist())) > 1


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(num_shots=5), "Class 10 has 4 training images; 5-shot"),
    (dict(num_shots=0), "num_shots is 0"),
    (dict(num_draws=0), "num_draws is 0"),
    (dict(test_labels=np.full(10, 11)), "Test label 11 does not occur"),
    (dict(train_labels=np.zeros(3)), "20 training features but 3"),
    (dict(test_features=np.full((10, 7), np.nan)), "test features hold NaN"),
  ],
)
def test_wrong_input_is_refused(change, message):
  (x, y), (x_test, y_test) = make_data(20), make_data(10)
  inputs = dict(
    train_features=x,
    train_labels=y,
    test_features=x_test,
    test_labels=y_test,
    num_shots=2,
  )
  with pytest.raises(ValueError, match=message):
    fewshot.k_shot_accuracy(**(inputs | change))
