"""K-means in JAX, for the clusters between which triplets are drawn.

AligNet clusters the teacher's features of ImageNet with k = 500 (paper.md,
section B). This is Lloyd's algorithm from greedy k-means++ seeds; the best of
several restarts wins. Sums run in float32 about the mean of the data, where
float32 is most precise; the returned inertia is summed in float64. Rows are
divided among the devices of the process (`lloyd.py`).

Usage:
  clusters = kmeans.fit(
    features, num_clusters=500, seed=0, num_iters=25, num_restarts=3)
  clusters.cluster_ids                             # int32[n]
  kmeans.assign(other, clusters.centroids)
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from alignet_jax.triplets import kmeans_checkpoint, lloyd

# K-means++ looks at no more than this many rows per cluster. Measured on
# 20,000 x 64: seeds from all rows gave no lower inertia.
SEEDING_ROWS_PER_CLUSTER = 50


@dataclasses.dataclass(frozen=True)
class KMeans:
  """A clustering.

  Attributes:
    cluster_ids: int32[n] nearest centroid of each row; the lower at a tie.
    centroids: f32[k d].
    inertia: Sum of squared distances of the rows to their centroids.
    num_iters: Updates of the centroids that the best restart made.
  """

  cluster_ids: np.ndarray
  centroids: np.ndarray
  inertia: float
  num_iters: int

  @property
  def sizes(self):
    """Rows of each cluster, int64[k]."""
    return np.bincount(self.cluster_ids, minlength=len(self.centroids))

  @property
  def balance(self):
    """How evenly the rows are divided, in (0, 1].

    The exponential of the entropy of the sizes, divided by k: the share of the
    clusters that, all equally large, would be as hard to guess.
    """
    return float(np.exp(stats.entropy(self.sizes)) / len(self.centroids))


def fit(
  features,
  *,
  num_clusters,
  seed,
  num_iters,
  num_restarts,
  chunk_size=None,
  checkpoint=None,
  devices=None,
  log=None,
):
  """Clusters rows by squared Euclidean distance.

  A cluster that loses its last row continues at the row farthest from its own
  centroid. Clusters stay empty where there are fewer distinct rows than
  clusters, and may where `num_iters` ends a restart before they get a row. On
  CPU the same arguments give the same bits, on 1, 2, 4 and 8 devices alike, and
  after a kill too.

  Args:
    features: [n d] numbers, finite; may be mapped from a file. They are made
      float32 on the devices, which need room for f32[n d].
    num_clusters: k, between 1 and n.
    seed: int; fixes the seeds of every restart.
    num_iters: Most updates per restart, at least 1. Stops earlier when no row
      changes its cluster.
    num_restarts: Independent starts, at least 1; the lowest inertia is kept.
    chunk_size: Most rows whose distances are held at once by a device; the
      memory it needs beside the features is f32[chunk_size k]. None for
      `lloyd.default_chunk_size`.
    checkpoint: Path of a `.npz` file by which a killed fit goes on; written
      once a minute, removed at the end. Or None.
    devices: Devices of this process; all if None.
    log: Called with one line per restart, or None.

  Returns:
    `KMeans`.

  Raises:
    ValueError: If k > n, a value is not finite or so large that sums of squares
      overflow float32, or a number is out of range.
  """
  features = np.asarray(features)
  _check_features(features)
  if chunk_size is None:
    chunk_size = lloyd.default_chunk_size(devices)
  for name, value, most in (
    ("num_clusters", num_clusters, len(features)),
    ("num_iters", num_iters, math.inf),
    ("num_restarts", num_restarts, math.inf),
    ("chunk_size", chunk_size, math.inf),
  ):
    if not 1 <= value <= most:
      limit = f"between 1 and {most}" if most < math.inf else "at least 1"
      reason = ", the number of rows" if most < math.inf else ""
      raise ValueError(f"{name} is {value}; it must be {limit}{reason}.")

  mean = np.mean(features, axis=0, dtype=np.float64).astype(np.float32)
  placed = lloyd.place(features, mean, chunk_size=chunk_size, devices=devices)
  saver = kmeans_checkpoint.Checkpoint(
    checkpoint,
    [num_clusters, seed, num_iters, num_restarts, chunk_size],
    features,
    mean,
    log=log or (lambda line: None),
  )
  best, start = saver.read()
  best = best and KMeans(**best)
  for restart in range(start.get("restart", 0), num_restarts):

    def on_update(num_updates, centroids, ids, restart=restart, best=best):
      if saver.is_due():
        saver.write(
          best and dataclasses.asdict(best),
          restart=restart,
          num_updates=num_updates,
          centroids=centroids,
          before=lloyd.flat(placed, ids),
        )

    if not start:
      centroids = _seed_centroids(placed, num_clusters, seed, restart)
      start = {"centroids": centroids, "num_updates": 0, "before": None}
    ids, centroids, num_updates = lloyd.run(
      placed,
      start["centroids"],
      num_iters,
      before=start["before"],
      num_updates=start["num_updates"],
      on_update=on_update,
    )
    start = {}
    fitted = KMeans(
      cluster_ids=ids,
      centroids=centroids + mean,
      inertia=_inertia(features, mean, ids, centroids),
      num_iters=num_updates,
    )
    if log:
      sizes = fitted.sizes
      log(
        f"k-means, start {restart + 1} of {num_restarts}: inertia"
        f" {fitted.inertia:.6g} after {num_updates} updates; clusters of"
        f" {sizes.min()} to {sizes.max()} rows, balance {fitted.balance:.3f}"
      )
    if best is None or fitted.inertia < best.inertia:
      best = fitted
  saver.remove()
  return best


def assign(features, centroids, *, chunk_size=None):
  """Names the nearest centroid of each row.

  Args:
    features: f32[n d], finite.
    centroids: f32[k d].
    chunk_size: Rows whose distances are held at once, as of `fit`.

  Returns:
    int32[n] in [0, k); the lower number at a tie.
  """
  features = np.asarray(features)
  _check_features(features)
  if chunk_size is None:
    chunk_size = lloyd.default_chunk_size()
  mean = np.mean(centroids, axis=0)
  placed = lloyd.place(features, mean, chunk_size=chunk_size)
  return lloyd.flat(placed, lloyd.assign(placed, centroids - mean)[0])


def _check_features(features):
  """Refuses rows that float32 cannot cluster, naming the first bad one."""
  if features.ndim != 2 or not features.size:
    raise ValueError(
      f"Features must have the shape [n d], not {list(features.shape)}."
    )
  # The float64 sum of a row is finite just when each of its values is.
  bad = ~np.isfinite(np.sum(features, axis=1, dtype=np.float64))
  if np.any(bad):
    raise ValueError(
      f"{np.sum(bad)} of {len(bad)} rows of the features have a value that is"
      f" not finite; the first is row {np.argmax(bad)}."
    )
  # K-means++ adds up, over the rows, four times the largest squared distance
  # from the mean, which is at most twice the largest norm.
  limit = float(np.finfo(np.float32).max) / (16 * len(features))
  with np.errstate(over="ignore"):
    squares = np.einsum("nd,nd->n", features, features, dtype=np.float64)
  if np.any(squares > limit):
    raise ValueError(
      f"Row {np.argmax(squares)} of the features has the squared norm"
      f" {np.max(squares):.3g}; sums of so large ones overflow float32. It must"
      f" be at most {limit:.3g}: scale the features."
    )


def _seed_centroids(placed, num_clusters, seed, restart):
  """Greedy k-means++ centroids f32[k d] from a sample of the rows."""
  total = len(placed.features)
  num_rows = min(total, SEEDING_ROWS_PER_CLUSTER * num_clusters)
  np_rng = np.random.default_rng([seed, restart])
  rows = placed.take(np_rng.choice(total, num_rows, replace=False))
  rng = jax.random.fold_in(jax.random.key(seed), restart)
  # Candidates per seed as in scikit-learn: 2 + ln k.
  num_candidates = 2 + int(math.log(num_clusters))
  return _plus_plus(rows, rng, num_clusters, num_candidates)


@jax.jit(static_argnames=("num_clusters", "num_candidates"))
def _plus_plus(rows, rng, num_clusters, num_candidates):
  """Greedy k-means++ (Arthur and Vassilvitskii, 2007): f32[k d].

  Each seed is the one of some candidates, drawn in proportion to the squared
  distance from the seeds so far, that leaves the smallest sum of them.
  """
  norms = jnp.sum(rows**2, axis=-1)

  def add_seed(i, state):
    seeds, nearest = state
    cumulative = jnp.cumsum(nearest)
    draws = jax.random.uniform(jax.random.fold_in(rng, i), (num_candidates,))
    picked = jnp.searchsorted(cumulative, draws * cumulative[-1], side="right")
    candidates = rows[jnp.minimum(picked, len(rows) - 1)]
    products = jnp.einsum(
      "nd,cd->cn", rows, candidates, precision=lloyd.PRECISION
    )
    squares = norms[None] - 2 * products
    squares += jnp.sum(candidates**2, axis=-1, keepdims=True)
    left = jnp.clip(squares, 0, nearest[None])
    best = jnp.argmin(jnp.sum(left, axis=-1))
    return seeds.at[i].set(candidates[best]), left[best]

  # Equal distances make the first seed uniform over the rows; it then meets
  # its real distances because it starts above all of them.
  farthest = 4 * jnp.max(norms) + 1
  start = (
    jnp.zeros((num_clusters, rows.shape[1]), jnp.float32),
    jnp.full(len(rows), farthest),
  )
  seeds, _ = jax.lax.fori_loop(0, num_clusters, add_seed, start)
  return seeds


def _inertia(features, mean, ids, centroids, *, chunk_size=65536):
  """Sum of squared distances, in float64 and without cancellation."""
  total = 0.0
  for first in range(0, len(features), chunk_size):
    rows = slice(first, first + chunk_size)
    centred = np.asarray(features[rows], np.float32) - mean
    squares = (centred - centroids[ids[rows]]) ** 2
    total += float(np.sum(squares, dtype=np.float64))
  return total
