"""How well a model predicts people's choices, and where they are unsure.

Three questions about the three-way distribution of odd-one-out answers
(paper.md, sections A and D): how probable are single answers (`nll`), is the
model unsure where people disagree (`entropy_correlation`), and how far is its
distribution from theirs (`kl_from_people`). The last two need triplets that
many people answered.

Usage:
  logits = odd_one_out.logits_of_rows(embedding, triplets)
  repeats_logits = odd_one_out.logits_of_rows(embedding, repeats)
  uncertainty.score_choices(logits, repeats_logits, odd_counts)["kl"]  # 0.102
"""

import numpy as np
import scipy.special

from alignet_jax import odd_one_out


def nll(logprobs):
  """Mean negative log probability of what people chose.

  Args:
    logprobs: f32[n 3] log probabilities of triplets whose odd item is the last.

  Returns:
    float in nats, >= 0; ln 3 = 1.0986 for a model that knows nothing.
  """
  return float(-np.mean(np.asarray(logprobs, np.float64)[:, 2]))


def response_entropy(counts):
  """Entropy of people's answers to each triplet.

  The plain estimate, from shares. With 200 answers it is too small by about
  2 / (2 * 200) = .005 nats, everywhere alike.

  Args:
    counts: int[m 3], how many people called each item the odd one; at least
      one answer per triplet.

  Returns:
    f64[m] in nats, between 0 and ln 3.

  Raises:
    ValueError: A triplet without answers.
  """
  return scipy.special.entr(_shares(counts)).sum(axis=-1)


def entropy_correlation(model_logprobs, counts):
  """Whether a model is unsure where people disagree.

  Args:
    model_logprobs: f32[m 3] log probabilities.
    counts: int[m 3], as in `response_entropy`.

  Returns:
    float in [-1, 1]: Pearson's r over triplets between the entropies of the
    model and of the answers. NaN where one of them is the same everywhere.
  """
  model = np.asarray(
    odd_one_out.entropy(np.asarray(model_logprobs, np.float32))
  )
  model = model.astype(np.float64) - model.mean(dtype=np.float64)
  people = response_entropy(counts)
  people = people - people.mean()
  scale = np.sqrt((model @ model) * (people @ people))
  return float(model @ people / scale) if scale > 0 else float("nan")


def kl_from_people(counts, model_logprobs):
  """Mean KL(people || model) over triplets.

  Args:
    counts: int[m 3], as in `response_entropy`.
    model_logprobs: f32[m 3] log probabilities, in the same order of items.

  Returns:
    float in nats, >= 0; infinite where a model excludes an answer that
    somebody gave.
  """
  shares = _shares(counts)
  logprobs = np.asarray(model_logprobs, np.float64)
  if shares.shape != logprobs.shape:
    raise ValueError(
      f"counts have shape {shares.shape} and model_logprobs {logprobs.shape};"
      " they must be the same."
    )
  # 0 log 0 = 0, also where the model excludes an answer that nobody gave.
  cross = shares * np.where(shares > 0, logprobs, 0.0)
  return float(np.mean(-np.sum(scipy.special.entr(shares) + cross, axis=-1)))


def score_choices(logits, repeats_logits=None, counts=None):
  """The four scores of a model against human choices.

  Args:
    logits: f32[n 3] of triplets whose odd item is the last.
    repeats_logits: f32[m 3] of triplets that many people answered, or None.
    counts: int[m 3], their answers, in the order of the items of
      `repeats_logits`.

  Returns:
    dict of floats: accuracy, ties counting as wrong; nll; and, if there are
    repeats, entropy_r and kl.
  """
  scores = {
    "accuracy": float(odd_one_out.accuracy(np.asarray(logits))),
    "nll": nll(odd_one_out.log_probs(logits)),
  }
  if repeats_logits is not None:
    logprobs = odd_one_out.log_probs(repeats_logits)
    scores["entropy_r"] = entropy_correlation(logprobs, counts)
    scores["kl"] = kl_from_people(counts, logprobs)
  return scores


def _shares(counts):
  counts = np.asarray(counts, np.float64)
  totals = counts.sum(axis=-1, keepdims=True)
  unanswered = np.flatnonzero(~(totals[:, 0] > 0))
  if unanswered.size:
    raise ValueError(
      f"Triplet {unanswered[0]} has no answer, and so have {unanswered.size} in"
      " all; every triplet needs at least one."
    )
  return counts / totals
