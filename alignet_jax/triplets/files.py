"""Triplet files in the layout of the AligNet release.

`{transform}/{split}_{sampling}.npz` holds `indices` int64[n 3] into an image
collection and `similarities` f32[n 3] of the pairs (01, 02, 12), of which 01 is
the largest: image 2 is the odd one. Released files also hold `filenames`
str[n 3], tens of millions of strings, which reading leaves on disk (paper.md,
section B).

Usage:
  path = files.path_of(folder, "aligned", "train", "cluster_border")
  files.write(path, indices, pair_sims)
  triplets = files.read(path, num_images=len(images))
  triplets = files.read(path, mmap=True)           # whatever its size
"""

import dataclasses
import pathlib

import numpy as np

from alignet_jax import artifacts

# Triplets that are looked at, or whose file names are made, at once.
CHUNK_SIZE = 2**20


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


@dataclasses.dataclass(frozen=True)
class Violation:
  """A rule that some triplets of a file break.

  Attributes:
    rule: What is wrong with them, the end of a sentence about a triplet.
    number: How many there are.
    first: The first of them.
    example: Its values.
  """

  rule: str
  number: int
  first: int
  example: list


def path_of(folder, transform, split, sampling):
  """Path of a triplet file: `{folder}/{transform}/{split}_{sampling}.npz`."""
  return pathlib.Path(folder) / transform / f"{split}_{sampling}.npz"


def write(path, indices, pair_sims, *, filenames=None, image_names=None):
  """Writes a triplet file, refusing what `read` would refuse.

  Args:
    path: Path of the file; its folder is made.
    indices: int[n 3] images; position 2 is the odd one.
    pair_sims: f32[n 3] similarities of the pairs (01, 02, 12).
    filenames: str[n 3] of the images, or None to leave them out.
    image_names: str[m] of all images instead, from which the file names of the
      triplets are made while they are written. Or None.
  """
  arrays = {
    "indices": np.asarray(indices, np.int64),
    "similarities": np.asarray(pair_sims, np.float32),
  }
  num_images = None if image_names is None else len(image_names)
  _refuse(path, arrays["indices"], arrays["similarities"], num_images)
  if filenames is not None:
    arrays["filenames"] = np.asarray(filenames, np.str_)
  elif image_names is not None:
    arrays["filenames"] = _names_of(arrays["indices"], image_names)
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  artifacts.write_npz(path, **arrays)


def read(path, *, num_images=None, mmap=False):
  """Reads and verifies a triplet file without its filenames.

  Args:
    path: Path of the file.
    num_images: Length of the collection it points into, or None if unknown.
    mmap: Whether to map the arrays instead of loading them. Then neither
      reading nor verifying needs memory that grows with the file; checksums of
      the archive are not compared.

  Returns:
    `TripletFile`.

  Raises:
    artifacts.InputError: If the file or an array is missing, a shape is wrong,
      an index lies outside the collection, an image stands twice in a triplet,
      a similarity is not finite, or the pair (0, 1) is not the largest.
  """
  indices, pair_sims = open_arrays(path, mmap=mmap)
  _refuse(path, indices, pair_sims, num_images)
  if not mmap:
    indices = indices.astype(np.int64, copy=False)
    pair_sims = pair_sims.astype(np.float32, copy=False)
  return TripletFile(
    indices=indices,
    pair_sims=pair_sims,
    num_unsorted=count_unsorted(pair_sims),
  )


