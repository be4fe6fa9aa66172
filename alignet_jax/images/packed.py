"""Images resized once for all, read from one memory-mapped file.

The folder is what `python -m alignet_jax.images.pack` writes:

  images.npy      uint8[n size size 3], row i for line i of the index
  index.csv       row, file, sha256 of the file that it was made of, and label
                  where the collection had labels
  skipped.csv     file, reason; only with --on_error=skip
  manifest.json   preprocessing, checksums, versions; written last

Usage:
  images = packed.PackedImages("imagenet_224")
"""

import copy
import csv
import pathlib

from alignet_jax import artifacts, manifest
from alignet_jax.images import collections, lists, preprocess

STAGE = "packed_images"
IMAGES, INDEX, SKIPPED = "images.npy", "index.csv", "skipped.csv"

# Exists while the images are being written.
RUN = "pack.json"

# The geometry of a preprocessing; the rest is done on the device.
_GEOMETRY = ("size", "resize", "short_side", "interpolation")


def is_packed(folder):
  """Whether a folder holds packed images, complete or not."""
  folder = pathlib.Path(folder)
  if (folder / RUN).exists():
    return True
  if not all((folder / name).exists() for name in (IMAGES, manifest.FILE)):
    return False
  return manifest.read(folder).stage == STAGE


class PackedImages(collections.ArrayImages):
  """The images of a folder that `pack` has written.

  Attributes:
    names: Name of the file that each was made of, one str per image.
    labels: int32[n] class of each image, or None.
    class_names: Sorted names of the classes, or None.
    fingerprint: Checksum of the pixels, as str.
    size: Height and width in pixels.
  """

  def __init__(self, folder, preprocessing=None):
    """Maps the pixels; reads the index.

    Args:
      folder: Path of the folder.
      preprocessing: `preprocess.Preprocessing`, which must resize and crop like
        that of the folder; or None.

    Raises:
      artifacts.InputError: If it is not complete, a file is not as long as
        written (contents are not compared), or the preprocessing is another.
    """
    self._folder = pathlib.Path(folder)
    made = manifest.read(self._folder)
    if made is None or made.stage != STAGE:
      raise artifacts.InputError(
        f"{folder} holds no complete packed images. The command that writes"
        " them, `python -m alignet_jax.images.pack`, goes on where it was"
        " stopped."
      )
    if (damaged := manifest.damaged_output(self._folder, made)) is not None:
      raise artifacts.InputError(
        f"{self._folder / damaged} is missing or not as long as it was written;"
        " pack the images again with --overwrite."
      )
    names, labels = _read_index(self._folder / INDEX)
    labels, self.class_names = lists.labels_of_words(labels)
    super().__init__(
      artifacts.read_npy(self._folder / IMAGES, mmap=True),
      names=names,
      labels=labels,
    )
    self.fingerprint = made.outputs[IMAGES]["sha256"]
    self.preprocessing = preprocess.from_dict(made.config["preprocessing"])
    if preprocessing is not None:
      self._check(preprocessing)
      self.preprocessing = preprocessing

  def with_preprocessing(self, preprocessing):
    """The same images for a model that resizes and crops in the same way.

    Raises:
      artifacts.InputError: If it resizes or crops in another way.
    """
    self._check(preprocessing)
    other = copy.copy(self)
    other.preprocessing = preprocessing
    return other

  def _check(self, wanted):
    """Refuses a preprocessing with another geometry."""
    differing = [
      f"{field} {getattr(self.preprocessing, field)!r}, not"
      f" {getattr(wanted, field)!r}"
      for field in _GEOMETRY
      if _geometry(self.preprocessing)[field] != _geometry(wanted)[field]
    ]
    if differing:
      raise artifacts.InputError(
        f"The images in {self._folder} were packed with"
        f" {' and '.join(differing)}, as the model takes them. Pack them for"
        " that model, or give the original images."
      )


def _geometry(preprocessing):
  """The geometry, alike for those that give the same pixels."""
  fields = {name: getattr(preprocessing, name) for name in _GEOMETRY}
  if preprocessing.resize == "squash":
    fields["short_side"] = 0
  elif not preprocessing.short_side:
    fields["short_side"] = preprocessing.size
  return fields


def _read_index(path):
  """Names, and labels as words or None."""
  with open(path, encoding="utf-8", errors="surrogateescape", newline="") as f:
    rows = csv.reader(f)
    header = next(rows)
    names, labels = [], []
    for row in rows:
      names.append(row[1])
      labels.extend(row[3:])
  return names, labels if len(header) > 3 else None
