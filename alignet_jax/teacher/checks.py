"""What can be fitted, and what is refused in words.

Usage:
  mean, std = checks.standardise(features)
  triplets = checks.check_triplets(triplets, len(features), "triplets")
"""

import numpy as np


def standardise(features, *, per_feature=False):
  """Mean and standard deviation that features are standardised by.

  By default one of each for the whole matrix: the pull towards the identity
  means to keep the backbone's geometry, which scaling each feature would change
  first (paper.md, section A).

  Args:
    features: f32[n d].
    per_feature: Whether each feature has its own.

  Returns:
    (mean, std): f32[], f32[]; or f32[d], f32[d].

  Raises:
    ValueError: Features that are NaN or infinite, or equal for all items.
  """
  features = np.asarray(features)
  if features.ndim != 2 or not features.size:
    raise ValueError(
      f"features have shape {features.shape}; expected (items, features)."
    )
  _check_finite(features, "the features")
  if (features == features[:1]).all():
    raise ValueError(
      f"All {len(features)} rows of the features are equal; nothing can be"
      " learnt from constant features."
    )
  axis = 0 if per_feature else None
  mean = features.mean(axis=axis, dtype=np.float64)
  std = features.std(axis=axis, dtype=np.float64)
  # A constant has the deviation of its rounding where it is no round number.
  constant = np.flatnonzero((features == features[:1]).all(axis=0))
  if per_feature and constant.size:
    raise ValueError(
      f"{constant.size} features are equal for all items (columns "
      f"{constant[:5].tolist()}); they cannot be scaled one by one. Leave them "
      "out, or standardise the whole matrix at once."
    )
  return np.float32(mean), np.float32(std)


def check_triplets(triplets, num_items, name):
  """Refuses triplets that do not name three different rows.

  Args:
    triplets: What is asked about.
    num_items: Number of rows there are.
    name: What it is called in the message.

  Returns:
    int32[n 3], n > 0.

  Raises:
    ValueError: Says what was met and what is allowed.
  """
  triplets = np.asarray(triplets)
  if triplets.ndim != 2 or triplets.shape[1] != 3 or not len(triplets):
    raise ValueError(
      f"{name} have shape {triplets.shape}; expected (n, 3) with n > 0."
    )
  if triplets.dtype.kind not in "iu":
    raise ValueError(f"{name} are {triplets.dtype}; expected integers.")
  if triplets.min() < 0 or triplets.max() >= num_items:
    raise ValueError(
      f"{name} hold the rows {triplets.min()} to {triplets.max()}; the features"
      f" have the rows 0 to {num_items - 1}. Do both list the same items, and"
      " do the rows count from 0?"
    )
  ordered = np.sort(triplets, axis=-1)
  twice = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=-1))
  if twice.size:
    raise ValueError(
      f"{name} name an item twice in {twice.size} places, first in row"
      f" {twice[0]}: {triplets[twice[0]].tolist()}."
    )
  return triplets.astype(np.int32)


def check_targets(target_logprobs, num_triplets):
  """Refuses targets that are not log probabilities of these triplets.

  Args:
    target_logprobs: What is asked about.
    num_triplets: Number of rows there must be.

  Returns:
    f32[t 3].

  Raises:
    ValueError: Says which row is wrong.
  """
  target_logprobs = np.asarray(target_logprobs, np.float32)
  if target_logprobs.shape != (num_triplets, 3):
    raise ValueError(
      f"target_logprobs have shape {target_logprobs.shape}; expected"
      f" {(num_triplets, 3)}, a row per triplet."
    )
  totals = np.exp(target_logprobs).sum(axis=-1)
  off = np.flatnonzero(~(np.abs(totals - 1) < 1e-3))  # NaN counts as off.
  if off.size:
    raise ValueError(
      f"{off.size} rows of target_logprobs are not log probabilities: those of"
      f" row {off[0]} add up to {totals[off[0]]}, not 1."
    )
  return target_logprobs


def check_strengths(strengths, val_triplets, patience):
  """Refuses strengths that nothing could choose between.

  Args:
    strengths: What is asked about.
    val_triplets: Choices to select by, or None.
    patience: As of `fit.fit_transform`.

  Returns:
    f64[r].

  Raises:
    ValueError: Says what was met and what is allowed.
  """
  strengths = np.asarray(strengths, np.float64)
  if strengths.ndim != 1 or not strengths.size:
    raise ValueError("strengths must be a list of one or more numbers.")
  if not (strengths >= 0).all():
    raise ValueError(f"strengths hold {strengths.min()}; none may be negative.")
  if val_triplets is None and (strengths.size > 1 or patience):
    raise ValueError(
      f"{strengths.size} strengths and patience {patience} need val_triplets "
      "to choose by; without them, give one strength and patience 0."
    )
  return strengths


def check_settings(*, lr, batch_size, num_epochs):
  """Refuses numbers with which nothing can be fitted.

  Args:
    lr: Expected to be finite and positive.
    batch_size: Expected to be at least 1.
    num_epochs: See `batch_size`.

  Raises:
    ValueError: Names the number.
  """
  if not 0 < lr < np.inf:
    raise ValueError(f"lr is {lr}; expected a positive number.")
  for name, value in (("batch_size", batch_size), ("num_epochs", num_epochs)):
    if not value >= 1:
      raise ValueError(f"{name} is {value}; expected at least 1.")


def check_local(local_features, features):
  """Refuses items that the map of some features cannot take.

  Args:
    local_features: f32[m d], m > 1, or None for `features` themselves.
    features: f32[n d].

  Returns:
    f32[m d].

  Raises:
    ValueError: Another width, NaN or infinity, or a single item.
  """
  if local_features is None:
    return features
  local_features = check_other(local_features, features, "local_features")
  if len(local_features) < 2:
    raise ValueError("local_features hold one item; neighbours need two.")
  return local_features


def check_other(other, features, name):
  """Refuses items that do not have the features of some others.

  Args:
    other: What is asked about.
    features: f32[n d].
    name: What it is called in the message.

  Returns:
    f32[m d].

  Raises:
    ValueError: Another width, NaN or infinity; says where and what to do.
  """
  other = np.asarray(other)
  if other.ndim != 2 or other.shape[1] != features.shape[1]:
    raise ValueError(
      f"{name} have shape {other.shape}; expected items of "
      f"{features.shape[1]} features each."
    )
  _check_finite(other, name)
  return other


def _check_finite(features, name):
  bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
  if bad.size:
    first = ", ".join(str(row) for row in bad[:5])
    more = ", ..." if bad.size > 5 else ""
    raise ValueError(
      f"{bad.size} of {len(features)} rows of {name} hold NaN or"
      f" infinity (rows {first}{more}). Replace these rows, or leave out the"
      " triplets and rows of these items."
    )
