"""Time, memory and evenness of ten million triplets.

  python benchmarks/triplets.py
  python benchmarks/triplets.py --number=1000000 --rows=100000

Synthetic features f32[1281167 64] with uneven clusters (500 by default; sizes
vary by a factor of some 50), cluster-border triplets, labelled by dot products,
in the process that `triplets.make` would run: k-means and writing are left out.

Prints seconds of sampling and labelling, the peak memory of the process, and
p-values of chi-square tests of what is documented to be uniform: the cluster of
the pair, the places of its two images in their cluster (in twentieths), which
of the two comes first, the cluster of the third image given that it is not the
pair's, and its place. None should be tiny. As a check of the checks, the
same tests of a sampler that draws the pair's cluster in proportion to its size,
which must fail.
"""

import argparse
import os
import resource
import sys
import time

import numpy as np
from scipy import stats

from alignet_jax.triplets import labels, make, sampling

NUM_PLACES = 20


def main():
  """Prints the figures; see above."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--number", type=int, default=10_000_000)
  parser.add_argument("--rows", type=int, default=1_281_167)
  parser.add_argument("--width", type=int, default=64)
  parser.add_argument("--num_clusters", type=int, default=500)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  args.sampling, args.split = "cluster_border", "train"
  np_rng = np.random.default_rng(args.seed)
  features = np_rng.standard_normal((args.rows, args.width), dtype=np.float32)
  sizes = np.exp(np_rng.normal(0, 0.7, args.num_clusters))
  clusters = np_rng.choice(
    args.num_clusters, args.rows, p=sizes / np.sum(sizes)
  ).astype(np.int32)
  counts = np.bincount(clusters, minlength=args.num_clusters)
  load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
  print(
    f"{os.cpu_count()} CPUs, load {load}; {args.rows} x {args.width} in"
    f" {args.num_clusters} clusters of {counts.min()} to {counts.max()}",
    flush=True,
  )
  began, cpu = time.perf_counter(), time.process_time()
  indices, pair_sims = make.draw(features, clusters, args)
  seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
  memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(
    f"{args.number} triplets drawn and labelled in {seconds:.1f} s ({cpu:.1f} s"
    f" of CPU time); peak memory {memory:.2f} GiB; mean target entropy"
    f" {labels.mean_entropy(pair_sims[: labels.MATCHED_TRIPLETS]):.3f} nats",
    flush=True,
  )
  assert np.all(pair_sims[:, 0] >= pair_sims[:, 1])
  # Labelling orders each triplet, so evenness is seen before it.
  number = min(args.number, 2_000_000)
  began = time.perf_counter()
  drawn = sampling.cluster_border(clusters, number, seed=(args.seed, 0))
  print(f"drawing alone: {number / (time.perf_counter() - began):,.0f} per s")
  print(f"p-values of {number}:")
  for name, value in pvalues(drawn, clusters, counts).items():
    print(f"  {name:<28} {value:.4f}")
  biased = by_size(clusters, counts, number, np_rng)
  value = pvalues(biased, clusters, counts)["cluster of the pair"]
  print(f"biased sampler, cluster of the pair: {value:.2g}")
  return 0


def pvalues(triplets, clusters, counts):
  """A p-value for each thing that is uniform."""
  order = np.argsort(clusters, kind="stable")
  place = np.empty(len(clusters), np.int64)
  starts = np.cumsum(counts) - counts
  place[order] = np.arange(len(clusters)) - starts[clusters[order]]
  first, second, third = triplets.T
  pair, other = clusters[first], clusters[third]
  k = len(counts)
  # How far the third's cluster is after the pair's, uniform over 1 to k - 1.
  ahead = np.bincount((other - pair) % k, minlength=k)
  tables = {
    "cluster of the pair": np.bincount(pair, minlength=k),
    "order of the pair": np.bincount(first < second, minlength=2),
    "cluster of the third": ahead[1:],
  }
  found = {n: stats.chisquare(t).pvalue for n, t in tables.items()}
  assert not ahead[0]
  for name, image in (
    ("place of the first", first),
    ("place of the second", second),
    ("place of the third", third),
  ):
    cluster = clusters[image]
    part = place[image] * NUM_PLACES // counts[cluster]
    # Of a cluster with s images, the parts hold some s / 20 of them each.
    drawn = np.bincount(cluster, minlength=k)
    expected = np.zeros(NUM_PLACES)
    parts = place * NUM_PLACES // counts[clusters]
    np.add.at(expected, parts, (drawn / counts)[clusters])
    drawn_parts = np.bincount(part, minlength=NUM_PLACES)
    found[name] = stats.chisquare(drawn_parts, expected).pvalue
  return found


def by_size(clusters, counts, number, np_rng):
  """What taking any image, then another of its cluster, would draw."""
  large = np.flatnonzero(counts[clusters] >= 2)
  first = np_rng.choice(large, number)
  order = np.argsort(clusters, kind="stable")
  starts = np.cumsum(counts) - counts
  second = order[starts[clusters[first]]]
  third = np_rng.integers(len(clusters), size=number)
  same = clusters[third] == clusters[first]
  third[same] = order[starts[(clusters[first[same]] + 1) % len(counts)]]
  return np.stack([first, second, third], axis=-1)


if __name__ == "__main__":
  sys.exit(main())
