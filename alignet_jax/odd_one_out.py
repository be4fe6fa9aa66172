"""The definition of an odd-one-out triplet that every stage shares.

A triplet holds three items; people say which one is odd, so which two are most
alike. Everything inside this package scores the three *positions*: entry p of
`logits`, `logprobs` or `counts` belongs to item p being the odd one. Files of
the AligNet release store the three *pairs* instead, in the order (01, 02, 12);
the pair that leaves out item p stands at 2 - p, so one order is the other
reversed. `logits_from_pair_sims` and `pair_sims_from_logits` are the only two
places where that reversal happens.

Usage:
  logits = odd_one_out.logits(z, temperature=1.0)    # f32[b 3]
  odd = odd_one_out.choose(logits)                   # int32[b], -1 for a tie
  accuracy = odd_one_out.accuracy(logits, odd=2)     # ties count as wrong

The functions take numpy and JAX arrays alike, run under `jit`, and import
nothing but JAX.
"""

import jax
import jax.numpy as jnp

# Chance level of a forced choice among three.
CHANCE = 1.0 / 3.0

# Value that `choose` gives where no single item scores highest.
TIE = -1


def logits(z, *, temperature=1.0, cosine=False):
  """Scores each item of a triplet for being the odd one out.

  An item is odd to the degree that the other two are alike, so its score is
  the similarity of the other two (paper.md, section A: softmax over the three
  pair similarities). No distance to the odd item itself enters.

  Args:
    z: f32[*b 3 d] embeddings of the three items, not normalised.
    temperature: Positive; divides the similarities, so smaller is surer.
    cosine: Whether similarity is the cosine instead of the dot product.

  Returns:
    f32[*b 3]. Entry p scores item p. Equal entries are ties, not errors.
  """
  if cosine:
    # The floor makes the cosine with a zero vector 0 instead of NaN.
    norm = jnp.linalg.norm(z, axis=-1, keepdims=True)
    z = z / jnp.maximum(norm, jnp.finfo(z.dtype).tiny)
  others_0 = jnp.sum(z[..., 1, :] * z[..., 2, :], axis=-1)
  others_1 = jnp.sum(z[..., 0, :] * z[..., 2, :], axis=-1)
  others_2 = jnp.sum(z[..., 0, :] * z[..., 1, :], axis=-1)
  return jnp.stack([others_0, others_1, others_2], axis=-1) / temperature


def logits_of_rows(x, triplets, *, temperature=1.0, cosine=False):
  """Scores triplets that are given as rows of one embedding matrix.

  Args:
    x: f32[n d] embeddings.
    triplets: int[*b 3] rows of `x`, each in [0, n).
    temperature: Positive; divides the similarities.
    cosine: Whether similarity is the cosine instead of the dot product.

  Returns:
    f32[*b 3], as `logits`.
  """
  z = jnp.asarray(x)[jnp.asarray(triplets)]
  return logits(z, temperature=temperature, cosine=cosine)


def logits_from_pair_sims(pair_sims):
  """Turns similarities of the pairs (01, 02, 12) into scores of the items.

  Args:
    pair_sims: f32[*b 3], in the order of the released files.

  Returns:
    f32[*b 3] scores of items 0, 1, 2: the same numbers reversed.
  """
  return pair_sims[..., ::-1]


def pair_sims_from_logits(scores):
  """Inverse of `logits_from_pair_sims`, for writers of the released format."""
  return scores[..., ::-1]


def choose(scores):
  """Names the odd item of each triplet.

  Tie rule: where two or three items share the highest score there is no
  choice, and the result is `TIE`. So a model that gives every item the same
  embedding is always wrong instead of always right.
  `Deviation:` human_alignment calls a triplet tied only if all three distances
  are equal; the released AligNet metric counts a tie as wrong only if it
  involves the true item. Both agree with this rule except on partial ties.

  Args:
    scores: f32[*b 3], entry p scores item p. Log probabilities serve as well.

  Returns:
    int32[*b]: 0, 1, 2 or `TIE` (-1). NaN scores give `TIE`.
  """
  highest = jnp.max(scores, axis=-1, keepdims=True)
  is_highest = scores == highest
  unique = jnp.sum(is_highest, axis=-1) == 1
  index = jnp.argmax(is_highest, axis=-1)
  return jnp.where(unique, index, TIE).astype(jnp.int32)


def accuracy(scores, odd=2, *, mask=None):
  """Share of triplets whose chosen odd item is the given one.

  Args:
    scores: f32[*b 3], entry p scores item p.
    odd: int or int[*b], the position of the item that people called odd. The
      default fits triplets stored with the odd item last.
    mask: bool[*b], True for real triplets, or None if all are.

  Returns:
    f32[] in [0, 1]. Ties count as wrong; see `choose`. NaN if `mask` is empty.
  """
  correct = (choose(scores) == odd).astype(jnp.float32)
  if mask is None:
    return jnp.mean(correct)
  mask = jnp.asarray(mask, jnp.float32)
  return jnp.sum(correct * mask) / jnp.sum(mask)


def log_probs(scores):
  """Log probability that each item is called odd: log softmax, f32[*b 3]."""
  return jax.nn.log_softmax(jnp.asarray(scores, jnp.float32), axis=-1)


def entropy(logprobs):
  """Entropy of the three-way choice.

  Args:
    logprobs: f32[*b 3] log probabilities; -inf stands for an impossible item.

  Returns:
    f32[*b] in nats, between 0 and ln 3 = 1.0986.
  """
  probs = jnp.exp(logprobs)
  finite = jnp.where(probs > 0, logprobs, 0.0)  # 0 log 0 = 0, gradient too.
  return -jnp.sum(probs * finite, axis=-1)
