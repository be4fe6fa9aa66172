"""The rows of a comparison: one model in one variant each, saved when done.

Usage:
  rows = compare_rows.make(inputs, ("zero_shot", "hard"), settings, out)
"""

import dataclasses
import hashlib
import json
import math
import time

import numpy as np

from alignet_jax import artifacts, odd_one_out
from alignet_jax.evals import neighbours, uncertainty
from alignet_jax.judgments import from_embedding, splits
from alignet_jax.teacher import (
  compare_inputs,
  compare_table,
  selection,
  stage,
  zero_shot,
)
from alignet_jax.teacher import transform as transform_lib

ZERO_SHOT = "zero_shot"

# Variants that need nothing but the files given: all but those of an own VICE.
VARIANTS = (
  ZERO_SHOT,
  *(name for name, v in stage.VARIANTS.items() if v.targets in ("", "soft")),
)

# What a fit depends on besides the folds and the seed, and what only that of a
# variant with the locality loss does.
FIT_SETTINGS = (
  "selection",
  "val_fraction",
  "strengths",
  "lr",
  "lr_decay",
  "batch_size",
  "num_epochs",
  "patience",
  "rank",
  "per_feature",
)
LOCAL_SETTINGS = ("locality_weight", "locality_temperature")

# What only a fit to soft targets depends on.
SOFT_SETTINGS = ("num_drawn",)

# All settings that `make` takes.
SETTINGS = (
  *FIT_SETTINGS,
  *LOCAL_SETTINGS,
  *SOFT_SETTINGS,
  "num_folds",
  "seed",
  "temperature",
  "num_resamples",
  "level",
)

# What the file of a row says of its fit.
_FITTED = ("strength", "object_heldout_accuracy", "selection", "by_objects")

# Changes when the same inputs and settings give other numbers.
_VERSION = 3

# Triplets that a temperature is found by: its error is then below 1 %.
_MAX_FOR_TEMPERATURE = 50_000


def make(inputs, variants, settings, out, *, log=print):
  """Fits and scores every model in every variant.

  Args:
    inputs: `compare_inputs.Inputs`.
    variants: Names in `VARIANTS`.
    settings: Dict with `SETTINGS`, named as the flags of `compare`.
    out: `pathlib.Path` of a folder, made if needed; what it holds is used.
    log: Called with a line about each row.

  Returns:
    A list of dicts with `compare_table.COLUMNS`.

  Raises:
    artifacts.InputError: Features or triplets that cannot be fitted, or a
      folder that cannot be made.
  """
  rows = []
  for model in inputs.features:
    folder = out / model
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise artifacts.InputError(
        f"{folder} cannot be made a folder: {error.strerror}."
      ) from error
    for variant in variants:
      start = time.monotonic()
      row, how = _row(inputs, model, variant, settings, folder)
      rows.append(row)
      log(
        f"{model} {variant}: accuracy {row['accuracy']:.4f} ({how}, "
        f"{time.monotonic() - start:.1f} s)"
      )
  return rows


def needs_targets(name):
  """Whether a variant is fitted to soft targets."""
  return name != ZERO_SHOT and bool(stage.VARIANTS[name].targets)


def _row(inputs, model, variant, settings, out):
  """One row, from what is saved as far as it is still true."""
  path, transform_path = out / f"{variant}.json", out / f"{variant}.npz"
  fit_key, key = _keys(inputs, model, variant, settings)
  saved = artifacts.read_json(path) if path.exists() else {}
  if saved.get("fit_key") != fit_key or (
    variant != ZERO_SHOT and not transform_path.exists()
  ):
    saved = {}
  if saved.get("key") == key:
    row = saved["row"]
    return {k: math.nan if v is None else v for k, v in row.items()}, "saved"
  features = inputs.features[model]
  row = {name: math.nan for name in compare_table.COLUMNS}
  row |= {"model": model, "variant": variant}
  how = "scored anew" if saved else "done"
  fitted = {}
  if variant == ZERO_SHOT:
    row["object_heldout_accuracy"] = _held_out_zero_shot(
      features, inputs.train, settings
    )
    with compare_inputs.naming(f"{model}, {variant}"):
      temperature = _temperature(features, inputs, settings)
    embedding, cosine = features, True
    row["neighbours_kept"] = 1.0
  else:
    objective = stage.VARIANTS[variant].objective
    if saved:
      transform = transform_lib.AffineTransform.load(transform_path)
      fitted = {name: saved[name] for name in _FITTED}
    else:
      chosen, by_objects = _fit(inputs, model, variant, settings)
      transform = chosen.transform
      fitted = {
        "strength": chosen.best["strength"],
        "object_heldout_accuracy": by_objects.best["val_accuracy"],
        "selection": [compare_table.without_nan(r) for r in chosen.table],
        "by_objects": [compare_table.without_nan(r) for r in by_objects.table],
      }
      # A kill must not leave the scores of an older fit beside this one.
      path.unlink(missing_ok=True)
      transform.save(transform_path)
    row["object_heldout_accuracy"] = fitted["object_heldout_accuracy"]
    row["strength"] = fitted["strength"]
    temperature = objective.temperature
    embedding, cosine = transform.apply(features), objective.cosine
    local = inputs.local_features.get(model, features)
    row["neighbours_kept"] = neighbours.kept(transform, local)
  row["temperature"] = temperature
  row |= _scores(inputs, embedding, cosine, temperature, features, settings)
  saved = {"key": key, "fit_key": fit_key, **fitted}
  artifacts.write_json(path, {**saved, "row": compare_table.without_nan(row)})
  return row, how


