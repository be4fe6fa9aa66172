"""Tests for `alignet_jax.backbones.attention`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax.backbones import attention


@pytest.fixture(scope="module")
def arrays():
  """Queries, keys, values, and weights of the outputs: b2 n3 m11 h5 e7."""
  np_rng = np.random.default_rng(0)
  q, w = np_rng.normal(size=(2, 2, 3, 5, 7)).astype(np.float32)
  k, v = np_rng.normal(size=(2, 2, 11, 5, 7)).astype(np.float32)
  return q, k, v, w


def plain(q, k, v):
  """Attention of one query and head after the other."""
  out = np.zeros(q.shape, np.float64)
  b, n, h, e = q.shape
  for i in np.ndindex(b, n, h):
    batch, query, head = i
    scores = k[batch, :, head] @ q[i] / np.sqrt(e)
    probs = np.exp(scores - scores.max())
    out[i] = probs / probs.sum() @ v[batch, :, head]
  return out


def of_jax(q, k, v):
  probs = jax.nn.softmax(
    jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]), axis=-1
  )
  return jnp.einsum("bhqk,bkhd->bqhd", probs, v)


def test_equals_a_plain_loop(arrays):
  q, k, v, _ = arrays
  np.testing.assert_allclose(
    attention.attend_by_columns(q, k, v), plain(q, k, v), rtol=1e-5, atol=1e-6
  )


def test_other_devices_give_the_same(arrays, monkeypatch):
  q, k, v, _ = arrays
  on_cpu = attention.attend(q, k, v)
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  monkeypatch.setattr(attention, "attend_by_columns", None)
  np.testing.assert_allclose(
    attention.attend(*map(jnp.asarray, (q, k, v))),
    on_cpu,
    rtol=1e-5,
    atol=1e-6,
  )


def test_gradients_are_those_of_the_formula(arrays):
  *inputs, w = arrays

  def grads(fn):
    return jax.grad(lambda x: jnp.sum(w * fn(*x)))(tuple(inputs))

  for ours, theirs in zip(
    grads(attention.attend_by_columns), grads(of_jax), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_second_derivatives_are_those_of_the_formula(arrays):
  """Saliency is trained through gradients of gradients."""
  *inputs, w = arrays

  def saliency(fn):
    def loss(x):
      return jnp.sum(w * fn(*x))

    return jax.grad(
      lambda x: sum(jnp.sum(jnp.sin(g)) for g in jax.grad(loss)(x))
    )(tuple(inputs))

  for ours, theirs in zip(
    saliency(attention.attend_by_columns), saliency(of_jax), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_large_scores_stay_finite(arrays):
  q, k, v, w = arrays
  value, grad = jax.value_and_grad(
    lambda q: jnp.sum(w * attention.attend_by_columns(q, 1e4 * k, v))
  )(q)
  assert np.isfinite(value)
  assert np.isfinite(grad).all()


def test_half_precision_stays_close_and_keeps_its_type(arrays):
  q, k, v, _ = arrays
  half = attention.attend_by_columns(
    *(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))
  )
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(half, np.float32), plain(q, k, v), rtol=0.05, atol=0.03
  )


def test_sums_that_float16_cannot_hold_are_divided_in_time():
  k = jnp.zeros((1, 257, 1, 2), jnp.float16)
  y = attention.attend_by_columns(k[:, :3], k, jnp.full_like(k, 1000.0))
  assert y.dtype == jnp.float16  # Of 257,000, where the largest is 65,504.
  np.testing.assert_allclose(np.float32(y), 1000.0, rtol=1e-3, atol=0)
