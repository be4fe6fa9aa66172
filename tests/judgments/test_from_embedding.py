import numpy as np
import pytest
import scipy.special
import scipy.stats

from alignet_jax.judgments import from_embedding


def test_all_triples_are_drawn_alike():
  embedding = np.eye(5, dtype=np.float32)
  triplets = np.sort(
    from_embedding.draw(embedding, 30_000, seed=3).triplets, axis=1
  )
  assert (np.diff(triplets, axis=1) > 0).all()  # Three different objects.
  kinds, counts = np.unique(triplets, axis=0, return_counts=True)
  assert len(kinds) == 10
  assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_targets_and_answers_are_those_of_the_dot_products(np_rng):
  embedding = np.abs(np_rng.normal(size=(7, 3))).astype(np.float32)
  drawn = from_embedding.draw(embedding, 40_000, seed=5)
  sims = embedding.astype(np.float64) @ embedding.T
  i, j, k = drawn.triplets.T
  logits = np.stack([sims[j, k], sims[i, k], sims[i, j]], axis=1)
  expected = scipy.special.log_softmax(logits, axis=1)
  np.testing.assert_allclose(
    drawn.target_logprobs, expected, rtol=1e-4, atol=1e-5
  )
  # One answer each: the last is odd as often as its probability says.
  ordered = np.sort(drawn.triplets, axis=1)
  for kind in np.unique(ordered, axis=0)[:8]:
    here = (ordered == kind).all(axis=1)
    a, b, c = kind
    probs = scipy.special.softmax([sims[b, c], sims[a, c], sims[a, b]])
    counts = [np.sum(drawn.triplets[here, 2] == item) for item in kind]
    assert scipy.stats.chisquare(counts, probs * here.sum()).pvalue > 1e-4


def test_a_seed_decides_the_draw(np_rng):
  embedding = np_rng.normal(size=(7, 3))
  first = from_embedding.draw(embedding, 50, seed=1)
  again = from_embedding.draw(embedding, 50, seed=1)
  other = from_embedding.draw(embedding, 50, seed=2)
  np.testing.assert_array_equal(first.triplets, again.triplets)
  assert (first.triplets != other.triplets).any()
  assert first.triplets.dtype == np.int32


@pytest.mark.parametrize(
  ("embedding", "message"),
  [
    (np.ones((2, 3)), r"shape \(2, 3\).*at least 3"),
    (np.full((4, 3), np.nan), "NaN"),
  ],
)
def test_embeddings_that_cannot_be_used_are_refused(embedding, message):
  with pytest.raises(ValueError, match=message):
    from_embedding.draw(embedding, 10, seed=0)


def test_more_triplets_than_fit_into_a_block(np_rng, monkeypatch):
  embedding = np.abs(np_rng.normal(size=(7, 3))).astype(np.float32)
  whole = from_embedding.draw(embedding, 23, seed=5)
  monkeypatch.setattr(from_embedding, "_BLOCK", 7)
  parts = from_embedding.draw(embedding, 23, seed=5)
  np.testing.assert_array_equal(parts.triplets, whole.triplets)
  np.testing.assert_allclose(
    parts.target_logprobs, whole.target_logprobs, rtol=1e-6, atol=1e-6
  )


def test_none_cannot_be_drawn():
  with pytest.raises(ValueError, match="num_triplets is 0"):
    from_embedding.draw(np.eye(4), 0, seed=0)
