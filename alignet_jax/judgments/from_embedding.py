"""Judgments that an embedding of people's choices predicts.

Released embeddings (VICE, SPoSE) say how people would answer about any three of
their objects. Where a study has pictures of some of these objects only, few of
the real judgments are about three of them; drawn ones take their place.

Usage:
  drawn = from_embedding.draw(vice_embedding[rows], 100_000, seed=0)
  fit.fit_transform(features, drawn.triplets,
                    target_logprobs=drawn.target_logprobs, ...)
"""

from typing import NamedTuple

import numpy as np
import scipy.special

from alignet_jax import odd_one_out
from alignet_jax.judgments import simulated
from alignet_jax.teacher import checks

# Triplets whose rows are gathered at a time.
_BLOCK = 65_536


class Drawn(NamedTuple):
  """Judgments drawn from an embedding.

  Attributes:
    triplets: int32[t 3], three different objects each, the odd item last: one
      person's answer, drawn from the probabilities.
    target_logprobs: f32[t 3], entry p for item p of `triplets`.
  """

  triplets: np.ndarray
  target_logprobs: np.ndarray


def draw(embedding, num_triplets, *, seed):
  """Draws triplets of all objects alike, and an answer to each.

  Args:
    embedding: f32[n d], n >= 3; dot products are similarities, temperature 1.
    num_triplets: Number t of triplets, drawn with replacement.
    seed: Non-negative int.

  Returns:
    `Drawn`.

  Raises:
    ValueError: Fewer than three objects, or an embedding that is not finite.
  """
  embedding = np.asarray(embedding, np.float32)
  if embedding.ndim != 2 or len(embedding) < 3:
    raise ValueError(
      f"The embedding has shape {embedding.shape}; expected (objects, "
      "dimensions) with at least 3 objects."
    )
  checks.standardise(embedding)  # Refuses NaN and constants in words.
  if num_triplets < 1:
    raise ValueError(f"num_triplets is {num_triplets}; expected at least 1.")
  np_rng = np.random.default_rng(seed)
  triplets = simulated.random_triplets(len(embedding), num_triplets, np_rng)
  log_probs = logprobs(embedding, triplets)
  # The largest of log probabilities plus Gumbel noise is a draw from them.
  odd = np.argmax(log_probs + np_rng.gumbel(size=log_probs.shape), axis=1)
  order = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])[odd]
  return Drawn(
    np.take_along_axis(triplets, order, axis=1),
    np.take_along_axis(log_probs, order, axis=1).astype(np.float32),
  )


def without(drawn, triplets):
  """Those drawn that are about other objects than any of some triplets.

  Args:
    drawn: `Drawn`.
    triplets: int[n 3] rows of the same objects, in any order.

  Returns:
    A `Drawn` of the others, in their order.
  """
  return Drawn(*(x[~is_about(drawn.triplets, triplets)] for x in drawn))


def is_about(triplets, others):
  """Whether each triplet is about the same three objects as one of others.

  Args:
    triplets: int[t 3] objects.
    others: int[n 3] objects.

  Returns:
    bool[t].
  """

  def keys(triplets):
    first, second, third = np.sort(np.asarray(triplets, np.int64), axis=1).T
    return (first << 42) | (second << 21) | third  # Less than 2**21 objects.

  return np.isin(keys(triplets), keys(others))


def logprobs(embedding, triplets):
  """How an embedding predicts the answers to triplets, a block at a time.

  Args:
    embedding: f32[n d]; dot products are similarities, temperature 1.
    triplets: int[t 3] rows of it.

  Returns:
    f32[t 3] log probabilities, entry p of item p being called odd.
  """
  blocks = range(0, len(triplets), _BLOCK)
  return np.concatenate(
    [
      scipy.special.log_softmax(
        np.asarray(
          odd_one_out.logits_of_rows(
            embedding, triplets[start : start + _BLOCK]
          )
        ),
        axis=1,
      )
      for start in blocks
    ]
  )
