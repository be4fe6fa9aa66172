"""K-means beside scikit-learn, and its share of what the device can multiply.

  python benchmarks/kmeans.py
  python benchmarks/kmeans.py --rows=1281167 --width=1152 --no_reference \
    --num_restarts=1

By default 100,000 x 256 rows, k = 500: points about 800 middles, so that there
are more groups than clusters, and noise as wide as the middles lie apart.

Prints: inertia of ours and of scikit-learn's best of as many starts (Lloyd, no
early stop by tolerance, the same number of updates at most); seconds of both in
full, seeding included; seconds of one update of both, without seeding, from the
same centroids; and for ours the share of a ceiling: floating-point operations
per second of an update, distances alone counted, over those of a matrix product
of the same shape and precision, measured in the same process. On accelerators
rows are summed by a second product of that size, so that their share cannot go
beyond one half; both counts are shown. Runs on any device. On several,
--devices=N takes the first N, and a digest of the labels is printed: it must
not depend on N. For devices of a CPU:

  XLA_FLAGS=--xla_force_host_platform_device_count=8 python \
    benchmarks/kmeans.py --rows=20000 --num_restarts=1 --no_reference
"""

import argparse
import hashlib
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from alignet_jax.triplets import kmeans, lloyd


def main():
  """Prints the table; see above."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--rows", type=int, default=100_000)
  parser.add_argument("--width", type=int, default=256)
  parser.add_argument("--num_clusters", type=int, default=500)
  parser.add_argument("--num_iters", type=int, default=25)
  parser.add_argument("--num_restarts", type=int, default=3)
  parser.add_argument("--chunk_size", type=int)
  parser.add_argument("--timed_updates", type=int, default=5)
  parser.add_argument("--devices", type=int, default=0, help="0: all")
  parser.add_argument("--no_reference", action="store_true")
  parser.add_argument("--only_update", action="store_true", help="no fit")
  args = parser.parse_args()
  devices = jax.local_devices()[: args.devices or None]
  load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
  print(
    f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} CPUs, load"
    f" {load}; {args.rows} x {args.width}, k = {args.num_clusters}, at most"
    f" {args.num_iters} updates, {args.num_restarts} starts",
    flush=True,
  )
  args.chunk_size = args.chunk_size or lloyd.default_chunk_size(devices)
  features = make_features(args.rows, args.width)
  start = features[: args.num_clusters]
  ours = time_our_update(features, start, devices, args)
  theirs = None if args.no_reference else time_their_update(features, start)
  if theirs:
    print(f"scikit-learn: {theirs:.3f} s per update; ratio {theirs / ours:.2f}")
  if not args.only_update:
    fit_both(features, devices, args)
  return 0


def make_features(num_rows, width):
  """Rows about 800 middles, f32[n d], made in parts to spare memory."""
  np_rng = np.random.default_rng(0)
  middles = np_rng.standard_normal((800, width), dtype=np.float32)
  features = np.empty((num_rows, width), np.float32)
  for first in range(0, num_rows, 65536):
    part = features[first : first + 65536]
    np_rng.standard_normal(dtype=np.float32, out=part)
    part += middles[np_rng.integers(len(middles), size=len(part))]
  return features


def time_our_update(features, start, devices, args):
  """Seconds of an update; prints them beside those of a product."""
  mean = np.mean(features, axis=0, dtype=np.float64).astype(np.float32)
  placed = lloyd.place(
    features, mean, chunk_size=args.chunk_size, devices=devices
  )
  centroids = jnp.asarray(start - mean)
  best = best_of(lambda: lloyd.assign(placed, centroids), args.timed_updates)
  flops = 2.0 * len(features) * features.shape[1] * args.num_clusters
  # A product is timed on one device, on the rows of one of its chunks.
  rows = jax.device_put(features[: placed.chunks.shape[2]], devices[0])
  other = jax.device_put(np.ascontiguousarray(start.T), devices[0])
  product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=lloyd.PRECISION))
  seconds = best_of(lambda: product(rows, other), 20)
  ceiling = 2.0 * rows.shape[0] * rows.shape[1] * args.num_clusters / seconds
  ceiling *= placed.mesh.size if devices[0].platform != "cpu" else 1
  num_products = 2 if placed.use_one_hot else 1
  print(
    f"ours: {best:.4f} s per update on {placed.mesh.size} devices,"
    f" {flops / best / 1e9:,.0f} GFLOP/s of distances; product"
    f" {ceiling / 1e9:,.0f} GFLOP/s; share {flops / best / ceiling:.2f}"
    f" ({num_products * flops / best / ceiling:.2f} with the sums)",
    flush=True,
  )
  return best


def time_their_update(features, start):
  """Seconds of an update of scikit-learn: that of 4 updates less 1, by 3."""
  import sklearn.cluster

  def fit(num_iters):
    began = time.perf_counter()
    sklearn.cluster.KMeans(
      len(start), init=start, n_init=1, max_iter=num_iters, tol=0
    ).fit(features)
    return time.perf_counter() - began

  import warnings

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return (min(fit(4) for _ in range(2)) - min(fit(1) for _ in range(2))) / 3


def fit_both(features, devices, args):
  """Whole fits; prints inertia and seconds."""
  began = time.perf_counter()
  clusters = kmeans.fit(
    features,
    num_clusters=args.num_clusters,
    seed=0,
    num_iters=args.num_iters,
    num_restarts=args.num_restarts,
    chunk_size=args.chunk_size,
    devices=devices,
    log=lambda line: print(line, flush=True),
  )
  seconds = time.perf_counter() - began
  digest = hashlib.sha256(clusters.cluster_ids.tobytes()).hexdigest()[:16]
  print(
    f"ours: inertia {clusters.inertia:.8g}, {seconds:.1f} s; labels {digest}",
    flush=True,
  )
  if args.no_reference:
    return
  import sklearn.cluster

  began = time.perf_counter()
  reference = sklearn.cluster.KMeans(
    args.num_clusters,
    n_init=args.num_restarts,
    max_iter=args.num_iters,
    tol=0,
    algorithm="lloyd",
    random_state=0,
  ).fit(features)
  theirs = time.perf_counter() - began
  print(
    f"scikit-learn: inertia {reference.inertia_:.8g}, {theirs:.1f} s; ours is"
    f" {100 * (clusters.inertia / reference.inertia_ - 1):+.3f}%, in"
    f" {seconds / theirs:.2f} of the time"
  )


def best_of(run, times):
  """Seconds of the quickest of some runs, after one that compiles."""
  jax.block_until_ready(run())
  seconds = []
  for _ in range(times):
    began = time.perf_counter()
    jax.block_until_ready(run())
    seconds.append(time.perf_counter() - began)
  return min(seconds)


if __name__ == "__main__":
  sys.exit(main())
