import numpy as np
import pytest
from scipy import stats

from alignet_jax import artifacts
from alignet_jax.images import collections
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
  other, other_order = _rows(10**12, num_triplets=10**7, batch_size=512, seed=4)
  assert np.mean(rows == other) < 0.05
  assert np.mean(np.all(order == other_order, axis=1)) < 0.3  # Chance: 1 / 6.


def test_rows_of_an_epoch_in_the_order_of_the_file():
  def epoch(step, seed=3):
    return batches.epoch_rows(step, num_triplets=7, batch_size=5, seed=seed)

  np.testing.assert_array_equal(epoch(0)[0], [0, 1, 2, 3, 4])
  np.testing.assert_array_equal(epoch(0)[2], [True] * 5)
  # The last triplet again, three times, and not counted.
  np.testing.assert_array_equal(epoch(1)[0], [5, 6, 6, 6, 6])
  np.testing.assert_array_equal(epoch(1)[2], [True, True, False, False, False])
  orders = [
    np.concatenate([epoch(s, seed)[1] for s in (0, 1)]) for seed in (3, 4)
  ]
  assert np.any(orders[0] != orders[1])


BROKEN = {item: "is broken" for item in (1, 4, 5, 9, 12, 15)}


def _plans(num_steps=30, *, seed=3, **hosts):
  """Plans of batches of 8 of 29 triplets, a third of 17 images broken."""
  np_rng = np.random.default_rng(0)
  indices = np.array([np_rng.permutation(17)[:3] for _ in range(29)])
  images = collections.ArrayImages(np.zeros((17, 1, 1, 3), np.uint8))
  made = batches.Batches(
    indices,
    np.tile(np.float32([3, 2, 1]), (29, 1)),
    images,
    batch_size=8,
    seed=seed,
    on_error="replace",
    **hosts,
  )
  made.broken = dict(BROKEN)
  plans = [made.plan(step) for step in range(num_steps)]
  rows = [
    batches.batch_rows(step, num_triplets=29, batch_size=8, seed=seed)[0]
    for step in range(num_steps)
  ]
  return plans, indices, np.array(rows)


def test_triplets_with_a_broken_image_at_any_position_are_replaced_and_marked():
  plans, indices, rows = _plans()
  items = np.array([items for items, _ in plans])
  assert not np.isin(items, list(BROKEN)).any()
  is_bad = np.isin(indices[rows], list(BROKEN)).any(axis=-1)
  assert 0.5 < is_bad.mean() < 0.9  # So some need several candidates.
  replaced = np.array([fields["replaced"] for _, fields in plans])
  np.testing.assert_array_equal(replaced, is_bad)
  index = np.array([fields["index"] for _, fields in plans])
  np.testing.assert_array_equal(index[~is_bad], rows[~is_bad])
  np.testing.assert_array_equal(np.sort(items), np.sort(indices[index]))
  # Every good triplet takes its turn in their place.
  good = np.flatnonzero(~np.isin(indices, list(BROKEN)).any(axis=-1))
  counts = np.bincount(index[is_bad], minlength=29)[good]
  assert counts.sum() == is_bad.sum()
  assert stats.chisquare(counts).pvalue > 1e-4
  # Another seed, other replacements: the same triplet, the same place.
  others, _, _ = _plans(seed=4)
  other = np.array([fields["index"] for _, fields in others])
  both = replaced & np.array([fields["replaced"] for _, fields in others])
  assert np.mean(index[both] == other[both]) < 0.5


def test_replacements_do_not_depend_on_the_share_of_a_host():
  whole, _, _ = _plans(9)
  shares = [_plans(9, host_index=host, num_hosts=4)[0] for host in range(4)]
  for step, (items, fields) in enumerate(whole):
    parts = [share[step] for share in shares]
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), items)
    for name, values in fields.items():
      joined = np.concatenate([p[1][name] for p in parts])
      np.testing.assert_array_equal(joined, values)


def test_a_batch_that_fails_without_a_broken_image_is_not_tried_for_ever():
  calls = []

  class Images(collections.ArrayImages):
    def read(self, index):
      return b""

    def decode(self, data, index):
      return np.zeros((1, 1, 3), np.uint8)

    def load(self, indices):
      calls.append(len(indices))
      assert len(calls) < 3
      raise artifacts.InputError("No image of it is to blame.")

  made = batches.Batches(
    np.array([[0, 1, 2]]),
    np.float32([[3, 2, 1]]),
    Images(np.zeros((3, 1, 1, 3), np.uint8)),
    batch_size=2,
    seed=0,
    on_error="replace",
  )
  with pytest.raises(artifacts.InputError, match="to blame"):
    made.make(0)
  assert calls == [6] and not made.broken
