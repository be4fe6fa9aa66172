"""The optimiser: steps worked out by hand, its anchor, its schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignet_jax.student import optimizer


def test_decay_to_init_by_hand():
  """theta_0 = 2, wd = 0.5, lr = 0.1, and a gradient of 0 after one of 1."""
  tx = optax.chain(
    optimizer.add_decay_to_init(0.5), optax.scale_by_learning_rate(0.1)
  )
  params = {"w": jnp.array([2.0])}
  state = tx.init(params)
  # Step 1: at the anchor, so theta = 2 - 0.1 (1 + 0.5 * 0) = 1.9
  updates, state = tx.update({"w": jnp.array([1.0])}, state, params)
  params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params["w"], [1.9], rtol=1e-6, atol=0)
  # Step 2: theta = 1.9 - 0.1 (0 + 0.5 (1.9 - 2)) = 1.905
  updates, state = tx.update({"w": jnp.array([0.0])}, state, params)
  params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params["w"], [1.905], rtol=1e-6, atol=0)
  np.testing.assert_array_equal(optimizer.anchor(state)["w"], [2.0])


@pytest.mark.parametrize("decay", [0.0, 1.0])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_equals_a_plain_loop(np_rng, decay, clip_norm):
  """Adam and the decoupled decay of paper.md, section C, for seven steps."""
  theta_0 = {
    "kernel": np_rng.normal(size=(2, 3)).astype(np.float32),
    "bias": np_rng.normal(size=(3,)).astype(np.float32),
  }
  settings = {"lr": 0.1, "warmup_steps": 3, "num_steps": 11}
  tx = optimizer.make_optimizer(
    **settings, decay_to_init=decay, clip_norm=clip_norm
  )
  params = jax.tree.map(jnp.asarray, theta_0)
  state = tx.init(params)
  theta = {k: v.astype(np.float64) for k, v in theta_0.items()}
  m = {k: 0.0 for k in theta}
  v = {k: 0.0 for k in theta}
  for step in range(7):
    grads = {
      k: np_rng.normal(size=x.shape).astype(np.float32)
      for k, x in theta_0.items()
    }
    updates, state = tx.update(jax.tree.map(jnp.asarray, grads), state, params)
    params = optax.apply_updates(params, updates)
    norm = np.sqrt(
      sum(np.sum(g.astype(np.float64) ** 2) for g in grads.values())
    )
    scale = min(1, clip_norm / norm) if clip_norm else 1
    if step < 3:
      lr = 0.1 * step / 3
    else:
      lr = 0.1 * (1 + np.cos(np.pi * (step - 3) / 8)) / 2
    for k, g in grads.items():
      g = g * scale
      m[k] = 0.9 * m[k] + 0.1 * g
      v[k] = 0.999 * v[k] + 0.001 * g**2
      m_hat = m[k] / (1 - 0.9 ** (step + 1))
      v_hat = v[k] / (1 - 0.999 ** (step + 1))
      direction = m_hat / (np.sqrt(v_hat) + 1e-8)
      theta[k] = theta[k] - lr * (direction + decay * (theta[k] - theta_0[k]))
  for k in theta:
    np.testing.assert_allclose(params[k], theta[k], rtol=1e-4, atol=1e-5)


def test_decay_is_no_part_of_what_adam_scales():
  """With gradient 0 the pull is wd times the distance, whatever its size."""
  tx = optimizer.make_optimizer(lr=0.1, warmup_steps=0, num_steps=10**6)
  anchor = {"w": jnp.zeros(2)}
  state = tx.init(anchor)
  params = {"w": jnp.array([1e-3, 1e3])}
  updates, _ = tx.update({"w": jnp.zeros(2)}, state, params)
  np.testing.assert_allclose(updates["w"], [-1e-4, -1e2], rtol=1e-5, atol=0)


def test_anchor_is_a_copy_that_donation_cannot_take():
  tx = optimizer.make_optimizer(lr=0.1, warmup_steps=0, num_steps=10)
  params = {"w": jnp.arange(3.0)}
  state = tx.init(params)
  params["w"].delete()
  np.testing.assert_array_equal(optimizer.anchor(state)["w"], [0, 1, 2])
  assert optimizer.anchor(optax.adam(0.1).init({"w": jnp.ones(2)})) is None


def test_decay_needs_the_parameters():
  tx = optimizer.add_decay_to_init(1.0)
  state = tx.init({"w": jnp.ones(1)})
  with pytest.raises(ValueError, match="needs the parameters"):
    tx.update({"w": jnp.ones(1)}, state)


def test_schedule_of_the_paper():
  settings = {"lr": 3e-5, "warmup_steps": 5_000, "num_steps": 100_000}
  schedule = optimizer.warmup_cosine(**settings)
  steps = np.arange(0, 100_001, 250)
  by_optax = optax.warmup_cosine_decay_schedule(0.0, 3e-5, 5_000, 100_000)
  values = jax.vmap(schedule)(steps)
  np.testing.assert_allclose(
    values, jax.vmap(by_optax)(steps), rtol=1e-4, atol=1e-10
  )
  assert values[0] == 0
  np.testing.assert_allclose(values[20], 3e-5, rtol=1e-6, atol=0)
  np.testing.assert_allclose(values[-1], 0, rtol=0, atol=1e-12)
  # Sum over the run, which says how far the anchor pulls: 1.5.
  np.testing.assert_allclose(np.sum(values) * 250, 1.5, rtol=1e-3, atol=0)


def test_schedule_without_warm_up_starts_at_the_top():
  schedule = optimizer.warmup_cosine(lr=0.5, warmup_steps=0, num_steps=4)
  np.testing.assert_allclose(schedule(0), 0.5, rtol=1e-6, atol=0)
  np.testing.assert_allclose(schedule(2), 0.25, rtol=1e-6, atol=0)


@pytest.mark.parametrize("warmup_steps, num_steps", [(5, 5), (6, 5), (-1, 5)])
def test_a_warm_up_that_does_not_fit_is_refused(warmup_steps, num_steps):
  with pytest.raises(ValueError, match=f"warmup_steps={warmup_steps} must"):
    optimizer.make_optimizer(
      lr=0.1, warmup_steps=warmup_steps, num_steps=num_steps
    )
