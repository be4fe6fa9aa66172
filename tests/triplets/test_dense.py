import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from alignet_jax import odd_one_out
from alignet_jax.triplets import dense

# Sizes 3, 2, 4, 3 and 1 of the clusters 0, 1, 2, 5 and 7.
CLUSTERS = np.array([0, 2, 5, 1, 2, 0, 5, 7, 2, 1, 5, 0, 2])


def _batches(number, **options):
  settings = dict(seed=3, clusters_per_batch=2, images_per_cluster=3)
  return dense.batches(CLUSTERS, number, **(settings | options))


def test_all_triplets_by_hand_and_by_number():
  # Images 0, 1 of the first cluster, 2, 3 of the second.
  want = [[0, 1, 2], [0, 1, 3], [2, 3, 0], [2, 3, 1]]
  np.testing.assert_array_equal(dense.triplets(2, 2), want)
  got = dense.triplets(5, 3)
  assert got.shape == (5 * 4 * 3 * 3, 3)
  want = {
    (i, j, k)
    for i, j in itertools.combinations(range(15), 2)
    for k in range(15)
    if i // 3 == j // 3 != k // 3
  }
  assert set(map(tuple, got.tolist())) == want
  assert len(dense.triplets(8, 8)) == 12_544


def test_batch_holds_distinct_images_of_distinct_clusters():
  batches = _batches(500)
  assert batches.shape == (500, 2, 3) and batches.dtype == np.int64
  clusters = CLUSTERS[batches]
  assert np.all(clusters == clusters[..., :1])
  assert np.all(clusters[:, 0, 0] != clusters[:, 1, 0])
  ordered = np.sort(batches.reshape(500, -1), axis=1)
  assert np.all(ordered[:, 1:] != ordered[:, :-1])


def test_every_ordered_batch_has_the_documented_probability():
  # Clusters 0, 2, 5 have three images or more: 6 ordered choices of two, times
  # 3! orders of the images of 0 and 5, times 4 * 3 * 2 of 2.
  number = 30_000
  orders = {0: math.perm(3, 3), 2: math.perm(4, 3), 5: math.perm(3, 3)}
  counts = {}
  for batch in _batches(number).reshape(number, -1).tolist():
    counts[tuple(batch)] = counts.get(tuple(batch), 0) + 1
  expected = []
  for pair in itertools.permutations(orders, 2):
    of_pair = orders[pair[0]] * orders[pair[1]]
    expected += [number / 6 / of_pair] * of_pair
  seen = [
    1 / 6 / math.prod(orders[c] for c in CLUSTERS[list(b)[::3]].tolist())
    for b in counts
  ]
  missing = len(expected) - len(counts)
  assert missing >= 0 and min(expected) > 5
  chi2 = sum(
    (count - number * prob) ** 2 / (number * prob)
    for count, prob in zip(counts.values(), seen, strict=True)
  )
  chi2 += number - number * sum(seen)  # Those that never came.
  assert stats.chi2.sf(chi2, len(expected) - 1) > 1e-4


def test_batch_depends_on_seed_and_index_only():
  many = _batches(100)
  np.testing.assert_array_equal(_batches(7, start=60), many[60:67])
  assert np.mean(_batches(100, seed=4) == many) < 0.5


def test_scores_are_those_of_the_shared_definition():
  z = np.random.default_rng(0).normal(size=(15, 7)).astype(np.float32)
  triplets = dense.triplets(5, 3)
  got = dense.logits(z, triplets, temperature=2.0)
  want = odd_one_out.logits_of_rows(z, triplets, temperature=2.0)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  gradients = [
    jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x, triplets))))(jnp.asarray(z))
    for f in (dense.logits, odd_one_out.logits_of_rows)
  ]
  np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"clusters_per_batch": 4},
      "4 clusters with 3 images or more; there are 3",
    ),
    (
      {"images_per_cluster": 5},
      "2 clusters with 5 images or more; there are 0",
    ),
    ({"clusters_per_batch": 1}, "clusters_per_batch is 1; it must be"),
    ({"images_per_cluster": 1}, "images_per_cluster is 1; it must be"),
  ],
)
def test_batches_that_cannot_be_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    _batches(3, **options)


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (7, 2)])
def test_triplets_are_counted_without_making_them(size):
  assert dense.num_triplets(*size) == len(dense.triplets(*size))
