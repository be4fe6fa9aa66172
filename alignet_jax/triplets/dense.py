"""Batches in which every cluster-border triplet is used.

Drawn one by one, each triplet costs a student three images. A batch of P
clusters with K images each holds P (P - 1) K * K (K - 1) / 2 cluster-border
triplets; at P = K = 8 its 64 images give 12,544 of them, for one pass. All come
from the matrix of the batch's similarities, the teacher's and the student's.

A triplet of a batch, drawn uniformly, has the distribution of
`sampling.cluster_border` over the clusters with K images or more, its pair
taken as unordered. Triplets of one batch share images: they are not
independent, and their number says little about how much they teach.

Usage:
  images = dense.batches(
    cluster_ids, 1000, seed=0, clusters_per_batch=8, images_per_cluster=8)
  triplets = dense.triplets(8, 8)                  # int32[12544 3]
  logits = dense.logits(z, triplets)               # f32[12544 3] of z f32[64 e]
  target = odd_one_out.log_probs(dense.logits(teacher[images[0].ravel()],
                                              triplets))
"""

import itertools

import jax.numpy as jnp
import numpy as np

from alignet_jax.triplets import lloyd, sampling


class Sampler:
  """Draws the images of batches; batch i is a function of (seed, i).

  The clusters are uniform over the ordered choices of P distinct ones among
  those with K images or more, the images of each uniform over the ordered
  choices of K distinct ones of its images.
  """

  def __init__(
    self, cluster_ids, seed, *, clusters_per_batch, images_per_cluster
  ):
    """Sorts the images by cluster; draws nothing yet.

    Args:
      cluster_ids: int[n], each at least 0.
      seed: int or a sequence of them.
      clusters_per_batch: P, at least 2.
      images_per_cluster: K, at least 2.

    Raises:
      ValueError: P or K is less than 2, or there are less than P such clusters.
    """
    for name, value in (
      ("clusters_per_batch", clusters_per_batch),
      ("images_per_cluster", images_per_cluster),
    ):
      if value < 2:
        raise ValueError(f"{name} is {value}; it must be at least 2.")
    self._groups = sampling.Groups(cluster_ids)
    self._large = self._groups.with_at_least(images_per_cluster)
    if len(self._large) < clusters_per_batch:
      raise ValueError(
        f"Dense batches need {clusters_per_batch} clusters with"
        f" {images_per_cluster} images or more; there are {len(self._large)}."
      )
    self._seed = seed
    self._shape = (clusters_per_batch, images_per_cluster)

  def draw(self, num_batches, *, start=0):
    """The images of batches start, start + 1, ..., int64[b P K]."""
    width = self._shape[0] * self._shape[1]
    images = sampling.draw_chunks(
      self._draw, num_batches, self._seed, start, width=width
    )
    return images.reshape(-1, *self._shape)

  def _draw(self, number):
    groups, images = self._groups, []
    for place in sampling.distinct(number, len(self._large), self._shape[0]):
      group = self._large[place]
      members = sampling.distinct(number, groups.counts[group], self._shape[1])
      images.extend(groups.member(group, member) for member in members)
    return tuple(images)


def batches(cluster_ids, num_batches, seed, *, start=0, **sizes):
  """Draws the images of batches.

  Args:
    cluster_ids: int[n], each at least 0.
    num_batches: b, how many batches to draw.
    seed: int or a sequence of them.
    start: Index of the first batch to draw.
    **sizes: `clusters_per_batch` P and `images_per_cluster` K of `Sampler`.

  Returns:
    int64[b P K] rows of `cluster_ids`.

  Raises:
    ValueError: P or K is less than 2, or there are less than P such clusters.
  """
  return Sampler(cluster_ids, seed, **sizes).draw(num_batches, start=start)


def pairs(clusters_per_batch, images_per_cluster):
  """All pairs of images of one cluster, cluster after cluster.

  Args:
    clusters_per_batch: P.
    images_per_cluster: K.

  Returns:
    int32[P K (K - 1) / 2 2] places in the batch, the lower one first.
  """
  places = itertools.combinations(range(images_per_cluster), 2)
  starts = images_per_cluster * np.arange(clusters_per_batch, dtype=np.int32)
  of_one = np.array(list(places), np.int32)
  return (starts[:, None, None] + of_one[None]).reshape(-1, 2)


def num_triplets(clusters_per_batch, images_per_cluster):
  """How many there are in a batch: P (P - 1) K * K (K - 1) / 2."""
  num_pairs = images_per_cluster * (images_per_cluster - 1) // 2
  num_others = (clusters_per_batch - 1) * images_per_cluster
  return clusters_per_batch * num_pairs * num_others


def triplets(clusters_per_batch, images_per_cluster):
  """All cluster-border triplets of a batch.

  Args:
    clusters_per_batch: P.
    images_per_cluster: K.

  Returns:
    int32[t 3] places in the batch, cluster after cluster: a pair i < j of one
    cluster, then an image of another; t = P (P - 1) K * K (K - 1) / 2.
  """
  size = images_per_cluster
  num_images = clusters_per_batch * size
  parts = []
  for pair in pairs(clusters_per_batch, size):
    others = np.arange(num_images, dtype=np.int32)
    others = others[others // size != pair[0] // size]
    parts.append(np.stack([*np.broadcast_arrays(*pair, others)], axis=-1))
  return np.concatenate(parts)


def logits(z, triplets, *, temperature=1.0):
  """Scores of `odd_one_out.logits` for many triplets of few images.

  Args:
    z: f32[m e] embeddings of the images of a batch.
    triplets: int[t 3] places in the batch.
    temperature: Positive; divides the similarities.

  Returns:
    f32[t 3]; entry p scores item p. Differentiable in `z`.
  """
  sims = jnp.einsum("ie,je->ij", z, z, precision=lloyd.PRECISION)
  i, j, k = triplets.T
  scores = jnp.stack([sims[j, k], sims[i, k], sims[i, j]], axis=-1)
  return scores / temperature
