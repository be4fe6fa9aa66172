"""The stage "teacher": features and judgments in, transforms out."""

import contextlib

from alignet_jax import artifacts, progress
from alignet_jax.teacher import fit

VARIANTS = ("hard", "soft")


def run_teacher(context):
  """Fits the variants asked for, and names one of them the teacher.

  Reads of the judgments `train.npz` and, for the variant "soft", `soft.npz`; of
  the features `stimuli.npy`. The test judgments are never opened: strengths are
  selected by a share of the training ones, the same for all variants.

  Writes `<variant>.npz` for each variant, the selected one once more as
  `transform.npz`, and `selection.json`, which says how each was chosen.

  Args:
    context: `pipeline.StageContext`; reads config.teacher (variants, selected,
      identity_weights, lr, batch_size, num_epochs, patience, val_fraction) and
      config.seed.

  Raises:
    artifacts.InputError: Settings or inputs that cannot be fitted; names the
      field or the file.
  """
  settings = context.config.teacher
  _check_variants(settings)
  features_path = context.inputs["features"] / "stimuli.npy"
  train_path = context.inputs["judgments"] / "train.npz"
  features = artifacts.read_npy(features_path)
  triplets = artifacts.read_npz(train_path, required=("triplets",))["triplets"]
  soft_targets = None
  if "soft" in settings.variants:
    soft_targets = _read_soft_targets(context.inputs["judgments"])
  with _naming(features_path):
    fit.standardise(features)
  with _naming(train_path):
    train, held_out = fit.split_triplets(
      triplets, val_fraction=settings.val_fraction, seed=context.config.seed
    )
  context.log(
    f"teacher: {len(train)} judgments of {len(features)} items to fit to,"
    f" {len(held_out)} to select by; {features.shape[1]} features"
  )
  selection = {
    "selected": settings.selected,
    "num_train": len(train),
    "num_held_out": len(held_out),
    "variants": {},
  }
  for variant in settings.variants:
    targets = soft_targets[train] if variant == "soft" else None
    label = f"teacher {variant}"
    with (
      _naming(train_path),
      progress.Progress(settings.num_epochs, unit="epochs", label=label) as bar,
    ):
      result = fit.fit_transform(
        features,
        triplets[train],
        val_triplets=triplets[held_out],
        target_logprobs=targets,
        identity_weights=settings.identity_weights,
        lr=settings.lr,
        batch_size=settings.batch_size,
        num_epochs=settings.num_epochs,
        patience=settings.patience,
        seed=context.config.seed,
        callback=lambda _, nll, bar=bar: bar.update(val_nll=nll.min()),
      )
    for row in result.table:
      context.log(_format_row(variant, row))
    selection["variants"][variant] = result.table
    result.transform.save(context.out / f"{variant}.npz")
    if variant == settings.selected:
      result.transform.save(context.out / "transform.npz")
  artifacts.write_json(context.out / "selection.json", selection)


def _check_variants(settings):
  for variant in settings.variants:
    if variant not in VARIANTS:
      raise artifacts.InputError(
        f"config.teacher.variants holds {variant!r}; known are"
        f" {', '.join(VARIANTS)}."
      )
  if settings.selected not in settings.variants:
    raise artifacts.InputError(
      f"config.teacher.selected is {settings.selected!r}; it must be one of"
      f" config.teacher.variants: {', '.join(settings.variants)}."
    )


def _read_soft_targets(judgments):
  path = judgments / "soft.npz"
  if not path.exists():
    raise artifacts.InputError(
      f"The teacher's variant 'soft' needs soft targets, and there is no file"
      f" {path}. Let the stage judgments make them (config.judgments.soft), or"
      " set config.teacher.variants and config.teacher.selected without 'soft'."
    )
  return artifacts.read_npz(path, required=("target_logprobs",))[
    "target_logprobs"
  ]


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
    f"teacher {variant}: identity weight {row['identity_weight']:g}: held-out"
    f" accuracy {row['val_accuracy']:.4f}, cross-entropy {row['val_nll']:.4f},"
    f" entropy {row['val_entropy']:.4f} at epoch {row['epoch']} of"
    f" {row['num_epochs']}{mark}"
  )
