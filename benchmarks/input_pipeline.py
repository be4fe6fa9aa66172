"""Triplets per second: tf.data, packed images, Grain and a plain Python loop.

  python benchmarks/input_pipeline.py --images=train.tar --packed=DIR \
    [--size=224] [--seconds=10] [--rounds=3]

DIR is what `python -m alignet_jax.images.pack` made of the same images at the
same size. Every loader draws triplets at random and gives uint8[b 3 size size
3]; all pixels are the same bits, but for "opencv", which may differ by one.

  ceiling        decoding and resizing alone, in C++: bytes from memory, no
                 triplets, no batches, no files. A triplet counts for as many
                 images as tf.data decodes for it: each distinct one of a
                 batch once, on average of the batches; below three where
                 triplets of a batch share images
  tf.data        `triplets/dataset.py` from the files
  packed         the same from DIR
  python         a loop over the images of each batch, one thread, PIL and
                 numpy; like Grain it decodes three images per triplet
  grain          Grain with as many threads as cores, PIL and numpy
  grain opencv   the same, decoding and resizing by OpenCV
  grain packed   the same, from DIR

Grain and OpenCV are left out where they are not installed. Loaders take turns,
`rounds` times, so that a busy machine is so for all; given are medians of the
rounds, also of the share of the ceiling within each round, and CPU time, which
hardly depends on what else runs.
"""

import argparse
import itertools
import os
import statistics
import sys
import time

import numpy as np

from alignet_jax.images import graph, opening, preprocess
from alignet_jax.triplets import batches as batches_lib
from alignet_jax.triplets import dataset, sampling

NUM_TRIPLETS = 100_000
NUM_CEILING = 3_000  # Images whose bytes are kept in memory.
NUM_COUNTED = 300  # Batches whose distinct images are counted.


