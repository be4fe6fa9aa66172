"""K-means in JAX, for the clusters between which triplets are drawn.

AligNet clusters the teacher's features of ImageNet with k = 500 (paper.md,
section B). This is Lloyd's algorithm from greedy k-means++ seeds; the best of
several restarts wins. Sums run in float32 about the mean of the data, where
float32 is most precise; the returned inertia is summed in float64.

Usage:
  clusters = kmeans.fit(
    features, num_clusters=500, seed=0, num_iters=25, num_restarts=3,
    chunk_size=16384)
  clusters.cluster_ids                             # int32[n]
  kmeans.assign(other, clusters.centroids, chunk_size=16384)
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

# K-means++ looks at no more than this many rows per cluster. Measured on
# 20,000 x 64: seeds from all rows gave no lower inertia.
SEEDING_ROWS_PER_CLUSTER = 50

# Full float32 products on accelerators that would round to bfloat16 or TF32.
PRECISION = jax.lax.Precision.HIGHEST


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


def fit(
  features,
  *,
  num_clusters,
  seed,
  num_iters,
  num_restarts,
  chunk_size,
  log=None,
):
  """Clusters rows by squared Euclidean distance.

  A cluster that loses its last row continues at the row farthest from its own
  centroid. Only where there are fewer distinct rows than clusters some stay
  empty. On CPU the same arguments give the same bits; accelerators may add up
  the rows of a cluster in another order.

  Args:
    features: f32[n d], finite.
    num_clusters: k, between 1 and n.
    seed: int; fixes the seeds of every restart.
    num_iters: Most updates per restart, at least 1. Stops earlier when no row
      changes its cluster.
    num_restarts: Independent starts, at least 1; the lowest inertia is kept.
    chunk_size: Rows whose distances are held at once; the memory needed beside
      the features is f32[chunk_size k].
    log: Called with one line per restart, or None.

  Returns:
    `KMeans`.

  Raises:
    ValueError: If k > n, a value is not finite, or a number is out of range.
  """
  features = np.asarray(features)
  _check_features(features)
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
  centred = features.astype(np.float32) - mean
  chunks = jnp.asarray(_chunked(centred, chunk_size))
  best = None
  for restart in range(num_restarts):
    centroids = _seed_centroids(centred, num_clusters, seed, restart)
    fitted = _lloyd(chunks, len(features), centroids, num_iters)
    inertia = _inertia(centred, *fitted[:2])
    if log:
      log(
        f"k-means, start {restart + 1} of {num_restarts}: inertia"
        f" {inertia:.6g} after {fitted[2]} updates"
      )
    if best is None or inertia < best.inertia:
      ids, centroids, updates = fitted
      best = KMeans(ids, centroids + mean, inertia, updates)
  return best


def assign(features, centroids, *, chunk_size):
  """Names the nearest centroid of each row.

  Args:
    features: f32[n d], finite.
    centroids: f32[k d].
    chunk_size: Rows whose distances are held at once.

  Returns:
    int32[n] in [0, k); the lower number at a tie.
  """
  features = np.asarray(features)
  _check_features(features)
  mean = np.mean(centroids, axis=0)
  chunks = _chunked(features.astype(np.float32) - mean, chunk_size)
  ids, _, _, _ = _assign(chunks, len(features), centroids - mean)
  return np.asarray(ids)[: len(features)]


def _check_features(features):
  """Refuses anything but finite f32[n d], naming the first bad row."""
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


def _chunked(features, chunk_size):
  """Rows in chunks f32[m c d]; zeros after the last row."""
  num_rows, width = features.shape
  chunk_size = min(chunk_size, num_rows)
  num_chunks = -(-num_rows // chunk_size)
  padded = np.zeros((num_chunks * chunk_size, width), np.float32)
  padded[:num_rows] = features
  return padded.reshape(num_chunks, chunk_size, width)


def _seed_centroids(features, num_clusters, seed, restart):
  """Greedy k-means++ centroids f32[k d] from a sample of the rows."""
  num_rows = min(len(features), SEEDING_ROWS_PER_CLUSTER * num_clusters)
  np_rng = np.random.default_rng([seed, restart])
  rows = np_rng.choice(len(features), num_rows, replace=False)
  rng = jax.random.fold_in(jax.random.key(seed), restart)
  # Candidates per seed as in scikit-learn: 2 + ln k.
  num_candidates = 2 + int(math.log(num_clusters))
  return _plus_plus(features[rows], rng, num_clusters, num_candidates)


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
    products = jnp.einsum("nd,cd->cn", rows, candidates, precision=PRECISION)
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


def _lloyd(chunks, num_rows, centroids, num_iters):
  """Alternates assignment and update: ids, centroids, number of updates."""
  before = None
  for num_updates in range(num_iters + 1):
    ids, squares, sums, counts = _assign(chunks, num_rows, centroids)
    settled = before is not None and bool(jnp.array_equal(ids, before))
    if settled or num_updates == num_iters:
      break
    before = ids
    centroids = sums / jnp.maximum(counts, 1)[:, None]
    empty = np.flatnonzero(np.asarray(counts) == 0)
    if empty.size:
      squares = np.asarray(squares)[:num_rows]
      farthest = np.argsort(-squares, kind="stable")[: empty.size]
      rows = chunks.reshape(-1, chunks.shape[-1])[farthest]
      centroids = centroids.at[empty].set(rows)
  return np.asarray(ids)[:num_rows], np.asarray(centroids), num_updates


@jax.jit
def _assign(chunks, num_rows, centroids):
  """One pass over the rows.

  Args:
    chunks: f32[m c d], real rows first.
    num_rows: n <= m * c, how many rows are real.
    centroids: f32[k d].

  Returns:
    int32[m*c] nearest centroid and f32[m*c] squared distance to it, both
    without meaning after row n; f32[k d] sums and f32[k] numbers of the real
    rows of each centroid.
  """
  num_clusters = len(centroids)
  half_norms = jnp.sum(centroids**2, axis=-1) / 2

  def add_chunk(state, chunk_and_first):
    sums, counts = state
    chunk, first = chunk_and_first
    products = jnp.einsum("cd,kd->ck", chunk, centroids, precision=PRECISION)
    closeness = products - half_norms[None]
    ids = jnp.argmax(closeness, axis=-1).astype(jnp.int32)
    squares = jnp.sum(chunk**2, axis=-1) - 2 * jnp.max(closeness, axis=-1)
    # Rows of padding go to no cluster: segment_sum drops the number k.
    real = first + jnp.arange(len(chunk)) < num_rows
    owner = jnp.where(real, ids, num_clusters)
    sums += jax.ops.segment_sum(chunk, owner, num_clusters)
    counts += jax.ops.segment_sum(jnp.ones(len(chunk)), owner, num_clusters)
    return (sums, counts), (ids, jnp.maximum(squares, 0))

  start = (jnp.zeros_like(centroids), jnp.zeros(num_clusters))
  firsts = jnp.arange(chunks.shape[0]) * chunks.shape[1]
  (sums, counts), (ids, squares) = jax.lax.scan(
    add_chunk, start, (chunks, firsts)
  )
  return ids.reshape(-1), squares.reshape(-1), sums, counts


def _inertia(features, ids, centroids, *, chunk_size=65536):
  """Sum of squared distances, in float64 and without cancellation."""
  total = 0.0
  for first in range(0, len(features), chunk_size):
    rows = slice(first, first + chunk_size)
    squares = (features[rows] - centroids[ids[rows]]) ** 2
    total += float(np.sum(squares, dtype=np.float64))
  return total
