"""Chooses the strength of the pull by choices that were left out of the fit.

Held-out triplets of known objects say how well a map interpolates; choices
about objects that it never saw say what it has understood (paper.md, section F
and trap 21), and are the default. Either way the chosen strength is fitted once
more to everything, and that map is the result.

Usage:
  chosen = selection.by_objects(
    features, triplets, num_folds=3, strengths=(1e-3, 1e-2), lr=1e-3,
    batch_size=8192, num_epochs=15, patience=0, lr_decay="cosine", seed=0)
  chosen.transform.apply(features), chosen.table
"""

import dataclasses

import numpy as np

from alignet_jax import odd_one_out
from alignet_jax.evals import neighbours
from alignet_jax.judgments import from_embedding, splits
from alignet_jax.teacher import checks, fit, zero_shot
from alignet_jax.teacher import transform as transform_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
  """A transform, fitted to everything, and how its strength was chosen.

  The last fit makes `num_epochs` passes through everything, or the share of
  them after which early stopping ended the fits that were compared. Those of
  `by_triplets` make as many steps, to within rounding. Those of `by_objects`
  make as many as epochs of the judged triplets alone have: with drawn ones the
  strength is chosen at fewer steps than it is then fitted for, judged / (judged
  + drawn) times as many.

  Attributes:
    transform: The `AffineTransform`.
    table: One dict per strength, in the order given: strength; epoch, the mean
      of those kept; val_nll, val_accuracy and val_entropy, means over the
      folds, each weighted by its number of choices; neighbours_kept, the share
      of the 10 nearest neighbours that the map leaves among `local_features`
      (or the features); selected, a bool.
    zero_shot: Accuracy of the cosine of the features as they are, on the same
      held-out choices as the table's.
    num_train: Triplets fitted to, the mean over folds.
    num_held_out: Held-out choices, the sum over folds.
  """

  transform: transform_lib.AffineTransform
  table: list[dict]
  zero_shot: float
  num_train: int
  num_held_out: int

  @property
  def best(self):
    """The row of the table that was selected."""
    return next(row for row in self.table if row["selected"])


def by_objects(
  features,
  triplets,
  *,
  num_folds,
  seed,
  num_epochs,
  target_logprobs=None,
  drawn=None,
  **settings,
):
  """Selects by choices about objects that were left out of the fit.

  Of k folds each is held out once. A fit sees only triplets whose objects are
  all in the others, and is judged by those whose objects are all in the fold;
  its features are standardised by the objects that it sees. Nothing leaks, and
  most triplets are used by no fold. With `drawn` the last fit makes more steps
  than the strength was chosen at; see `Selection`.

  Args:
    features: f32[n d], not standardised.
    triplets: int[t 3] rows of `features`, odd item last.
    num_folds: Number of folds, at least 2.
    seed: Decides the folds and the batches.
    num_epochs: Most passes through all triplets. A fold has fewer triplets and
      passes through them more often: the number of steps is that of the judged
      triplets.
    target_logprobs: f32[t 3] or None, as of `fit.fit_transform`.
    drawn: `from_embedding.Drawn` of the same objects to fit to as well, never
      to select by; with `target_logprobs` only. Or None. A fold has those
      whose objects it all sees.
    **settings: Others of `fit.fit_transform`.

  Returns:
    A `Selection`.

  Raises:
    ValueError: As `fit.fit_transform`, or if a fold has no triplet on one of
      its sides; says which and what to do.
  """
  features, triplets = _checked(features, triplets)
  folds = splits.by_object(
    triplets, len(features), num_folds=num_folds, seed=seed
  )
  parts = []
  for index, (train, held_out, objects) in enumerate(folds):
    if not len(train) or not len(held_out):
      raise ValueError(
        f"Fold {index + 1} of {num_folds} has {len(train)} triplets to fit to "
        f"and {len(held_out)} to select by, of {len(triplets)}; it needs some "
        "of each. Use fewer folds or more triplets, or select by triplets."
      )
    seen = np.setdiff1d(np.arange(len(features)), objects)
    parts.append((train, held_out, seen, objects))
  settings = {**settings, "seed": seed}
  # Those of the judged triplets: strong pulls, which objects left out call for,
  # need no more.
  num_passed = num_epochs * len(triplets)
  return _select(
    features,
    triplets,
    target_logprobs,
    drawn,
    parts,
    num_epochs,
    num_passed,
    settings,
  )


