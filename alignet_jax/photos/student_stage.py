"""The stage of the photograph run that trains: folds, all concepts, control."""

import dataclasses

import numpy as np

from alignet_jax import artifacts
from alignet_jax.backbones import weights as weights_lib
from alignet_jax.photos import source, stage, students, tail
from alignet_jax.teacher import transform as transform_lib

# The student of similarities that no person had a part in.
CONTROL = "control"


def run_students(context):
  """Trains a student per fold, one of all concepts, and the control.

  The control learns the similarities of the same teacher without a transform.
  It knows no judgment but through one scalar, the sharpness of its targets,
  which is matched to that of the teacher of all concepts; so one control serves
  all folds. It sees all photographs.

  Writes `aligned_fold0.npz` and so on, the blocks that were trained;
  `aligned.npz`, `control.npz` and `base.npz`, whole backbones as of
  `load.Backbone.save`; `embeddings.npz`, f32[n d] of all photographs by each of
  them; and `losses.json`, the metrics of each step.

  Args:
    context: `pipeline.StageContext`; reads config.photo_student.

  Returns:
    Metrics `photo_student/{temperature,loss,accuracy}/...` of each student, the
    last two means over the last tenth of the steps.
  """
  config, settings = context.config, context.config.photo_student
  photos, folds = stage.opened(context)
  inputs = context.inputs["photo_features"]
  teacher, own, tokens = (
    artifacts.read_npy(inputs / f"{name}.npy")
    for name in ("teacher", "student", "tokens")
  )
  transformed = {
    name: transform_lib.AffineTransform.load(
      context.inputs["photo_teachers"] / f"{name}.npz"
    ).apply(teacher)
    for name in (*folds, stage.ALL)
  }
  backbone = source.load_backbone(config, config.photos.student_size)
  first = config.photos.first_block
  model = tail.make(backbone.model, first=first)
  start = tail.select(backbone.params, first=first)
  backbone.save(context.out / "base.npz")
  tx = students.make_optimizer(settings)
  every = np.arange(len(tokens))
  embeddings, history, metrics = {"base": own}, {}, {}
  for name in (*folds, stage.ALL, CONTROL):
    fold = folds.get(name, np.arange(0))
    # The images that the student may see.
    rows = every
    if not settings.show_heldout:
      rows = np.setdiff1d(every, photos.matched[fold])
    if len(rows) < settings.batch_size:
      raise artifacts.InputError(
        f"config.photo_student.batch_size is {settings.batch_size}; the student"
        f" of {name} may see {len(rows)} photographs, so at most {len(rows)}."
      )
    targets = transformed.get(name)
    if name == CONTROL:
      # One scalar from the teacher of all concepts, also of those held out.
      targets = students.as_sharp(
        teacher, transformed[stage.ALL], seed=config.seed
      )
    student = {stage.ALL: "aligned", CONTROL: CONTROL}.get(
      name, f"aligned_{name}"
    )
    temperature = settings.temperature_factor * students.matched_temperature(
      own[rows], targets[rows], seed=config.seed
    )
    params, history[student] = students.train(
      model,
      tx,
      start,
      tokens,
      targets,
      rows=rows,
      temperature=temperature,
      settings=settings,
      seed=config.seed,
      checkpoint_dir=context.scratch / student,
      label=f"student {student}",
      log=context.log,
    )
    embeddings[student] = students.embed(model, params, tokens)
    if name in folds:
      weights_lib.save(context.out / f"{student}.npz", params)
    else:
      whole = tail.join(backbone.params, params)
      dataclasses.replace(backbone, params=whole).save(
        context.out / f"{student}.npz"
      )
    last = history[student][-max(1, len(history[student]) // 10) :]
    metrics[f"photo_student/temperature/{student}"] = temperature
    for key in ("loss", "accuracy"):
      mean = float(np.mean([row[key] for row in last]))
      metrics[f"photo_student/{key}/{student}"] = mean
  artifacts.write_npz(context.out / "embeddings.npz", **embeddings)
  artifacts.write_json(context.out / "losses.json", history)
  return metrics
