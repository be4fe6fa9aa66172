"""The stages of the photograph run: features, teachers, students, scores.

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
from alignet_jax.backbones import weights as weights_lib
from alignet_jax.photos import folds as folds_lib
from alignet_jax.photos import scores, source, students, tail
from alignet_jax.teacher import transform as transform_lib

# Names beside those of the folds: fitted to all concepts, or to none.
ALL, CONTROL = "all", "control"


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
  parts = folds_lib.split(
    len(photos.matched), num_folds=config.photos.num_folds, seed=config.seed
  )
  backbone = source.load_backbone(config, config.photos.teacher_size)
  context.log(str(backbone.report))
  (x,) = _extract(context, photos, backbone, (backbone.output,))
  artifacts.write_npy(context.out / "teacher.npy", x)
  backbone = source.load_backbone(config, config.photos.student_size)
  tokens_name = tail.input_name(config.photos.first_block)
  tail.make(backbone.model, first=config.photos.first_block)
  outputs = (backbone.output, tokens_name)
  x, tokens = _extract(context, photos, backbone, outputs)
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
  photos, folds = _opened(context)
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


def run_students(context):
  """Trains a student per fold, one of all concepts, and the control.

  The control learns the similarities of the same teacher without a transform.
  It knows no judgment, so one serves all folds; it sees all photographs.

  Writes `aligned_fold0.npz` and so on, the blocks that were trained;
  `aligned.npz`, `control.npz` and `base.npz`, whole backbones in the names of
  big_vision; `embeddings.npz`, f32[n d] of all photographs by each of them; and
  `losses.json`, the metrics of each step.

  Args:
    context: `pipeline.StageContext`; reads config.photo_student.

  Returns:
    Metrics `photo_student/{temperature,loss,accuracy}/...` of each student, the
    last two means over the last tenth of the steps.
  """
  config, settings = context.config, context.config.photo_student
  photos, folds = _opened(context)
  inputs = context.inputs["photo_features"]
  teacher, own, tokens = (
    artifacts.read_npy(inputs / f"{name}.npy")
    for name in ("teacher", "student", "tokens")
  )
  transformed = {
    name: transform_lib.AffineTransform.load(
      context.inputs["photo_teachers"] / f"{name}.npz"
    ).apply(teacher)
    for name in (*folds, ALL)
  }
  backbone = source.load_backbone(config, config.photos.student_size)
  first = config.photos.first_block
  model = tail.make(backbone.model, first=first)
  start = tail.select(backbone.params, first=first)
  weights_lib.save(context.out / "base.npz", backbone.params)
  tx = students.make_optimizer(settings)
  every = np.arange(len(tokens))
  embeddings, history, metrics = {"base": own}, {}, {}
  for name in (*folds, ALL, CONTROL):
    fold = folds.get(name, np.arange(0))
    # The images that the student may see.
    rows = every
    if not settings.show_heldout:
      rows = np.setdiff1d(every, photos.matched[fold])
    targets = transformed.get(name)
    if name == CONTROL:
      targets = students.as_sharp(teacher, transformed[ALL], seed=config.seed)
    student = {ALL: "aligned", CONTROL: CONTROL}.get(name, f"aligned_{name}")
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
      weights_lib.save(context.out / f"{student}.npz", whole)
    last = history[student][-max(1, len(history[student]) // 10) :]
    metrics[f"photo_student/temperature/{student}"] = temperature
    for key in ("loss", "accuracy"):
      mean = float(np.mean([row[key] for row in last]))
      metrics[f"photo_student/{key}/{student}"] = mean
  artifacts.write_npz(context.out / "embeddings.npz", **embeddings)
  artifacts.write_json(context.out / "losses.json", history)
  return metrics


def run_scores(context):
  """Scores base, aligned and control on concepts that were held out.

  All three are asked the same: of each fold, the pairs among its concepts, and
  its photographs that have a category. "aligned" is the fold's own student, or
  teacher. A photograph's nearest neighbour may be any other photograph of a
  concept that has a category; the one photograph per category is of the other
  folds. `rsa` is the mean over folds, the accuracies over photographs.

  Writes `folds.json`, each measure by fold, and `categories.json`, which
  photograph counts as what.

  Args:
    context: `pipeline.StageContext`; reads config.photo_scores.

  Returns:
    Metrics `photos/{rsa,knn_accuracy,one_shot}/{base,aligned,control}` at the
    student's resolution, the same of `teacher_base` and `teacher`, the features
    as they are and transformed at the teacher's resolution, and
    `photos/num_{categories,classified}`.
  """
  settings = context.config.photo_scores
  photos, folds = _opened(context)
  matched, people = photos.matched, photos.embedding
  labels, names = scores.usable_labels(
    photos.categories, list(folds.values()), min_photos=settings.min_photos
  )
  if len(names) < 2:
    raise artifacts.InputError(
      f"{len(names)} categories have {settings.min_photos} photographs or more"
      " (config.photo_scores.min_photos); 2 are needed. Take another"
      " config.photos.category, or fewer photographs."
    )
  students_of = artifacts.read_npz(
    context.inputs["photo_students"] / "embeddings.npz"
  )
  teacher = artifacts.read_npy(
    context.inputs["photo_features"] / "teacher.npy"
  )[matched]
  by_fold = {}
  for name, fold in folds.items():
    transform = transform_lib.AffineTransform.load(
      context.inputs["photo_teachers"] / f"{name}.npz"
    )
    shown = {
      "base": students_of["base"][matched],
      "aligned": students_of[f"aligned_{name}"][matched],
      CONTROL: students_of[CONTROL][matched],
      "teacher_base": teacher,
      "teacher": transform.apply(teacher),
    }
    queries = fold[labels[fold] >= 0]
    support = np.setdiff1d(np.arange(len(matched)), fold)
    for model, z in shown.items():
      rows = by_fold.setdefault(model, {})
      rows.setdefault("rsa", []).append(
        scores.rsa_within(z[fold], people[fold])
      )
      rows.setdefault("knn_accuracy", []).append(
        scores.nearest_is_right(z, labels, queries).tolist()
      )
      rows.setdefault("one_shot", []).append(
        scores.one_shot(
          z,
          labels,
          queries,
          support,
          num_draws=settings.num_draws,
          seed=context.config.seed,
        ).tolist()
      )
  artifacts.write_json(context.out / "folds.json", by_fold)
  shown_as = ["" if i < 0 else names[i] for i in labels]
  artifacts.write_json(
    context.out / "categories.json",
    {photos.names[row]: shown_as[i] for i, row in enumerate(matched)},
  )
  metrics = {
    "photos/num_categories": len(names),
    "photos/num_classified": int((labels >= 0).sum()),
  }
  for measure in ("rsa", "knn_accuracy", "one_shot"):
    for model, rows in by_fold.items():
      values = np.concatenate([np.atleast_1d(row) for row in rows[measure]])
      metrics[f"photos/{measure}/{model}"] = float(np.mean(values))
  return metrics


def _opened(context):
  """The source, and the folds by name, as the features stage wrote them."""
  photos = source.make(context.config)
  record = artifacts.read_json(context.inputs["photo_features"] / "folds.json")
  folds = {
    f"fold{number}": np.array(part)
    for number, part in enumerate(record["folds"])
  }
  return photos, folds
