"""One step of distillation (paper.md, section C).

The images of all triplets, or of a dense batch, go through the student as one
batch; `objectives` says what is made of their embeddings.

Usage:
  state = train.init_state(params, tx)
  state, metrics = train.train_step(
    state, batch, model=student, tx=tx, loss_fn=losses.get_loss("jsd"),
    temperature=100.0, value_range=(0, 1))
"""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from alignet_jax import artifacts
from alignet_jax.backbones import features
from alignet_jax.student import objectives, optimizer, sharding


@flax.struct.dataclass
class TrainState:
  """All that changes during training.

  Attributes:
    step: int32[], number of updates done.
    params: Tree of f32 arrays.
    opt_state: State of the optimiser, with the anchor of the decay.
  """

  step: jax.Array
  params: Any
  opt_state: Any


def init_state(params, tx):
  """State before the first step; `params` become the anchor of the decay."""
  params = jax.tree.map(jnp.array, params)  # Copies: the first step spends it.
  return TrainState(jnp.zeros([], jnp.int32), params, tx.init(params))


@functools.partial(
  jax.jit,
  static_argnames=(
    "model",
    "tx",
    "loss_fn",
    "temperature",
    "value_range",
    "images_per_cluster",
    "trainable",
    "num_microbatches",
    "mesh",
  ),
  donate_argnames="state",
)
def train_step(
  state,
  batch,
  *,
  model,
  tx,
  loss_fn,
  temperature,
  value_range,
  images_per_cluster=0,
  trainable=optimizer.ALL,
  num_microbatches=1,
  mesh=None,
):
  """Makes one update.

  Args:
    state: `TrainState`. Spent: its buffers become those of the next.
    batch: {"image": uint8[b 3 h w 3], "target_logprobs": f32[b 3]}, or, if it
      is dense, {"image": uint8[m h w 3], "teacher_sims": f32[m m]}; see
      `objectives`.
    model: `model.Student`.
    tx: As of `optimizer.make_optimizer`.
    loss_fn: One of `losses.LOSSES`.
    temperature: Positive; divides the student's similarities.
    value_range: What pixels of 0 and 255 become.
    images_per_cluster: K of a dense batch; 0 for one of triplets.
    trainable: As of `tx`; no gradient is computed for other parameters.
    num_microbatches: Parts that go through the model one after the other, to
      save memory; divides b. The update is the same but for rounding, also of a
      dense batch, all of whose images belong together.
    mesh: Mesh on which the state was placed, and stays; or None.

  Returns:
    The next state, and metrics from before the update, each f32[]: those of
    `objectives.of_triplets`, "grad_norm" and, where the optimiser decays to the
    initial weights, "distance" from them (`optimizer.distance`).
  """
  is_trained = optimizer.named(state.params, trainable, "trainable")

  def embed(params, image):
    params = jax.tree.map(
      lambda x, t: x if t else jax.lax.stop_gradient(x), params, is_trained
    )
    image = features.scale_pixels(image, value_range)
    z, _ = model.apply({"params": params}, image.reshape(-1, *image.shape[-3:]))
    return z

  objective = functools.partial(
    objectives.of_batch,
    loss_fn=loss_fn,
    temperature=temperature,
    images_per_cluster=images_per_cluster,
  )
  if images_per_cluster:
    grads, metrics = joint_grads(
      embed,
      # One small matrix; cut up, it would be sent around for each chunk.
      lambda z, batch: objective(sharding.replicated(z, mesh), batch),
      state.params,
      batch["image"],
      {"teacher_sims": sharding.replicated(batch["teacher_sims"], mesh)},
      num_microbatches,
    )
  else:
    grads, metrics = mean_grads(
      lambda params, part: objective(embed(params, part["image"]), part),
      state.params,
      batch,
      num_microbatches,
    )
  state, metrics = apply_gradients(state, grads, metrics, tx=tx)
  return sharding.constrain(state, mesh), metrics


