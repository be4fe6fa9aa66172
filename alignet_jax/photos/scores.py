"""What a model knows of photographs: people's similarities, and categories.

All measures take cosines, of a model's features as they are.

Usage:
  scores.rsa_within(z[fold], people[fold])                 # Spearman
  scores.nearest_is_right(z, labels, queries)              # bool[q]
  scores.one_shot(z, labels, queries, support, num_draws=100, seed=0)
"""

import numpy as np

from alignet_jax.evals import rsa


def rsa_within(z, people):
  """Spearman correlation of a model's cosines with people's similarities.

  Args:
    z: f32[n d] features of n concepts' photographs.
    people: f32[n e] embedding of people's choices; dot products count.

  Returns:
    float, over all pairs of the n concepts.
  """
  people = np.asarray(people, np.float64)
  return rsa.spearman(rsa.rdm(z), -people @ people.T)


def rsa_dot(z, people):
  """The same with dot products, by which a teacher is fitted."""
  z, people = np.asarray(z, np.float64), np.asarray(people, np.float64)
  return rsa.spearman(-z @ z.T, -people @ people.T)


def cosines(z):
  """f64[n n] of f32[n d]."""
  return 1.0 - rsa.rdm(z)


def nearest_is_right(z, labels, queries):
  """Whether the nearest other photograph shows the same category.

  Args:
    z: f32[n d].
    labels: int[n] categories; -1 for photographs without, which are neither
      asked about nor an answer.
    queries: int[q] rows to ask about, each with a label.

  Returns:
    bool[q]. Of equally near photographs the first counts.
  """
  labels, queries = np.asarray(labels), np.asarray(queries)
  sims = cosines(z)
  np.fill_diagonal(sims, -np.inf)
  sims[:, labels < 0] = -np.inf
  return labels[sims[queries].argmax(axis=1)] == labels[queries]


def one_shot(z, labels, queries, support, *, num_draws, seed):
  """Accuracy with one photograph of each category to go by.

  In each draw one photograph of every category is taken from `support`, and
  each query gets the category of the nearest of them.

  Args:
    z: f32[n d].
    labels: int[n] categories, -1 for none.
    queries: int[q] rows to ask about, each with a label.
    support: int[s] rows to draw from, without the queries; must hold every
      category of the queries.
    num_draws: Number of draws.
    seed: Equal seeds draw the same photographs for every model.

  Returns:
    f64[q], share of the draws in which the query was right.

  Raises:
    ValueError: A category of the queries is not in the support.
  """
  labels = np.asarray(labels)
  support = np.asarray(support)[labels[support] >= 0]
  classes = np.unique(labels[support])
  unknown = np.setdiff1d(labels[queries], classes)
  if unknown.size:
    raise ValueError(
      f"Category {unknown[0]} of the queries is not in the support, which has"
      f" {classes.tolist()}."
    )
  sims = cosines(z)
  right = np.zeros(len(queries))
  for draw in range(num_draws):
    np_rng = np.random.default_rng([seed, draw])
    shots = [np_rng.choice(support[labels[support] == c]) for c in classes]
    answers = classes[sims[np.ix_(queries, shots)].argmax(axis=1)]
    right += answers == labels[queries]
  return right / num_draws


def usable_labels(categories, folds, *, min_photos):
  """Numbers for the categories that every fold can be asked about.

  Args:
    categories: n strings, "" for none.
    folds: Lists of rows of the n.
    min_photos: Photographs that a category needs.

  Returns:
    int64[n], -1 for photographs without a category, or of one that has too few
    photographs or lies in one fold altogether; and the names of the others.
  """
  categories = np.array(categories, dtype=object)
  names = []
  for name in sorted(set(categories) - {""}):
    rows = np.flatnonzero(categories == name)
    elsewhere = [np.setdiff1d(rows, fold).size for fold in folds]
    if len(rows) >= min_photos and min(elsewhere, default=1):
      names.append(name)
  numbers = {name: number for number, name in enumerate(names)}
  return np.array([numbers.get(name, -1) for name in categories]), names
