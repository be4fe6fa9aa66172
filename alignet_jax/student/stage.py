"""The stage "student": the aligned model and the untransformed control.

Both start from the same weights and differ in nothing but whose similarities
they learn: the transformed teacher's or the raw one's.
"""

import jax
import numpy as np

from alignet_jax import artifacts, distributed, loop
from alignet_jax.backbones import stage as backbone_stage
from alignet_jax.backbones import weights as weights_lib
from alignet_jax.images import sources
from alignet_jax.student import data, embedder, heldout, sharding
from alignet_jax.student import model as model_lib
from alignet_jax.student import settings as settings_lib

# Where evaluations look for it.
Embedder = embedder.Embedder

# Name of the student to the folder of its triplets.
TRANSFORMS = {"aligned": "aligned", "control": "untransformed"}


def run_student(context):
  """Fine-tunes one student per variant.

  Writes `base.npz` (the backbone before) and, for each variant,
  `<variant>.npz` (the backbone after the last step or, with config.student
  .export "best", after the one with the least held-out loss; names of
  big_vision) and, if there is one, `<variant>_head.npz` with `head.json` (what
  it reads), `backbone.json` (the architecture, which the files of weights note
  as well) and `losses.csv` (variant, step and the metrics of
  `train.train_step`, with "val_loss" and "val_accuracy" on held-out triplets
  after the updates of some steps).

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
  mesh = settings_lib.make_mesh(settings)
  settings_lib.check_batches(settings, mesh)
  backbone, params = _base(context)
  size = backbone["size"]
  student = settings_lib.make_student(
    backbone_stage.make_model(backbone), settings, image_size=size
  )
  tx = settings_lib.make_optimizer(settings)
  # One for all variants, so that the step is compiled once.
  step_fn = settings_lib.make_step(
    settings,
    student,
    tx,
    value_range=backbone_stage.scaling(backbone),
    mesh=mesh,
  )
  backbone_stage.save(context.out / "base.npz", params, backbone)
  artifacts.write_json(context.out / "backbone.json", backbone)
  images = _open_collection(context, backbone)
  params = model_lib.init_params(
    jax.random.key(context.config.seed), student, params, image_size=size
  )
  for line in sharding.table(params, mesh):
    context.log(line)
  metrics, rows = {}, []
  for variant in settings.variants:
    state = settings_lib.make_state(params, tx, settings, mesh)
    trained, history = _train(context, variant, state, step_fn, images, mesh)
    backbone_stage.save(
      context.out / f"{variant}.npz", trained["backbone"], backbone
    )
    if "triplet_head" in trained:
      weights_lib.save(
        context.out / f"{variant}_head.npz", trained["triplet_head"]
      )
      artifacts.write_json(
        context.out / "head.json", {"representation": settings.representation}
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
  if settings.source in ("weights", "random"):
    seed = context.config.seed if settings.source == "random" else None
    return backbone_stage.load(settings.to_dict(), context.log, seed=seed)
  raise artifacts.InputError(
    f"config.student.backbone.source is {settings.source!r}; known are "
    "teacher, weights, random."
  )


def _open_collection(context, backbone):
  """The images that triplets refer to, as the student takes them."""
  images = sources.open_images(
    context.config,
    sources.STUDENT_COLLECTION,
    preprocessing=backbone_stage.preprocessing(backbone),
  )
  if sources.has_student_collection(context.config):
    features = artifacts.read_json(context.inputs["features"] / "images.json")
    sources.check_same(images, features["collection"])
  return images


def _train(context, variant, state, step_fn, images, mesh):
  """Trains one student; returns its parameters and history."""
  settings = context.config.student
  examples = data.open_examples(context, TRANSFORMS[variant], images, mesh)

  def evaluate(state):
    names = ("model", "loss_fn", "temperature", "value_range")
    return heldout.evaluate(
      state.params,
      examples.held_out(),
      **{name: step_fn.keywords[name] for name in names},
    )

  state, history = loop.train(
    state,
    step_fn,
    examples.batches,
    num_steps=settings.num_steps,
    checkpoint_dir=context.scratch / variant,
    checkpoint_every=settings.checkpoint_every,
    label=f"student {variant}",
    settings=loop.Settings(
      eval_fn=evaluate,
      eval_every=settings.eval_every,
      best_metric="val_loss" if settings.eval_every else "",
      export=settings.export,
      on_bad_loss=settings.on_bad_loss,
      spike_factor=settings.spike_factor,
      describe_batch=examples.describe,
      metrics_dir=context.logs and context.logs / variant,
      profile=tuple(settings.profile),
      units_per_step=examples.units_per_step,
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
