"""Adam with decoupled decay towards the initial weights.

The update is -lr * (adam_direction + decay * (theta - theta_0)) on every leaf,
the triplet head included, whose anchor is its own random start (paper.md,
section C and trap 9). An L2 term inside the loss would be rescaled by Adam and
is not the same.

Usage:
  tx = make_optimizer(lr=3e-5, warmup_steps=5_000, num_steps=100_000,
                      decay_to_init=1.0)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class DecayToInitState(NamedTuple):
  """The weights to return to.

  Attributes:
    anchor: tree like the parameters, theta_0.
  """

  anchor: optax.Params


def decay_to_init(decay):
  """Adds decay * (theta - theta_0) to the updates.

  The anchor is what the transformation is initialised with, so the loaded
  weights have to be in place before; it is saved and restored with the
  optimiser's state.

  Args:
    decay: float, at least 0; the published value is 1.
  """

  def init(params):
    # A copy: the parameters' own buffers are donated to the first step.
    return DecayToInitState(jax.tree.map(jnp.copy, params))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError("decay_to_init needs the parameters: pass params.")
    updates = jax.tree.map(
      lambda u, theta, theta_0: u + decay * (theta - theta_0),
      updates,
      params,
      state.anchor,
    )
    return updates, state

  return optax.GradientTransformation(init, update)


def make_schedule(*, lr, warmup_steps, num_steps):
  """Linear from 0 to lr, then a cosine to 0 at num_steps, warm-up included."""
  if not 0 <= warmup_steps < num_steps:
    raise ValueError(
      f"warmup_steps is {warmup_steps}; allowed are 0 to num_steps - 1 = "
      f"{num_steps - 1}."
    )
  return optax.warmup_cosine_decay_schedule(0.0, lr, warmup_steps, num_steps)


def make_optimizer(
  *, lr, warmup_steps, num_steps, decay_to_init, clip_norm=0.0
):
  """Makes the optimiser of the student.

  Args:
    lr: Peak learning rate.
    warmup_steps: Steps from 0 to the peak.
    num_steps: Steps until the learning rate is 0 again.
    decay_to_init: Strength of the pull towards the initial weights.
    clip_norm: Global norm above which gradients are scaled down; 0 for never.

  Returns:
    `optax.GradientTransformation`.
  """
  schedule = make_schedule(
    lr=lr, warmup_steps=warmup_steps, num_steps=num_steps
  )
  chain = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  chain += [
    optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
    _decay(decay_to_init),
    optax.scale_by_learning_rate(schedule),
  ]
  return optax.chain(*chain)


_decay = decay_to_init
