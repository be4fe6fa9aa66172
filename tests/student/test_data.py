"""Sources of batches: the share of a host, the step, and what is held out."""

import types

import ml_collections
import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.images import collections
from alignet_jax.student import data
from alignet_jax.triplets import (
  dataset,
  dense,
  dense_batches,
  dense_files,
  files,
)

NUM_IMAGES, SIZE, SEED = 24, 2, 3
NUM_TRIPLETS = {"train": 17, "val": 7}
CLUSTERS = np.arange(NUM_IMAGES) % 4
# Made by the second of two hosts.
HOSTS = {"host_index": 1, "num_hosts": 2}


def make_triplets(split):
  np_rng = np.random.default_rng([1, len(split)])
  indices = np.argsort(np_rng.random((NUM_TRIPLETS[split], NUM_IMAGES)))[:, :3]
  sims = -np.sort(-np_rng.normal(size=(NUM_TRIPLETS[split], 3)), axis=1)
  return indices, sims.astype(np.float32)


@pytest.fixture
def images(np_rng):
  shape = (NUM_IMAGES, SIZE, SIZE, 3)
  return collections.ArrayImages(np_rng.integers(0, 256, shape, np.uint8))


@pytest.fixture
def opened(tmp_path, monkeypatch, images):
  """Opens the files of a run with some settings; counts what is read."""
  sharding = types.SimpleNamespace(
    batch_share=lambda mesh: tuple(HOSTS.values()),
    shard_batch=lambda batch, mesh: batch,
  )
  monkeypatch.setattr(data, "sharding", sharding)
  for split in NUM_TRIPLETS:
    path = files.path_of(tmp_path, "aligned", split, "cluster_border")
    files.write(path, *make_triplets(split))
  dense_files.write(tmp_path / "aligned", cluster_ids=CLUSTERS)
  features = np.random.default_rng(5).normal(size=(NUM_IMAGES, 3))
  artifacts.write_npy(tmp_path / "collection.npy", features.astype("f4"))
  read = []

  def count(path, **settings):
    read.append(path.name)
    return real(path, **settings)

  real = files.read
  monkeypatch.setattr(data.files, "read", count)

  def make(**settings):
    config = {
      "seed": SEED,
      "triplets": {"sampling": "cluster_border"},
      "student": {
        "batches": "triplet",
        "batch_size": 4,
        "clusters_per_batch": 3,
        "images_per_cluster": 2,
        "num_steps": 9,
        "eval_every": 2,
        "on_error": "refuse",
        **settings,
      },
    }
    context = types.SimpleNamespace(
      config=ml_collections.ConfigDict(config),
      inputs={"features": tmp_path, "triplets": tmp_path},
    )
    return data.open_examples(context, "aligned", images, mesh=None), read

  return make


def assert_same(batch, expected, *names):
  assert set(batch) == set(names)
  for name in names:
    np.testing.assert_array_equal(batch[name], expected[name], strict=True)


def test_triplets_of_a_step_are_the_share_of_this_host(opened, images):
  examples, _ = opened()
  given = *make_triplets("train"), images
  fixed = {"batch_size": 4, "seed": SEED}
  found = list(examples.batches(6))
  assert len(found) == 3  # Up to the last step.
  for step, batch in enumerate(found, 6):
    expected = dataset.make_batch(step, *given, **fixed, **HOSTS)
    assert len(expected["image"]) == 2
    assert_same(batch, expected, "image", "target_logprobs")
  whole = dataset.make_batch(6, *given, **fixed)
  described = examples.describe(6)
  np.testing.assert_array_equal(described["triplets"], whole["index"])
  assert sorted(described["images"].reshape(-1)) == sorted(
    given[0][whole["index"]].reshape(-1)
  )
  assert examples.units_per_step == {"images": 12, "triplets": 4}


def test_dense_batches_of_a_step_are_the_share_of_this_host(opened, images):
  examples, _ = opened(batches="dense")
  features = np.random.default_rng(5).normal(size=(NUM_IMAGES, 3))
  fixed = {"clusters_per_batch": 3, "images_per_cluster": 2, "seed": SEED}
  given = CLUSTERS, features.astype(np.float32), images
  made = dense_batches.DenseBatches(*given, **fixed, **HOSTS)
  found = list(examples.batches(7))
  assert len(found) == 2
  for step, batch in enumerate(found, 7):
    expected = made.make(step)
    assert len(expected["image"]) == 3
    assert_same(batch, expected, "image", "teacher_sims")
  whole = dense_batches.DenseBatches(*given, **fixed).make(8)
  described = examples.describe(8)
  np.testing.assert_array_equal(described["images"], whole["index"])
  assert examples.units_per_step == {
    "images": 6,
    "triplets": dense.num_triplets(3, 2),
  }


def test_held_out_are_other_triplets_each_once_and_read_once(opened, images):
  examples, read = opened()
  num_read = len(read)
  given = *make_triplets("val"), images
  for _ in range(2):
    found = list(examples.held_out())
    expected = list(
      dataset.make_epoch(*given, batch_size=4, seed=SEED, **HOSTS)
    )
    for batch, want in zip(found, expected, strict=True):
      assert_same(batch, want, "image", "target_logprobs", "mask")
    # Of eight places in two batches, this host has 2, 3, 6 and 7.
    np.testing.assert_array_equal(
      np.concatenate([batch["mask"] for batch in found]), [1, 1, 1, 0]
    )
  assert len(read) == num_read == 2


def test_without_evaluation_nothing_held_out_is_read(opened):
  assert len(opened(eval_every=0)[1]) == 1