def apply_gradients(state, grads, metrics, *, tx):
  """What a step does once it has its gradient; inside jit.

  Args:
    state: `TrainState`.
    grads: Tree like its parameters.
    metrics: Dict of f32[].
    tx: `optax.GradientTransformation`.

  Returns:
    The next state, and the metrics with "grad_norm" and, where the optimiser
    decays to the initial weights, "distance" from them before the update.
  """
  metrics = {**metrics, "grad_norm": _norm(grads)}
  distance = optimizer.distance(state.params, state.opt_state)
  if distance is not None:
    metrics["distance"] = distance
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return TrainState(state.step + 1, params, opt_state), metrics


def mean_grads(loss_fn, params, batch, num_microbatches=1):
  """Gradient of a mean loss, over one part of the batch after the other.

  On a CPU, parts of some 30 small images are also faster than 100 at once,
  because what the backward pass reads is then still in the cache.

  Args:
    loss_fn: Function of (params, batch), to a mean over the batch, f32[], and a
      dict of further means.
    params: Tree of f32 arrays.
    batch: Dict of arrays [b ...].
    num_microbatches: Divides b. Part i holds the examples i, i + parts, ... so
      that each stays spread over all devices.

  Returns:
    The gradient, and the dict, both averaged over all examples.

  Raises:
    artifacts.InputError: b is no multiple of `num_microbatches`.
  """
  grad_fn = jax.grad(loss_fn, has_aux=True)
  if num_microbatches == 1:
    return grad_fn(params, batch)

  def add_part(total, part):
    return jax.tree.map(jnp.add, total, grad_fn(params, part)), None

  parts = jax.tree.map(lambda x: _cut(x, num_microbatches), batch)
  first = jax.tree.map(lambda x: x[0], parts)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(grad_fn, params, first),
  )
  total, _ = jax.lax.scan(add_part, zeros, parts)
  return jax.tree.map(lambda x: x / num_microbatches, total)


def joint_grads(embed_fn, loss_fn, params, image, rest, num_microbatches=1):
  """Gradient of a loss that takes all embeddings of a batch together.

  In parts, images go through the model twice: once for all embeddings, of which
  the loss gives a gradient each, and once more to carry these back to the
  parameters. That is the chain rule and no approximation.

  Args:
    embed_fn: Function of (params, images [b ...]) to f32[b e].
    loss_fn: Function of (f32[m e], rest), to f32[] and a dict of metrics.
    params: Tree of f32 arrays.
    image: [m ...] images.
    rest: What else the loss is about.
    num_microbatches: Divides m; parts as of `mean_grads`.

  Returns:
    The gradient, and the dict.

  Raises:
    artifacts.InputError: m is no multiple of `num_microbatches`.
  """
  if num_microbatches == 1:
    return jax.grad(
      lambda params: loss_fn(embed_fn(params, image), rest), has_aux=True
    )(params)
  parts = _cut(image, num_microbatches)
  z = jax.lax.map(lambda part: embed_fn(params, part), parts)
  z = z.swapaxes(0, 1).reshape(len(image), -1)
  z_grads, metrics = jax.grad(loss_fn, has_aux=True)(z, rest)

  def add_part(total, part):
    image, z_grad = part
    _, pull_back = jax.vjp(lambda params: embed_fn(params, image), params)
    return jax.tree.map(jnp.add, total, pull_back(z_grad)[0]), None

  zeros = jax.tree.map(jnp.zeros_like, params)
  parts = (parts, _cut(z_grads, num_microbatches))
  grads, _ = jax.lax.scan(add_part, zeros, parts)
  return grads, metrics


def _cut(x, num_parts):
  """Makes [parts b/parts ...] of [b ...]."""
  if num_parts < 1 or len(x) % num_parts:
    raise artifacts.InputError(
      f"A batch of {len(x)} cannot be cut into {num_parts} equal parts."
    )
  return x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1)


def _norm(tree):
  """Euclidean norm of all entries of a tree."""
  squares = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)]
  return jnp.sqrt(sum(squares))
