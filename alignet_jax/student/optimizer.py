"""Adam with decay towards the initial weights, and its schedule.

The update is theta <- theta - lr (a + wd (theta - theta_0)), where a is Adam's
direction (paper.md, section C). The decay is decoupled: it is no term of the
loss, so Adam does not rescale it. theta_0 are the weights at `init`, so the
optimiser must be initialised after pretrained weights are in place; the state
holds them, and checkpoints keep them. Every leaf decays, also biases, norms,
position embeddings and the head, whose anchor is its random start.

Usage:
  tx = optimizer.make_optimizer(
    lr=3e-5, warmup_steps=5_000, num_steps=100_000, decay_to_init=1.0)
  opt_state = tx.init(params)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class DecayToInitState(NamedTuple):
  """The weights that the decay pulls towards, a tree like the parameters."""

  anchor: Any


def add_decay_to_init(wd):
  """Adds wd (theta - theta_0) to the updates.

  Args:
    wd: Strength, at least 0; 1.0 in the released configs.

  Returns:
    `optax.GradientTransformation` that needs the parameters at each update.
  """

  def init(params):
    # A copy, since buffers of the parameters are donated to the train step.
    return DecayToInitState(jax.tree.map(jnp.copy, params))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError(
        "add_decay_to_init needs the parameters: update(..., params)."
      )
    updates = jax.tree.map(
      lambda u, theta, theta_0: u + wd * (theta - theta_0),
      updates,
      params,
      state.anchor,
    )
    return updates, state

  return optax.GradientTransformation(init, update)


def warmup_cosine(*, lr, warmup_steps, num_steps):
  """Learning rate by step: linear from 0 to `lr`, then cosine to 0.

  Args:
    lr: Highest learning rate, reached at `warmup_steps`.
    warmup_steps: At least 0 and less than `num_steps`.
    num_steps: Where the rate is 0 again; includes the warm-up.

  Returns:
    Function from step, int[], to f32[].

  Raises:
    ValueError: The warm-up does not fit into the steps.
  """
  if not 0 <= warmup_steps < num_steps:
    raise ValueError(
      f"warmup_steps={warmup_steps} must be at least 0 and less than "
      f"num_steps={num_steps}."
    )

  def schedule(step):
    warmup = step / max(warmup_steps, 1)
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    cosine = (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1))) / 2
    return lr * jnp.where(step < warmup_steps, warmup, cosine)

  return schedule


def make_optimizer(
  *,
  lr,
  warmup_steps,
  num_steps,
  decay_to_init=1.0,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  clip_norm=0.0,
):
  """Makes the student's optimiser; defaults are those of the released configs.

  Args:
    lr: Highest learning rate, 3e-5 in the paper.
    warmup_steps: Steps of linear warm-up, 5,000 in the paper.
    num_steps: All steps, 100,000 in the paper.
    decay_to_init: Decay towards the initial weights, at least 0.
    b1: Adam's decay of the mean gradient.
    b2: Adam's decay of the mean squared gradient.
    eps: Adam's summand of the denominator.
    clip_norm: Largest global norm of the gradient, or 0 for no limit.

  Returns:
    `optax.GradientTransformation`.
  """
  schedule = warmup_cosine(
    lr=lr, warmup_steps=warmup_steps, num_steps=num_steps
  )
  return optax.chain(
    optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    add_decay_to_init(decay_to_init),
    optax.scale_by_learning_rate(schedule),
  )


def anchor(opt_state):
  """The initial weights in the state of an optimiser that decays to them.

  Args:
    opt_state: State of `make_optimizer`, or of any chain with such a decay.

  Returns:
    Tree like the parameters, or None where there is no such decay.
  """
  is_ours = lambda node: isinstance(node, DecayToInitState)  # noqa: E731
  nodes = jax.tree.leaves(opt_state, is_leaf=is_ours)
  return next((node.anchor for node in nodes if is_ours(node)), None)
