"""What the teacher says about triplets: similarities of their three pairs.

Similarity is the dot product of the teacher's transformed features, and the
pair with the largest leaves out the odd image (paper.md, sections A and B). The
released files hold the three numbers, not a choice, so that a student can learn
how sure the teacher is.

Usage:
  indices, pair_sims = labels.label(features, triplets)
  labels.mean_entropy(pair_sims)                   # nats; people about 0.79
"""

import math

import numpy as np
from scipy import special

from alignet_jax import odd_one_out

# Rows times features gathered at once per position: 16 MiB in float32.
CHUNK_VALUES = 2**22

# `match_entropy` looks at no more triplets than this. The standard error of a
# mean entropy over 100,000 triplets is below 0.002 nats.
MATCHED_TRIPLETS = 100_000


def label(features, triplets):
  """Orders each triplet by the teacher's similarities and gives them.

  After ordering, s01 >= s02 >= s12: the odd image stands last and its nearer
  partner first, the one order into which every triplet can be brought
  (paper.md, J2). At a tie the pair that came first, in the order (01, 02, 12),
  counts as the larger.

  Args:
    features: f32[n d], transformed and not normalised. Half precision is made
      float32 before it is multiplied.
    triplets: int[m 3] rows of `features`.

  Returns:
    (int64[m 3], f32[m 3]): the reordered triplets and the similarities of
    their pairs (01, 02, 12), the order of the released files.

  Raises:
    ValueError: If a similarity is not finite; names the first triplet.
  """
  features, triplets = np.asarray(features), np.asarray(triplets)
  ordered = np.empty(triplets.shape, np.int64)
  pair_sims = np.empty(triplets.shape, np.float32)
  chunk_size = max(1, CHUNK_VALUES // features.shape[1])
  for first in range(0, len(triplets), chunk_size):
    rows = slice(first, first + chunk_size)
    items = triplets[rows].astype(np.int64)
    sims = pair_similarities(features, items)
    if not np.all(np.isfinite(sims)):
      bad = np.argmin(np.all(np.isfinite(sims), axis=-1))
      raise ValueError(
        f"Triplet {first + bad} (rows {items[bad].tolist()} of the features)"
        f" has the similarities {sims[bad].tolist()}, which are not finite."
      )
    rank = np.argsort(-sims, axis=-1, kind="stable")
    pair_sims[rows] = np.take_along_axis(sims, rank, axis=-1)
    # Pair p leaves out item 2 - p, and the least alike pair leaves out item 0.
    ordered[rows] = np.take_along_axis(items, 2 - rank[:, ::-1], axis=-1)
  return ordered, pair_sims


def pair_similarities(features, triplets):
  """Dot products of the pairs (01, 02, 12), in the order that they stand in.

  Args:
    features: f32[n d]; half precision is made float32.
    triplets: int[m 3] rows of `features`; all of them at once.

  Returns:
    f32[m 3].
  """
  dtype = np.result_type(features.dtype, np.float32)
  z0, z1, z2 = (
    features[triplets[:, i]].astype(dtype, copy=False) for i in range(3)
  )
  return np.stack(
    [np.einsum("nd,nd->n", *pair) for pair in ((z0, z1), (z0, z2), (z1, z2))],
    axis=-1,
  )


def hard_target_logprobs(pair_sims):
  """The teacher's choice instead of its probabilities.

  Args:
    pair_sims: f32[*b 3] similarities of the pairs (01, 02, 12).

  Returns:
    f32[*b 3]; entry p is 0 where item p is the odd one, else -inf. Where
    several items could be, they share: the logarithm of one half or one third.
  """
  scores = odd_one_out.logits_from_pair_sims(np.asarray(pair_sims, np.float32))
  is_highest = scores == np.max(scores, axis=-1, keepdims=True)
  share = -np.log(np.sum(is_highest, axis=-1, keepdims=True, dtype=np.float32))
  return np.where(is_highest, share, np.float32(-np.inf))


def target_logprobs(pair_sims, *, temperature=1.0):
  """The teacher's log probability that each item is called odd, in numpy.

  Args:
    pair_sims: f32[*b 3] similarities of the pairs (01, 02, 12).
    temperature: Positive; 1 in the paper, whose student alone has another.

  Returns:
    f32[*b 3]; entry p scores item p.
  """
  scores = odd_one_out.logits_from_pair_sims(np.asarray(pair_sims, np.float32))
  return special.log_softmax(scores / np.float32(temperature), axis=-1)


def mean_entropy(pair_sims, *, temperature=1.0):
  """Mean entropy in nats, in [0, ln 3], of the targets of f32[n 3] sims."""
  # The order of the three entries does not matter to the entropy.
  scaled = np.asarray(pair_sims, np.float64) / temperature
  probs = special.softmax(scaled, axis=-1)
  return float(np.mean(np.sum(special.entr(probs), axis=-1)))


def match_entropy(pair_sims, entropy):
  """Finds the temperature at which targets have a given mean entropy.

  The entropy of every triplet grows with the temperature, so bisection on its
  logarithm finds the only solution.

  Args:
    pair_sims: f32[n 3]; the first 100,000 are looked at.
    entropy: Wanted mean entropy in nats, within (0, ln 3).

  Returns:
    Temperature > 0, by which to divide the similarities.

  Raises:
    ValueError: If no temperature gives that entropy.
  """
  sims = np.asarray(pair_sims[:MATCHED_TRIPLETS], np.float64)
  spread = float(np.mean(np.max(sims, axis=-1) - np.min(sims, axis=-1)))
  low, high = (math.log(max(spread, 1e-30)) + s * 20.0 for s in (-1, 1))
  reached = [mean_entropy(sims, temperature=math.exp(t)) for t in (low, high)]
  if not reached[0] < entropy < reached[1]:
    raise ValueError(
      f"No temperature gives a mean entropy of {entropy:.4f} nats; these"
      f" similarities reach {reached[0]:.4f} to {reached[1]:.4f}."
    )
  # 60 halvings of a range of 40 end far below the spacing of float64.
  for _ in range(60):
    middle = (low + high) / 2
    too_sharp = mean_entropy(sims, temperature=math.exp(middle)) < entropy
    low, high = (middle, high) if too_sharp else (low, middle)
  return math.exp(high)
