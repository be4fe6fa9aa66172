"""Losses between the student's and the teacher's odd-one-out probabilities.

All of them take scores of positions (`odd_one_out.logits`, already divided by
the student's temperature) and the teacher's log probabilities, and stay in log
space: value and gradient are finite where a probability is 0.

Sources: paper.md, section C. The released configs use `jsd`; the texts about
the paper describe `kl`.

Usage:
  loss_fn = losses.get_loss("jsd")
  loss = jnp.mean(loss_fn(logits, target_logprobs))
"""

import jax
import jax.numpy as jnp


def kl(logits, target_logprobs):
  """Kullback-Leibler divergence of the student from the teacher.

  KL(p || q) = sum p (log p - log q), p the teacher, q the student.

  Args:
    logits: f32[b 3] scores of the student.
    target_logprobs: f32[b 3] log probabilities of the teacher; -inf stands for
      a probability of 0.

  Returns:
    f32[b] in nats, at least 0; 0 only where both agree.
  """
  logprobs = jax.nn.log_softmax(logits, axis=-1)
  return _divergence(target_logprobs, logprobs)


def jsd(logits, target_logprobs):
  """Jensen-Shannon divergence, the loss of the released configs.

  (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2.

  Args:
    logits: f32[b 3] scores of the student.
    target_logprobs: f32[b 3] log probabilities of the teacher; -inf stands for
      a probability of 0.

  Returns:
    f32[b] in nats, between 0 and ln 2.
  """
  logprobs = jax.nn.log_softmax(logits, axis=-1)
  log_m = jnp.logaddexp(logprobs, target_logprobs) - jnp.log(2.0)
  to_teacher = _divergence(target_logprobs, log_m)
  return (to_teacher + _divergence(logprobs, log_m)) / 2


def contrastive_hard(logits, target_logprobs):
  """Cross-entropy with the teacher's choice instead of its probabilities.

  In the released code the odd image stands last and the loss is
  -s01 / tau + logsumexp(s / tau). Here the teacher's highest entry names it,
  and where several are highest they share the target.

  Args:
    logits: f32[b 3] scores of the student.
    target_logprobs: f32[b 3] log probabilities of the teacher.

  Returns:
    f32[b] in nats, at least 0.
  """
  highest = jnp.max(target_logprobs, axis=-1, keepdims=True)
  is_highest = (target_logprobs == highest).astype(jnp.float32)
  target = is_highest / jnp.sum(is_highest, axis=-1, keepdims=True)
  return -jnp.sum(target * jax.nn.log_softmax(logits, axis=-1), axis=-1)


LOSSES = {"jsd": jsd, "kl": kl, "contrastive_hard": contrastive_hard}


def get_loss(name):
  """Looks a loss up; ValueError names the known ones for any other name."""
  if name not in LOSSES:
    raise ValueError(f"Unknown loss {name!r}; known are {', '.join(LOSSES)}.")
  return LOSSES[name]


def _divergence(logprobs, other):
  """KL(p || r) from log p and log r; where p is 0 it adds 0 and no gradient."""
  probs = jnp.exp(logprobs)
  # The difference is replaced before the product: -inf * 0 would be NaN.
  difference = jnp.where(probs > 0, logprobs - other, 0.0)
  return jnp.sum(probs * difference, axis=-1)
