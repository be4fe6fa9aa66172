"""Rows about similarities of all pairs, against people or an embedding.

Every model is compared by cosine and correlation distance and by dot product
(which is what an aligned embedding is fitted by), by Spearman's, Pearson's and
Kendall's (tau-a) correlation. Where single people are known: against their
mean, and against each of them, beside the noise ceiling.

Intervals are those of `rdm_compare`, over items; in simulation they hold from
`FEW_ITEMS` items on, and the note of a row says so where there are fewer.
rsatoolbox's own bootstrap, of
items and people, can be had beside them (`rsatoolbox_rows`); it is slow.

Usage:
  people = rsa_scores.RdmSet("mur92", rdm, per_person)
  for row in rsa_scores.rows(embedding, people): print(row)
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import io
import math
import warnings

import numpy as np

from alignet_jax import artifacts
from alignet_jax.evals import bootstrap, rdm_compare, rsa, score

METRICS = ("cosine", "correlation", "dot")

# Fewest items for which the intervals covered the truth in 90 to 99% of 300
# repetitions, with and without ties.
FEW_ITEMS = 12

# rsatoolbox's names of the methods.
_NAMES = {"spearman": "spearman", "pearson": "corr", "kendall_tau_a": "tau-a"}

# Distances that differ by less are equal but for rounding, relative to the
# largest similarity; their order would be noise.
_ROUNDING = 1e-12

# Kendall's of more pairs takes seconds, and its rows come without interval.
_MAX_KENDALL_PAIRS = 200_000


@dataclasses.dataclass(frozen=True, eq=False)
class RdmSet:
  """How unlike people find items, two by two.

  Attributes:
    name: Of the data set.
    rdm: f64[n n] dissimilarities, the mean of people.
    per_person: f64[p n n], or None.
    items: Names of the items, or empty if their order is all there is.
    categories: Category of each item, or empty.
  """

  name: str
  rdm: np.ndarray
  per_person: np.ndarray | None = None
  items: tuple = ()
  categories: tuple = ()

  @property
  def num_items(self):
    """How many items there are."""
    return len(self.rdm)


def dense(name, embedding, items=()):
  """The dot products of an embedding such as VICE's, in place of people.

  Args:
    name: Of the data set.
    embedding: f32[n k].
    items: Names of the items.

  Returns:
    `RdmSet`.
  """
  x = np.asarray(embedding, np.float64)
  sims = x @ x.T
  rdm = sims.max() - (sims + sims.T) / 2
  np.fill_diagonal(rdm, 0.0)
  return RdmSet(name, rdm, items=tuple(items))


def model_rdm(embedding, metric):
  """Dissimilarities of all pairs, f64[n n]; see `METRICS`."""
  if metric != "dot":
    return rsa.rdm(embedding, metric)
  return dense("", embedding).rdm


def rows(embedding, people, *, metrics=METRICS, methods=rdm_compare.METHODS):
  """All comparisons of one embedding with people.

  Args:
    embedding: f32[n d], a row per item.
    people: `RdmSet`.
    metrics: Some of `METRICS`.
    methods: Some of `rdm_compare.METHODS`.

  Returns:
    List of `score.Score`; skipped where all distances of one side are equal.
  """
  num_pairs = people.num_items * (people.num_items - 1) // 2
  made = []
  for method in methods:
    if method == "kendall_tau_a" and num_pairs > _MAX_KENDALL_PAIRS:
      reason = f"{num_pairs:,} pairs are more than {_MAX_KENDALL_PAIRS:,}."
      made.append(score.skipped("alignment", people.name, method, reason))
      continue
    for metric in metrics:
      rdm = model_rdm(embedding, metric)
      of_model = _why_not_model(embedding, rdm, metric)
      reason = of_model or _why_not_people(people.rdm[None])
      if reason:
        made.append(
          score.skipped("alignment", people.name, method, reason, metric)
        )
      else:
        made.append(
          score.Score(
            "alignment",
            people.name,
            method,
            metric,
            *rdm_compare.compare(rdm, people.rdm, method),
            chance=0.0,
            num=num_pairs,
            note="over items"
            if people.num_items >= FEW_ITEMS
            else f"over items; intervals were tried from {FEW_ITEMS} items on",
          )
        )
      if people.per_person is not None:
        made.append(_single(rdm, people, method, metric, of_model))
  return made


def _why_not_model(embedding, rdm, metric):
  """Why a model's distances correlate with nothing, or ""."""
  if len(rdm) < 3:
    return f"there are {len(rdm)} items; a correlation of distances takes 3."
  scale = 1.0
  if metric == "dot":
    scale = np.square(np.asarray(embedding, np.float64)).sum(axis=1).max()
  if np.ptp(rsa.upper_triangle(rdm)) <= _ROUNDING * scale:
    return "all distances of the model are equal."
  return ""


