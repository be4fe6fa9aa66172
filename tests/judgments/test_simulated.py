"""Tests of the simulated people."""

import itertools

import numpy as np
import pytest

from alignet_jax.images import world as world_lib
from alignet_jax.judgments import simulated

WEIGHTS = {
  "kind": 0.5,
  "superordinate": 2.0,
  "basic": 1.0,
  "exemplar": 3.0,
  "outline": 0.25,
  "colour": 0.125,
}


@pytest.fixture(name="world", scope="module")
def make_world_fixture():
  return world_lib.make_world(seed=0, num_exemplars=3, num_heldout_basics=2)


def test_shared_by_hand(world):
  same_basic = (0, 1)  # Disc animals.
  same_outline = (0, np.flatnonzero(world.basic == 8)[0])  # A disc vehicle.
  for (first, second), expected in (
    (same_basic, [1, 1, 1, 0, 1]),
    (same_outline, [0, 0, 0, 0, 1]),
    ((4, 4), [1, 1, 1, 1, 1]),
  ):
    met = simulated.shared(world, np.array(first), np.array(second))
    np.testing.assert_array_equal(met[:5], expected)
  assert simulated.shared(world, np.array(4), np.array(4))[5] == 1.0


def test_weights_need_every_name():
  with pytest.raises(ValueError, match="needed are"):
    simulated.average_weights({"basic": 1.0})


def test_probabilities_against_a_loop(world, np_rng):
  weights = simulated.average_weights(WEIGHTS)
  triplets = simulated.random_triplets(len(world), 7, np_rng)
  met = simulated.choice_probs(world, triplets, weights, lapse=0.3)
  for row, (i, j, k) in enumerate(triplets):
    scores = [
      np.exp(simulated.shared(world, a, b) @ weights)
      for a, b in ((j, k), (i, k), (i, j))
    ]
    expected = 0.7 * np.array(scores) / sum(scores) + 0.1
    np.testing.assert_allclose(met[row], expected, rtol=1e-12, atol=0)


def test_answers_follow_the_probabilities(world):
  np_rng = np.random.default_rng(0)
  weights = simulated.average_weights(WEIGHTS)
  people = simulated.make_people(
    np_rng, weights, num_people=4_000, spread=0.0, lapse=0.1
  )
  triplets = np.array([[0, 1, 30], [0, 60, 120]])
  counts = simulated.count_answers(world, triplets, people, 4_000, np_rng)
  probs = simulated.choice_probs(world, triplets, weights, lapse=0.1)
  np.testing.assert_array_equal(counts.sum(axis=1), [4_000, 4_000])
  error = 4 * np.sqrt(probs * (1 - probs) / 4_000)
  assert (np.abs(counts / 4_000 - probs) < error).all()


def test_odd_last_keeps_the_order_of_the_others():
  triplets = np.array([[7, 8, 9]] * 3)
  np.testing.assert_array_equal(
    simulated.odd_last(triplets, np.array([0, 1, 2])),
    [[8, 9, 7], [7, 9, 8], [7, 8, 9]],
  )


def test_random_triplets_are_uniform_over_ordered_triples():
  triplets = simulated.random_triplets(4, 24_000, np.random.default_rng(0))
  orders = list(itertools.permutations(range(4), 3))
  counts = np.array([(triplets == o).all(axis=1).sum() for o in orders])
  assert counts.sum() == 24_000
  # Chi-square of 23 degrees of freedom: 49.7 is its 99.9% quantile.
  assert ((counts - 1_000) ** 2 / 1_000).sum() < 49.7


def test_levels_are_what_they_say(world, np_rng):
  num_images = {"evaluation": 2}
  shown = world_lib.exemplars_of(world, "evaluation", num_images)

  def distinct(values, triplets):
    return np.array([len(set(row)) for row in values[shown[triplets]]])

  for level, uppers, basics, exemplars in (
    ("coarse", {2}, {3}, {3}),
    ("fine", {1}, {1}, {2}),
    ("boundary", {1, 2}, {2}, {3}),
  ):
    triplets = simulated.level_triplets(world, shown, level, 50, np_rng)
    assert all(len(set(row)) == 3 for row in triplets.tolist())
    assert set(distinct(world.superordinate, triplets)) <= uppers
    assert set(distinct(world.basic, triplets)) == basics
    assert set(distinct(np.arange(len(world)), triplets)) == exemplars