def open_arrays(path, *, mmap=False, with_filenames=False):
  """The arrays of a file whose values are not verified; see `find_violations`.

  Args:
    path: Path of the file.
    mmap: Whether to map them.
    with_filenames: Whether to give the file names too; they are mapped.

  Returns:
    int[n 3] indices and float[n 3] similarities; with `with_filenames` also
    str[n 3], or None if there are none.

  Raises:
    artifacts.InputError: If the file or an array is missing, or a kind or shape
      is wrong.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise artifacts.InputError(f"The triplet file {path} does not exist.")
  names = ("indices", "similarities")
  try:
    found = artifacts.map_npz(path, ())[1]
    names_there = [name for name in names if name in found]
    if mmap:
      arrays = artifacts.map_npz(path, names_there)[0]
    else:
      # Opened here, because numpy leaves a damaged archive open.
      with (
        path.open("rb") as stream,
        np.load(stream, allow_pickle=False) as stored,
      ):
        arrays = {name: stored[name] for name in names_there}
  # A damaged zip archive raises one of many kinds.
  except Exception as error:
    raise artifacts.InputError(
      f"The triplet file {path} cannot be read: {error}"
    ) from error
  for name in names:
    if name not in arrays:
      raise artifacts.InputError(
        f"The triplet file {path} has no array {name!r}; it has"
        f" {', '.join(sorted(found)) or 'none'}."
      )
  indices, pair_sims = (arrays[name] for name in names)
  _check_kinds(path, indices, pair_sims)
  if not with_filenames:
    return indices, pair_sims
  filenames = None
  if "filenames" in found:
    filenames = artifacts.map_npz(path, ["filenames"])[0]["filenames"]
    if filenames.dtype.kind not in "US" or filenames.shape != indices.shape:
      raise artifacts.InputError(
        f"{path}: 'filenames' must be str{list(indices.shape)}, not"
        f" {filenames.dtype}{list(filenames.shape)}."
      )
  return indices, pair_sims, filenames


def find_violations(indices, pair_sims, *, num_images=None):
  """Looks for triplets that no file may hold, a chunk at a time.

  Args:
    indices: int[n 3]; may be mapped.
    pair_sims: float[n 3]; may be mapped.
    num_images: Length of the collection, or None if unknown.

  Returns:
    List of `Violation`, empty if all is well.
  """
  limit = "" if num_images is None else f" of {num_images} images"
  rules = (
    f"has an index outside the collection{limit}",
    "holds an image twice",
    "has a similarity that is not finite",
    "has another largest similarity than that of the pair (0, 1), so image 2"
    " is not the odd one",
  )
  end = np.inf if num_images is None else num_images
  found = {}
  for first in range(0, len(indices), CHUNK_SIZE):
    items = np.asarray(indices[first : first + CHUNK_SIZE])
    sims = np.asarray(pair_sims[first : first + CHUNK_SIZE])
    i, j, k = items.T
    broken = (
      np.any((items < 0) | (items >= end), axis=-1),
      (i == j) | (i == k) | (j == k),
      ~np.all(np.isfinite(sims), axis=-1),
      sims[:, 0] < np.max(sims, axis=-1),
    )
    for rule, is_bad, values in zip(
      rules, broken, (items, items, sims, sims), strict=True
    ):
      number = int(np.sum(is_bad))
      if number and rule in found:
        found[rule] = dataclasses.replace(
          found[rule], number=found[rule].number + number
        )
      elif number:
        row = int(np.argmax(is_bad))
        found[rule] = Violation(rule, number, first + row, values[row].tolist())
  return [found[rule] for rule in rules if rule in found]


def count_unsorted(pair_sims):
  """Number of triplets with s02 < s12, as `TripletFile.num_unsorted`."""
  chunks = (
    pair_sims[first : first + CHUNK_SIZE]
    for first in range(0, len(pair_sims), CHUNK_SIZE)
  )
  return sum(int(np.sum(sims[:, 1] < sims[:, 2])) for sims in chunks)


def _names_of(indices, image_names):
  """The names of the images of each triplet, made while they are written."""
  image_names = np.asarray(image_names, np.str_)
  parts = (
    image_names[indices[first : first + CHUNK_SIZE]]
    for first in range(0, len(indices), CHUNK_SIZE)
  )
  return artifacts.Parts(indices.shape, image_names.dtype, parts)


def _check_kinds(path, indices, pair_sims):
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


def _refuse(path, indices, pair_sims, num_images):
  """Raises an error that names the file and the first offending triplet."""
  _check_kinds(path, indices, pair_sims)
  for bad in find_violations(indices, pair_sims, num_images=num_images):
    raise artifacts.InputError(
      f"{path}: triplet {bad.first} {bad.rule}: {bad.example}. This is so for"
      f" {bad.number} of {len(indices)} triplets."
    )
