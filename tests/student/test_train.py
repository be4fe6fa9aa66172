"""The train step: against plain numpy, one compile, any device count."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from alignet_jax import artifacts
from alignet_jax.student import losses, model, optimizer, sharding, train

BACKBONE_DIM = 5
HEAD_DIM = 7


class Backbone(nn.Module):
  """A small stand-in for the ViT: one linear map of the pixels."""

  @nn.compact
  def __call__(self, image):
    x = nn.Dense(BACKBONE_DIM, name="dense")(image.reshape(len(image), -1))
    return x, {"pre_logits": x}


STUDENT = model.Student(backbone=Backbone(), head_dim=HEAD_DIM)
TX = optimizer.make_optimizer(lr=0.01, warmup_steps=0, num_steps=100)


def make_state(np_rng, tx=TX):
  params = STUDENT.init(jax.random.key(0), jnp.zeros([1, 2, 3, 3]))["params"]
  params = jax.tree.map(
    lambda x: np_rng.normal(size=x.shape).astype(np.float32), params
  )
  return train.init_state(params, tx)


def make_batch(np_rng, b=8):
  logits = np_rng.normal(size=(b, 3), scale=2).astype(np.float32)
  return {
    "image": np_rng.integers(0, 256, size=(b, 3, 2, 3, 3), dtype=np.uint8),
    "target_logprobs": scipy.special.log_softmax(logits, axis=-1),
  }


def step_fn(state, batch, **settings):
  defaults = {
    "model": STUDENT,
    "tx": TX,
    "loss_fn": losses.kl,
    "temperature": 10.0,
    "value_range": (-1, 1),
  }
  return train.train_step(state, batch, **{**defaults, **settings})


def plain_loss(params, batch, *, temperature, low, high):
  """Mean KL and agreement, triplet by triplet; logits from named pairs."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  dense, head = params["backbone"]["dense"], params["triplet_head"]
  total = hits = 0.0
  for triplet, target in zip(
    batch["image"], batch["target_logprobs"], strict=True
  ):
    z = []
    for image in triplet:
      pixels = image.astype(np.float64).ravel() / 255 * (high - low) + low
      x = pixels @ dense["kernel"] + dense["bias"]
      z.append(x @ head["kernel"] + head["bias"])
    scores = np.array([z[1] @ z[2], z[0] @ z[2], z[0] @ z[1]]) / temperature
    logprobs = scipy.special.log_softmax(scores)
    total += np.sum(np.exp(target) * (target - logprobs))
    hits += np.argmax(scores) == np.argmax(target)
  return total / len(batch["image"]), hits / len(batch["image"])


def test_metrics_are_those_of_plain_numpy(np_rng):
  state, batch = make_state(np_rng), make_batch(np_rng)
  loss, accuracy = plain_loss(
    state.params, batch, temperature=10.0, low=-1, high=1
  )
  state, metrics = step_fn(state, batch)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-6, atol=0)
  assert 0 < accuracy < 1
  assert metrics["distance"] == 0
  assert 0 <= metrics["entropy"] <= np.log(3) + 1e-6
  assert state.step == 1


@pytest.mark.parametrize("leaf", ["backbone", "triplet_head"])
def test_update_follows_the_numerical_gradient(np_rng, leaf):
  """One plain gradient step with lr 1, against central differences."""
  tx = optax.sgd(1.0)
  state, batch = make_state(np_rng, tx), make_batch(np_rng)
  before = jax.tree.map(np.array, state.params)
  settings = {"temperature": 50.0, "low": 0, "high": 1}

  def numerical(name, index):
    values = []
    for sign in (1, -1):
      moved = jax.tree.map(lambda x: np.array(x, np.float64), before)
      node = moved["triplet_head"]
      if leaf == "backbone":
        node = moved["backbone"]["dense"]
      node[name][index] += sign * 1e-4
      values.append(plain_loss(moved, batch, **settings)[0])
    return (values[0] - values[1]) / 2e-4

  state, metrics = step_fn(
    state, batch, tx=tx, temperature=50.0, value_range=(0, 1)
  )
  grads = jax.tree.map(lambda x, y: x - np.array(y), before, state.params)
  norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads)))
  np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-3, atol=0)
  assert "distance" not in metrics
  node = grads["triplet_head"]
  if leaf == "backbone":
    node = grads["backbone"]["dense"]
  for name, index in (("kernel", (2, 3)), ("kernel", (4, 1)), ("bias", (2,))):
    np.testing.assert_allclose(
      node[name][index], numerical(name, index), rtol=1e-2, atol=1e-4
    )


def test_distance_is_measured_from_the_initial_weights(np_rng):
  state = make_state(np_rng)
  initial = jax.tree.map(np.array, state.params)
  for _ in range(3):
    state, _ = step_fn(state, make_batch(np_rng))
  moved = jax.tree.map(lambda x, y: np.array(x) - y, state.params, initial)
  expected = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(moved)))
  assert expected > 0.01
  _, metrics = step_fn(state, make_batch(np_rng))
  np.testing.assert_allclose(metrics["distance"], expected, rtol=1e-5, atol=0)


