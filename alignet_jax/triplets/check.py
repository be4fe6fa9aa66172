"""Whether a triplet file can be trusted, as one command.

Usage:
  python -m alignet_jax.triplets.check \
    triplets/aligned/train_cluster_border.npz \
    --features=features/dinov2 --transform=soft.npz
  python -m alignet_jax.triplets.check train_cluster_border_500.npz \
    --features=features/siglip --by=filenames --related

FILE is a file of `triplets.make` or of the AligNet release. Without --features
only its form is checked: that indices name three different images, that
similarities are finite, and that pair (0, 1) has the largest, so that image 2
is the odd one. --features is a folder of `python -m alignet_jax.features`, or a
`.npy` file f32[n d].

By default these must be the features that the file was made from, before
--transform: each similarity must be the dot product, and one triplet that
differs is one too many. With --related they may be of another model, and the
file must go with them clearly better than by chance, in each tenth: enough to
find a file whose similarities or indices belong to other images, not to find a
few wrong triplets.

Exit codes: 0 trusted; 1 not trusted; 2 not checked: something that was given is
wrong or missing, or a disk or the memory failed; 130 stopped by Ctrl-C.
"""

import argparse
import sys

import numpy as np

from alignet_jax import artifacts
from alignet_jax.teacher import transform as transform_lib
from alignet_jax.triplets import feature_rows, files, verify


