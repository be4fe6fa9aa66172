import threading
import time

import numpy as np
import pytest

from alignet_jax import artifacts, odd_one_out
from alignet_jax.images import collections
from alignet_jax.triplets import batches, dataset, labels, sampling
from benchmarks import input_pipeline

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


def _equal(some, others):
  assert len(some) == len(others)
  for batch, other in zip(some, others, strict=True):
    assert sorted(batch) == sorted(other)
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name])
      assert batch[name].dtype == other[name].dtype


def test_tf_data_gives_the_batch_of_each_step_from_any_start(world):
  _, indices, pair_sims, images = world
  settings = dict(batch_size=5, seed=3)

  def made(start_step, num_steps, **prefetch):
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
  _equal(made(0, 9), want)
  _equal(made(6, 3), want[6:])
  _equal(made(2, 7, num_parallel_batches=5, num_prefetched=1), want[2:])
  _equal(made(0, 9, num_parallel_batches=1, num_prefetched=7), want)


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
  due = next(
    s
    for s in range(99)
    if batches.batch_rows(s, num_triplets=NUM_TRIPLETS, batch_size=1, seed=3)[
      0
    ][0]
    in with_16
  )
  assert due > 0
  made = dataset.make_dataset(
    indices, pair_sims, Broken(), start_step=0, num_steps=99, **settings
  )
  for _ in range(due):
    next(made)
  with pytest.raises(artifacts.InputError, match=r"16\.jpg cannot be decoded"):
    next(made)


def test_of_several_failures_the_first_that_is_due_is_raised(world):
  _, indices, pair_sims, images = world
  first = indices[
    batches.batch_rows(0, num_triplets=NUM_TRIPLETS, batch_size=1, seed=3)[0]
  ]
  another_failed = threading.Event()

  class Broken:
    size = images.size

    def load(self, wanted):
      if set(wanted.tolist()) == set(first.reshape(-1).tolist()):
        assert another_failed.wait(10)
        time.sleep(0.02)  # Until that failure is noted.
        raise artifacts.InputError("the first")
      another_failed.set()
      raise artifacts.InputError("another")

  made = dataset.make_dataset(
    indices,
    pair_sims,
    Broken(),
    start_step=0,
    num_steps=3,
    batch_size=1,
    seed=3,
    num_parallel_batches=3,
  )
  with pytest.raises(artifacts.InputError, match="the first"):
    next(made)


def test_benchmark_counts_each_image_of_a_batch_once(monkeypatch):
  monkeypatch.setattr(input_pipeline, "NUM_COUNTED", 7)
  apart = np.arange(30).reshape(10, 3)  # Two batches an epoch.
  assert input_pipeline.images_per_triplet(apart, 5) == 3
  # Five triplets of the same three images.
  assert input_pipeline.images_per_triplet(apart[:1].repeat(10, 0), 5) == 3 / 5
