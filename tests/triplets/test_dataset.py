import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from alignet_jax import artifacts, odd_one_out
from alignet_jax.images import collections
from alignet_jax.triplets import dataset, labels, sampling

NUM_IMAGES, NUM_TRIPLETS = 17, 23


@pytest.fixture(name="world")
def _world():
  """(features, indices, pair_sims, images); pixel values name the image."""
  np_rng = np.random.default_rng(0)
  features = np_rng.normal(size=(NUM_IMAGES, 5)).astype(np.float32)
  triplets = sampling.random(np.zeros(NUM_IMAGES), NUM_TRIPLETS, seed=0)
  indices, pair_sims = labels.label(features, triplets)
  pixels = np.zeros((NUM_IMAGES, 7, 7, 3), np.uint8)
  pixels += np.arange(NUM_IMAGES, dtype=np.uint8)[:, None, None, None]
  return features, indices, pair_sims, collections.ArrayImages(pixels)


def _rows(step, **settings):
  settings = {
    "num_triplets": NUM_TRIPLETS,
    "batch_size": 5,
    "seed": 3,
  } | settings
  return dataset.batch_rows(step, **settings)


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


def test_targets_move_with_the_images(world):
  features, indices, pair_sims, images = world
  for step in range(9):
    batch = dataset.make_batch(
      step, indices, pair_sims, images, batch_size=5, seed=3
    )
    assert batch["image"].shape == (5, 3, 7, 7, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["target_logprobs"].dtype == np.float32
    assert batch["index"].dtype == np.int64
    shown = batch["image"][:, :, 0, 0, 0].astype(np.int64)
    np.testing.assert_array_equal(
      np.sort(shown), np.sort(indices[batch["index"]])
    )
    # From the features of what is shown, knowing nothing of any order.
    want = odd_one_out.log_probs(odd_one_out.logits_of_rows(features, shown))
    np.testing.assert_allclose(
      batch["target_logprobs"], want, rtol=1e-4, atol=1e-5
    )


def _equal(batches, others):
  assert len(batches) == len(others)
  for batch, other in zip(batches, others, strict=True):
    assert sorted(batch) == sorted(other)
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])
      assert batch[name].dtype == other[name].dtype


def test_tf_data_gives_the_batch_of_each_step_from_any_start(world):
  _, indices, pair_sims, images = world
  settings = dict(batch_size=5, seed=3)

  def batches(start_step, num_steps, **prefetch):
    return list(
      dataset.make_dataset(
        indices,
        pair_sims,
        images,
        start_step=start_step,
        num_steps=num_steps,
        **settings,
        **prefetch,
      )
    )

  want = [
    dataset.make_batch(step, indices, pair_sims, images, **settings)
    for step in range(9)
  ]
  _equal(batches(0, 9), want)
  _equal(batches(6, 3), want[6:])
  _equal(batches(2, 7, num_parallel_batches=5, num_prefetched=1), want[2:])
  _equal(batches(0, 9, num_parallel_batches=1, num_prefetched=7), want)


def test_tf_data_raises_what_the_collection_raised_when_it_is_due(world):
  _, indices, pair_sims, images = world

  class Broken:
    size = images.size

    def load(self, wanted):
      if 16 in wanted:
        raise artifacts.InputError("The image file 16.jpg cannot be decoded.")
      return images.load(wanted)

  with_16 = np.flatnonzero(np.any(indices == 16, axis=1))
  settings = dict(batch_size=1, seed=3)
  due = next(s for s in range(99) if _rows(s, batch_size=1)[0][0] in with_16)
  assert due > 0
  batches = dataset.make_dataset(
    indices, pair_sims, Broken(), start_step=0, num_steps=99, **settings
  )
  for _ in range(due):
    next(batches)
  with pytest.raises(artifacts.InputError, match=r"16\.jpg cannot be decoded"):
    next(batches)


def test_module_imports_without_tensorflow():
  code = (
    "import sys; from alignet_jax.triplets import dataset, stage;"
    "assert 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
