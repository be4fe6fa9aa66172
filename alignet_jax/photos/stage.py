"""The photograph run, and its first stages: features and teachers.

Of a thousand photographs, some show concepts that people judged. These concepts
are divided into folds. Each fold has a teacher and a student of its own, and is
held out from both: no judgment about its concepts is seen by the teacher, the
student, or the choice of the teacher's strength. Unless
`config.photo_student.show_heldout`, the student does not see their photographs
either. Scores are of held-out concepts alone.
"""

import numpy as np

from alignet_jax import artifacts, progress
from alignet_jax.backbones import features as features_lib
from alignet_jax.photos import folds as folds_lib
from alignet_jax.photos import scores, source, tail

# The name, beside those of the folds, of what is fitted to all concepts.
ALL = "all"


def run_features(context):
  """Computes what teachers and students start from.

  Writes `teacher.npy` f32[n d], the backbone's representation at
  `config.photos.teacher_size` pixels; `student.npy` f32[n d], the same at
  `student_size`; `tokens.npy` f32[n t d], at that size the input of the first
  trained block; and `folds.json`: names of the photographs, rows of those that
  show a concept, and, as places among these, the folds.

  Args:
    context: `pipeline.StageContext`; reads config.photos.

  Returns:
    Metrics: `photos/num_{images,concepts}`.
  """
  config = context.config
  photos = source.make(config)
  first = config.photos.first_block
  # All that can be wrong is refused before the first of the features.
  student = source.load_backbone(config, config.photos.student_size)
  try:
    parts = folds_lib.split(
      len(photos.matched), num_folds=config.photos.num_folds, seed=config.seed
    )
    tail.make(student.model, first=first)
  except ValueError as error:
    raise artifacts.InputError(
      f"config.photos (first_block {first}): {error}"
    ) from error
  backbone = source.load_backbone(config, config.photos.teacher_size)
  context.log(str(backbone.report))
  (x,) = _extract(context, photos, backbone, (backbone.output,))
  artifacts.write_npy(context.out / "teacher.npy", x)
  outputs = (student.output, tail.input_name(first))
  x, tokens = _extract(context, photos, student, outputs)
  artifacts.write_npy(context.out / "student.npy", x)
  artifacts.write_npy(context.out / "tokens.npy", tokens)
  artifacts.write_json(
    context.out / "folds.json",
    {
      "names": photos.names,
      "matched": photos.matched.tolist(),
      "folds": [part.tolist() for part in parts],
    },
  )
  return {
    "photos/num_images": len(photos.names),
    "photos/num_concepts": len(photos.matched),
  }


def _extract(context, photos, backbone, outputs):
  """Several outputs of a backbone for all photographs, in one pass."""
  images = photos.open(backbone.preprocessing)
  size = backbone.preprocessing.size
  n, batch_size = len(images), context.config.photos.batch_size
  results = None
  label = f"features at {size} pixels"
  with progress.Progress(n, unit="images", label=label) as bar:
    for start in range(0, n, batch_size):
      rows = np.arange(start, min(start + batch_size, n))
      padded = np.resize(rows, min(batch_size, n))
      found = features_lib.forward(
        backbone.params,
        images.load(padded),
        model=backbone.model,
        scaling=backbone.preprocessing,
        outputs=outputs,
      )
      if results is None:
        results = [np.empty((n, *x.shape[1:]), np.float32) for x in found]
      for result, x in zip(results, found, strict=True):
        result[rows] = np.asarray(x)[: len(rows)]
      bar.update(len(rows))
  for name, x in zip(outputs, results, strict=True):
    if not np.isfinite(x).all():
      raise artifacts.InputError(
        f"The output {name} of {context.config.photos.backbone.name} at {size}"
        " pixels holds NaN or infinity; the weights do not fit."
      )
  return results


def run_teachers(context):
  """Fits a transform without each fold, and one to all concepts.

  Writes `fold0.npz` and so on, `all.npz` (`transform.AffineTransform`) and
  `selection.json`, how the strength of each was chosen: by concepts left out of
  its own training concepts.

  Args:
    context: `pipeline.StageContext`; reads config.photo_teacher.

  Returns:
    Metrics: `photos/teacher_rsa_dot`, the mean over folds of the Spearman
    correlation of the held-out concepts' dot products, by which the transform
    is fitted, with people's.
  """
  settings = context.config.photo_teacher
  photos, folds = opened(context)
  features = artifacts.read_npy(
    context.inputs["photo_features"] / "teacher.npy"
  )[photos.matched]
  record, correlations = {}, []
  for name, fold in {**folds, ALL: np.arange(0)}.items():
    try:
      chosen = folds_lib.fit_without(
        features,
        photos.embedding,
        fold,
        num_triplets=settings.num_triplets,
        seed=context.config.seed,
        strengths=settings.strengths,
        lr=settings.lr,
        lr_decay=settings.lr_decay,
        batch_size=settings.batch_size,
        num_epochs=settings.num_epochs,
        patience=0,
      )
    except ValueError as error:
      raise artifacts.InputError(
        f"The teacher {name} cannot be fitted: {error}"
      ) from error
    chosen.transform.save(context.out / f"{name}.npz")
    record[name] = chosen.table
    shown = f"photo teacher {name}: strength {chosen.best['strength']:g}"
    if len(fold):
      z = chosen.transform.apply(features[fold])
      correlations.append(scores.rsa_dot(z, photos.embedding[fold]))
      shown += f", held-out RSA (dot) {correlations[-1]:.3f}"
    context.log(shown)
  artifacts.write_json(context.out / "selection.json", record)
  return {"photos/teacher_rsa_dot": float(np.mean(correlations))}


def opened(context):
  """What all later stages begin with.

  Args:
    context: `pipeline.StageContext` that reads the stage photo_features.

  Returns:
    `source.Source`, and a dict from the name of a fold, "fold0" and so on, to
    int64[m], places among the photographs that show a concept.
  """
  photos = source.make(context.config)
  record = artifacts.read_json(context.inputs["photo_features"] / "folds.json")
  folds = {
    f"fold{number}": np.array(part)
    for number, part in enumerate(record["folds"])
  }
  return photos, folds
