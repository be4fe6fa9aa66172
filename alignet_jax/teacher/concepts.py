"""Which human concepts a model's features hold, and which they lack.

`regress` predicts interpretable dimensions (those of VICE or SPoSE) of objects
that the regression never saw, by ridge regression whose strength is chosen by
leaving out one object at a time (paper.md, section F). `by_category` says about
which kinds of objects a model chooses as people do.

An embedding that was itself fitted to judgments knows their answers, so
triplets that it has seen make the accuracy of its dimensions, and a little that
of the predicted ones, look better than it is.

Usage:
  found = concepts.regress(features, vice_embedding, triplets)
  found.r2, found.accuracy.value             # f64[k], of held-out objects
  categories = concepts.load_categories(
    "things_concepts.tsv", "Top-down Category (WordNet)")
  for row in concepts.by_category(correct, triplets, categories):
    print(row.name, row.accuracy, row.num_triplets)
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from alignet_jax import artifacts, odd_one_out
from alignet_jax.judgments import splits, tables
from alignet_jax.teacher import checks, zero_shot

# Strengths of the ridge (paper.md, section F): 1e-1 to 1e6.
ALPHAS = tuple(10.0**power for power in range(-1, 7))

# Which triplets are about a category: those whose odd item, all of whose items,
# or any of whose items belong to it.
MEMBERSHIPS = ("any", "odd", "all")


class Ridge(NamedTuple):
  """A fitted ridge regression: x @ weights + bias.

  Attributes:
    weights: f64[d k].
    bias: f64[k], not penalised.
    alpha: The strength chosen.
    loo_mse: f64[a], mean squared error of each object, predicted from all
      others, over objects and dimensions, of each strength.
  """

  weights: np.ndarray
  bias: np.ndarray
  alpha: float
  loo_mse: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ConceptRegression:
  """Dimensions as predicted from features, each object by a fit without it.

  Attributes:
    predicted: f64[n k].
    fold: int[n], the fold in which an object was held out.
    alphas: f64[folds], the strength chosen in each.
    r2: f64[k]. One minus the squared error of the predictions over that of the
      mean of the objects that were fitted to, both summed over all objects when
      held out. 1 is perfect, 0 no better than the mean, and less is possible;
      NaN for a dimension that is the same for all objects.
    accuracy: `zero_shot.Interval` of the odd-one-out choices by dot product of
      the predicted dimensions, ties wrong; NaN without triplets.
    target_accuracy: Accuracy of the dimensions themselves on these triplets.
    num_triplets: Triplets whose objects were all held out in the same fold:
      only those are scored. About 1 / folds^2 of all.
  """

  predicted: np.ndarray
  fold: np.ndarray
  alphas: np.ndarray
  r2: np.ndarray
  accuracy: zero_shot.Interval
  target_accuracy: float
  num_triplets: int


class CategoryScore(NamedTuple):
  """Accuracy on the triplets of one category.

  Attributes:
    name: Of the category.
    accuracy: Share of these triplets that are judged as people did; NaN if
      there are none.
    low: Lower end of its bootstrap interval.
    high: Upper end.
    num_triplets: Triplets about the category.
    num_objects: Objects in it.
  """

  name: str
  accuracy: float
  low: float
  high: float
  num_triplets: int
  num_objects: int


def fit_ridge(x, y, *, alphas=ALPHAS):
  """Ridge regression at the strength of least leave-one-out error.

  All strengths share one singular value decomposition of the centred x = U S V:
  the residual of object i when it is left out is its residual divided by
  1 - h_i, where h is the diagonal of the hat matrix, 1 / n + U^2 (s^2 / (s^2 +
  alpha)). One strength serves all dimensions.

  Args:
    x: f[n d], n >= 2.
    y: f[n k].
    alphas: Positive strengths of the squared penalty; of equal ones in error
      the first is taken.

  Returns:
    `Ridge`, in float64.

  Raises:
    ValueError: Shapes that do not fit, numbers that are not finite, or
      strengths that are not positive.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
    raise ValueError(
      f"x has shape {x.shape} and y {y.shape}; expected (n, d) and (n, k) with"
      " the same n of at least 2."
    )
  if not (np.isfinite(x).all() and np.isfinite(y).all()):
    raise ValueError("x or y holds NaN or infinity.")
  alphas = np.asarray(alphas, np.float64)
  if alphas.ndim != 1 or not alphas.size or not (alphas > 0).all():
    raise ValueError(
      f"alphas are {alphas.tolist()}; expected one or more positive numbers."
    )
  x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
  centred = y - y_mean
  u, s, vt = np.linalg.svd(x - x_mean, full_matrices=False)
  projected = u.T @ centred
  # What is left at strength 0. Adding to it what the strength leaves keeps
  # digits that 1 - h would lose where x has as many columns as rows.
  unexplained = centred - u @ projected
  free = 1 - 1 / len(x) - np.sum(u**2, axis=1)
  loo_mse = []
  for alpha in alphas:
    left = alpha / (s**2 + alpha)
    residual = unexplained + u @ (left[:, None] * projected)
    loo = residual / (free + u**2 @ left)[:, None]
    loo_mse.append(np.mean(loo**2))
  alpha = alphas[int(np.argmin(loo_mse))]
  weights = vt.T @ ((s / (s**2 + alpha))[:, None] * projected)
  return Ridge(
    weights, y_mean - x_mean @ weights, float(alpha), np.array(loo_mse)
  )