def parse(argv=None):
  """The flags; a wrong one ends the process with exit code 2."""
  parser = argparse.ArgumentParser(
    prog="python -m alignet_jax.triplets.check",
    description="Says whether a triplet file can be trusted.",
    epilog="Exit codes: 0 trusted; 1 not trusted; 2 not checked.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("file", metavar="FILE", help=".npz with indices and similarities")
  add("--features", metavar="PATH", help="folder of features, or .npy [n d]")
  add("--transform", metavar="PATH", help=".npz of the teacher of the file")
  add(
    "--temperature",
    default="1",
    metavar="NUMBER",
    help="what similarities were divided by; 1. Or fit to find it",
  )
  add(
    "--related",
    action="store_true",
    help="the features are not those that the file was made from",
  )
  add(
    "--by",
    choices=("indices", "filenames"),
    default="indices",
    help="how the file names its images; by file names the features need an"
    " index.csv",
  )
  add(
    "--tolerance",
    type=float,
    default=1e-4,
    help="of a similarity, as a share of the product of the norms; 1e-4, which"
    " is too little for features stored in half precision (2e-3)",
  )
  add(
    "--num_checked",
    type=int,
    default=0,
    metavar="N",
    help="triplets to compare, evenly spread; 0 for all (100,000 with --related"
    " or --by=filenames)",
  )
  args = parser.parse_args(argv)
  if not args.features and (args.transform or args.related):
    parser.error("--transform and --related need --features.")
  if args.num_checked < 0:
    parser.error(f"--num_checked is {args.num_checked}; it must be at least 0.")
  if not 0 <= args.tolerance < np.inf:
    parser.error(
      f"--tolerance is {args.tolerance}; it must be finite and >= 0."
    )
  return args


def run(args, *, log=print):
  """Checks a file.

  Args:
    args: Of `parse`.
    log: Called with each line that is printed.

  Returns:
    Whether the file can be trusted.

  Raises:
    artifacts.InputError: A file that cannot be used; names it.
  """
  rows = feature_rows.load(args.features) if args.features else None
  indices, pair_sims, filenames = files.open_arrays(
    args.file, mmap=True, with_filenames=True
  )
  if not len(indices):
    raise artifacts.InputError(f"{args.file} holds no triplet.")
  by_index = rows is not None and args.by == "indices"
  reasons = [
    f"{bad.number} triplets: each {bad.rule}. The first is triplet {bad.first}:"
    f" {bad.example}."
    for bad in files.find_violations(
      indices,
      pair_sims,
      num_images=len(rows.features) if by_index else None,
    )
  ]
  num_unsorted = files.count_unsorted(pair_sims)
  log(f"{len(indices)} triplets; s02 < s12 in {num_unsorted}, which is allowed")
  if rows is None:
    log("note: without --features only the form was checked")
  elif reasons:
    log("note: not compared with the features, because its form is wrong")
  else:
    reasons = _compare(args, rows, indices, pair_sims, filenames, log)
  for reason in reasons:
    log(f"NOT trusted: {reason}")
  if not reasons:
    log("trusted" if rows is not None else "form correct")
  return not reasons


def _compare(args, rows, indices, pair_sims, filenames, log):
  """Compares with features; returns what is wrong, sentences."""
  limit = args.num_checked
  if not limit and (args.related or args.by == "filenames"):
    limit = 100_000
  if limit and limit < len(indices):
    # Read here once, because pages of strings are many.
    chosen = np.arange(limit) * len(indices) // limit
    indices, pair_sims = indices[chosen], pair_sims[chosen]
    filenames = None if filenames is None else filenames[chosen]
    log(f"{limit} of them are compared")
  else:
    chosen = None
  reasons = []
  if args.by == "filenames":
    indices = _rows_by_name(args, rows, filenames)
  elif filenames is not None and rows.names is not None:
    reasons += _compare_names(rows, indices, filenames)
  transform = None
  if args.transform:
    transform = transform_lib.AffineTransform.load(args.transform)
  try:
    features = feature_rows.transformed(rows.features, transform)
  except ValueError as error:
    raise artifacts.InputError(f"{args.transform}: {error}") from error
  if args.related:
    return reasons + _related(features, indices, pair_sims, log)
  return reasons + _exact(args, features, indices, pair_sims, chosen, log)


def _exact(args, features, indices, pair_sims, chosen, log):
  temperature = _temperature(args, features, indices, pair_sims)
  if not 0 < temperature < np.inf:
    return ["the similarities are no multiple of the dot products."]
  found = verify.compare_exactly(
    features,
    indices,
    pair_sims,
    temperature=temperature,
    tolerance=args.tolerance,
  )
  log(
    f"{found.num_checked - found.number} of {found.num_checked} triplets have"
    f" the features' dot products, times {1 / temperature:.6g}; largest"
    f" difference {found.largest:.2e} of the norms"
  )
  if not found.number:
    return []
  first = found.first if chosen is None else chosen[found.first]
  return [
    f"{found.number} of {found.num_checked} triplets have other similarities"
    f" than the features; the first is triplet {first}: {found.stored} in the"
    f" file, {found.found} by the features."
  ]


def _related(features, indices, pair_sims, log):
  blocks = verify.compare_related(
    features, indices, pair_sims, num_checked=None
  )
  number = sum(block.num_checked for block in blocks)
  agreement = sum(b.agreement * b.num_checked for b in blocks) / number
  log(
    f"image 2 is odd by the features in {agreement:.4f} of the triplets (chance"
    f" .3333); rank correlation of the similarities at one position"
    f" {min(block.correlation for block in blocks):.4f} or more (chance 0)"
  )
  log("note: this does not show that each triplet is right")
  return [
    f"part {place + 1} of {len(blocks)} goes no better with the features than"
    f" by chance: agreement {block.agreement:.4f}, rank correlation"
    f" {block.correlation:.4f}."
    for place, block in enumerate(blocks)
    if not block.is_related
  ]


def _temperature(args, features, indices, pair_sims):
  if args.temperature == "fit":
    return verify.fit_temperature(features, indices, pair_sims)
  try:
    temperature = float(args.temperature)
  except ValueError:
    temperature = 0.0
  if not 0 < temperature < np.inf:
    raise artifacts.InputError(
      f"--temperature is {args.temperature!r}; it must be fit or a positive"
      " number."
    )
  return temperature


def _base_names(names):
  """Names without folders, str[n]."""
  if names.dtype.kind == "S":
    names = np.char.decode(names, "utf-8")
  return np.array([name.rpartition("/")[2] for name in names.tolist()])


def _rows_by_name(args, rows, filenames):
  """Rows of the features for file names [m 3]."""
  if filenames is None:
    raise artifacts.InputError(f"{args.file} has no array 'filenames'.")
  if rows.names is None:
    raise artifacts.InputError(
      f"There is no index.csv beside {rows.path}, so its rows have no names."
    )
  known, row_of = np.unique(_base_names(rows.names), return_index=True)
  if len(known) < len(rows.names):
    raise artifacts.InputError(
      f"{rows.path}: several images have the same file name, without folder."
    )
  asked = _base_names(np.asarray(filenames).reshape(-1))
  places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
  missing = np.flatnonzero(known[places] != asked)
  if missing.size:
    raise artifacts.InputError(
      f"{args.file}: {missing.size} of {asked.size} file names are not in the"
      f" index of {rows.path}; the first is {asked[missing[0]]}."
    )
  return row_of[places].reshape(filenames.shape)


def _compare_names(rows, indices, filenames):
  """Whether the file's names are those of the features' rows."""
  differing, example, size = 0, None, files.CHUNK_SIZE
  names = _base_names(rows.names)
  for first in range(0, len(indices), size):
    want = names[np.asarray(indices[first : first + size])]
    got = np.asarray(filenames[first : first + size])
    got = _base_names(got.reshape(-1)).reshape(want.shape)
    is_bad = np.any(want != got, axis=-1)
    differing += int(np.sum(is_bad))
    if example is None and np.any(is_bad):
      row = int(np.argmax(is_bad))
      example = f"{got[row].tolist()}, by the features {want[row].tolist()}"
  if not differing:
    return []
  return [
    f"{differing} of {len(indices)} triplets have other file names than the"
    f" rows of the features that their indices mean (try --by=filenames); the"
    f" first: {example}."
  ]


def main(argv=None):
  """Runs the command; returns the exit code."""
  args = parse(argv)
  try:
    return 0 if run(args) else 1
  except (artifacts.InputError, OSError, MemoryError) as error:
    print(f"error: {error or type(error).__name__}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    return 130


if __name__ == "__main__":
  sys.exit(main())
