"""Trains a backbone to name exemplars of the generated world.

Stands in for the public weights that a real run starts from. Only the finest
labels are used: nothing in the objective says that exemplars belong together.

Usage:
  params, metrics = run(context, model)
"""

import functools
import zlib

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from alignet_jax import loop
from alignet_jax.backbones import features, stage
from alignet_jax.images import sources
from alignet_jax.student import sharding, train


@flax.struct.dataclass
class PretrainState:
  """Parameters with the classifier's, and the optimiser's state."""

  params: dict
  opt_state: optax.OptState


def run(context, model):
  """Trains from scratch, or goes on from a checkpoint.

  Args:
    context: `pipeline.StageContext`; reads config.pretrain and the world.
    model: `vit.ViT` without classes.

  Returns:
    Parameters of `model`, and metrics: `pretrain/{loss,accuracy}`, means over
    the last tenth of the steps.
  """
  config, settings = context.config, context.config.pretrain
  size = config.features.backbone.size
  images = sources.open_images(config, "pretrain", size=size)
  classifier = model.clone(num_classes=int(images.labels.max()) + 1)
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      optax.warmup_cosine_decay_schedule(
        0.0, settings.lr, settings.warmup_steps, settings.num_steps
      ),
      weight_decay=settings.weight_decay,
    ),
  )
  params = classifier.init(
    jax.random.key(config.seed), jnp.zeros([1, size, size, 3])
  )["params"]
  # This host's own: the others do not take part in this stage.
  mesh = sharding.make_mesh(devices=jax.local_devices())
  state = sharding.place(PretrainState(params, tx.init(params)), mesh)

  def make_batches(start_step):
    stream = zlib.crc32(b"pretrain")
    for step in range(start_step, settings.num_steps):
      np_rng = np.random.default_rng([config.seed, stream, step])
      rows = np_rng.integers(len(images), size=settings.batch_size)
      batch = {"image": images.load(rows), "label": images.labels[rows]}
      yield sharding.shard_batch(batch, mesh)

  state, history = loop.train(
    state,
    functools.partial(
      pretrain_step,
      model=classifier,
      tx=tx,
      value_range=stage.scaling(config.features.backbone.to_dict()),
      num_microbatches=settings.num_microbatches,
    ),
    make_batches,
    num_steps=settings.num_steps,
    checkpoint_dir=context.scratch / "pretrain",
    checkpoint_every=settings.checkpoint_every,
    label="pre-training",
    log=context.log,
  )
  tail = history[-max(1, len(history) // 10) :]
  metrics = {
    f"pretrain/{name}": float(np.mean([row[name] for row in tail]))
    for name in ("loss", "accuracy")
  }
  params = jax.device_get(state.params)
  return {name: x for name, x in params.items() if name != "head"}, metrics


@functools.partial(
  jax.jit,
  static_argnames=("model", "tx", "value_range", "num_microbatches"),
  donate_argnames="state",
)
def pretrain_step(state, batch, *, model, tx, value_range, num_microbatches=1):
  """One step of softmax cross-entropy.

  Args:
    state: `PretrainState`; donated.
    batch: image uint8[b h w 3], label int32[b].
    model: `vit.ViT` with classes.
    tx: optimiser.
    value_range: what pixels of 0 and 255 become, or their preprocessing.
    num_microbatches: as of `train.mean_grads`.

  Returns:
    The next state and metrics f32[] of the one before: loss, accuracy.
  """

  def mean_loss(params, batch):
    pixels = features.scale_pixels(batch["image"], value_range)
    logits, _ = model.apply({"params": params}, pixels)
    loss = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch["label"]
    )
    hits = jnp.argmax(logits, axis=-1) == batch["label"]
    loss = jnp.mean(loss)
    accuracy = jnp.mean(hits.astype(jnp.float32))
    return loss, {"loss": loss, "accuracy": accuracy}

  grads, metrics = train.mean_grads(
    mean_loss, state.params, batch, num_microbatches
  )
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return PretrainState(params, opt_state), metrics