def by_triplets(
  features,
  triplets,
  *,
  val_fraction,
  seed,
  num_epochs,
  target_logprobs=None,
  drawn=None,
  **settings,
):
  """Selects by choices that were left out, about objects that were not.

  The fit that is judged has no drawn triplet of the three objects of a choice
  that was left out; the last fit has them all.

  Args:
    features: As `by_objects`, and so are the others.
    triplets: See `features`.
    val_fraction: Share of the triplets to hold out; all answers to the same
      three objects are on one side.
    seed: See `features`.
    num_epochs: See `features`.
    target_logprobs: See `features`.
    drawn: See `features`.
    **settings: See `features`.

  Returns:
    A `Selection`.
  """
  features, triplets = _checked(features, triplets)
  if not 0 < val_fraction < 1:
    raise ValueError(f"val_fraction is {val_fraction}; expected 0 < it < 1.")
  fractions = (1 - val_fraction, val_fraction)
  train, held_out = splits.by_triplet(triplets, fractions, seed=seed)
  everything = np.arange(len(features))
  parts = [(train, held_out, everything, everything)]
  settings = {**settings, "seed": seed}
  num_drawn = 0 if drawn is None else len(drawn.triplets)
  num_passed = num_epochs * (len(triplets) + num_drawn)
  return _select(
    features,
    triplets,
    target_logprobs,
    drawn,
    parts,
    num_epochs,
    num_passed,
    settings,
  )


def _checked(features, triplets):
  features = np.asarray(features)
  checks.standardise(features)
  return features, checks.check_triplets(triplets, len(features), "triplets")


def _select(
  features, triplets, targets, drawn, parts, num_epochs, num_passed, settings
):
  """Fits all strengths to every part, and the best one to everything.

  A part is (rows to fit to, rows to select by, objects of the first, objects
  of the second); a fit to one goes through about `num_passed` triplets.
  """
  fitted = triplets  # Drawn ones stand after the judged.
  if drawn is not None:
    if targets is None:
      raise ValueError(
        "Drawn triplets need target_logprobs of the judged ones."
      )
    others = checks.check_triplets(drawn.triplets, len(features), "drawn")
    fitted = np.concatenate([triplets, others])
    targets = np.concatenate([targets, drawn.target_logprobs])
  tables, accuracies, shares = [], [], []
  local = settings.get("local_features")
  local = features if local is None else local
  for train, held_out, seen, judged in parts:
    position = np.zeros(len(features), np.int32)
    position[seen] = np.arange(len(seen))
    val_position = np.zeros(len(features), np.int32)
    val_position[judged] = np.arange(len(judged))
    rows = train
    if drawn is not None:
      is_seen = np.zeros(len(features), bool)
      is_seen[seen] = True
      may = is_seen[drawn.triplets].all(axis=1)
      may &= ~from_embedding.is_about(drawn.triplets, triplets[held_out])
      others = np.flatnonzero(may)
      rows = np.concatenate([train, len(triplets) + others])
    epochs_of_part = max(1, round(num_passed / len(rows)))
    result = fit.fit_transform(
      features[seen],
      position[fitted[rows]],
      val_triplets=val_position[triplets[held_out]],
      val_features=features[judged],
      target_logprobs=None if targets is None else targets[rows],
      num_epochs=epochs_of_part,
      **settings,
    )
    tables.append(result.table)
    shares.append(1 / epochs_of_part)
    accuracies.append(_zero_shot(features, triplets[held_out]))
    for row, transform in zip(result.table, result.transforms, strict=True):
      row["neighbours_kept"] = neighbours.kept(transform, local)
  num_held_out = np.array([len(part[1]) for part in parts])
  weights = num_held_out / num_held_out.sum()
  table = _mean_table(tables, weights)
  chosen = next(row for row in table if row["selected"])
  # Early stopping ended the fits after this share of their epochs.
  share = chosen["epoch"] * np.dot(shares, weights)
  final = fit.fit_transform(
    features,
    fitted,
    target_logprobs=targets,
    **settings
    | {
      "strengths": (chosen["strength"],),
      "patience": 0,
      "num_epochs": max(1, round(share * num_epochs)),
      "callback": None,
    },
  )
  return Selection(
    transform=final.transform,
    table=table,
    zero_shot=float(np.dot(accuracies, weights)),
    num_train=int(np.mean([len(part[0]) for part in parts])),
    num_held_out=int(num_held_out.sum()),
  )


def _zero_shot(features, triplets):
  """Accuracy of the cosine; ties count as wrong."""
  logits = zero_shot.logits(features, triplets, similarity="cosine")
  return float(odd_one_out.accuracy(logits))


def _mean_table(tables, weights):
  """One row per strength, of numbers averaged over the folds."""
  table = []
  for rows in zip(*tables, strict=True):
    mean = {
      name: float(np.dot([row[name] for row in rows], weights))
      for name in (
        "epoch",
        "val_nll",
        "val_accuracy",
        "val_entropy",
        "neighbours_kept",
      )
    }
    table.append({"strength": rows[0]["strength"], **mean})
  finite = [row["val_nll"] for row in table]
  best = int(np.nanargmin(np.where(np.isfinite(finite), finite, np.inf)))
  return [{**row, "selected": index == best} for index, row in enumerate(table)]
