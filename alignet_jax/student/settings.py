"""From `config.student` to the parts of training, and what is refused.

`validate.py` refuses what can be told from the config alone, before any stage
runs. Here is what takes the model or the devices to tell; still before the
first step, in milliseconds.

Usage:
  student = settings.make_student(model, config.student, image_size=224)
  settings.check_batches(config.student, mesh)
  step_fn = settings.make_step(config.student, student, tx, ...)
"""

import functools

import jax
import jax.numpy as jnp

from alignet_jax import artifacts
from alignet_jax.backbones import vit
from alignet_jax.backbones import weights as weights_lib
from alignet_jax.student import losses, optimizer, sharding, train
from alignet_jax.student import model as model_lib

BATCHES = ("triplet", "dense")

COMPUTE_DTYPES = ("float32", "bfloat16")


def make_student(model, settings, *, image_size):
  """Makes the student, and refuses what its backbone has no output for.

  Args:
    model: The backbone, a flax module such as `vit.ViT`.
    settings: `config.student`.
    image_size: Height and width in pixels.

  Returns:
    `model.Student`.

  Raises:
    artifacts.InputError: There is no such output, or the model cannot compute
      as asked; names the field and what there is.
  """
  fields = {"dtype": settings.compute_dtype, "remat": settings.remat}
  if isinstance(model, vit.ViT):
    model = model.clone(**fields)
  elif fields != {"dtype": "float32", "remat": False}:
    raise artifacts.InputError(
      f"config.student.compute_dtype is {settings.compute_dtype!r} and"
      f" config.student.remat {settings.remat}; {type(model).__name__}, which"
      " is no model of this package, takes 'float32' and False only."
    )
  student = model_lib.Student(
    backbone=model,
    head_dim=settings.head_dim,
    representation=settings.representation,
    stop_grad=settings.stop_grad,
  )
  if settings.stop_grad and not settings.head_dim:
    raise artifacts.InputError(
      "config.student.stop_grad is True and config.student.head_dim 0: there is"
      " nothing to train. Set stop_grad to False, or head_dim to 1 or more."
    )
  height, width = weights_lib.height_and_width(image_size)
  image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
  try:
    variables = jax.eval_shape(student.init, jax.random.key(0), image)
  except artifacts.InputError as error:
    raise artifacts.InputError(
      f"config.student.representation is {settings.representation!r}. {error}"
    ) from error
  _check_patterns(settings, variables["params"])
  return student


def _check_patterns(settings, params):
  """Refuses patterns by which nothing is trained, or nothing of it decays."""
  is_trained = optimizer.named(
    params, settings.trainable, "config.student.trainable"
  )
  # None is no leaf.
  trained = jax.tree.map(lambda x, t: x if t else None, params, is_trained)
  optimizer.named(trained, settings.decay_mask, "config.student.decay_mask")
  if settings.stop_grad and not jax.tree.leaves(trained["triplet_head"]):
    raise artifacts.InputError(
      "config.student.stop_grad is True, so only the triplet head is trained,"
      f" and config.student.trainable is {settings.trainable!r}, which leaves"
      " it out: there is nothing to train. Set stop_grad to False, or trainable"
      " to '.*' or 'triplet_head'."
    )


def make_optimizer(settings):
  """The optimiser of `config.student`, `optimizer.make_optimizer`."""
  return optimizer.make_optimizer(
    lr=settings.lr,
    warmup_steps=settings.warmup_steps,
    num_steps=settings.num_steps,
    decay_to_init=settings.decay_to_init,
    clip_norm=settings.clip_norm,
    trainable=settings.trainable,
    decay_mask=settings.decay_mask,
  )


def make_state(params, tx, settings, mesh):
  """State before the first step, placed; with its anchor, if there is decay."""
  state = train.init_state(params, tx)
  optimizer.check_anchor(state.opt_state, settings.decay_to_init)
  return sharding.place(state, mesh)


def make_mesh(settings, devices=None):
  """The mesh of `config.student.mesh`; names its fields if it cannot be."""
  try:
    return sharding.make_mesh(
      fsdp=settings.mesh.fsdp, tensor=settings.mesh.tensor, devices=devices
    )
  except artifacts.InputError as error:
    raise artifacts.InputError(f"config.student.mesh: {error}") from error


def check_batches(settings, mesh):
  """Refuses batches that devices, or parts, cannot share equally.

  A part of a batch may be too small for all devices; that is slow, not wrong.

  Args:
    settings: `config.student`.
    mesh: As of `sharding.make_mesh`.

  Raises:
    artifacts.InputError: Names the field, and numbers that would do.
  """
  size, what = settings.batch_size, "config.student.batch_size, a batch"
  if settings.batches == "dense":
    size = settings.clusters_per_batch * settings.images_per_cluster
    what = (
      "config.student.clusters_per_batch x images_per_cluster, a batch of"
      " images"
    )
  num_parts = settings.num_microbatches
  if num_parts < 1 or size % num_parts:
    raise artifacts.InputError(
      f"{what} of {size}, cannot be cut into config.student.num_microbatches,"
      f" {num_parts}, equal parts: allowed are the divisors of {size}."
    )
  sharding.check_batch_size(size, mesh, what=what)


def make_step(settings, student, tx, *, value_range, mesh):
  """Binds `train.train_step` to a config.

  Args:
    settings: `config.student`.
    student: As of `make_student`.
    tx: As of `make_optimizer`.
    value_range: What pixels of 0 and 255 become, or a `Preprocessing`, as of
      `features.scale_pixels`; hashable.
    mesh: Mesh of the state.

  Returns:
    Function from (state, batch) to (state, metrics).

  Raises:
    artifacts.InputError: The loss is not known.
  """
  try:
    loss_fn = losses.get_loss(settings.loss)
  except ValueError as error:
    raise artifacts.InputError(f"config.student.loss: {error}") from error
  is_dense = settings.batches == "dense"
  return functools.partial(
    train.train_step,
    model=student,
    tx=tx,
    loss_fn=loss_fn,
    temperature=settings.temperature,
    value_range=value_range,
    images_per_cluster=settings.images_per_cluster if is_dense else 0,
    trainable=settings.trainable,
    num_microbatches=settings.num_microbatches,
    mesh=mesh,
  )