def main():
  """Measures the loaders and prints a table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--images", required=True)
  parser.add_argument("--packed", required=True)
  parser.add_argument("--size", type=int, default=224)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--seconds", type=float, default=10.0)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--only", help="loaders, with commas between")
  args = parser.parse_args()
  images = opening.open_collection(
    args.images, preprocess.Preprocessing(args.size)
  )
  packed = opening.open_collection(args.packed, images.preprocessing)
  assert len(packed) == len(images)
  triplets = sampling.random(np.zeros(len(images)), NUM_TRIPLETS, seed=0)
  per_triplet = images_per_triplet(triplets, args.batch_size)
  loaders = make_loaders(images, packed, triplets, args.batch_size, per_triplet)
  if args.only:
    loaders = {name: loaders[name] for name in args.only.split(",")}
  print(
    f"{len(images)} images of {args.images}, {args.size} pixels, batches of"
    f" {args.batch_size}, {os.cpu_count()} cores, load before:"
    f" {os.getloadavg()[0]:.1f}\n{per_triplet:.3f} distinct images per triplet"
    " of a batch, by which the ceiling counts",
    flush=True,
  )
  rates = {name: [] for name in loaders}
  costs = {name: [] for name in loaders}
  for _ in range(args.rounds):
    for name, loader in loaders.items():
      rate, cost = measure(loader(), args.seconds)
      rates[name].append(rate)
      costs[name].append(cost)
      print(
        f"  {name}: {rate:.0f} triplets/s, {1e3 * cost:.3f} CPU ms each, load"
        f" {os.getloadavg()[0]:.1f}",
        flush=True,
      )
  print(f"load after: {os.getloadavg()[0]:.1f}")
  print(f"{'loader':<14}{'triplets/s':>11}  {'range':<15}{'of the':>8}", end="")
  print(f"{'CPU ms per':>12}{'of the':>9}")
  print(f"{'':<40}{'ceiling':>8}{'triplet':>12}{'ceiling':>9}")
  for name, found in rates.items():
    span = f"{min(found):.0f} to {max(found):.0f}"
    row = f"{name:<14}{statistics.median(found):>11.0f}  {span:<15}"
    if "ceiling" in rates:
      share = shares(found, rates["ceiling"])
      row += f"{share:>8.2f}"
    row += f"{1e3 * statistics.median(costs[name]):>12.3f}"
    if "ceiling" in rates:
      row += f"{1 / shares(costs[name], costs['ceiling']):>9.2f}"
    print(row)
  if {"packed", "tf.data"} <= set(rates):
    print(
      f"packed / tf.data: {shares(rates['packed'], rates['tf.data']):.1f},"
      " by CPU time"
      f" {1 / shares(costs['packed'], costs['tf.data']):.1f}"
    )
  return 0


def shares(some, others):
  """Median of the ratios within each round."""
  return statistics.median(a / b for a, b in zip(some, others, strict=True))


def measure(counts, seconds):
  """Triplets per second, and CPU seconds per triplet, of an endless loader."""
  for _ in range(3):  # Warms up, and empties what was made before.
    next(counts)
  total, start, cpu = 0.0, time.perf_counter(), time.process_time()
  while (passed := time.perf_counter() - start) < seconds:
    total += next(counts)
  cost = (time.process_time() - cpu) / total
  counts.close()
  return total / passed, cost


def images_per_triplet(triplets, b):
  """Distinct images of a batch, divided by its triplets; the mean of many."""
  num_distinct = 0
  for step in range(NUM_COUNTED):
    rows, _ = batches_lib.batch_rows(
      step, num_triplets=len(triplets), batch_size=b, seed=0
    )
    num_distinct += len(np.unique(triplets[rows]))
  return num_distinct / (NUM_COUNTED * b)


def make_loaders(images, packed, triplets, b, per_triplet):
  """Name -> function to an endless generator of numbers of triplets."""
  pair_sims = np.zeros((len(triplets), 3), np.float32)

  def stream(collection):
    batches = dataset.make_dataset(
      triplets,
      pair_sims,
      collection,
      batch_size=b,
      seed=0,
      start_step=0,
      num_steps=10**9,
    )
    for batch in batches:
      assert batch["image"].shape == (b, 3, images.size, images.size, 3)
      yield b

  def plain():
    for step in itertools.count():
      rows = np.random.default_rng(step).integers(0, len(triplets), b)
      items = triplets[rows].reshape(-1)
      np.stack([images.decode(images.read(i), i) for i in items])
      yield b

  loaders = {
    "ceiling": lambda: ceiling(images, per_triplet),
    "tf.data": lambda: stream(images),
    "packed": lambda: stream(packed),
    "python": plain,
  }
  try:
    import grain  # noqa: F401
  except ImportError:
    print("Grain is not installed")
    return loaders

  def decode(item):
    return images.decode(images.read(item), item)

  def gather(item):
    return packed.load([item])[0]

  loaders["grain"] = lambda: by_grain(decode, triplets, b)
  try:
    import cv2
  except ImportError:
    print("OpenCV is not installed")
  else:
    cv2.setNumThreads(1)

    def decode_opencv(item):
      data = np.frombuffer(images.read(item), np.uint8)
      image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
      size = (images.size, images.size)
      return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)

    loaders["grain opencv"] = lambda: by_grain(decode_opencv, triplets, b)
  loaders["grain packed"] = lambda: by_grain(gather, triplets, b)
  return loaders


def ceiling(images, per_triplet):
  """Decodes and resizes images that are in memory, and nothing else."""
  import tensorflow as tf

  chosen = np.linspace(0, len(images) - 1, NUM_CEILING).astype(int)
  data, kind = zip(
    *(graph.prepare(images, i) for i in np.unique(chosen)), strict=True
  )

  def decode(data, kind):
    return graph.decode_square(data, kind, images.size)

  options = tf.data.Options()
  options.autotune.enabled = False
  options.threading.max_intra_op_parallelism = 1
  stream = (
    tf.data.Dataset.from_tensor_slices((list(data), np.int32(kind)))
    .repeat()
    .map(decode, num_parallel_calls=os.cpu_count())
    .with_options(options)
  )
  for _ in stream:
    yield 1 / per_triplet


def by_grain(load, triplets, b):
  """Grain over triplets, `load` for each image."""
  import grain

  class Source:
    def __len__(self):
      return len(triplets)

    def __getitem__(self, row):
      return np.stack([load(item) for item in triplets[int(row)]])

  batches = (
    grain.MapDataset.source(Source())
    .shuffle(seed=0)
    .repeat()
    .to_iter_dataset(
      grain.ReadOptions(num_threads=os.cpu_count(), prefetch_buffer_size=2 * b)
    )
    .batch(b)
  )
  for batch in batches:
    yield len(batch)


if __name__ == "__main__":
  sys.exit(main())
