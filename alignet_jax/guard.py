"""A train step that leaves out updates of a loss that is no number, or leaps.

The decision falls on the device, within the step: the host learns of it a step
later and nothing waits. What it is measured against is part of the state, so
that a run that is resumed decides the same.

Usage:
  state = guard.start(state)
  step_fn = guard.guarded(step_fn, spike_factor=10.0)
  state, metrics = step_fn(state, batch)     # metrics["skipped"] is 0 or 1
  state.inner
"""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp

# Share of the running mean that a new loss does not replace.
_DECAY = 0.98

# Losses that the mean must be of before one can be a spike.
WARMUP = 20


@flax.struct.dataclass
class Guarded:
  """State of a step with what its losses are compared to.

  Attributes:
    inner: The state of the step itself.
    mean: f32[], running mean of the losses whose updates were made, biased
      towards 0 while there are few.
    count: int32[], how many these are.
  """

  inner: Any
  mean: jax.Array
  count: jax.Array


@jax.jit
def is_finite(tree):
  """Whether all numbers of a tree are, bool[]; integers and keys always are."""
  ok = [
    jnp.all(jnp.isfinite(x))
    for x in jax.tree.leaves(tree)
    if jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  return jnp.all(jnp.stack(ok)) if ok else jnp.array(True)


def start(state):
  """State before the first step."""
  return Guarded(state, jnp.zeros([]), jnp.zeros([], jnp.int32))


def guarded(step_fn, *, spike_factor):
  """A step that leaves its state as it was where the loss is bad.

  Bad is a loss, or a metric "grad_norm", that is not finite, and a loss of more
  than `spike_factor` times the running mean once that is of `WARMUP` losses.

  Args:
    step_fn: Function from (state, batch) to (state, metrics with "loss").
    spike_factor: More than 1, or 0 for no limit.

  Returns:
    Such a function for `Guarded`, compiled, which spends its state; its
    metrics have "skipped" besides, 1.0 where the update was left out.
  """
  return functools.partial(_step, step_fn=step_fn, spike_factor=spike_factor)


@functools.partial(
  jax.jit,
  static_argnames=("step_fn", "spike_factor"),
  donate_argnames="state",
)
def _step(state, batch, *, step_fn, spike_factor):
  inner, metrics = step_fn(state.inner, batch)
  loss = metrics["loss"]
  bad = ~jnp.isfinite(loss)
  if "grad_norm" in metrics:
    bad |= ~jnp.isfinite(metrics["grad_norm"])
  if spike_factor:
    unbiased = state.mean / (1 - _DECAY ** jnp.maximum(state.count, 1))
    bad |= (state.count >= WARMUP) & (loss > spike_factor * unbiased)
  keep = lambda old, new: jnp.where(bad, old, new)  # noqa: E731
  state = Guarded(
    jax.tree.map(keep, state.inner, inner),
    keep(state.mean, _DECAY * state.mean + (1 - _DECAY) * loss),
    keep(state.count, state.count + 1),
  )
  return state, {**metrics, "skipped": bad.astype(jnp.float32)}
