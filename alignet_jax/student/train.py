"""The train step of the student.

A batch of triplets goes through the backbone as one batch of images; the head's
dot products become a distribution over the odd item, which is compared with the
teacher's (paper.md, section C). Imports no TensorFlow.

Usage:
  state = init_state(params, tx)
  state, metrics = train_step(state, batch, model=student, tx=tx,
                              loss_fn=losses.jsd, temperature=100.0,
                              value_range=(0.0, 1.0))
"""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from alignet_jax import odd_one_out
from alignet_jax.backbones import features


@flax.struct.dataclass
class TrainState:
  """What a step changes and a checkpoint holds.

  Attributes:
    step: int32[], steps done.
    params: tree of f32 arrays.
    opt_state: the optimiser's state, with the anchor of the decay.
  """

  step: jax.Array
  params: Any
  opt_state: Any


def init_state(params, tx):
  """Starts at step 0; `params` become the anchor of the decay."""
  return TrainState(jnp.zeros([], jnp.int32), params, tx.init(params))


@functools.partial(
  jax.jit,
  static_argnames=("model", "tx", "loss_fn", "temperature", "value_range"),
  donate_argnames="state",
)
def train_step(
  state, batch, *, model, tx, loss_fn, temperature, value_range
):
  """Takes one step.

  Args:
    state: `TrainState`; donated.
    batch: image uint8[b 3 h w 3] and target_logprobs f32[b 3], entry p for
      item p being the odd one.
    model: `model.Student`.
    tx: optimiser.
    loss_fn: of `losses.LOSSES`.
    temperature: positive; divides the student's dot products.
    value_range: what pixels of 0 and 255 become.

  Returns:
    The next state and metrics f32[] of the state before it: loss; accuracy, the
    agreement with the teacher's choice, ties counting as wrong; entropy of the
    student's choice in nats; grad_norm; distance of the parameters from
    their start.
  """
  targets = batch["target_logprobs"]
  images = batch["image"]
  b = images.shape[0]

  def mean_loss(params):
    pixels = features.scale_pixels(
      images.reshape(b * 3, *images.shape[2:]), value_range
    )
    z, _ = model.apply({"params": params}, pixels)
    logits = odd_one_out.logits(
      z.reshape(b, 3, -1), temperature=temperature
    )
    return jnp.mean(loss_fn(logits, targets)), logits

  (loss, logits), grads = jax.value_and_grad(mean_loss, has_aux=True)(
    state.params
  )
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  metrics = {
    "loss": loss,
    "accuracy": odd_one_out.accuracy(logits, jnp.argmax(targets, axis=-1)),
    "entropy": jnp.mean(odd_one_out.entropy(odd_one_out.log_probs(logits))),
    "grad_norm": optax.global_norm(grads),
    "distance": _distance(state.params, opt_state),
  }
  state = TrainState(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
  )
  return state, metrics


def _distance(params, opt_state):
  """Norm of the parameters minus the anchor."""
  anchor = optax.tree_utils.tree_get(opt_state, "anchor")
  return optax.global_norm(jax.tree.map(jnp.subtract, params, anchor))
