"""Representational similarity analysis: does a model order pairs as people do?

A dissimilarity matrix (RDM) holds one number per pair of items. Two of them,
of different models or of a model and people, are compared by the rank order of
their pairs, which needs no common scale (paper.md, section F).

Usage:
  model = rsa.rdm(features, metric="correlation")
  rsa.spearman(model, people)                     # 0.42
"""

import numpy as np
import scipy.stats

METRICS = ("cosine", "correlation")


def rdm(features, metric="cosine"):
  """Dissimilarity of all pairs of items.

  Args:
    features: f32[n d].
    metric: "cosine" gives 1 - cosine; "correlation" gives 1 - Pearson's r, the
      cosine after taking each item's mean over features away.

  Returns:
    f64[n n] in [0, 2], symmetric, zero diagonal. An item without direction (a
    zero vector; for correlation a constant one) is at 1 from all others.

  Raises:
    ValueError: Unknown metric, or features that are not finite.
  """
  x = np.asarray(features, np.float64)
  if not np.isfinite(x).all():
    raise ValueError("features hold NaN or infinity; an RDM needs numbers.")
  if metric == "correlation":
    constant = (x == x[:, :1]).all(axis=1, keepdims=True)
    x = np.where(constant, 0.0, x - x.mean(axis=1, keepdims=True))
  elif metric != "cosine":
    raise ValueError(
      f"metric is {metric!r}; expected one of {', '.join(METRICS)}."
    )
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  x = x / np.where(norm == 0, 1.0, norm)
  sims = np.clip(x @ x.T, -1.0, 1.0)
  dissimilarity = 1.0 - (sims + sims.T) / 2
  np.fill_diagonal(dissimilarity, 0.0)
  return dissimilarity


def upper_triangle(matrix):
  """Entries above the diagonal, row by row: f64[n (n - 1) / 2]."""
  matrix = np.asarray(matrix, np.float64)
  if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
    raise ValueError(f"An RDM is square; this one has shape {matrix.shape}.")
  return matrix[np.triu_indices(len(matrix), k=1)]


def spearman(rdm_a, rdm_b):
  """Rank correlation of two dissimilarity matrices over all pairs.

  Tied pairs share the mean of their ranks, so a matrix that knows only a few
  degrees of relatedness (a taxonomy) can be compared too, but then cannot
  reach 1 with a matrix without ties.

  Args:
    rdm_a: f64[n n]; only entries above the diagonal are read.
    rdm_b: f64[n n], the same items in the same order.

  Returns:
    float in [-1, 1]; NaN where all pairs of one matrix are equal.

  Raises:
    ValueError: The matrices differ in size or hold NaN.
  """
  a, b = upper_triangle(rdm_a), upper_triangle(rdm_b)
  if a.shape != b.shape:
    raise ValueError(
      f"RDMs of {len(rdm_a)} and {len(rdm_b)} items; they must be the same."
    )
  if np.isnan(a).any() or np.isnan(b).any():
    raise ValueError("An RDM holds NaN above the diagonal; ranks need numbers.")
  a = scipy.stats.rankdata(a) - (len(a) + 1) / 2
  b = scipy.stats.rankdata(b) - (len(b) + 1) / 2
  scale = np.sqrt((a @ a) * (b @ b))
  return float(np.clip(a @ b / scale, -1, 1)) if scale > 0 else float("nan")
