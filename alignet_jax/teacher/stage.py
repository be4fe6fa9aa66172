"""The stage "teacher": features and judgments in, transforms out."""

import contextlib
import dataclasses

import numpy as np

from alignet_jax import artifacts, progress
from alignet_jax.judgments import from_embedding
from alignet_jax.teacher import checks, selection, steps


@dataclasses.dataclass(frozen=True)
class Variant:
  """A published way to fit the transform.

  Attributes:
    targets: Name of the file of soft targets in the judgments, without ending;
      empty to fit to the choices.
    objective: `steps.Objective`.
    is_local: Whether the config's locality loss is added.
    keeps_choices: Whether judged triplets keep people's choice, and drawn ones
      alone have soft targets, where there are drawn ones. Of these it takes no
      more than there are choices, which are to weigh at least as much.
  """

  targets: str = ""
  objective: steps.Objective = steps.Objective()
  is_local: bool = False
  keeps_choices: bool = False


# AligNet's teacher is "soft"; "hard" is the same without uncertainty (paper.md,
# section A). "naive" is probing of human_alignment (section F), "global" and
# "glocal" are gLocal's (section G), all three with their initial map.
_PUBLISHED_START = {"scale": 1e-3, "bias": 1e-3}
VARIANTS = {
  "hard": Variant(),
  "soft": Variant(targets="soft"),
  # Its targets come from a fit to these very choices and repeat its errors, so
  # that the choices know more: .5862 on THINGS, against .5808 with its targets.
  # That fit has seen all training choices, also those that are held out to
  # choose the strength by; the test choices never.
  "soft_own_vice": Variant(targets="soft_own_vice", keeps_choices=True),
  "naive": Variant(
    objective=steps.Objective(penalty="frobenius", **_PUBLISHED_START)
  ),
  "global": Variant(objective=steps.Objective(**_PUBLISHED_START)),
  "glocal": Variant(
    objective=steps.Objective(**_PUBLISHED_START), is_local=True
  ),
}

SELECTIONS = ("objects", "triplets")


def run_teacher(context):
  """Fits the variants asked for, and names one of them the teacher.

  Reads of the judgments `train.npz` and soft targets where a variant has them;
  of the features `stimuli.npy`. The test judgments are never opened: strengths
  are selected by a part of the training ones, the same for all variants, and
  the selected strength is fitted to all of them.

  Writes `<variant>.npz` for each variant, the selected one once more as
  `transform.npz`, and `selection.json`, which says how each was chosen.

  Args:
    context: `pipeline.StageContext`; reads config.teacher and config.seed.

  Returns:
    Metrics, if there are folds of objects: `object_heldout/accuracy/<variant>`,
    for the strength that is best on them, and of the features as they are
    `object_heldout/accuracy/zero_shot`. Targets of an own VICE fit have seen
    all training choices, also those held out here, so these numbers are too
    good for variants fitted to them ("soft_own_vice", and "soft" with
    config.judgments.soft "vice"); they have never seen the test choices.

  Raises:
    artifacts.InputError: Settings or inputs that cannot be fitted; names the
      field or the file.
  """
  settings = context.config.teacher
  _check_settings(settings)
  features_path = context.inputs["features"] / "stimuli.npy"
  train_path = context.inputs["judgments"] / "train.npz"
  features = artifacts.read_npy(features_path)
  triplets = artifacts.read_npz(train_path, required=("triplets",))["triplets"]
  local_features = None
  if settings.local_features:
    local_features = artifacts.read_npy(settings.local_features)
  with _naming(features_path):
    checks.standardise(features, per_feature=settings.per_feature)
  if local_features is not None:
    with _naming(settings.local_features):
      checks.check_local(local_features, features)
  if not 0 <= settings.rank < features.shape[1]:
    raise artifacts.InputError(
      f"config.teacher.rank is {settings.rank}; expected 0 (full), or 1 to "
      f"{features.shape[1] - 1} for {features.shape[1]} features."
    )
  context.log(
    f"teacher: {len(triplets)} judgments of {len(features)} items; "
    f"{features.shape[1]} features"
  )
  record = {"selected": settings.selected, "variants": {}, "by_objects": {}}
  metrics = {}
  for name in settings.variants:
    variant = VARIANTS[name]
    targets = {}
    if variant.targets:
      targets = _read_targets(context.inputs["judgments"], name, variant)
    with _naming(train_path):
      chosen, by_objects = _fit(
        context,
        name,
        variant,
        features,
        triplets,
        local_features,
        **targets,
      )
    for row in chosen.table:
      context.log(_format_row(name, row))
    record["variants"][name] = chosen.table
    if by_objects is not None:
      record["by_objects"][name] = by_objects.table
      prefix = "object_heldout/accuracy"
      metrics[f"{prefix}/zero_shot"] = by_objects.zero_shot
      metrics[f"{prefix}/{name}"] = by_objects.best["val_accuracy"]
    record["num_train"] = chosen.num_train
    record["num_held_out"] = chosen.num_held_out
    chosen.transform.save(context.out / f"{name}.npz")
    if name == settings.selected:
      chosen.transform.save(context.out / "transform.npz")
  artifacts.write_json(context.out / "selection.json", record)
  return metrics


