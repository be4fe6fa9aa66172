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
transform and settings are the same. A kill costs k-means a minute at most. A
file that is there already is left if it is the one that is asked for, and
replaced with --overwrite only.

The memory needed is the transformed features in float32, twice for k-means on a
CPU, and 36 bytes per triplet. Exit codes: 0 done; 1 the disk failed; 2
something that was given is wrong or missing; 130 stopped by Ctrl-C.
"""

import argparse
import os
import re
import shutil
import sys

import numpy as np

from alignet_jax import artifacts, commands, progress
from alignet_jax.teacher import transform as transform_lib
from alignet_jax.triplets import (
  cluster_files,
  feature_rows,
  files,
  labels,
  sampling,
)

# Streams of a seed, as in the stage "triplets".
SPLITS = {"train": 0, "val": 1}

_BY_CLASS = ("class_border", "within_class", "between_class")

# Bytes of a triplet: three int64 and three float32.
_TRIPLET_BYTES = 36


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
  add(
    "--overwrite", action="store_true", help="replace a file of other triplets"
  )
  args = parser.parse_args(argv)
  for name in ("number", "num_clusters", "num_iters", "num_restarts"):
    if getattr(args, name) < 1:
      parser.error(f"--{name} is {getattr(args, name)}; it must be at least 1.")
  if not 0 <= args.seed < 2**63:
    parser.error(f"--seed is {args.seed}; it must be in [0, 2**63).")
  if args.name is not None and (
    not re.fullmatch(r"[^/\\\0]+", args.name) or args.name in (".", "..")
  ):
    parser.error(f"--name is {args.name!r}; it must be the name of a folder.")
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
  groups = None
  if args.labels:
    groups = _labels(args.labels, len(rows.features))
    source["labels_sha256"] = artifacts.sha256_file(args.labels)
  name = args.name or ("untransformed" if transform is None else "aligned")
  path = files.path_of(args.out, name, args.split, args.sampling)
  record = _asked(args, source)
  if path.exists() and not args.overwrite:
    if _is_made(path, record):
      log(f"{path} is up to date")
      return path
    raise artifacts.InputError(
      f"{path} exists, and was made otherwise or has changed; give --overwrite"
      " to replace it, or another --out or --name."
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  _refuse_too_many(path, args.number, rows.names if args.filenames else None)
  try:
    features = feature_rows.transformed(rows.features, transform)
  except ValueError as error:
    raise artifacts.InputError(f"{args.transform}: {error}") from error
  log(f"{len(features)} x {features.shape[1]} features, {name}")
  try:
    if args.sampling == "random":
      groups = np.zeros(len(features), np.int32)
    elif groups is None:
      groups, record["clusters"] = cluster_files.take_or_make(
        path.parent,
        features,
        settings=_cluster_settings(args),
        source=source,
        log=log,
      )
    indices, pair_sims = draw(features, groups, args)
    temperature = 1.0
    if args.match_entropy is not None:
      temperature = labels.match_entropy(pair_sims, args.match_entropy)
      pair_sims /= np.float32(temperature)
  except artifacts.InputError:  # It names what is wrong.
    raise
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
  # The record goes first and comes last, so that it is never of another file.
  path.with_suffix(".json").unlink(missing_ok=True)
  files.write(path, indices, pair_sims, image_names=names)
  record["sha256"] = artifacts.sha256_file(path)
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
  if np.min(groups) < 0:
    row = int(np.argmax(groups < 0))
    raise artifacts.InputError(
      f"{path}: row {row} has the class {groups[row]}; classes must be at least"
      " 0. Leave out the images that have none."
    )
  return groups


def _asked(args, source):
  """All that the file depends on, as its record has it."""
  by_cluster = args.sampling not in (*_BY_CLASS, "random")
  return {
    "sampling": args.sampling,
    "number": args.number,
    "seed": args.seed,
    "split": args.split,
    "match_entropy": args.match_entropy,
    "filenames": args.filenames,
    "kmeans": _cluster_settings(args) if by_cluster else None,
    **source,
  }


def _is_made(path, asked):
  """Whether a file is as its record says, and that as was asked."""
  try:
    made = artifacts.read_json(path.with_suffix(".json"))
  except artifacts.InputError:
    return False
  return (
    isinstance(made, dict)
    and asked.items() <= made.items()
    and ("transform_sha256" in asked) == ("transform_sha256" in made)
    and made.get("sha256") == artifacts.sha256_file(path)
  )


def _refuse_too_many(path, number, names):
  """Raises `InputError` if memory or disk cannot hold the triplets."""
  memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  free = shutil.disk_usage(path.parent).free
  needed = number * _TRIPLET_BYTES
  on_disk = needed
  if names is not None:
    on_disk += number * 3 * names.dtype.itemsize
  for what, size, room in (
    ("of memory", needed, memory),
    (f"on the disk of {path.parent}", on_disk, free),
  ):
    if size > room:
      raise artifacts.InputError(
        f"--number is {number}; so many triplets need {size / 1e9:.1f} GB"
        f" {what}, where {room / 1e9:.1f} GB are. Ask for fewer."
      )


def _cluster_settings(args):
  names = ("num_clusters", "num_iters", "num_restarts", "seed")
  return {name: getattr(args, name) for name in names}


def main(argv=None):
  """Runs the command; returns the exit code."""
  return commands.exit_code(lambda: run(parse(argv)))


if __name__ == "__main__":
  sys.exit(main())
