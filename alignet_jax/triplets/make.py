"""Triplets with a teacher's similarities, from features, as one command.

Usage:
  python -m alignet_jax.triplets.make --features=features/dinov2 \
    --transform=soft.npz --number=10000000 --out=triplets
  python -m alignet_jax.triplets.make --features=features/dinov2 \
    --number=10000000 --match_entropy=0.79 --out=triplets     # the control
  python -m alignet_jax.triplets.make --features=features/dinov2 \
    --transform=soft.npz --sampling=class_border --labels=labels.npy \
    --number=10000 --split=val --out=triplets

--features is a folder of `python -m alignet_jax.features`, or a `.npy` file
f32[n d]; indices are its rows. Writes OUT/NAME/SPLIT_SAMPLING.npz in the layout
of the AligNet release (see `files`), and beside it a .json: what it was made
from. NAME is "aligned" with a transform and "untransformed" without. Schemes by
cluster also write OUT/NAME/clusters.npz, and take it again while features,
transform and settings are the same. A kill costs k-means a minute at most.

The memory needed is the transformed features in float32, twice for k-means on a
CPU, and 36 bytes per triplet. Exit codes: 0 done; 1 the disk failed; 2
something that was given is wrong or missing; 130 stopped by Ctrl-C.
"""

import argparse
import sys

import numpy as np

from alignet_jax import artifacts, commands, progress
from alignet_jax.teacher import transform as transform_lib
from alignet_jax.triplets import feature_rows, files, labels, sampling

# Streams of a seed, as in the stage "triplets".
SPLITS = {"train": 0, "val": 1}

_BY_CLASS = ("class_border", "within_class", "between_class")


def parse(argv=None):
  """The flags; a wrong one ends the process with exit code 2."""
  parser = argparse.ArgumentParser(
    prog="python -m alignet_jax.triplets.make",
    description="Draws triplets and labels them by a teacher's similarities.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--features", required=True, metavar="PATH", help="folder, or .npy [n d]")
  add("--out", required=True, metavar="DIR", help="made if it does not exist")
  add("--number", required=True, type=int, metavar="N", help="of triplets")
  add(
    "--sampling",
    choices=tuple(sampling.SAMPLERS),
    default="cluster_border",
    help="scheme; see alignet_jax/triplets/sampling.py",
  )
  add("--split", choices=tuple(SPLITS), default="train", help="its own stream")
  add("--seed", type=int, default=0, help="of clusters and triplets")
  add("--transform", metavar="PATH", help=".npz of a teacher; none: control")
  add("--name", help="of the folder in --out, if not by the transform")
  add(
    "--labels",
    metavar="PATH",
    help=f".npy int[n] of classes, for {', '.join(_BY_CLASS)}",
  )
  add("--num_clusters", type=int, default=500, help="k")
  add("--num_iters", type=int, default=50, help="updates of k-means at most")
  add("--num_restarts", type=int, default=3, help="starts of k-means")
  add(
    "--match_entropy",
    type=float,
    metavar="NATS",
    help="divide the similarities so that their targets have this mean entropy",
  )
  add(
    "--filenames",
    action="store_true",
    help="write the file names of index.csv too, as the release does",
  )
  args = parser.parse_args(argv)
  for name in ("number", "num_clusters", "num_iters", "num_restarts"):
    if getattr(args, name) < 1:
      parser.error(f"--{name} is {getattr(args, name)}; it must be at least 1.")
  if (args.sampling in _BY_CLASS) != (args.labels is not None):
    parser.error(f"--labels is for {', '.join(_BY_CLASS)}, which need it.")
  return args