def regress(
  features,
  dimensions,
  triplets=None,
  *,
  num_folds=5,
  seed=0,
  alphas=ALPHAS,
  num_resamples=1000,
  level=0.95,
):
  """Predicts dimensions of held-out objects, and choices from these.

  Features are standardised by one mean and one standard deviation, those of the
  objects that are fitted to, so that the strengths mean the same for every
  model.

  Args:
    features: f32[n d].
    dimensions: f32[n k], interpretable dimensions of the same objects.
    triplets: int[t 3] objects, odd item last, or None.
    num_folds: Parts of the objects, each held out once; from 2 to n // 3.
    seed: Decides the parts and the draws of the interval.
    alphas: As of `fit_ridge`.
    num_resamples: As of `zero_shot.accuracy_interval`, and so is the next.
    level: See `num_resamples`.

  Returns:
    `ConceptRegression`.

  Raises:
    ValueError: Features, dimensions or triplets that cannot be used.
  """
  features, dimensions = np.asarray(features), np.asarray(dimensions)
  checks.standardise(features)  # Refuses NaN and constants in words.
  if dimensions.ndim != 2 or len(dimensions) != len(features):
    raise ValueError(
      f"dimensions have shape {dimensions.shape}; expected a row for each of"
      f" the {len(features)} rows of the features."
    )
  if not np.isfinite(dimensions).all():
    raise ValueError("dimensions hold NaN or infinity.")
  if triplets is None:
    triplets = np.zeros((0, 3), np.int32)
  else:
    triplets = checks.check_triplets(triplets, len(features), "triplets")
  dimensions = dimensions.astype(np.float64)
  predicted, baseline = np.empty_like(dimensions), np.empty_like(dimensions)
  fold = np.empty(len(features), np.int32)
  scored, chosen = [], []
  parts = splits.by_object(
    triplets, len(features), num_folds=num_folds, seed=seed
  )
  for index, (_, rows, objects) in enumerate(parts):
    seen = np.setdiff1d(np.arange(len(features)), objects)
    mean, std = checks.standardise(features[seen])
    x = (features.astype(np.float64) - mean) / std
    ridge = fit_ridge(x[seen], dimensions[seen], alphas=alphas)
    predicted[objects] = x[objects] @ ridge.weights + ridge.bias
    baseline[objects] = dimensions[seen].mean(axis=0)
    fold[objects] = index
    chosen.append(ridge.alpha)
    scored.append(rows)
  rows = np.sort(np.concatenate(scored))
  return ConceptRegression(
    predicted=predicted,
    fold=fold,
    alphas=np.array(chosen),
    r2=_r2(dimensions, predicted, baseline),
    accuracy=zero_shot.accuracy_interval(
      _is_correct(predicted, triplets[rows]),
      triplets[rows],
      num_resamples=num_resamples,
      level=level,
      seed=seed,
    ),
    target_accuracy=_mean(_is_correct(dimensions, triplets[rows])),
    num_triplets=len(rows),
  )


