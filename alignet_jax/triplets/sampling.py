"""Which three images make a triplet: the published sampling schemes.

AligNet trains on `cluster_border` triplets, drawn between clusters of the
teacher's features; `class_border`, `within_class` and `between_class` are its
ablations by ImageNet label (paper.md, section B). Triplet i of a seed is a
function of (seed, i), whatever else is drawn, so that any part of any number
of triplets can be made again. `dense` has batches that use every cluster-border
triplet of their images.

Usage:
  triplets = sampling.cluster_border(cluster_ids, 10_000, seed=0)  # int64[n 3]
  sample = sampling.get_sampler("class_border")
  triplets = sample(labels, 10_000, seed=(0, 1), start=5_000)
"""

import numpy as np

from alignet_jax.triplets import hashing

# Triplets drawn at once; bounds the memory that is needed beside the result.
CHUNK_SIZE = 2**20


def cluster_border(cluster_ids, num_triplets, seed, *, start=0):
  """Draws two images of one cluster and one image of another.

  The cluster of the pair is uniform over the clusters with two images or more;
  the pair is uniform over its ordered pairs of distinct images; the cluster of
  the third is uniform over the other clusters that have an image; the third
  image is uniform in it. So every cluster counts the same however large it is,
  which the paper does not say in so many words (paper.md, section B).

  Args:
    cluster_ids: int[n], each at least 0; numbers without an image are fine.
    num_triplets: How many triplets to draw.
    seed: int or a sequence of them.
    start: Index of the first triplet to draw.

  Returns:
    int64[num_triplets 3] rows of `cluster_ids`: the pair, then the third.
  """
  groups = Groups(cluster_ids)
  large = groups.with_at_least(2)
  if not len(large) or groups.num_groups < 2:
    raise ValueError(
      "Border triplets need two groups of images, one of them with two images;"
      f" there are {groups.num_groups} groups with"
      f" {groups.counts.max()} images at most."
    )

  def draw(number):
    pair_group = large[number(len(large))]
    size = groups.counts[pair_group]
    first, second = distinct(number, size, 2)
    other = _skip(number(groups.num_groups - 1), [pair_group])
    third = groups.member(other, number(groups.counts[other]))
    return (
      groups.member(pair_group, first),
      groups.member(pair_group, second),
      third,
    )

  return draw_chunks(draw, num_triplets, seed, start)


def within_class(labels, num_triplets, seed, *, start=0):
  """Draws three distinct images of one class.

  The class is uniform over those with three images or more, the images are
  uniform over its ordered triples. Arguments and result as `cluster_border`.
  """
  groups = Groups(labels)
  large = groups.with_at_least(3)
  if not len(large):
    raise ValueError(
      "Triplets within a class need a class with three images; the largest has"
      f" {groups.counts.max()}."
    )

  def draw(number):
    group = large[number(len(large))]
    members = distinct(number, groups.counts[group], 3)
    return tuple(groups.member(group, member) for member in members)

  return draw_chunks(draw, num_triplets, seed, start)


def between_class(labels, num_triplets, seed, *, start=0):
  """Draws three images of three different classes.

  The classes are uniform over the ordered triples of classes, each image is
  uniform in its class. Arguments and result as `cluster_border`.
  """
  groups = Groups(labels)
  if groups.num_groups < 3:
    raise ValueError(
      f"Triplets between classes need three classes, not {groups.num_groups}."
    )

  def draw(number):
    three = distinct(number, groups.num_groups, 3)
    return tuple(groups.member(g, number(groups.counts[g])) for g in three)

  return draw_chunks(draw, num_triplets, seed, start)


def random(groups, num_triplets, seed, *, start=0):
  """Draws three distinct images, uniform over all ordered triples.

  Only the length of `groups` matters. Arguments and result as `cluster_border`.
  """
  num_images = len(groups)
  if num_images < 3:
    raise ValueError(f"Triplets need three images, not {num_images}.")
  return draw_chunks(
    lambda number: distinct(number, num_images, 3), num_triplets, seed, start
  )


# The published names. `class_border` is `cluster_border` given labels.
SAMPLERS = {
  "cluster_border": cluster_border,
  "class_border": cluster_border,
  "within_class": within_class,
  "between_class": between_class,
  "random": random,
}


def get_sampler(name):
  """Looks up a sampling scheme; the error for an unknown one lists all."""
  if name not in SAMPLERS:
    raise ValueError(
      f"There is no sampling scheme {name!r}; there are"
      f" {', '.join(sorted(SAMPLERS))}."
    )
  return SAMPLERS[name]


class Groups:
  """The images of each group that has any; groups are renumbered 0..g-1.

  Attributes:
    counts: int64[g] images of each.
    num_groups: g.
  """

  def __init__(self, group_ids):
    group_ids = np.asarray(group_ids)
    if group_ids.ndim != 1 or not group_ids.size or group_ids.min() < 0:
      raise ValueError(
        "Groups of images must be int[n] with n >= 1 and numbers >= 0, not"
        f" {group_ids.dtype}{list(group_ids.shape)}."
      )
    self._order = np.argsort(group_ids, kind="stable")
    # Not `bincount`, whose memory grows with the largest number.
    self.counts = np.unique(group_ids, return_counts=True)[1]
    self._starts = np.cumsum(self.counts) - self.counts
    self.num_groups = len(self.counts)

  def with_at_least(self, num_images):
    """Groups of that size or larger, int64[m]."""
    return np.flatnonzero(self.counts >= num_images)

  def member(self, group, place):
    """The image at a place of a group: int64[*b] of int64[*b] twice."""
    return self._order[self._starts[group] + place]


def draw_chunks(draw, num_rows, seed, start, *, width=3):
  """Fills rows of images from a function of a number source.

  Args:
    draw: Maps a source, which `number(bound)` asks for uniform whole numbers
      int64[m] in [0, bound), to the columns of the rows, a tuple of int64[m].
    num_rows: n.
    seed: int or a sequence of them.
    start: Index of the first row.
    width: w, how many columns there are.

  Returns:
    int64[n w].
  """
  words = (seed,) if np.ndim(seed) == 0 else tuple(seed)
  key = hashing.key(*words)
  chunk_size = max(1, CHUNK_SIZE * 3 // width)
  drawn = np.empty((num_rows, width), np.int64)
  for first in range(0, num_rows, chunk_size):
    last = min(first + chunk_size, num_rows)
    index = np.arange(start + first, start + last)
    drawn[first:last] = np.stack(draw(_Numbers(key, index)), axis=-1)
  return drawn


class _Numbers:
  """Source of uniform numbers: a new stream of (key, index) at each call."""

  def __init__(self, key, index):
    self._key, self._index, self._num_calls = key, index, 0

  def __call__(self, bound):
    """int64[n] in [0, bound), where `bound` is int or int[n]."""
    stream = hashing.fold_in(self._key, self._num_calls)
    self._num_calls += 1
    return hashing.below(stream, self._index, bound)


def distinct(number, bound, how_many):
  """Distinct numbers in [0, bound), uniform over the ordered choices.

  Args:
    number: A source; see `draw_chunks`.
    bound: int or int[m], at least `how_many`.
    how_many: How many.

  Returns:
    A tuple of int64[m].
  """
  chosen = []
  for taken in range(how_many):
    chosen.append(_skip(number(bound - taken), chosen))
  return tuple(chosen)


def _skip(value, taken):
  """The value-th number that is not among `taken`, elementwise."""
  for place in np.sort(np.stack(taken), axis=0) if taken else ():
    value = value + (value >= place)
  return value
