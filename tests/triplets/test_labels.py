import math

import numpy as np
import pytest

from alignet_jax import odd_one_out
from alignet_jax.triplets import labels


def _random_case(num_items=13, num_triplets=101, width=5):
  np_rng = np.random.default_rng(0)
  features = np_rng.normal(size=(num_items, width)).astype(np.float32)
  triplets = np.stack(
    [np_rng.permutation(num_items)[:3] for _ in range(num_triplets)]
  )
  return features, triplets


def test_order_worked_out_by_hand():
  # Dots: 0.1 = 2, 0.2 = 1, 1.2 = 4. The pair (1, 2) is most alike, so image 0
  # is odd and goes last; of its partners, 1 is nearer to it and goes first.
  features = np.array([[1.0, 0.0], [2.0, 1.0], [1.0, 2.0]], np.float32)
  indices, pair_sims = labels.label(features, np.array([[0, 1, 2]]))
  np.testing.assert_array_equal(indices, [[1, 2, 0]])
  np.testing.assert_array_equal(pair_sims, [[4.0, 2.0, 1.0]])


@pytest.mark.parametrize("chunk_values", [2**22, 35])
def test_equals_a_plain_loop(chunk_values, monkeypatch):
  monkeypatch.setattr(labels, "CHUNK_VALUES", chunk_values)
  features, triplets = _random_case()
  indices, pair_sims = labels.label(features, triplets)
  assert indices.dtype == np.int64 and pair_sims.dtype == np.float32
  for row, triplet in enumerate(triplets):
    i, j, k = indices[row]
    assert sorted(triplet) == sorted([i, j, k])
    want = [features[a] @ features[b] for a, b in ((i, j), (i, k), (j, k))]
    np.testing.assert_allclose(pair_sims[row], want, rtol=1e-5, atol=1e-6)
    assert want[0] >= want[1] >= want[2]


def test_the_odd_item_of_the_shared_definition_stands_last():
  features, triplets = _random_case()
  indices, pair_sims = labels.label(features, triplets)
  scores = odd_one_out.logits_of_rows(features, indices)
  np.testing.assert_array_equal(odd_one_out.choose(scores), 2)
  np.testing.assert_allclose(
    labels.target_logprobs(pair_sims),
    odd_one_out.log_probs(scores),
    rtol=1e-5,
    atol=1e-5,
  )


def test_result_does_not_depend_on_the_given_order():
  features, triplets = _random_case()
  indices, _ = labels.label(features, triplets)
  for order in ([0, 2, 1], [2, 0, 1], [1, 2, 0]):
    again, _ = labels.label(features, triplets[:, order])
    np.testing.assert_array_equal(again, indices)


def test_tie_keeps_the_first_pair():
  indices, _ = labels.label(np.ones((5, 2), np.float32), np.array([[4, 2, 3]]))
  np.testing.assert_array_equal(indices, [[4, 2, 3]])


def test_similarity_that_is_not_finite_is_named():
  features, triplets = _random_case()
  features[triplets[7, 1], 2] = np.inf
  row = np.flatnonzero(np.any(triplets == triplets[7, 1], axis=1))[0]
  with pytest.raises(ValueError, match=f"Triplet {row} .*not finite"):
    labels.label(features, triplets)


def test_entropy_by_hand_and_by_the_shared_definition():
  # softmax(ln 2, 0, 0) = (1/2, 1/4, 1/4): entropy 1.5 ln 2.
  sims = np.array([[math.log(2), 0.0, 0.0]])
  np.testing.assert_allclose(
    labels.mean_entropy(sims), 1.5 * math.log(2), rtol=1e-12, atol=0
  )
  _, pair_sims = labels.label(*_random_case())
  want = odd_one_out.entropy(labels.target_logprobs(pair_sims / 3)).mean()
  np.testing.assert_allclose(
    labels.mean_entropy(pair_sims, temperature=3.0), want, rtol=1e-5, atol=0
  )
  assert labels.mean_entropy(np.array([[1e5, 0.0, -1e5]])) == 0.0


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_matched_temperature_gives_the_wanted_entropy(scale):
  _, pair_sims = labels.label(*_random_case())
  sims = pair_sims * np.float32(scale) + np.float32(100 * scale)
  temperature = labels.match_entropy(sims, 0.79)
  got = labels.mean_entropy(sims, temperature=temperature)
  np.testing.assert_allclose(got, 0.79, rtol=0, atol=1e-9)


def test_entropy_out_of_reach_is_refused():
  ties = np.ones((5, 3), np.float32)
  with pytest.raises(ValueError, match="0.7900 nats"):
    labels.match_entropy(ties, 0.79)
  with pytest.raises(ValueError, match="1.2000 nats"):
    labels.match_entropy(np.array([[3.0, 2.0, 1.0]]), 1.2)


def test_hard_targets_by_hand():
  sims = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
  got = np.exp(labels.hard_target_logprobs(sims))
  want = [[0, 0, 1], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]]
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=0)
  assert got.dtype == np.float32


def test_half_precision_is_multiplied_in_float32():
  features = np.array([[300, 1], [300, 0], [-300, 1]], np.float16)
  _, pair_sims = labels.label(features, np.array([[0, 1, 2]]))
  # 90,000 is beyond the largest float16.
  np.testing.assert_array_equal(pair_sims, [[9e4, 1 - 9e4, -9e4]])