def _why_not_people(rdms):
  """Why one of people's matrices correlates with nothing, or ""."""
  for person, rdm in enumerate(rdms, start=1):
    distances = rsa.upper_triangle(rdm)
    if np.ptp(distances) <= _ROUNDING * np.abs(distances).max():
      whose = f"person {person} of {len(rdms)}" if len(rdms) > 1 else "people"
      return f"all distances of {whose} are equal."
  return ""


def _single(rdm, people, method, metric, reason):
  """The mean correlation with single people, interval over people."""
  reason = reason or _why_not_people(people.per_person)
  variant = f"{metric}, single people"
  if reason:
    return score.skipped("alignment", people.name, method, reason, variant)
  ceiling = _ceiling(people, method)
  mine = rsa.upper_triangle(rdm)
  each = [
    rdm_compare.correlate(mine, rsa.upper_triangle(theirs), method)
    for theirs in people.per_person
  ]
  return score.Score(
    "alignment",
    people.name,
    method,
    variant,
    float(np.mean(each)),
    *bootstrap.mean(each, bounds=(-1, 1)),
    chance=0.0,
    ceiling_low=ceiling[0],
    ceiling_high=ceiling[1],
    num=len(mine),
    note=f"over {len(each)} people",
  )


def _ceiling(people, method):
  """Noise ceiling; kept, as it is the same for every model."""
  if people.per_person is None:
    return math.nan, math.nan
  return _ceiling_of(_Held(people), method)


class _Held:
  """Hashes a data set by identity."""

  def __init__(self, people):
    self.people = people

  def __hash__(self):
    return id(self.people)

  def __eq__(self, other):
    return self.people is other.people


@functools.lru_cache(maxsize=32)
def _ceiling_of(held, method):
  return rdm_compare.noise_ceiling(held.people.per_person, method)


def rsatoolbox_rows(
  embedding,
  people,
  *,
  num_draws,
  metric="cosine",
  methods=("spearman", "pearson"),
):
  """The same comparisons by rsatoolbox, with its bootstrap and noise ceiling.

  Where people are known, items and people are drawn (`eval_bootstrap`); else
  items (`eval_bootstrap_pattern`). A pair of an item with itself, drawn twice,
  is left out there, and other pairs weigh as often as both were drawn: such
  intervals are wider than those of `rdm_compare`.

  Args:
    embedding: f32[n d].
    people: `RdmSet`.
    num_draws: Draws of the bootstrap.
    metric: One of `METRICS`.
    methods: Some of `rdm_compare.METHODS`.

  Returns:
    List of `score.Score`.

  Raises:
    artifacts.InputError: rsatoolbox is not installed.
  """
  toolbox = load_rsatoolbox()
  version = importlib.metadata.version("rsatoolbox")
  rdm = model_rdm(embedding, metric)
  mine = rsa.upper_triangle(rdm)
  several = people.per_person is not None
  matrices = people.per_person if several else people.rdm[None]
  variant = f"{metric}, rsatoolbox"
  reason = _why_not_model(embedding, rdm, metric) or _why_not_people(matrices)
  if reason:
    return [
      score.skipped("alignment", people.name, method, reason, variant)
      for method in methods
    ]
  data = toolbox.rdm.RDMs(np.stack([rsa.upper_triangle(m) for m in matrices]))
  model = toolbox.model.ModelFixed(people.name, mine)
  evaluate = (
    toolbox.inference.eval_bootstrap
    if several
    else toolbox.inference.eval_bootstrap_pattern
  )
  made = []
  for method in methods:
    settings = {"method": _NAMES[method], "N": num_draws}
    # It draws from numpy's global state and prints a bar for every draw.
    state = np.random.get_state()
    np.random.seed(0)
    try:
      with (
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
      ):
        # It warns that the ceiling of tau-a is that of averaged ranks.
        warnings.simplefilter("ignore")
        drawn = evaluate(model, data, boot_noise_ceil=False, **settings)
        point = toolbox.inference.eval_fixed(model, data, method=_NAMES[method])
    finally:
      np.random.set_state(state)
    per_draw = np.asarray(drawn.evaluations, np.float64).reshape(-1)
    ceiling = np.asarray(point.noise_ceiling, np.float64).reshape(-1)[:2]
    made.append(
      score.Score(
        "alignment",
        people.name,
        method,
        variant,
        float(np.nanmean(point.evaluations)),
        *bootstrap.percentiles(per_draw),
        chance=0.0,
        ceiling_low=ceiling[0] if several else math.nan,
        ceiling_high=ceiling[1] if several else math.nan,
        num=len(mine),
        note=f"rsatoolbox {version}, {len(per_draw)} draws of "
        + ("items and people" if several else "items"),
      )
    )
  return made


def load_rsatoolbox():
  """The package, with the parts that are used here.

  Raises:
    artifacts.InputError: It is not installed.
  """
  try:
    import rsatoolbox
    import rsatoolbox.inference
    import rsatoolbox.model
    import rsatoolbox.rdm
  except ImportError as error:
    raise artifacts.InputError(
      f"rsatoolbox cannot be imported ({error}); install it by pip install "
      "alignet_jax[rsa], or leave out --rsatoolbox_draws."
    ) from error
  return rsatoolbox
