import numpy as np
from scipy import stats

from alignet_jax.triplets import batches

NUM_TRIPLETS = 23


def _rows(step, **settings):
  settings = {
    "num_triplets": NUM_TRIPLETS,
    "batch_size": 5,
    "seed": 3,
  } | settings
  return batches.batch_rows(step, **settings)


def test_each_epoch_holds_every_triplet_once_in_another_order():
  stream = np.concatenate([_rows(step)[0] for step in range(23)])
  epochs = stream.reshape(5, NUM_TRIPLETS)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(NUM_TRIPLETS))
  assert len({tuple(epoch) for epoch in epochs.tolist()}) == 5
  assert np.any(epochs[0] != np.arange(NUM_TRIPLETS))


def test_stream_does_not_depend_on_how_it_is_cut_into_batches():
  small = [_rows(step, batch_size=2) for step in range(15)]
  large = [_rows(step, batch_size=30) for step in range(1)]
  for part in range(2):
    np.testing.assert_array_equal(
      np.concatenate([batch[part] for batch in small]),
      np.concatenate([batch[part] for batch in large]),
    )


def test_batch_may_be_larger_than_an_epoch():
  rows, _ = _rows(0, batch_size=3 * NUM_TRIPLETS)
  np.testing.assert_array_equal(np.bincount(rows), np.full(NUM_TRIPLETS, 3))


def test_orders_of_the_images_are_equally_likely_and_new_each_epoch():
  rows, order = _rows(0, batch_size=1000 * NUM_TRIPLETS)
  np.testing.assert_array_equal(np.sort(order), [[0, 1, 2]] * len(order))
  codes = order[:, 0] * 3 + order[:, 1]
  counts = np.bincount(codes, minlength=9)[[1, 2, 3, 5, 6, 7]]
  assert stats.chisquare(counts).pvalue > 1e-4
  # Positions of the odd image for one and the same triplet over 1000 epochs.
  odd = np.argmax(order == 2, axis=-1)
  for row in (0, 11, 22):
    assert stats.chisquare(np.bincount(odd[rows == row])).pvalue > 1e-4


def test_neighbours_in_an_epoch_are_unrelated():
  # (first, second) triplet of an epoch over many seeds: 20 ordered pairs of 5.
  pairs = np.zeros((5, 5))
  for seed in range(600):
    rows, _ = _rows(0, num_triplets=5, batch_size=2, seed=seed)
    pairs[rows[0], rows[1]] += 1
  assert np.all(np.diag(pairs) == 0)
  off_diagonal = pairs[~np.eye(5, dtype=bool)]
  assert stats.chisquare(off_diagonal).pvalue > 1e-4


def test_seed_matters_and_late_steps_cost_nothing():
  rows, order = _rows(10**12, num_triplets=10**7, batch_size=512)
  assert rows.shape == (512,) and order.shape == (512, 3)
  assert rows.min() >= 0 and rows.max() < 10**7
  other, _ = _rows(10**12, num_triplets=10**7, batch_size=512, seed=4)
  assert np.mean(rows == other) < 0.05
