"""The stages of AligNet, in order: what each reads and which fields it uses.

A stage's module is imported when the stage runs, so a run that finds all of
them up to date, or a file missing, does not wait for JAX or TensorFlow.

Usage:
  pipeline.run(stages.stages(), config, workdir)
"""

import functools

from alignet_jax import inputs, pipeline


def stages():
  """All stages, each after those that it reads."""
  return (
    _stage(
      "judgments",
      run=_run_judgments,
      reads=(),
      config_keys=("judgments", "things", "world", "vice"),
    ),
    _stage(
      "features",
      run=_run_features,
      reads=(),
      config_keys=("features", "images", "world", "things", "pretrain"),
    ),
    _stage(
      "teacher",
      run=_run_teacher,
      reads=("judgments", "features"),
      config_keys=("teacher",),
    ),
    _stage(
      "clusters",
      run=_run_clusters,
      reads=("features", "teacher"),
      config_keys=("clusters",),
    ),
    _stage(
      "triplets",
      run=_run_triplets,
      reads=("features", "teacher", "clusters"),
      config_keys=("triplets",),
    ),
    _stage(
      "student",
      run=_run_student,
      reads=("features", "triplets"),
      config_keys=("student", "triplets", "images", "world", "features"),
      all_hosts=True,
    ),
    _stage(
      "evaluate",
      run=_run_evaluate,
      reads=("judgments", "features", "teacher", "student"),
      config_keys=(
        "evaluate",
        "judgments",
        "vice",
        "student",
        "teacher",
        "world",
        "images",
      ),
    ),
    _stage(
      "report",
      run=_run_report,
      reads=(
        "judgments",
        "features",
        "teacher",
        "clusters",
        "triplets",
        "student",
        "evaluate",
      ),
      config_keys=("report", "judgments", "images", "world", "student"),
    ),
    # A run of its own: real photographs, folds of concepts held out.
    _stage(
      "photo_features",
      run=_run_photo_features,
      reads=(),
      config_keys=("photos", "world"),
    ),
    _stage(
      "photo_teachers",
      run=_run_photo_teachers,
      reads=("photo_features",),
      config_keys=("photos", "world", "photo_teacher"),
    ),
    _stage(
      "photo_students",
      run=_run_photo_students,
      reads=("photo_features", "photo_teachers"),
      config_keys=("photos", "world", "photo_student"),
    ),
    _stage(
      "photo_scores",
      run=_run_photo_scores,
      reads=("photo_features", "photo_teachers", "photo_students"),
      config_keys=("photos", "world", "photo_scores"),
    ),
  )


def _stage(name, **fields):
  external = functools.partial(inputs.external_inputs, name)
  return pipeline.Stage(name=name, external=external, **fields)


def _run_judgments(context):
  from alignet_jax.judgments import stage

  return stage.run_judgments(context)


def _run_features(context):
  from alignet_jax.backbones import stage

  return stage.run_features(context)


def _run_teacher(context):
  from alignet_jax.teacher import stage

  return stage.run_teacher(context)


def _run_clusters(context):
  from alignet_jax.triplets import stage

  return stage.run_clusters(context)


def _run_triplets(context):
  from alignet_jax.triplets import stage

  return stage.run_triplets(context)


def _run_student(context):
  from alignet_jax.student import stage

  return stage.run_student(context)


def _run_evaluate(context):
  from alignet_jax.evals import stage

  return stage.run_evaluate(context)


def _run_report(context):
  from alignet_jax.evals import report_stage

  return report_stage.run_report(context)


def _run_photo_features(context):
  from alignet_jax.photos import stage

  return stage.run_features(context)


def _run_photo_teachers(context):
  from alignet_jax.photos import stage

  return stage.run_teachers(context)


def _run_photo_students(context):
  from alignet_jax.photos import student_stage

  return student_stage.run_students(context)


def _run_photo_scores(context):
  from alignet_jax.photos import score_stage

  return score_stage.run_scores(context)