def _fit(context, name, variant, features, triplets, local_features, **targets):
  settings = context.config.teacher
  objective = dataclasses.replace(
    variant.objective,
    rank=settings.rank,
    locality_weight=settings.locality_weight if variant.is_local else 0.0,
    locality_temperature=settings.locality_temperature,
  )
  fixed = {
    **targets,
    "objective": objective,
    "local_features": local_features,
    "strengths": settings.strengths,
    "lr": settings.lr,
    "lr_decay": settings.lr_decay,
    "batch_size": settings.batch_size,
    "num_epochs": settings.num_epochs,
    "patience": settings.patience,
    "per_feature": settings.per_feature,
    "seed": context.config.seed,
  }
  by_objects = chosen = None
  if settings.num_folds:
    share = (1 - 1 / settings.num_folds) ** 3  # Of the triplets, per fold.
    drawn = targets.get("drawn")
    if drawn is not None:
      share *= 1 + len(drawn.triplets) / len(triplets)
    num_epochs = settings.num_folds * round(settings.num_epochs / share)
    with _progress(f"teacher {name}, objects left out", num_epochs) as callback:
      chosen = by_objects = selection.by_objects(
        features,
        triplets,
        num_folds=settings.num_folds,
        callback=callback,
        **fixed,
      )
  if settings.selection == "triplets":
    num_epochs = round(settings.num_epochs / (1 - settings.val_fraction))
    with _progress(f"teacher {name}", num_epochs) as callback:
      chosen = selection.by_triplets(
        features,
        triplets,
        val_fraction=settings.val_fraction,
        callback=callback,
        **fixed,
      )
  return chosen, by_objects


@contextlib.contextmanager
def _progress(label, num_epochs):
  """Shows epochs, of how many there are about if none stops early."""
  with progress.Progress(num_epochs, unit="epochs", label=label) as bar:
    yield lambda _, nll: bar.update(val_nll=nll.min())


def _check_settings(settings):
  for name in settings.variants:
    if name not in VARIANTS:
      raise artifacts.InputError(
        f"config.teacher.variants holds {name!r}; known are"
        f" {', '.join(VARIANTS)}."
      )
  if settings.selected not in settings.variants:
    raise artifacts.InputError(
      f"config.teacher.selected is {settings.selected!r}; it must be one of"
      f" config.teacher.variants: {', '.join(settings.variants)}."
    )
  if settings.selection not in SELECTIONS:
    raise artifacts.InputError(
      f"config.teacher.selection is {settings.selection!r}; known are "
      f"{', '.join(SELECTIONS)}."
    )
  if settings.selection == "objects" and not settings.num_folds:
    raise artifacts.InputError(
      "config.teacher.selection is 'objects', but config.teacher.num_folds is "
      "0; it must be 2 or more."
    )


def with_drawn(targets, drawn, variant):
  """Targets of judged triplets beside drawn ones, as a variant has them.

  Args:
    targets: f32[t 3] log probabilities of the judged triplets, odd item last.
    drawn: `from_embedding.Drawn`, or None.
    variant: `Variant`.

  Returns:
    Settings of `selection`: target_logprobs f32[t 3], or for a variant that
    keeps choices the certainty that the last item is odd; and drawn.
  """
  if drawn is not None and variant.keeps_choices:
    choice = np.array([-np.inf, -np.inf, 0.0], np.float32)
    targets = np.broadcast_to(choice, np.shape(targets))
    drawn = from_embedding.Drawn(*(x[: len(targets)] for x in drawn))
  return {"target_logprobs": targets, "drawn": drawn}


def _read_targets(judgments, name, variant):
  """Targets of the judged triplets, and drawn ones with theirs, if any."""
  path = judgments / f"{variant.targets}.npz"
  if not path.exists():
    raise artifacts.InputError(
      f"The teacher's variant {name!r} needs soft targets, and there is no file"
      f" {path}. Let the stage judgments make them (config.judgments.soft,"
      " config.judgments.own_vice), or set config.teacher.variants and"
      f" config.teacher.selected without {name!r}."
    )
  targets = artifacts.read_npz(path, required=("target_logprobs",))
  targets, drawn = targets["target_logprobs"], None
  path = judgments / "drawn.npz"
  if path.exists():
    arrays = artifacts.read_npz(path, required=("triplets", variant.targets))
    drawn = from_embedding.Drawn(arrays["triplets"], arrays[variant.targets])
  return with_drawn(targets, drawn, variant)


@contextlib.contextmanager
def _naming(path):
  """Says of which file a complaint about its content is."""
  try:
    yield
  except artifacts.InputError:
    raise
  except (ValueError, FloatingPointError) as error:
    raise artifacts.InputError(f"{path}: {error}") from error


def _format_row(variant, row):
  mark = " *" if row["selected"] else ""
  return (
    f"teacher {variant}: strength {row['strength']:g}: held-out"
    f" accuracy {row['val_accuracy']:.4f}, cross-entropy {row['val_nll']:.4f},"
    f" entropy {row['val_entropy']:.4f}, neighbours kept"
    f" {row['neighbours_kept']:.3f}, at epoch {row['epoch']:g}{mark}"
  )