def by_category(
  correct,
  triplets,
  categories,
  *,
  membership="any",
  num_resamples=1000,
  level=0.95,
  seed=0,
):
  """How well a model's choices agree with people's in each category.

  Args:
    correct: bool[t], whether the model chose as people did.
    triplets: int[t 3] objects, odd item last.
    categories: Dict from name to int[o], the objects in it. An object may be
      in several or none.
    membership: Which triplets count for a category: "any" of the three items
      belongs to it, the "odd" one does, or "all" do, which is rare among random
      triplets and asks for finer distinctions.
    num_resamples: As of `zero_shot.accuracy_interval`, and so are the next two.
    level: See `num_resamples`.
    seed: See `num_resamples`.

  Returns:
    A list of `CategoryScore`, best first; equal ones by name, and those without
    triplets last.

  Raises:
    ValueError: Another membership, or choices that do not fit the triplets.
  """
  if membership not in MEMBERSHIPS:
    raise ValueError(
      f"Unknown membership {membership!r}; known: {', '.join(MEMBERSHIPS)}."
    )
  correct, triplets = np.asarray(correct), np.asarray(triplets)
  if triplets.shape != (len(correct), 3):
    raise ValueError(
      f"triplets have shape {triplets.shape}; expected {(len(correct), 3)}, a "
      "row per choice."
    )
  scores = []
  for name, objects in categories.items():
    objects = np.unique(objects)
    is_member = np.isin(triplets, objects)
    about = {
      "any": is_member.any(axis=1),
      "odd": is_member[:, 2],
      "all": is_member.all(axis=1),
    }[membership]
    interval = zero_shot.accuracy_interval(
      correct[about],
      triplets[about],
      num_resamples=num_resamples,
      level=level,
      seed=seed,
    )
    scores.append(
      CategoryScore(name, *interval, int(about.sum()), len(objects))
    )
  return sorted(
    scores,
    key=lambda row: (
      math.isnan(row.accuracy),
      -row.accuracy if row.num_triplets else 0.0,
      row.name,
    ),
  )


def load_categories(path, column, *, num_objects=None):
  """Reads categories of objects from a table with a header.

  Args:
    path: Text table with a row per object, in the order of the features, such
      as `things_concepts.tsv`.
    column: Name of the column. A field names no category (it is empty), one, or
      several separated by commas.
    num_objects: Number of rows expected, or None for any.

  Returns:
    A dict from name to int32[o] ascending rows, names in alphabetical order.

  Raises:
    artifacts.InputError: If the file is missing or damaged, has no such column,
      another number of rows, or no category at all.
  """
  rows = tables.read_rows(path, keep_blank=True)
  _, header = next(rows)
  found = tables.find_columns(path, header, {"category": (column,)})
  members, num_rows = {}, 0
  for _, fields in rows:
    names = {name.strip() for name in fields[found["category"]].split(",")}
    for name in names - {""}:
      members.setdefault(name, []).append(num_rows)
    num_rows += 1
  if num_objects is not None and num_rows != num_objects:
    raise artifacts.InputError(
      f"{path} has {num_rows} objects; expected {num_objects}, as many as "
      "there are features."
    )
  if not members:
    raise artifacts.InputError(f"{path}: the column {column!r} is empty.")
  return {name: np.array(members[name], np.int32) for name in sorted(members)}


def _r2(dimensions, predicted, baseline):
  error = np.sum((dimensions - predicted) ** 2, axis=0)
  total = np.sum((dimensions - baseline) ** 2, axis=0)
  constant = (dimensions == dimensions[:1]).all(axis=0)
  safe = np.where(constant | (total == 0), 1.0, total)
  return np.where(constant, np.nan, 1 - error / safe)


def _is_correct(embedding, triplets):
  """bool[t], by dot product; few triplets, so all at once."""
  if not len(triplets):
    return np.zeros(0, bool)
  logits = odd_one_out.logits_of_rows(embedding.astype(np.float32), triplets)
  return np.asarray(odd_one_out.choose(logits)) == 2


def _mean(correct):
  return float(correct.mean()) if len(correct) else math.nan
