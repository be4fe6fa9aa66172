"""Opens a collection of images by what its path is.

Usage:
  images = opening.open_collection("train.tar", preprocess.ALIGNET)
"""

import pathlib

from alignet_jax import artifacts
from alignet_jax.images import collections, lists, packed, tar, tfds

KINDS = (
  "a folder of images, a .tar file, a .csv file with a column file, a .npy"
  " file uint8[n size size 3], a folder of packed images, or tfds:NAME/SPLIT"
)

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_collection(path, preprocessing=None, *, root=None, data_dir=None):
  """Opens images of any kind.

  Args:
    path: See `KINDS`.
    preprocessing: `preprocess.Preprocessing`; None to look at names and bytes
      only, see `with_preprocessing`.
    root: Folder that the paths in a csv are relative to; that of the csv by
      default.
    data_dir: Folder of TFDS, or None.

  Returns:
    A collection, see `collections`.

  Raises:
    artifacts.InputError: If there is nothing, or something of another kind.
  """
  text = str(path)
  if text.startswith("tfds:"):
    name, separator, split = text.removeprefix("tfds:").partition("/")
    # A configuration stands between: tfds:imagenet2012_subset/1pct/train.
    above, inner, last = split.rpartition("/")
    if not (name and separator and last):
      raise artifacts.InputError(
        f"{text!r} does not name a split; expected tfds:NAME/SPLIT, such as"
        " tfds:imagenet2012/train."
      )
    return tfds.TfdsImages(
      f"{name}/{above}" if inner else name,
      last,
      data_dir=data_dir,
      preprocessing=preprocessing,
    )
  path = pathlib.Path(path)
  lower = path.name.lower()
  if path.is_dir() and packed.is_packed(path):
    return packed.PackedImages(path, preprocessing)
  if path.is_dir():
    return collections.FolderImages(path, preprocessing=preprocessing)
  if not path.exists():
    raise artifacts.InputError(f"There are no images {path}; expected {KINDS}.")
  if lower.endswith(_TARS):
    return tar.TarImages(path, preprocessing=preprocessing)
  if lower.endswith(".csv"):
    return lists.CsvImages(path, root=root, preprocessing=preprocessing)
  if lower.endswith(".npy"):
    images = collections.ArrayImages(artifacts.read_npy(path, mmap=True))
    # Its images have neither names nor sizes that another array would not have.
    images.fingerprint = artifacts.sha256_file(path)
    return images.with_preprocessing(preprocessing) if preprocessing else images
  raise artifacts.InputError(
    f"{path} is not of a kind that holds images; expected {KINDS}."
  )
