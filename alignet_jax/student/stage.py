"""The stage "student": the aligned model and the untransformed control.

Both start from the same weights and differ in nothing but whose similarities
they learn: the transformed teacher's or the raw one's.
"""

import functools

import jax
import numpy as np

from alignet_jax import artifacts, distributed, loop
from alignet_jax.backbones import stage as backbone_stage
from alignet_jax.backbones import weights as weights_lib
from alignet_jax.images import sources
from alignet_jax.student import heldout, losses, optimizer, sharding, train
from alignet_jax.student import model as model_lib
from alignet_jax.triplets import batches as batches_lib
from alignet_jax.triplets import dataset, files

# Name of the student to the folder of its triplets.
TRANSFORMS = {"aligned": "aligned", "control": "untransformed"}


def run_student(context):
  """Fine-tunes one student per variant.

  Writes `base.npz` (the backbone before) and, for each variant,
  `<variant>.npz` (the backbone after, names of big_vision) and, if there is
  one, `<variant>_head.npz`, `backbone.json` (the architecture) and `losses.csv`
  (variant, step and the metrics of `train.train_step`, with "val_loss" and
  "val_accuracy" on held-out triplets after the updates of some steps).

  Args:
    context: `pipeline.StageContext`; reads config.student and config.triplets,
      and what opens the images.

  Returns:
    Metrics `student/{loss,accuracy}/<variant>`, means over the last tenth of
    the steps.
  """
  settings = context.config.student
  unknown = set(settings.variants) - set(TRANSFORMS)
  if unknown:
    raise artifacts.InputError(
      f"config.student.variants names {sorted(unknown)}; known are "
      f"{', '.join(TRANSFORMS)}."
    )
  try:
    loss_fn = losses.get_loss(settings.loss)
  except ValueError as error:
    raise artifacts.InputError(f"config.student.loss: {error}") from error
  backbone, params = _base(context)
  model = backbone_stage.make_model(backbone)
  weights_lib.save(context.out / "base.npz", params)
  artifacts.write_json(context.out / "backbone.json", backbone)
  images = sources.open_images(
    context.config, "collection", size=backbone["size"]
  )
  student = model_lib.Student(backbone=model, head_dim=settings.head_dim)
  tx = optimizer.make_optimizer(
    lr=settings.lr,
    warmup_steps=settings.warmup_steps,
    num_steps=settings.num_steps,
    decay_to_init=settings.decay_to_init,
    clip_norm=settings.clip_norm,
  )
  # One for all variants, so that the step is compiled once.
  step_fn = functools.partial(
    train.train_step,
    model=student,
    tx=tx,
    loss_fn=loss_fn,
    temperature=settings.temperature,
    value_range=tuple(backbone["value_range"]),
    num_microbatches=settings.num_microbatches,
  )
  params = model_lib.init_params(
    jax.random.key(context.config.seed),
    student,
    params,
    image_size=backbone["size"],
  )
  metrics, rows = {}, []
  for variant in settings.variants:
    state = train.init_state(params, tx)
    trained, history = _train(context, variant, state, step_fn, images)
    weights_lib.save(context.out / f"{variant}.npz", trained["backbone"])
    if "triplet_head" in trained:
      weights_lib.save(
        context.out / f"{variant}_head.npz", trained["triplet_head"]
      )
    rows += [
      {"variant": variant, "step": step, **row}
      for step, row in enumerate(history)
    ]
    tail = history[-max(1, len(history) // 10) :]
    for name in ("loss", "accuracy"):
      metrics[f"student/{name}/{variant}"] = float(
        np.mean([row[name] for row in tail])
      )
  _write_csv(context.out / "losses.csv", rows)
  return metrics


def _base(context):
  """The architecture and weights that students start from."""
  settings = context.config.student.backbone
  if settings.source == "teacher":
    directory = context.inputs["features"]
    path = directory / "backbone.npz"
    if not path.exists():
      raise artifacts.InputError(
        "config.student.backbone.source is 'teacher', but the features stage "
        "trained no backbone; set it to 'weights' and give a path."
      )
    backbone = artifacts.read_json(directory / "backbone.json")
    return backbone, weights_lib.unflatten(weights_lib.read(path))
  if settings.source == "weights":
    backbone = settings.to_dict()
    model = backbone_stage.make_model(backbone)
    return backbone, backbone_stage.load_params(backbone, model, context.log)
  raise artifacts.InputError(
    f"config.student.backbone.source is {settings.source!r}; known are "
    "teacher, weights."
  )


def _train(context, variant, state, step_fn, images):
  """Trains one student; returns its parameters and history."""
  settings = context.config.student
  mesh = sharding.make_mesh()
  state = sharding.replicate(state, mesh)
  labelled, held_out = (
    files.read(
      files.path_of(
        context.inputs["triplets"],
        TRANSFORMS[variant],
        split,
        context.config.triplets.sampling,
      ),
      num_images=len(images),
    )
    for split in ("train", "val")
  )
  stream = {"batch_size": settings.batch_size, "seed": context.config.seed}
  hosts = {
    "host_index": distributed.process_index(),
    "num_hosts": distributed.process_count(),
  }

  def make_batches(start_step):
    batches = dataset.make_dataset(
      labelled.indices,
      labelled.pair_sims,
      images,
      start_step=start_step,
      num_steps=settings.num_steps - start_step,
      **stream,
      **hosts,
    )
    for batch in batches:
      fields = {k: batch[k] for k in ("image", "target_logprobs")}
      yield sharding.shard_batch(fields, mesh)

  def describe_batch(step):
    items, fields = batches_lib.Batches(
      labelled.indices, labelled.pair_sims, images, **stream
    ).plan(step)
    return {"triplets": fields["index"], "images": items}

  def evaluate(state):
    batches = dataset.make_epoch(
      held_out.indices, held_out.pair_sims, images, **stream, **hosts
    )
    fields = ("image", "target_logprobs", "mask")
    return heldout.evaluate(
      state.params,
      (
        sharding.shard_batch({k: batch[k] for k in fields}, mesh)
        for batch in batches
      ),
      **{
        name: step_fn.keywords[name]
        for name in ("model", "loss_fn", "temperature", "value_range")
      },
    )

  state, history = loop.train(
    state,
    step_fn,
    make_batches,
    num_steps=settings.num_steps,
    checkpoint_dir=context.scratch / variant,
    checkpoint_every=settings.checkpoint_every,
    label=f"student {variant}",
    settings=loop.Settings(
      eval_fn=evaluate,
      eval_every=settings.eval_every,
      best_metric="val_loss" if settings.eval_every else "",
      on_bad_loss=settings.on_bad_loss,
      spike_factor=settings.spike_factor,
      describe_batch=describe_batch,
      metrics_dir=context.logs and context.logs / variant,
      profile=tuple(settings.profile),
      units_per_step={
        "triplets": settings.batch_size,
        "images": 3 * settings.batch_size,
      },
      # The other variants have the same.
      show_overview=variant == settings.variants[0],
    ),
    log=context.log,
  )
  return distributed.fetch(state.params), history


def _write_csv(path, rows):
  """Writes dicts as a table; floats exactly, what a row lacks as nothing."""
  names = list(dict.fromkeys(name for row in rows for name in row))
  lines = [",".join(names)]
  lines += [",".join(str(row.get(name, "")) for name in names) for row in rows]
  artifacts.write_text(path, "\n".join(lines) + "\n")


class Embedder:
  """Computes pooled features with the students of a finished stage."""

  def __init__(self, directory):
    """Reads the architecture; `directory` is the artefact of the stage."""
    self._directory = directory
    self._backbone = artifacts.read_json(directory / "backbone.json")
    self._model = backbone_stage.make_model(self._backbone)

  @property
  def size(self):
    """Height and width in pixels that the students take."""
    return self._backbone["size"]

  def has(self, name):
    """Whether there is a student "base", "aligned" or "control"."""
    return (self._directory / f"{name}.npz").exists()

  def __call__(self, name, images, *, batch_size):
    """Returns f32[n d] for a collection of images."""
    path = self._directory / f"{name}.npz"
    params = weights_lib.unflatten(weights_lib.read(path))
    return backbone_stage.extract(
      self._model,
      params,
      images,
      backbone=self._backbone,
      batch_size=batch_size,
      label=f"{name}: {len(images)} images",
    )
