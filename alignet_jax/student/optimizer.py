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

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alignet_jax import artifacts

# Pattern that is found in every name.
ALL = ".*"


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
  trainable=ALL,
  decay_mask=ALL,
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
    trainable: Pattern, looked for in the "/"-joined name of a parameter, of
      those that are updated. The others have no moments and no anchor.
    decay_mask: Pattern of those that decay to their initial value, of these.

  Returns:
    `optax.GradientTransformation`. Its `init` raises `artifacts.InputError` for
    a pattern that no parameter has.
  """
  schedule = warmup_cosine(
    lr=lr, warmup_steps=warmup_steps, num_steps=num_steps
  )
  decay = add_decay_to_init(decay_to_init)
  if decay_mask != ALL:
    decay = optax.masked(decay, lambda x: named(x, decay_mask, "decay_mask"))
  tx = optax.chain(
    optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
    decay,
    optax.scale_by_learning_rate(schedule),
  )
  if trainable == ALL:
    return tx
  return optax.partition(
    {"trained": tx, "frozen": optax.set_to_zero()},
    lambda params: jax.tree.map(
      lambda found: "trained" if found else "frozen",
      named(params, trainable, "trainable"),
    ),
  )


def named(params, pattern, field="The pattern"):
  """Says of each parameter whether its name has a pattern.

  Args:
    params: Tree of anything.
    pattern: Regular expression, looked for in the "/"-joined names.
    field: What the pattern is called.

  Returns:
    Tree of bool.

  Raises:
    artifacts.InputError: None has it.
  """

  def has(path, _):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return bool(re.search(pattern, name))

  found = jax.tree_util.tree_map_with_path(has, params)
  if not any(jax.tree.leaves(found)):
    names = [
      jax.tree_util.keystr(path, simple=True, separator="/")
      for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    raise artifacts.InputError(
      f"{field} is {pattern!r}, which is found in the name of no parameter; use"
      f" {ALL!r} for all of them. There are {', '.join(names[:4])} and"
      f" {max(0, len(names) - 4)} more."
    )
  return found


def anchor(opt_state):
  """The initial weights in the state of an optimiser that decays to them.

  Args:
    opt_state: State of `make_optimizer`, or of any chain with such a decay.

  Returns:
    Tree like the parameters, or None where there is no such decay. Where a
    parameter does not decay, `optax.MaskedNode` stands for it.
  """
  is_ours = lambda node: isinstance(node, DecayToInitState)  # noqa: E731
  nodes = jax.tree.leaves(opt_state, is_leaf=is_ours)
  return next((node.anchor for node in nodes if is_ours(node)), None)


def distance(params, opt_state):
  """How far parameters are from the anchor.

  Args:
    params: Tree of f32 arrays.
    opt_state: State of the optimiser.

  Returns:
    f32[], Euclidean over all parameters that decay; None where none does.
  """
  initial = anchor(opt_state)
  if initial is None:
    return None
  is_masked = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
  squares = jax.tree.map(
    lambda a, x: 0.0 if is_masked(a) else jnp.sum(jnp.square(x - a)),
    initial,
    params,
    is_leaf=is_masked,
  )
  return jnp.sqrt(sum(jax.tree.leaves(squares)))


def check_anchor(opt_state, decay_to_init):
  """Refuses a state that cannot decay as it should.

  Args:
    opt_state: State of the optimiser before the first step.
    decay_to_init: Strength of the decay.

  Raises:
    artifacts.InputError: The decay is more than 0 and there is no anchor.
  """
  if decay_to_init > 0 and anchor(opt_state) is None:
    raise artifacts.InputError(
      f"config.student.decay_to_init is {decay_to_init}, but the state of the"
      " optimiser holds no initial weights to decay to. Make it by"
      " make_optimizer(...).init(params) from the pretrained weights, or set"
      " the decay to 0."
    )
