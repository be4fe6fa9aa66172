"""Twenty steps on any devices: the same batches, losses equal to 1e-5.

One process with eight simulated devices; a mesh takes as many as it needs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax.backbones import vit
from alignet_jax.images import collections
from alignet_jax.student import losses, model, optimizer, sharding, train
from alignet_jax.triplets import batches, dense_batches

NUM_STEPS, SIZE, NUM_IMAGES = 20, 4, 64
SHAPES = ((8, 1, 1), (2, 2, 2), (1, 4, 2), (4, 1, 2), (1, 8, 1), (2, 1, 1))
STUDENT = model.Student(
  # Eight heads, so that attention is cut on any of the meshes.
  backbone=vit.ViT(patch_size=2, width=16, depth=2, mlp_dim=24, num_heads=8),
  head_dim=8,
)
TX = optimizer.make_optimizer(lr=1e-3, warmup_steps=2, num_steps=NUM_STEPS)

pytestmark = pytest.mark.skipif(
  len(jax.devices()) < 8, reason="needs 8 devices"
)


@pytest.fixture(scope="module", name="params")
def _params():
  image = jnp.zeros([1, SIZE, SIZE, 3])
  params = jax.jit(STUDENT.init)(jax.random.key(0), image)["params"]
  return jax.tree.map(np.array, params)


@functools.cache
def make_batches(kind):
  """What makes the share of a host of the batch of a step."""
  np_rng = np.random.default_rng(0)
  pixels = np_rng.integers(0, 256, (NUM_IMAGES, SIZE, SIZE, 3), np.uint8)
  images = collections.ArrayImages(pixels)
  if kind == "dense":
    features = np_rng.normal(size=(NUM_IMAGES, 5)).astype(np.float32)
    return functools.partial(
      dense_batches.DenseBatches,
      np.arange(NUM_IMAGES) % 8,
      features,
      images,
      clusters_per_batch=4,
      images_per_cluster=4,
      seed=3,
    )
  indices = np.argsort(np_rng.random((50, NUM_IMAGES)))[:, :3]
  sims = np_rng.normal(size=(50, 3), scale=2).astype(np.float32)
  return functools.partial(
    batches.Batches, indices, sims, images, batch_size=8, seed=3
  )


def run(params, kind, shape, num_microbatches=1):
  """Losses of all steps, and the batches as the devices had them."""
  data, fsdp, tensor = shape
  devices = jax.devices()[: data * fsdp * tensor]
  mesh = sharding.make_mesh(fsdp=fsdp, tensor=tensor, devices=devices)
  state = sharding.place(train.init_state(params, TX), mesh)
  where = jax.tree.map(lambda x: x.sharding, state)
  made = make_batches(kind)()
  name = "teacher_sims" if kind == "dense" else "target_logprobs"
  history, seen = [], []
  before = train.train_step._cache_size()
  for step in range(NUM_STEPS):
    batch = made.make(step)
    batch = {key: batch[key] for key in ("image", name)}
    batch = sharding.shard_batch(batch, mesh)
    seen.append(jax.device_get(batch))
    state, metrics = train.train_step(
      state,
      batch,
      model=STUDENT,
      tx=TX,
      loss_fn=losses.jsd,
      temperature=10.0,
      value_range=(-1, 1),
      images_per_cluster=4 if kind == "dense" else 0,
      num_microbatches=num_microbatches,
      mesh=mesh,
    )
    history.append(metrics["loss"])
  # The state stays where it was placed, so there is nothing to compile again.
  assert jax.tree.map(lambda x: x.sharding, state) == where
  assert train.train_step._cache_size() <= before + 1
  return np.array(history), seen


@pytest.fixture(scope="module", name="alone")
def _alone(params):
  """Losses and batches on one device, by kind of batch."""
  return functools.cache(lambda kind: run(params, kind, (1, 1, 1)))


def compare(params, alone, kind, shape, num_microbatches=1):
  """Runs on a mesh, and against one device."""
  want, batches_of_one = alone(kind)
  got, batches_of_many = run(params, kind, shape, num_microbatches)
  for one, many in zip(batches_of_one, batches_of_many, strict=True):
    for name, x in one.items():
      np.testing.assert_array_equal(many[name], x, strict=True)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=0)
  # It learns, so equal losses say something of the updates.
  assert want[-4:].mean() < 0.99 * want[:4].mean()


@pytest.mark.parametrize(
  ("kind", "num_microbatches"),
  [pytest.param("triplet", 1, marks=pytest.mark.slow), ("dense", 2)],
)
def test_eight_devices_by_all_three_axes(params, alone, kind, num_microbatches):
  compare(params, alone, kind, (2, 2, 2), num_microbatches)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["triplet", "dense"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_of_mesh(params, alone, kind, shape):
  compare(params, alone, kind, shape)


@pytest.mark.parametrize("kind", ["triplet", "dense"])
def test_two_hosts_shares_make_the_same_arrays(kind):
  """The shares that two hosts would give to their devices, put together."""
  for step in (0, NUM_STEPS - 1):
    whole = make_batches(kind)().make(step)
    shares = [
      make_batches(kind)(host_index=host, num_hosts=2).make(step)
      for host in range(2)
    ]
    for name, x in whole.items():
      joined = np.concatenate([share[name] for share in shares])
      np.testing.assert_array_equal(joined, x, strict=True)
