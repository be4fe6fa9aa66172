"""Triplet files in the layout of the AligNet release.

`{transform}/{split}_{sampling}.npz` holds `indices` int64[n 3] into an image
collection and `similarities` f32[n 3] of the pairs (01, 02, 12), of which 01 is
the largest: image 2 is the odd one. Released files also hold `filenames`, tens
of millions of strings, which reading leaves on disk (paper.md, section B).

Usage:
  path = files.path_of(folder, "aligned", "train", "cluster_border")
  files.write(path, indices, pair_sims)
  triplets = files.read(path, num_images=len(images))
"""

import dataclasses
import pathlib

import numpy as np

from alignet_jax import artifacts


@dataclasses.dataclass(frozen=True)
class TripletFile:
  """The content of a triplet file.

  Attributes:
    indices: int64[n 3] images; position 2 is the odd one.
    pair_sims: f32[n 3] similarities of the pairs (01, 02, 12).
    num_unsorted: Triplets with s02 < s12. They are valid, but their files were
      not brought into the canonical order of `labels.label`.
  """

  indices: np.ndarray
  pair_sims: np.ndarray
  num_unsorted: int


def path_of(folder, transform, split, sampling):
  """Path of a triplet file: `{folder}/{transform}/{split}_{sampling}.npz`."""
  return pathlib.Path(folder) / transform / f"{split}_{sampling}.npz"


def write(path, indices, pair_sims, *, filenames=None):
  """Writes a triplet file, refusing what `read` would refuse.

  Args:
    path: Path of the file; its folder is made.
    indices: int[n 3] images; position 2 is the odd one.
    pair_sims: f32[n 3] similarities of the pairs (01, 02, 12).
    filenames: str[n 3] of the images, or None to leave them out.
  """
  arrays = {
    "indices": np.asarray(indices, np.int64),
    "similarities": np.asarray(pair_sims, np.float32),
  }
  _check(path, arrays["indices"], arrays["similarities"], num_images=None)
  if filenames is not None:
    arrays["filenames"] = np.asarray(filenames, np.str_)
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  artifacts.write_npz(path, **arrays)


def read(path, *, num_images=None):
  """Reads and verifies a triplet file without its filenames.

  Args:
    path: Path of the file.
    num_images: Length of the collection it points into, or None if unknown.

  Returns:
    `TripletFile`.

  Raises:
    artifacts.InputError: If the file or an array is missing, a shape is wrong,
      an index lies outside the collection, an image stands twice in a triplet,
      a similarity is not finite, or the pair (0, 1) is not the largest.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise artifacts.InputError(f"The triplet file {path} does not exist.")
  arrays = {}
  try:
    # Opened here, because numpy leaves a damaged archive open.
    with (
      path.open("rb") as stream,
      np.load(stream, allow_pickle=False) as stored,
    ):
      found = list(stored.files)
      for name in ("indices", "similarities"):
        if name in found:
          arrays[name] = stored[name]
  # A damaged zip archive raises one of many kinds.
  except Exception as error:
    raise artifacts.InputError(
      f"The triplet file {path} cannot be read: {error}"
    ) from error
  for name in ("indices", "similarities"):
    if name not in arrays:
      raise artifacts.InputError(
        f"The triplet file {path} has no array {name!r}; it has"
        f" {', '.join(sorted(found)) or 'none'}."
      )
  indices, pair_sims = arrays["indices"], arrays["similarities"]
  _check(path, indices, pair_sims, num_images=num_images)
  return TripletFile(
    indices=indices.astype(np.int64, copy=False),
    pair_sims=pair_sims.astype(np.float32, copy=False),
    num_unsorted=int(np.sum(pair_sims[:, 1] < pair_sims[:, 2])),
  )


def _check(path, indices, pair_sims, *, num_images):
  """Raises an error that names the file and the first offending triplet."""
  for name, array, kinds in (
    ("indices", indices, "iu"),
    ("similarities", pair_sims, "f"),
  ):
    if array.dtype.kind not in kinds or array.shape != (*indices.shape[:1], 3):
      wanted = "int" if kinds == "iu" else "float"
      raise artifacts.InputError(
        f"{path}: {name!r} must be {wanted}[n 3] with the n of 'indices', not"
        f" {array.dtype}{list(array.shape)}."
      )
  end = np.inf if num_images is None else num_images
  outside = np.any((indices < 0) | (indices >= end), axis=-1)
  limit = "" if num_images is None else f" of {num_images} images"
  _refuse(path, outside, f"has an index outside the collection{limit}", indices)
  i, j, k = indices.T
  twice = (i == j) | (i == k) | (j == k)
  _refuse(path, twice, "holds an image twice", indices)
  unknown = ~np.all(np.isfinite(pair_sims), axis=-1)
  _refuse(path, unknown, "has a similarity that is not finite", pair_sims)
  odd_elsewhere = pair_sims[:, 0] < np.max(pair_sims, axis=-1)
  _refuse(
    path,
    odd_elsewhere,
    "has another largest similarity than that of the pair (0, 1), so image 2"
    " is not the odd one",
    pair_sims,
  )


def _refuse(path, is_bad, what, values):
  """Raises an `InputError` if a triplet is bad; gives number and example."""
  if np.any(is_bad):
    first = int(np.argmax(is_bad))
    raise artifacts.InputError(
      f"{path}: triplet {first} {what}: {values[first].tolist()}. This is so"
      f" for {int(np.sum(is_bad))} of {len(is_bad)} triplets."
    )