def test_ties_of_student_or_teacher_count_as_wrong(np_rng):
  state, batch = make_state(np_rng), make_batch(np_rng, b=3)
  batch["image"][:2] = 7  # three equal images: the student cannot choose
  batch["target_logprobs"][1:] = np.log([0.4, 0.4, 0.2])
  _, metrics = step_fn(state, batch)
  assert metrics["accuracy"] == 0


def test_training_lowers_the_loss(np_rng):
  state, batch = make_state(np_rng), make_batch(np_rng)
  history = []
  for _ in range(30):
    state, metrics = step_fn(state, batch)
    history.append(float(metrics["loss"]))
  assert history[-1] < 0.5 * history[0]


def test_one_compilation_over_three_steps(np_rng):
  state = make_state(np_rng)
  before = train.train_step._cache_size()
  for _ in range(3):
    state, _ = step_fn(state, make_batch(np_rng), temperature=11.0)
  assert train.train_step._cache_size() == before + 1


def test_two_runs_are_equal_bit_for_bit(np_rng):
  batches = [make_batch(np_rng) for _ in range(3)]
  start = jax.tree.map(np.array, make_state(np_rng))

  def run():
    state = jax.tree.map(jnp.array, start)
    for batch in batches:
      state, _ = step_fn(state, batch)
    return jax.tree.leaves(state)

  for x, y in zip(run(), run(), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("num_microbatches", [2, 4, 8])
def test_microbatches_change_nothing_but_rounding(np_rng, num_microbatches):
  state, batch = make_state(np_rng), make_batch(np_rng)
  copy = jax.tree.map(jnp.copy, state)
  state, metrics = step_fn(state, batch)
  other, other_metrics = step_fn(copy, batch, num_microbatches=num_microbatches)
  for name, value in metrics.items():
    np.testing.assert_allclose(
      other_metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name
    )
  # Adam's first step divides the gradient by its own size, so entries near 0
  # are compared through the second moment instead of the parameters.
  nu = jax.tree.leaves(state.opt_state[1].nu)
  for x, y in zip(nu, jax.tree.leaves(other.opt_state[1].nu), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("num_microbatches", [0, 3, 16])
def test_unequal_microbatches_are_refused(np_rng, num_microbatches):
  state, batch = make_state(np_rng), make_batch(np_rng)
  with pytest.raises(artifacts.InputError, match="batch of 8 cannot be cut"):
    step_fn(state, batch, num_microbatches=num_microbatches)


@pytest.mark.parametrize(
  "num_devices, fsdp, num_microbatches",
  [(2, 1, 1), (8, 1, 1), (8, 2, 1), (4, 2, 2)],
)
def test_device_count_changes_nothing_but_rounding(
  np_rng, num_devices, fsdp, num_microbatches
):
  if len(jax.devices()) < num_devices:
    pytest.skip(f"needs {num_devices} devices")
  batches = [make_batch(np_rng) for _ in range(4)]
  start = jax.tree.map(np.array, make_state(np_rng))

  def run(devices, **settings):
    mesh = sharding.make_mesh(devices=devices, **settings)
    state = sharding.place(start, mesh)
    history = []
    for batch in batches:
      placed = sharding.shard_batch(batch, mesh)
      shape = placed["image"].addressable_shards[-1].data.shape
      assert shape == (8 // len(devices), 3, 2, 3, 3)
      state, metrics = step_fn(state, placed, num_microbatches=num_microbatches)
      history.append([float(metrics["loss"]), float(metrics["distance"])])
    assert len(state.params["triplet_head"]["bias"].devices()) == len(devices)
    return history

  one = run(jax.devices()[:1])
  many = run(jax.devices()[:num_devices], fsdp=fsdp)
  np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)


def test_the_step_spends_its_state_and_nothing_else(np_rng):
  """Else there would be two copies of parameters and moments at a time."""
  state, batch = make_state(np_rng), jax.device_put(make_batch(np_rng))
  tree = jax.tree.leaves(state)
  step_fn(state, batch)
  assert all(x.is_deleted() for x in tree)
  assert not any(x.is_deleted() for x in batch.values())


def test_state_that_was_placed_is_not_the_callers(np_rng):
  """The step spends its state; the arrays given to `place` stay."""
  params = {"w": jnp.arange(3.0)}
  placed = sharding.place(params, sharding.make_mesh())
  placed["w"].delete()
  np.testing.assert_array_equal(params["w"], [0, 1, 2])


def test_partial_application_hits_the_same_compilation(np_rng):
  """The stage binds the settings once; the batch may hold nothing else."""
  bound = functools.partial(
    train.train_step,
    model=model.Student(backbone=Backbone(), head_dim=HEAD_DIM),
    tx=TX,
    loss_fn=losses.get_loss("jsd"),
    temperature=100.0,
    value_range=(0, 1),
  )
  before = train.train_step._cache_size()
  for _ in range(2):
    bound(make_state(np_rng), make_batch(np_rng))
  assert train.train_step._cache_size() == before + 1
