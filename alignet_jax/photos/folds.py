"""Folds of concepts, and teachers that know nothing of one of them.

A fold's concepts are taken out before anything is drawn: no triplet, soft
target, strength or standardisation of a fold's teacher depends on them.

Usage:
  parts = folds.split(183, num_folds=5, seed=0)      # int64[m] each
  teacher = folds.fit_without(features, embedding, parts[0], ...).transform
"""

import numpy as np

from alignet_jax.judgments import from_embedding
from alignet_jax.teacher import selection

# Concepts that a correlation over pairs needs at least.
MIN_CONCEPTS = 3

# Of the concepts that a teacher may see, for the choice of its strength.
INNER_FOLDS = 3


def split(num_concepts, *, num_folds, seed):
  """Divides concepts into folds.

  Args:
    num_concepts: n.
    num_folds: From 2 to n // 3.
    seed: Non-negative int.

  Returns:
    A list of int64[m], ascending; sizes differ by one at most.

  Raises:
    ValueError: There are too few concepts.
  """
  if not 2 <= num_folds <= num_concepts // MIN_CONCEPTS:
    raise ValueError(
      f"num_folds is {num_folds}; of {num_concepts} concepts there may be 2 to"
      f" {num_concepts // MIN_CONCEPTS} folds."
    )
  order = np.random.default_rng(seed).permutation(num_concepts)
  return [np.sort(part) for part in np.array_split(order, num_folds)]


def fit_without(features, embedding, fold, *, num_triplets, seed, **settings):
  """Fits a teacher to all concepts but those of a fold.

  Args:
    features: f32[n d], a row per concept.
    embedding: f32[n e] of people's choices, the same concepts.
    fold: int[m] concepts left out; empty for a teacher of all.
    num_triplets: Judgments drawn about the others.
    seed: Decides what is drawn, the inner folds and the batches.
    **settings: Of `selection.by_objects`: strengths, num_epochs and so on.

  Returns:
    `selection.Selection`.
  """
  seen = np.setdiff1d(np.arange(len(features)), fold)
  drawn = from_embedding.draw(embedding[seen], num_triplets, seed=seed)
  return selection.by_objects(
    features[seen],
    drawn.triplets,
    target_logprobs=drawn.target_logprobs,
    num_folds=INNER_FOLDS,
    seed=seed,
    **settings,
  )
