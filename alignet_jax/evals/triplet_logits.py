"""Odd-one-out scores of given embeddings, in float64.

In float32 the cosines of features of 1e19 are not finite, and those of features
with a large mean are equal to the last digit: such models were tied where they
have a choice. Training has no use for that precision; a score has.

Usage:
  scores = triplet_logits.of(embedding, triplets, "cosine")
"""

import numpy as np

# Largest number of items whose similarities are all computed at once (128 MiB).
_MAX_ITEMS = 4096

# Numbers of an embedding gathered at a time.
_BLOCK = 2**22

# Similarities closer than this share of their largest possible size are equal:
# what is left is rounding, which depends on the place in a matrix.
_ROUNDING = 1e-12


def of(embedding, triplets, similarity):
  """Scores of triplets, from the highest of each down.

  Softmax and choice know differences only, and those from the highest keep
  their digits in float32 however large the similarities are.

  Args:
    embedding: f32[n d].
    triplets: int[t 3] rows of it.
    similarity: "cosine" or "dot". The cosine with a zero vector is 0.

  Returns:
    f32[t 3] <= 0; entry p scores item p as the odd one (`odd_one_out.logits`),
    less the highest of the three. NaN where a row is not finite.
  """
  triplets = np.asarray(triplets)
  items, place = np.unique(triplets, return_inverse=True)
  place = place.reshape(-1, 3)
  x = np.asarray(embedding)[items].astype(np.float64)
  with np.errstate(over="ignore", invalid="ignore"):
    norm = np.linalg.norm(x, axis=1)
    if similarity == "cosine":
      x = x / np.where(norm == 0, 1.0, norm)[:, None]
      size = np.ones(len(place))
    else:
      size = np.sort(norm[place], axis=1)[:, 1:].prod(axis=1)
    sims = _similarities(x, place)
    scores = sims - sims.max(axis=1, keepdims=True, initial=-np.inf)
    scores[scores >= -_ROUNDING * size[:, None]] = 0.0
    limits = np.finfo(np.float32)
    # What is lower stays so, however little; and finite, however much.
    scores = np.where(scores < 0, np.minimum(scores, -limits.tiny), scores)
    return np.maximum(scores, limits.min).astype(np.float32)


def _similarities(x, place):
  """f64[t 3] of the two other items of each position."""
  pairs = ((1, 2), (0, 2), (0, 1))
  # All pairs in one product where that is not far more than those asked for.
  if len(x) <= min(_MAX_ITEMS, 8 * len(place) ** 0.5 + 64):
    every = x @ x.T
    return np.stack([every[place[:, i], place[:, j]] for i, j in pairs], axis=1)
  sims = np.empty((len(place), 3))
  step = max(1, _BLOCK // max(x.shape[1], 1))
  for start in range(0, len(place), step):
    z = [x[column] for column in place[start : start + step].T]
    for column, (i, j) in enumerate(pairs):
      sims[start : start + step, column] = np.einsum("td,td->t", z[i], z[j])
  return sims
