"""The last stage of the photograph run: scores of held-out concepts."""

import numpy as np

from alignet_jax import artifacts
from alignet_jax.photos import scores, stage
from alignet_jax.teacher import transform as transform_lib

MEASURES = ("rsa", "knn_accuracy", "one_shot")


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
  photos, folds = stage.opened(context)
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
      "control": students_of["control"][matched],
      "teacher_base": teacher,
      "teacher": transform.apply(teacher),
    }
    queries = fold[labels[fold] >= 0]
    support = np.setdiff1d(np.arange(len(matched)), fold)
    for model, z in shown.items():
      rows = by_fold.setdefault(model, {name: [] for name in MEASURES})
      rows["rsa"].append(scores.rsa_within(z[fold], people[fold]))
      right = scores.nearest_is_right(z, labels, queries)
      rows["knn_accuracy"].append(right.astype(float).tolist())
      shots = scores.one_shot(
        z,
        labels,
        queries,
        support,
        num_draws=settings.num_draws,
        seed=context.config.seed,
      )
      rows["one_shot"].append(shots.tolist())
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
  for measure in MEASURES:
    for model, rows in by_fold.items():
      values = np.concatenate([np.atleast_1d(row) for row in rows[measure]])
      metrics[f"photos/{measure}/{model}"] = float(np.mean(values))
  return metrics
