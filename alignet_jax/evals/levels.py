"""Odd-one-out accuracy of a model on the three levels of the Levels data set.

People saw three images and named the odd one (paper.md, section D). A level
says how the three were drawn: "coarse" from three different classes, "fine"
from one class, "boundary" two from one class and one from another.

Two scores are reported and never mixed. Per trial: share of single answers
that equal the model's choice; bounded by how far people agree. Majority: share
of triplets on which the model's choice is what most people answered; bounded
by 1, and usually the higher of the two.

Usage:
  answers = levels.Levels(triplets, odd_counts, level)
  scores = levels.score_levels(embeddings, answers)
  scores["coarse"]["per_trial"]                   # 0.523
"""

import dataclasses

import numpy as np

from alignet_jax import intervals, odd_one_out
from alignet_jax.evals import triplet_logits
from alignet_jax.judgments import noise_ceiling

NAMES = ("coarse", "fine", "boundary")


@dataclasses.dataclass(frozen=True)
class Levels:
  """Answers of people to triplets of known level.

  Attributes:
    triplets: i32[m 3] rows of the evaluation embeddings, in any order.
    odd_counts: i32[m 3], how many people called each item the odd one.
    level: i32[m], index into `names`.
    names: Names of the levels.
  """

  triplets: np.ndarray
  odd_counts: np.ndarray
  level: np.ndarray
  names: tuple[str, ...] = NAMES

  def __post_init__(self):
    num = len(self.triplets)
    for name, shape in (
      ("triplets", (num, 3)),
      ("odd_counts", (num, 3)),
      ("level", (num,)),
    ):
      met = np.shape(getattr(self, name))
      if met != shape:
        raise ValueError(f"{name} has shape {met}; expected {shape}.")
    counts = np.asarray(self.odd_counts)
    if num and counts.min() < 0:
      raise ValueError(f"odd_counts holds {counts.min()}; counts are >= 0.")
    unanswered = np.flatnonzero(counts.sum(axis=-1) == 0)
    if unanswered.size:
      raise ValueError(
        f"Triplet {unanswered[0]} has no answer, and so have "
        f"{unanswered.size} in all; every triplet needs at least one."
      )
    met = set(np.unique(self.level).tolist())
    allowed = set(range(len(self.names)))
    if met != allowed:
      raise ValueError(
        f"level holds {sorted(met)}; expected each of {sorted(allowed)} for "
        f"the names {', '.join(self.names)}. Drop the name of an empty level."
      )


def choices(embeddings, triplets, *, cosine=True):
  """Names the item of each triplet that a model calls odd.

  Args:
    embeddings: f32[n d], by convention the pooled features.
    triplets: i32[m 3] rows of `embeddings`.
    cosine: Whether similarity is the cosine, as in the zero-shot evaluation of
      paper.md, section F; else the dot product.

  Returns:
    i32[m]: 0, 1, 2, or -1 for a tie (`odd_one_out.choose`).
  """
  triplets = np.asarray(triplets)
  embeddings = np.asarray(embeddings)
  num = len(embeddings)
  # JAX would take the nearest row for one out of range, in silence.
  if triplets.size and not (triplets.min() >= 0 and triplets.max() < num):
    raise ValueError(
      f"triplets hold rows {triplets.min()} to {triplets.max()}; the "
      f"embeddings have rows 0 to {num - 1}."
    )
  scores = triplet_logits.of(
    embeddings, triplets, "cosine" if cosine else "dot"
  )
  return np.asarray(odd_one_out.choose(scores))


def score_levels(
  embeddings, levels, *, cosine=True, num_resamples=1000, seed=0
):
  """Scores a model against people on every level.

  Args:
    embeddings: f32[n d], one row per evaluation image.
    levels: `Levels`, the answers of people.
    cosine: Similarity, as in `choices`.
    num_resamples: Bootstrap draws over triplets.
    seed: Seed of the bootstrap.

  Returns:
    dict from level name to a dict with
      per_trial, per_trial_interval: share of single answers equal to the
        model's choice, and its (low, high);
      majority, majority_interval: share of triplets whose majority answer is
        the model's choice; triplets with a tied majority are left out;
      noise_ceiling: (lower, upper) of the per-trial score;
      num_triplets, num_answers, num_tied_majority, num_tied_model: counts. A
        tie of the model is scored as wrong in both.
    A score over nothing is NaN.
  """
  odd = choices(embeddings, levels.triplets, cosine=cosine)
  counts = np.asarray(levels.odd_counts, np.int64)
  totals = counts.sum(axis=-1)
  chosen = counts[np.arange(len(odd)), np.maximum(odd, 0)]
  hits = np.where(odd == odd_one_out.TIE, 0, chosen)
  majority = np.asarray(odd_one_out.choose(counts))
  scores = {}
  for index, name in enumerate(levels.names):
    here = np.asarray(levels.level) == index
    clear = here & (majority != odd_one_out.TIE)
    ceiling = noise_ceiling.noise_ceiling(
      counts[here], num_resamples=1, num_splits=1
    )
    agrees = (odd == majority)[clear].astype(np.float64)
    scores[name] = {
      "per_trial": float(hits[here].sum() / totals[here].sum()),
      "per_trial_interval": intervals.bootstrap_ratio(
        hits[here],
        totals[here],
        num_resamples=num_resamples,
        np_rng=np.random.default_rng([seed, index, 0]),
      ),
      "majority": float(agrees.mean()) if agrees.size else float("nan"),
      "majority_interval": intervals.bootstrap_ratio(
        agrees,
        np.ones_like(agrees),
        num_resamples=num_resamples,
        np_rng=np.random.default_rng([seed, index, 1]),
      ),
      "noise_ceiling": (ceiling["lower"].value, ceiling["upper"].value),
      "num_triplets": int(here.sum()),
      "num_answers": int(totals[here].sum()),
      "num_tied_majority": int((here & (majority == odd_one_out.TIE)).sum()),
      "num_tied_model": int((odd[here] == odd_one_out.TIE).sum()),
    }
  return scores