def _keys(inputs, model, variant, settings):
  """Hashes of all that the fit, and the scores, depend on."""
  digests = inputs.digests
  about = {
    "version": _VERSION,
    "variant": variant,
    "features": digests[f"features {model}"],
    "train": digests["triplets_train"],
    "num_folds": settings["num_folds"],
    "seed": settings["seed"],
  }
  if variant != ZERO_SHOT:
    definition = stage.VARIANTS[variant]
    about |= {name: settings[name] for name in FIT_SETTINGS}
    about["definition"] = repr(definition)
    if definition.targets:
      about["targets"] = digests["vice_embedding"]
      about |= {name: settings[name] for name in SOFT_SETTINGS}
      if settings["num_drawn"]:
        about["not_drawn"] = digests["triplets_test"]
    if definition.is_local:
      about["local"] = digests.get(f"local_features {model}")
      about |= {name: settings[name] for name in LOCAL_SETTINGS}
  fit_key = _hash(about)
  scoring = {
    "fit": fit_key,
    "test": digests["triplets_test"],
    "repeats": digests["repeats"],
    "local": digests.get(f"local_features {model}"),
    "num_resamples": settings["num_resamples"],
    "level": settings["level"],
  }
  if variant == ZERO_SHOT:
    scoring["temperature"] = settings["temperature"]
    # They decide the temperature.
    scoring["targets"] = digests["vice_embedding"]
  return fit_key, _hash(scoring)


def _hash(about):
  text = json.dumps(about, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _fit(inputs, model, variant, settings):
  """The `selection.Selection` of a variant, and that by objects left out."""
  definition = stage.VARIANTS[variant]
  objective = dataclasses.replace(
    definition.objective,
    rank=settings["rank"],
    locality_weight=settings["locality_weight"] if definition.is_local else 0.0,
    locality_temperature=settings["locality_temperature"],
  )
  fixed = {
    "seed": settings["seed"],
    **(_targets(inputs, definition, settings) if definition.targets else {}),
    "strengths": tuple(settings["strengths"]),
    "lr": settings["lr"],
    "lr_decay": settings["lr_decay"],
    "batch_size": settings["batch_size"],
    "num_epochs": settings["num_epochs"],
    "patience": settings["patience"],
    "per_feature": settings["per_feature"],
    "objective": objective,
  }
  if definition.is_local:
    fixed["local_features"] = inputs.local_features.get(model)
  with compare_inputs.naming(f"{model}, {variant}"):
    by_objects = selection.by_objects(
      inputs.features[model],
      inputs.train,
      num_folds=settings["num_folds"],
      **fixed,
    )
    if settings["selection"] == "objects":
      return by_objects, by_objects
    by_triplets = selection.by_triplets(
      inputs.features[model],
      inputs.train,
      val_fraction=settings["val_fraction"],
      **fixed,
    )
  return by_triplets, by_objects


def _targets(inputs, definition, settings):
  """Soft targets of the judged triplets, and drawn ones with theirs.

  None is drawn about the three objects of a test triplet, which an embedding
  of all judgments would answer for.
  """
  drawn = None
  if settings["num_drawn"]:
    drawn = from_embedding.draw(
      inputs.vice_embedding, settings["num_drawn"], seed=settings["seed"]
    )
    drawn = from_embedding.without(drawn, inputs.test)
  return stage.with_drawn(inputs.targets, drawn, definition)


def _scores(inputs, embedding, cosine, temperature, features, settings):
  """The fields of a row that tell how human-like an embedding is."""
  logits = (
    compare_inputs.logits(embedding, inputs.test, cosine=cosine) / temperature
  )
  repeats_logits, counts = None, None
  if inputs.repeats is not None:
    triplets, counts = inputs.repeats
    repeats_logits = (
      compare_inputs.logits(embedding, triplets, cosine=cosine) / temperature
    )
  scores = uncertainty.score_choices(logits, repeats_logits, counts)
  correct = _is_correct(logits)
  drawing = {name: settings[name] for name in ("num_resamples", "level")}
  drawing["seed"] = settings["seed"]
  accuracy = zero_shot.accuracy_interval(correct, inputs.test, **drawing)
  scores |= {"accuracy_low": accuracy.low, "accuracy_high": accuracy.high}
  if embedding is not features:
    before = _is_correct(
      compare_inputs.logits(features, inputs.test, cosine=True)
    )
    gain = zero_shot.paired_interval(correct, before, inputs.test, **drawing)
    scores |= {
      "gain": gain.value,
      "gain_low": gain.low,
      "gain_high": gain.high,
    }
  return scores


def _held_out_zero_shot(features, train, settings):
  """Accuracy of the cosine on the choices that strengths are selected by."""
  with compare_inputs.naming("zero_shot"):
    parts = splits.by_object(
      train,
      len(features),
      num_folds=settings["num_folds"],
      seed=settings["seed"],
    )
  rows = np.concatenate([held_out for _, held_out, _ in parts])
  if not len(rows):
    return math.nan
  return float(
    _is_correct(
      compare_inputs.logits(features, train[rows], cosine=True)
    ).mean()
  )


def _temperature(features, inputs, settings):
  """The temperature of zero-shot probabilities; test triplets play no part."""
  if settings["temperature"] != "fit":
    return settings["temperature"]
  some = slice(None, None, -(-len(inputs.train) // _MAX_FOR_TEMPERATURE))
  logits = compare_inputs.logits(features, inputs.train[some], cosine=True)
  if inputs.targets is None:
    choices = np.broadcast_to([0.0, 0.0, 1.0], logits.shape)
    found = zero_shot.best_temperature(logits, choices, distance="kl")
  else:
    found = zero_shot.best_temperature(logits, np.exp(inputs.targets[some]))
  return found.temperature


def _is_correct(logits):
  return np.asarray(odd_one_out.choose(logits)) == 2
