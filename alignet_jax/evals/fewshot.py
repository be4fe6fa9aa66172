"""k-shot classification from frozen features: what alignment costs or gains.

The least-squares protocol that big_vision uses (paper.md, section E): draw k
training images per class, fit a ridge regression onto one-against-all targets,
report the accuracy on all test images, repeat for several draws. No
hyperparameter is tuned, so numbers of different models compare directly.

Usage:
  mean, per_draw = fewshot.k_shot_accuracy(
    train_features, train_labels, test_features, test_labels, num_shots=5)
"""

import numpy as np

# The values of big_vision's evaluator and its common configuration
# (evaluators/fewshot_lsr.py and configs/common_fewshot.py at 0127fb6b).
L2 = 2.0**10
BIAS_CONSTANT = 100.0
STD_FLOOR = 1e-5


def draw_shots(labels, num_shots, np_rng):
  """Picks the same number of training images of every class.

  Every class is shuffled once and its first images are taken, so that from
  equal generators the draw for 1 shot is part of the draw for 5.

  `Deviation:` of a class with fewer images big_vision takes those that there
  are (evaluators/fewshot_lsr.py). Such a number is not of k shots, and yet it
  would stand beside others that are; so there is none.

  Args:
    labels: int[n] class labels, any integers, or str[n] names.
    num_shots: Images per class, at least 1.
    np_rng: numpy generator. `default_rng(draw)` gives big_vision's draw.

  Returns:
    int[num_classes * num_shots] rows, class after class.

  Raises:
    ValueError: A class has fewer than `num_shots` images.
  """
  rows = []
  for label in np.unique(labels):
    members = np_rng.permutation(np.flatnonzero(labels == label))
    if len(members) < num_shots:
      raise ValueError(
        f"Class {label} has {len(members)} training images; {num_shots}-shot "
        f"needs at least {num_shots} of every class."
      )
    rows.append(members[:num_shots])
  return np.concatenate(rows)


def fit_least_squares(features, class_ids, num_classes, *, l2=L2):
  """Fits one ridge regression per class, with targets +1 (own) and -1 (rest).

  Features are standardised one by one (big_vision says "whiten"; correlations
  stay). A constant feature of 100 stands for the bias: its weight is so small
  that the penalty on it hardly matters.
  `Deviation:` float64 and one linear solve instead of float32 and a cached
  eigendecomposition: the same solution, without its rounding.

  Args:
    features: f32[n d] of the training images.
    class_ids: int[n] in 0..num_classes-1.
    num_classes: Number of regressions.
    l2: Penalty on the squared weights, relative to the *sum* over images.

  Returns:
    Function from f32[m d] features to f64[m num_classes] scores.
  """
  x = np.asarray(features, np.float64)
  mean, std = x.mean(axis=0), x.std(axis=0) + STD_FLOOR

  def prepare(raw):
    standard = (np.asarray(raw, np.float64) - mean) / std
    constant = np.full((len(standard), 1), BIAS_CONSTANT)
    return np.concatenate([standard, constant], axis=1)

  x = prepare(x)
  y = np.where(np.asarray(class_ids)[:, None] == np.arange(num_classes), 1, -1)
  num, width = x.shape
  # Both forms solve the same ridge problem; take the smaller system.
  if num >= width:
    weights = np.linalg.solve(x.T @ x + l2 * np.eye(width), x.T @ y)
  else:
    weights = x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(num), y)
  return lambda raw: prepare(raw) @ weights


def k_shot_accuracy(
  train_features,
  train_labels,
  test_features,
  test_labels,
  *,
  num_shots,
  num_draws=3,
  seed=0,
  l2=L2,
):
  """Accuracy of k-shot classification from frozen features.

  Args:
    train_features: f32[n d], where the shots are drawn from.
    train_labels: int[n] class labels, any integers, or str[n] names, which
      messages then give.
    test_features: f32[m d], all of them are scored.
    test_labels: int[m] or str[m], each among the training labels.
    num_shots: Training images per class.
    num_draws: How many times the shots are drawn.
    seed: Seed of the draws; equal seeds draw the same images for every model.
      None draws those of big_vision, whose seeds are 0, 1, 2 and so on.
    l2: Ridge penalty, see `fit_least_squares`.

  Returns:
    (mean, per_draw): float and f64[num_draws], in [0, 1]. Chance is one over
    the number of classes when test classes are equally frequent.

  Raises:
    ValueError: Lengths differ, a class has too few images, or a test label is
      unknown in training.
  """
  train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
  for name, features, labels in (
    ("training", train_features, train_labels),
    ("test", test_features, test_labels),
  ):
    if len(features) != len(labels):
      raise ValueError(
        f"{len(features)} {name} features but {len(labels)} {name} labels."
      )
    # Scores of NaN would all name the first class, in silence.
    if not np.isfinite(features).all():
      raise ValueError(f"The {name} features hold NaN or infinity.")
  for name, number in (("num_shots", num_shots), ("num_draws", num_draws)):
    if number < 1:
      raise ValueError(f"{name} is {number}; it must be at least 1.")
  classes = np.unique(train_labels)
  unknown = np.setdiff1d(test_labels, classes)
  if unknown.size:
    raise ValueError(
      f"Test label {unknown[0]} does not occur in training; known are "
      f"{classes[0]} to {classes[-1]}, {len(classes)} classes."
    )
  train_ids = np.searchsorted(classes, train_labels)
  test_ids = np.searchsorted(classes, test_labels)
  per_draw = np.empty(num_draws)
  for draw in range(num_draws):
    np_rng = np.random.default_rng(draw if seed is None else [seed, draw])
    rows = draw_shots(train_labels, num_shots, np_rng)
    score = fit_least_squares(
      np.asarray(train_features)[rows], train_ids[rows], len(classes), l2=l2
    )
    per_draw[draw] = np.mean(score(test_features).argmax(axis=1) == test_ids)
  return float(per_draw.mean()), per_draw