def run(args, *, log=progress.write):
  """Makes the file.

  Args:
    args: Of `parse`.
    log: Called with each line that is printed.

  Returns:
    Path of the file.

  Raises:
    artifacts.InputError: A file or number that cannot be used; names it.
  """
  rows = feature_rows.load(args.features)
  if args.filenames and rows.names is None:
    raise artifacts.InputError(
      f"--filenames needs an index.csv beside {rows.path}."
    )
  transform, source = None, {"features_sha256": rows.sha256}
  if args.transform:
    transform = transform_lib.AffineTransform.load(args.transform)
    source["transform_sha256"] = artifacts.sha256_file(args.transform)
  name = args.name or ("untransformed" if transform is None else "aligned")
  path = files.path_of(args.out, name, args.split, args.sampling)
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    features = feature_rows.transformed(rows.features, transform)
  except ValueError as error:
    raise artifacts.InputError(f"{args.transform}: {error}") from error
  log(f"{len(features)} x {features.shape[1]} features, {name}")
  record = {
    "sampling": args.sampling,
    "number": args.number,
    "seed": args.seed,
    "split": args.split,
    **source,
  }
  if args.labels:
    groups = _labels(args.labels, len(features))
    record["labels_sha256"] = artifacts.sha256_file(args.labels)
  elif args.sampling == "random":
    groups = np.zeros(len(features), np.int32)
  else:
    clusters = _clusters(args, features, source, path.parent, log)
    groups = clusters.pop("cluster_ids")
    record["clusters"] = clusters
  try:
    indices, pair_sims = draw(features, groups, args)
    temperature = 1.0
    if args.match_entropy is not None:
      temperature = labels.match_entropy(pair_sims, args.match_entropy)
      pair_sims /= np.float32(temperature)
  except ValueError as error:
    raise artifacts.InputError(f"{args.features}: {error}") from error
  record["temperature"] = temperature
  record["target_entropy"] = labels.mean_entropy(
    pair_sims[: labels.MATCHED_TRIPLETS]
  )
  log(
    f"mean target entropy {record['target_entropy']:.4f} nats (people: about"
    f" 0.79; chance {np.log(3):.4f}) at temperature {temperature:.6g}"
  )
  names = rows.names if args.filenames else None
  files.write(path, indices, pair_sims, image_names=names)
  artifacts.write_json(path.with_suffix(".json"), record)
  log(f"wrote {path}, {len(indices)} triplets")
  return path


def draw(features, groups, args):
  """Draws and labels a part at a time.

  Args:
    features: f32[n d], transformed.
    groups: int[n] cluster or class of each row.
    args: `sampling`, `number`, `seed` and `split`, as of `parse`.

  Returns:
    int64[m 3] triplets and f32[m 3] similarities, as `labels.label`.
  """
  sample = sampling.get_sampler(args.sampling)
  indices = np.empty((args.number, 3), np.int64)
  pair_sims = np.empty((args.number, 3), np.float32)
  for first in range(0, args.number, sampling.CHUNK_SIZE):
    last = min(first + sampling.CHUNK_SIZE, args.number)
    drawn = sample(
      groups, last - first, seed=(args.seed, SPLITS[args.split]), start=first
    )
    indices[first:last], pair_sims[first:last] = labels.label(features, drawn)
  return indices, pair_sims


def _labels(path, num_rows):
  groups = artifacts.read_npy(path)
  if groups.dtype.kind not in "iu" or groups.shape != (num_rows,):
    raise artifacts.InputError(
      f"{path} must be int[{num_rows}], one class per row of the features, not"
      f" {groups.dtype}{list(groups.shape)}."
    )
  return groups


def _clusters(args, features, source, folder, log):
  """Clusters of the rows, made if need be; a dict with `cluster_ids`."""
  settings = {
    name: getattr(args, name)
    for name in ("num_clusters", "num_iters", "num_restarts", "seed")
  }
  if not 2 <= args.num_clusters <= len(features):
    raise artifacts.InputError(
      f"--num_clusters is {args.num_clusters}; it must be between 2 and"
      f" {len(features)}, the number of rows."
    )
  path, record = folder / "clusters.npz", folder / "clusters.json"
  if path.is_file() and record.is_file():
    made = artifacts.read_json(record)
    if {**settings, **source}.items() <= made.items():
      log(f"taking the clusters of {path}")
      arrays = artifacts.read_npz(path, required=("cluster_ids",))
      return {"cluster_ids": arrays["cluster_ids"], **made}
    log(f"the clusters of {path} are of something else; making them anew")
  # Here, because it imports JAX.
  from alignet_jax.triplets import kmeans

  clusters = kmeans.fit(
    features,
    **settings,
    checkpoint=folder / "kmeans_checkpoint.npz",
    log=log,
  )
  sizes = clusters.sizes
  made = {
    **settings,
    **source,
    "inertia": clusters.inertia,
    "updates": clusters.num_iters,
    "smallest": int(sizes.min()),
    "largest": int(sizes.max()),
    "balance": clusters.balance,
  }
  # The record last: it says that the other is whole and of these settings.
  record.unlink(missing_ok=True)
  artifacts.write_npz(
    path, cluster_ids=clusters.cluster_ids, centroids=clusters.centroids
  )
  artifacts.write_json(record, made)
  return {"cluster_ids": clusters.cluster_ids, **made}


def main(argv=None):
  """Runs the command; returns the exit code."""
  return commands.exit_code(lambda: run(parse(argv)))


if __name__ == "__main__":
  sys.exit(main())
