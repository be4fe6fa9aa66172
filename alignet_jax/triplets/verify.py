"""Whether the similarities of a triplet file belong to its images.

Two questions, of different strength. `compare_exactly`: are these the dot
products of the very features that the file was made from? Then every triplet
must agree, and a single wrong one is found. `compare_related`: does the file
say the same as features of another model, or as those before the transform?
Then only statistics can tell, and of the whole file or of a tenth of it: a
share of a few per cent of wrong triplets goes unnoticed.

That test looks for two ways of being wrong (paper.md, J3). Where similarities
stand at other triplets, pair (0, 1) is still the most alike of its triplet, but
how alike does not go with the features. Where the indices mean other images, it
is not even that.

Usage:
  found = verify.compare_exactly(features, indices, pair_sims)
  found.number, found.example
  blocks = verify.compare_related(features, indices, pair_sims)
"""

import dataclasses

import numpy as np
from scipy import stats

from alignet_jax import odd_one_out
from alignet_jax.triplets import labels

# Parts of a file that `compare_related` judges apart.
NUM_BLOCKS = 10

# Triplets of such a part, at least, if there are so many.
LEAST_BLOCK = 1000

# Standard errors by which a statistic must exceed what chance gives.
NUM_ERRORS = 5.0

# Least rank correlation that counts as one.
LEAST_CORRELATION = 0.1


@dataclasses.dataclass(frozen=True)
class Mismatches:
  """Triplets whose similarities are not the dot products of the features.

  Attributes:
    number: How many there are.
    num_checked: Of how many.
    first: The first of them, or None.
    stored: Its similarities in the file.
    found: Those of the features.
    largest: Largest difference of any triplet, as a share of the product of the
      norms of the two rows.
  """

  number: int
  num_checked: int
  first: int | None
  stored: list | None
  found: list | None
  largest: float


@dataclasses.dataclass(frozen=True)
class Block:
  """How a part of a file goes with features.

  Attributes:
    first: Its first triplet.
    num_checked: How many triplets were looked at.
    agreement: Share of triplets whose odd image is image 2 by the features,
      too; ties count as wrong.
    correlation: Mean of the three Spearman correlations between stored and
      found similarities of the pairs at one position; 0 where either is
      constant. Over all positions together it would be positive by their order
      alone.
    is_related: Whether both are clearly beyond chance.
  """

  first: int
  num_checked: int
  agreement: float
  correlation: float
  is_related: bool


def compare_exactly(
  features,
  indices,
  pair_sims,
  *,
  temperature=1.0,
  tolerance=1e-4,
  num_checked=None,
):
  """Recomputes similarities from the features that a file was made from.

  Args:
    features: f32[n d], transformed as for the file.
    indices: int[m 3] rows of `features`; may be mapped.
    pair_sims: float[m 3]; may be mapped.
    temperature: What similarities were divided by.
    tolerance: Largest difference allowed, as a share of the product of the
      norms of the two rows; float32 sums differ by some 1e-6 of it.
    num_checked: How many triplets to look at, evenly spread; all if None.

  Returns:
    `Mismatches`.
  """
  norms = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float32))
  number, first, stored, found, largest = 0, None, None, None, 0.0
  rows = _spread(0, len(indices), num_checked)
  chunk_size = max(1, labels.CHUNK_VALUES // features.shape[1])
  for start in range(0, len(rows), chunk_size):
    chunk = rows[start : start + chunk_size]
    items = np.asarray(indices[chunk])
    sims = labels.pair_similarities(features, items)
    given = np.asarray(pair_sims[chunk], np.float32) * np.float32(temperature)
    a, b, c = norms[items].T
    scale = np.stack([a * b, a * c, b * c], axis=-1)
    differing = np.abs(given - sims) / np.maximum(scale, 1e-30)
    # Not "> tolerance", which is False for NaN.
    is_bad = ~np.all(differing <= tolerance, axis=-1)
    largest = max(largest, float(np.max(differing)))
    number += int(np.sum(is_bad))
    if first is None and np.any(is_bad):
      place = int(np.argmax(is_bad))
      first, stored = int(chunk[place]), given[place].tolist()
      found = sims[place].tolist()
  return Mismatches(number, len(rows), first, stored, found, largest)


def fit_temperature(features, indices, pair_sims, *, num_checked=10_000):
  """What the similarities of a file were divided by, if by one number.

  The median of the finite quotients, which some wrong triplets do not move.

  Args:
    features: f32[n d], transformed as for the file.
    indices: int[m 3] rows of `features`.
    pair_sims: float[m 3].
    num_checked: How many triplets to look at, evenly spread.

  Returns:
    A number; not positive, or NaN, where there is no such temperature.
  """
  rows = _spread(0, len(indices), num_checked)
  sims = labels.pair_similarities(features, np.asarray(indices[rows]))
  given = np.asarray(pair_sims[rows], np.float64)
  quotients = sims[given != 0] / given[given != 0]
  quotients = quotients[np.isfinite(quotients)]
  return float(np.median(quotients)) if quotients.size else float("nan")


def compare_related(features, indices, pair_sims, *, num_checked=100_000):
  """Compares a file with features of the same images by another model.

  Args:
    features: f32[n d]; cosines of its rows are used.
    indices: int[m 3] rows of `features`; may be mapped.
    pair_sims: float[m 3]; may be mapped.
    num_checked: How many triplets to look at, evenly spread; all if None.

  Returns:
    List of `Block`: `NUM_BLOCKS` parts of the file, in order; fewer where they
    would have less than `LEAST_BLOCK` triplets.
  """
  norms = np.linalg.norm(features, axis=1, keepdims=True)
  num_blocks = min(NUM_BLOCKS, max(1, len(indices) // LEAST_BLOCK))
  edges = np.linspace(0, len(indices), num_blocks + 1).astype(np.int64)
  per_block = None if num_checked is None else max(1, num_checked // num_blocks)
  blocks = []
  for first, last in zip(edges[:-1], edges[1:], strict=True):
    rows = _spread(first, last, per_block)
    items = np.asarray(indices[rows])
    unique, places = np.unique(items, return_inverse=True)
    unit = np.asarray(features[unique], np.float32)
    unit = unit / np.maximum(norms[unique], 1e-30)
    sims = labels.pair_similarities(unit, places.reshape(items.shape))
    blocks.append(_judge(first, sims, np.asarray(pair_sims[rows])))
  return blocks


def _judge(first, sims, given):
  scores = odd_one_out.logits_from_pair_sims(sims)
  agreement = float(odd_one_out.accuracy(scores, 2))
  correlation = float(
    np.mean([_spearman(sims[:, p], given[:, p]) for p in range(3)])
  )
  number = len(sims)
  chance = odd_one_out.CHANCE
  error = np.sqrt(chance * (1 - chance) / number)
  is_related = (
    agreement > chance + NUM_ERRORS * error
    and correlation > LEAST_CORRELATION
    and correlation > NUM_ERRORS / np.sqrt(number)
  )
  return Block(int(first), number, agreement, correlation, bool(is_related))


def _spearman(x, y):
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    return 0.0
  return stats.spearmanr(x, y).statistic


def _spread(first, last, number):
  """That many rows of [first, last), evenly spread, ascending."""
  if number is None or number >= last - first:
    return np.arange(first, last)
  return first + (np.arange(number) * (last - first)) // number
