"""Whether a transform leaves items beside those that they were beside.

Alignment may cost what the features knew: items that were close for reasons
people did not judge can fall apart (paper.md, section G). The share of nearest
neighbours that stay says how much.

Usage:
  neighbours.overlap(teacher.apply(features), features, k=10)      # 0.83
"""

import numpy as np

# Rows compared at a time: 1024 of 100,000 items take 0.4 GB.
_BLOCK = 1024


# Nearest neighbours that are asked about.
NUM_NEIGHBOURS = 10


def kept(transform, x):
  """Share of the 10 nearest neighbours (or all there are) that a map leaves.

  Args:
    transform: Has `apply`, such as `teacher.transform.AffineTransform`.
    x: f32[n d], n > 1.

  Returns:
    float in [0, 1].
  """
  return overlap(transform.apply(x), x, k=min(NUM_NEIGHBOURS, len(x) - 1))


def nearest(x, k):
  """The nearest items of each item by cosine, itself left out.

  Args:
    x: f32[n d], n > k.
    k: How many, at least 1.

  Returns:
    int64[n k], in no order. Which of equally near items are taken is the same
    for the same array.
  """
  x = np.asarray(x, np.float32)
  if not 0 < k < len(x):
    raise ValueError(
      f"k is {k}; of {len(x)} items it may be 1 to {len(x) - 1}."
    )
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  unit = x / np.maximum(norm, np.finfo(np.float32).tiny)
  blocks = []
  for start in range(0, len(x), _BLOCK):
    sims = unit[start : start + _BLOCK] @ unit.T
    sims[np.arange(len(sims)), start + np.arange(len(sims))] = -np.inf
    blocks.append(np.argpartition(-sims, k - 1, axis=1)[:, :k])
  return np.concatenate(blocks)


def overlap(z, x, *, k=10):
  """Share of nearest neighbours that two embeddings have in common.

  Args:
    z: f32[n e].
    x: f32[n d], the same items.
    k: Number of neighbours of each item.

  Returns:
    float in [0, 1], the mean over items; about k / n for unrelated embeddings.
  """
  if len(z) != len(x):
    raise ValueError(
      f"There are {len(z)} and {len(x)} items; expected as many."
    )
  ours, theirs = nearest(z, k), nearest(x, k)
  shared = (ours[:, :, None] == theirs[:, None, :]).any(axis=2)
  return float(shared.mean())
