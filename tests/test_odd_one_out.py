"""Tests of alignet_jax.odd_one_out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax import odd_one_out

# Dot products: 0 and 1 give 2, 0 and 2 give 1, 1 and 2 give 3.
Z = np.array([[1.0, 0.0], [2.0, 1.0], [1.0, 1.0]], np.float32)


def test_item_scores_the_similarity_of_the_other_two():
  np.testing.assert_allclose(
    odd_one_out.logits(Z), [3.0, 1.0, 2.0], rtol=1e-6, atol=0
  )
  np.testing.assert_allclose(
    odd_one_out.logits(Z, temperature=2.0), [1.5, 0.5, 1.0], rtol=1e-6, atol=0
  )


def test_cosine_by_hand():
  # Norms 1, sqrt 5, sqrt 2.
  expected = [3 / np.sqrt(10), 1 / np.sqrt(2), 2 / np.sqrt(5)]
  np.testing.assert_allclose(
    odd_one_out.logits(Z, cosine=True), expected, rtol=1e-6, atol=0
  )
  zeros = odd_one_out.logits(np.zeros((3, 2), np.float32), cosine=True)
  np.testing.assert_array_equal(zeros, [0.0, 0.0, 0.0])


def test_permuting_items_permutes_logits(np_rng):
  z = np_rng.standard_normal((5, 3, 7)).astype(np.float32)
  for order in itertools.permutations(range(3)):
    np.testing.assert_allclose(
      odd_one_out.logits(z[:, order]),
      odd_one_out.logits(z)[:, order],
      rtol=1e-5,
      atol=1e-5,
    )


def test_rows_are_gathered(np_rng):
  x = np_rng.standard_normal((11, 5)).astype(np.float32)
  triplets = np.array([[0, 4, 10], [3, 3, 7]])
  np.testing.assert_allclose(
    odd_one_out.logits_of_rows(x, triplets),
    odd_one_out.logits(x[triplets]),
    rtol=1e-6,
    atol=1e-6,
  )


def test_pairs_of_files_are_the_items_reversed():
  pair_sims = np.array([[0.1, 0.2, 0.3]])  # 01, 02, 12
  scores = odd_one_out.logits_from_pair_sims(pair_sims)
  np.testing.assert_array_equal(scores, [[0.3, 0.2, 0.1]])
  np.testing.assert_array_equal(
    odd_one_out.pair_sims_from_logits(scores), pair_sims
  )


@pytest.mark.parametrize(
  ("scores", "odd"),
  [
    ([3.0, 1.0, 2.0], 0),
    ([0.0, 1.0, 2.0], 2),
    ([2.0, 2.0, 1.0], odd_one_out.TIE),
    ([1.0, 1.0, 2.0], 2),
    ([1.0, 1.0, 1.0], odd_one_out.TIE),
    ([np.nan, 1.0, 2.0], odd_one_out.TIE),
    ([-np.inf, -1.0, -2.0], 1),
  ],
)
def test_choice_and_ties(scores, odd):
  assert int(odd_one_out.choose(jnp.array(scores))) == odd


def test_constant_embeddings_are_wrong_and_random_ones_at_chance(np_rng):
  constant = odd_one_out.logits(np.ones((20, 3, 4), np.float32))
  assert float(odd_one_out.accuracy(constant)) == 0.0
  num = 20_000
  random = np_rng.standard_normal((num, 3)).astype(np.float32)
  error = 4 * np.sqrt(2 / 9 / num)
  assert abs(float(odd_one_out.accuracy(random)) - odd_one_out.CHANCE) < error


def test_masked_accuracy_is_that_of_the_real_ones(np_rng):
  scores = np_rng.standard_normal((13, 3)).astype(np.float32)
  odd = np_rng.integers(3, size=13)
  mask = np.arange(13) < 7
  assert float(odd_one_out.accuracy(scores, odd, mask=mask)) == pytest.approx(
    float(odd_one_out.accuracy(scores[:7], odd[:7]))
  )


def test_entropy_by_hand_and_at_the_edge():
  half = np.log(np.array([0.5, 0.5, 1e-30]))
  assert float(odd_one_out.entropy(jnp.array(half))) == pytest.approx(
    np.log(2), rel=1e-5
  )
  sure = jnp.array([0.0, -jnp.inf, -jnp.inf])
  assert float(odd_one_out.entropy(sure)) == 0.0
  logits = jnp.array([1e4, -1e4, 0.0])
  value, grad = jax.value_and_grad(
    lambda x: odd_one_out.entropy(odd_one_out.log_probs(x))
  )(logits)
  assert np.isfinite(value) and np.isfinite(grad).all()
