"""Held-out RSA, nearest neighbours and one shot, by hand and by loops."""

import numpy as np
import pytest
import scipy.stats

from alignet_jax.photos import scores

# Directions in degrees: 0 and 1 are near each other, as are 2, 3 and 4.
ANGLES = np.deg2rad([0.0, 10.0, 100.0, 125.0, 119.0])
Z = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * np.array(
  [[1.0], [7.0], [2.0], [3.0], [5.0]]
)


def test_rsa_ranks_cosines_against_dot_products(np_rng):
  z, people = np_rng.normal(size=(7, 5)), np_rng.normal(size=(7, 3))
  ours, theirs, dots = [], [], []
  for i in range(7):
    for j in range(i + 1, 7):
      norm = np.linalg.norm(z[i]) * np.linalg.norm(z[j])
      ours.append(z[i] @ z[j] / norm)
      dots.append(z[i] @ z[j])
      theirs.append(people[i] @ people[j])
  expected = scipy.stats.spearmanr(ours, theirs).statistic
  found = scores.rsa_within(z, people)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
  expected = scipy.stats.spearmanr(dots, theirs).statistic
  found = scores.rsa_dot(z, people)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_nearest_is_right_by_hand():
  # 0 is nearest to 1, 1 to 0, 2 to 4, 3 to 4, 4 to 3.
  labels = np.array([5, 5, 8, 8, 5])
  found = scores.nearest_is_right(Z, labels, np.array([0, 1, 2, 3, 4]))
  np.testing.assert_array_equal(found, [True, True, False, False, False])


def test_photographs_without_a_category_are_no_neighbours():
  # Without 4, the nearest of 2 is 3; of 3 it is 2.
  labels = np.array([5, 5, 8, 8, -1])
  found = scores.nearest_is_right(Z, labels, np.array([2, 3]))
  np.testing.assert_array_equal(found, [True, True])


def test_one_shot_by_hand():
  labels = np.array([5, 8, 5, 8, 8])
  # The shots of 5 and 8 are 0 or 2, and 3 always; 4 is nearest to 3 always,
  # and 1, an 8, is nearer to 0 and to 2 than to 3.
  found = scores.one_shot(
    Z, labels, np.array([4, 1]), np.array([0, 2, 3]), num_draws=11, seed=0
  )
  np.testing.assert_allclose(found, [1.0, 0.0], rtol=0, atol=0)


def test_one_shot_is_the_mean_of_draws():
  # 4 (a 5) is nearer to 3 (an 8) than to any 5 but 2: right where 2 is drawn.
  labels = np.array([5, 5, 5, 8, 5])
  z = Z.copy()
  z[2] = Z[4]
  [found] = scores.one_shot(
    z, labels, np.array([4]), np.array([0, 1, 2, 3]), num_draws=300, seed=1
  )
  # Binomial, p = 1/3 of 300: five standard deviations.
  np.testing.assert_allclose(found, 1 / 3, rtol=0, atol=0.136)


def test_one_shot_needs_every_category():
  with pytest.raises(ValueError, match="Category 8 of the queries"):
    scores.one_shot(
      Z, np.array([5, 5, 5, 8, 5]), [3], [0, 1], num_draws=1, seed=0
    )


def test_usable_labels_need_photographs_in_and_outside_each_fold():
  categories = ["b", "a", "", "b", "c", "a", "a", "b", "d", "d"]
  folds = [np.array([0, 1, 2, 8, 9]), np.array([3, 4, 5, 6, 7])]
  labels, names = scores.usable_labels(categories, folds, min_photos=2)
  # c has one photograph, d lies in the first fold altogether.
  assert names == ["a", "b"]
  np.testing.assert_array_equal(labels, [1, 0, -1, 1, -1, 0, 0, 1, -1, -1])
