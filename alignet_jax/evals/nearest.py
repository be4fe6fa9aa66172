"""Classification and anomaly detection by nearest neighbours, by cosine.

Anomaly detection: one class is normal; its training images are known, and a
test image is the stranger the further it is from its nearest ones. Every class
is the normal one once, and the areas under the curve are averaged (one against
the rest).

Usage:
  nearest.classify(train, train_ids, test, num_classes=10, k=20)  # int[m]
  nearest.anomaly_auc(train, train_ids, test, test_ids)           # f64[c]
"""

import math

import numpy as np
import scipy.stats

# Test images compared at a time.
_BLOCK = 1024


def classify(train, train_ids, test, *, num_classes, k=20):
  """The class that most of the k nearest training images have.

  The paper has no such score: plain votes and not those weighted by
  exp(cosine / .07) of the self-supervised literature, for which the scale of
  cosines would matter.

  Of classes with as many, the one whose images are nearer in sum.

  Args:
    train: f32[n d].
    train_ids: int[n] in 0..num_classes-1.
    test: f32[m d].
    num_classes: Number of classes.
    k: Neighbours; all if there are fewer.

  Returns:
    int64[m].

  Raises:
    ValueError: Features that are not finite or of two widths.
  """
  train, test = _units(train, test)
  train_ids, k = np.asarray(train_ids), min(k, len(train))
  found = []
  for start in range(0, len(test), _BLOCK):
    sims = test[start : start + _BLOCK] @ train.T
    rows = np.argpartition(-sims, k - 1, axis=1)[:, :k]
    near = np.take_along_axis(sims, rows, axis=1)
    votes = np.zeros((len(sims), num_classes))
    # Cosines are at most 1, so all of them together never outweigh a vote.
    worth = 1 + (near + 1) / (4 * k)
    for column in range(k):
      votes[np.arange(len(sims)), train_ids[rows[:, column]]] += worth[
        :, column
      ]
    found.append(votes.argmax(axis=1))
  return np.concatenate(found)


def anomaly_auc(train, train_ids, test, test_ids, *, k=1):
  """Area under the curve of each class as the normal one.

  Args:
    train: f32[n d].
    train_ids: int[n].
    test: f32[m d].
    test_ids: int[m].
    k: Nearest normal images whose mean distance is the score.

  Returns:
    f64[classes] in the order of the sorted training classes; NaN where the test
    has no image of the class, or of no other.

  Raises:
    ValueError: Features that are not finite or of two widths.
  """
  train, test = _units(train, test)
  train_ids, test_ids = np.asarray(train_ids), np.asarray(test_ids)
  areas = []
  for label in np.unique(train_ids):
    sims = test @ train[train_ids == label].T
    kept = min(k, sims.shape[1])
    near = -np.partition(-sims, kept - 1, axis=1)[:, :kept]
    areas.append(auc(1 - near.mean(axis=1), test_ids != label))
  return np.array(areas)


def auc(scores, is_positive):
  """Chance that a positive scores above a negative; ties count half."""
  is_positive = np.asarray(is_positive, bool)
  positive, negative = int(is_positive.sum()), int((~is_positive).sum())
  if not positive or not negative:
    return math.nan
  ranks = scipy.stats.rankdata(scores)
  above = ranks[is_positive].sum() - positive * (positive + 1) / 2
  return float(above / (positive * negative))


def _units(train, test):
  """Both of length 1; NaN would vote for the first class, in silence."""
  widths = np.shape(train)[1], np.shape(test)[1]
  if widths[0] != widths[1]:
    raise ValueError(
      f"Training images have {widths[0]} features and test images {widths[1]}; "
      "expected as many."
    )
  for name, x in (("training", train), ("test", test)):
    if not np.isfinite(x).all():
      raise ValueError(f"The {name} features hold NaN or infinity.")
  return unit(train), unit(test)


def unit(x):
  """Rows of length 1; zeros stay."""
  x = np.asarray(x, np.float32)
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  return x / np.maximum(norm, np.finfo(np.float32).tiny)
