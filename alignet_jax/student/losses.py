"""Distillation losses on the three-way choice, in log space.

Both sides are distributions over "which item is odd": the student's from its
similarities (divided by the temperature before they come here), the teacher's
as log probabilities. The released configuration uses `jsd` with temperature 100
on the student only; the paper's text speaks of KL (paper.md, section C and
trap 24).

Usage:
  loss = LOSSES["jsd"](logits, target_logprobs)      # f32[b]
"""

import jax.numpy as jnp
import numpy as np

from alignet_jax import odd_one_out


def kl(logits, target_logprobs):
  """Kullback-Leibler divergence KL(teacher || student).

  Args:
    logits: f32[*b 3] of the student, entry p scores item p.
    target_logprobs: f32[*b 3] of the teacher; -inf for an impossible item.

  Returns:
    f32[*b] in nats, at least 0; 0 where the two agree.
  """
  logprobs = odd_one_out.log_probs(logits)
  return _relative(target_logprobs, target_logprobs - logprobs)


def jsd(logits, target_logprobs):
  """Jensen-Shannon divergence, as released.

  Half of KL(p || m) plus half of KL(q || m), m the mean of both (paper.md,
  section C). `Deviation:` the released code takes a softmax and then its
  logarithm, which is not finite for far logits; this one is.

  Args:
    logits: f32[*b 3] of the student, entry p scores item p.
    target_logprobs: f32[*b 3] of the teacher; -inf for an impossible item.

  Returns:
    f32[*b] in nats, from 0 to ln 2.
  """
  logprobs = odd_one_out.log_probs(logits)
  mean = jnp.logaddexp(logprobs, target_logprobs) - np.log(2.0)
  return 0.5 * (
    _relative(target_logprobs, target_logprobs - mean)
    + _relative(logprobs, logprobs - mean)
  )


def contrastive_hard(logits, target_logprobs):
  """Cross-entropy of the item that the teacher finds most likely odd.

  Args:
    logits: f32[*b 3] of the student, entry p scores item p.
    target_logprobs: f32[*b 3] of the teacher; of equal ones the first counts.

  Returns:
    f32[*b] in nats, at least 0.
  """
  odd = jnp.argmax(target_logprobs, axis=-1)
  logprobs = odd_one_out.log_probs(logits)
  return -jnp.take_along_axis(logprobs, odd[..., None], axis=-1)[..., 0]


LOSSES = {"kl": kl, "jsd": jsd, "contrastive_hard": contrastive_hard}


def get_loss(name):
  """Looks a loss up by name; an unknown one is an error that lists them."""
  if name not in LOSSES:
    raise ValueError(
      f"Unknown loss {name!r}; known are {', '.join(sorted(LOSSES))}."
    )
  return LOSSES[name]


def _relative(logprobs, difference):
  """Mean of `difference` under `logprobs`; impossible items add nothing.

  The items are masked before the product: 0 * inf is NaN, and so would be the
  gradient even where a mask after it hides the value.
  """
  possible = jnp.exp(logprobs) > 0
  probs = jnp.exp(jnp.where(possible, logprobs, 0.0))
  terms = probs * jnp.where(possible, difference, 0.0)
  return jnp.sum(jnp.where(possible, terms, 0.0), axis=-1)
