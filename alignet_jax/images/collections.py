"""Sets of images that every stage reads in one form.

A collection has `names` (one str per image), `labels` (int32[n] or None),
`size` (height and width in pixels), a length, and
`load(indices) -> uint8[b size size 3]`. Features, triplets and training refer
to an image by its index in the collection, so the order is part of the data.

What looks at every image once also uses `read(i)`, the bytes as they are
stored, `decode(data, i)`, the pixels in them, and `num_bytes(start, stop)`.
Here are arrays and folders; tar files, csv lists and TFDS have files of their
own, and `opening.open_collection` chooses.

Usage:
  images = collections.ArrayImages(np.load("images.npy", mmap_mode="r"))
  images = collections.FolderImages("imagenet/train", size=224)
  batch = images.load(np.array([3, 1, 3]))         # uint8[3 224 224 3]
"""

import concurrent.futures
import copy
import errno
import os
import pathlib

import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import decode as decode_lib
from alignet_jax.images import preprocess

# Compared in lower case; the content decides how a file is decoded.
EXTENSIONS = (".jpg", ".jpeg", ".png")


class EncodedImages:
  """What collections of encoded image files share; read in threads.

  Attributes:
    names: One str per image.
    labels: int32[n] class of each image, or None.
    class_names: Names of the classes, or None.
    preprocessing: `preprocess.Preprocessing`, or None where nothing but names
      and bytes is asked for.
  """

  def __init__(self, names, *, preprocessing, labels=None, class_names=None):
    self.names = names
    self.preprocessing = preprocessing
    self.labels = labels
    self.class_names = class_names
    self.num_threads = 4

  def __len__(self):
    return len(self.names)

  @property
  def size(self):
    """Height and width in pixels after preprocessing."""
    return self.preprocessing.size

  def with_preprocessing(self, preprocessing):
    """The same images, listed already, for another model."""
    other = copy.copy(self)
    other.preprocessing = preprocessing
    return other

  def read(self, index):
    """The encoded image `index`, as bytes."""
    raise NotImplementedError

  def num_bytes(self, start, stop):
    """How long the encoded images are: a list of int, -1 if that is unknown."""
    raise NotImplementedError

  def decode(self, data, index):
    """Decodes and preprocesses image `index`.

    Args:
      data: What `read(index)` gave.
      index: In [0, n); names the image in an error.

    Returns:
      uint8[size size 3].

    Raises:
      artifacts.InputError: If it cannot be decoded; names it.
    """
    image = decode_lib.decode(data, self.names[index])
    try:
      return self.preprocessing.apply(image)
    except artifacts.InputError as error:
      raise artifacts.InputError(
        f"The image file {self.names[index]} cannot be preprocessed: {error}."
      ) from error

  def load(self, indices):
    """Decodes and preprocesses images, each distinct one once.

    Args:
      indices: int[b], each in [0, n); repeats are fine.

    Returns:
      uint8[b size size 3].

    Raises:
      artifacts.InputError: If a file cannot be decoded; names it.
    """
    distinct, inverse = np.unique(
      _check(indices, len(self)), return_inverse=True
    )
    decoded = np.empty((len(distinct), self.size, self.size, 3), np.uint8)

    def fill(slot):
      index = distinct[slot]
      decoded[slot] = self.decode(self.read(index), index)

    with concurrent.futures.ThreadPoolExecutor(self.num_threads) as pool:
      # Drawing the results raises the error of the first file that has one.
      for _ in pool.map(fill, range(len(distinct))):
        pass
    return decoded[inverse]


class ArrayImages:
  """Images that are in memory, or in a memory-mapped .npy file.

  Attributes:
    names: One str per image; the index as text if none were given.
    labels: int32[n] class of each image, or None.
    preprocessing: `preprocess.Preprocessing`, or None.
    size: Height and width in pixels that `load` gives.
    fingerprint: str that tells this array from others; "" if not known.
  """

  fingerprint = ""

  def __init__(self, images, *, names=None, labels=None):
    """Wraps an array without copying it.

    Args:
      images: uint8[n size size 3], for example `np.load(p, mmap_mode="r")`.
      names: n str, or None.
      labels: int[n], each at least 0, or None.
    """
    shape = tuple(images.shape)
    if (
      images.dtype != np.uint8
      or len(shape) != 4
      or shape[1] != shape[2]
      or shape[3] != 3
      or not shape[0]
    ):
      raise artifacts.InputError(
        "A collection of images must be uint8[n size size 3] with n >= 1, not"
        f" {images.dtype}{list(shape)}."
      )
    self._images = images
    self.size = shape[1]
    self.preprocessing = None
    self.names = [str(i) for i in range(len(self))] if names is None else names
    self.labels = None if labels is None else np.asarray(labels, np.int32)
    for field, values in (("names", self.names), ("labels", self.labels)):
      if values is not None and len(values) != len(self):
        raise artifacts.InputError(
          f"{len(self)} images need as many {field}, not {len(values)}."
        )

  def __len__(self):
    return len(self._images)

  def with_preprocessing(self, preprocessing):
    """The same images for a model.

    Those of the size that it takes count as resized and cropped already, and
    their pixels stay as they are. Those of another size are treated like files.
    """
    other = copy.copy(self)
    other.preprocessing = preprocessing
    other.size = preprocessing.size
    return other

  def read(self, index):
    """The pixels of image `index` in the array, as bytes."""
    return np.ascontiguousarray(self._images[index]).tobytes()

  def num_bytes(self, start, stop):
    """The same for all images."""
    return [self._images[0].nbytes] * (stop - start)

  def decode(self, data, index):
    """Preprocesses the pixels that `read(index)` gave, if they need it.

    Returns:
      uint8[size size 3].
    """
    del index  # An array has no image that could be refused.
    pixels = np.frombuffer(data, np.uint8).reshape(self._images.shape[1:])
    if pixels.shape[0] == self.size:
      return pixels
    return self.preprocessing.apply(pixels)

  def load(self, indices):
    """Gathers images.

    Args:
      indices: int[b], each in [0, n); repeats are fine.

    Returns:
      uint8[b size size 3].
    """
    pixels = np.asarray(self._images[_check(indices, len(self))])
    if self._images.shape[1] == self.size:
      return pixels
    return np.stack([self.preprocessing.apply(image) for image in pixels])


class FolderImages(EncodedImages):
  """Image files below a folder, decoded and resized when they are asked for.

  Takes every .jpg, .jpeg and .png file (any case) at any depth, links followed,
  names beginning with a dot left out, in the order of the parts of its path
  below the folder. `decode` tells what becomes of unusual files.

  Attributes:
    names: Path below the folder, with "/", one str per image.
    labels: int32[n] index of the sub-folder where every image lies in one
      directly below the folder (`train/n01440764/x.JPEG`); else None.
    class_names: Sorted names of these sub-folders; else None.
    size: Height and width in pixels after resizing.
  """

  def __init__(self, folder, *, size=None, preprocessing=None):
    """Lists the files; reads none.

    Args:
      folder: Path of the folder.
      size: Height and width in pixels, for the preprocessing of the released
        AligNet students at that size.
      preprocessing: `preprocess.Preprocessing`, instead of `size`.

    Raises:
      artifacts.InputError: If the folder is missing or has no image.
    """
    self._folder = pathlib.Path(folder)
    if not self._folder.is_dir():
      raise artifacts.InputError(f"The image folder {folder} does not exist.")
    names = sorted(_relative_names(self._folder), key=path_order)
    if not names:
      raise artifacts.InputError(
        f"The image folder {folder} has no file that ends in"
        f" {', '.join(EXTENSIONS)} (any case)."
      )
    labels, class_names = labels_of(names)
    super().__init__(
      names,
      preprocessing=preprocess.Preprocessing(size) if size else preprocessing,
      labels=labels,
      class_names=class_names,
    )

  def read(self, index):
    """The content of file `index`."""
    return read_file(self._folder / self.names[index])

  def num_bytes(self, start, stop):
    """Sizes of files."""
    return file_sizes(self._folder / name for name in self.names[start:stop])


def is_image_name(name):
  """Whether a file, by its name without folders, is taken for an image."""
  return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def path_order(name):
  """Sorts paths by their parts: "a/y" before "a c/x", unlike their text."""
  return name.replace("/", "\0")


def labels_of(names):
  """Classes of images that lie one folder deep.

  Args:
    names: Path of each image, with "/".

  Returns:
    int32[n] and the sorted names of the classes; (None, None) if an image lies
    elsewhere.
  """
  if any(name.count("/") != 1 for name in names):
    return None, None
  class_names = sorted({name.partition("/")[0] for name in names})
  index = {name: i for i, name in enumerate(class_names)}
  labels = [index[name.partition("/")[0]] for name in names]
  return np.array(labels, np.int32), class_names


# What a name raises under which there can be no file: too long, below another
# file, in a ring of links, or (ValueError) with a NUL.
_NO_FILE = (OSError, ValueError)
_ERRNOS = (
  errno.ENOENT,
  errno.EISDIR,
  errno.EACCES,
  errno.EPERM,
  errno.ENOTDIR,
  errno.ENAMETOOLONG,
  errno.ELOOP,
)


def read_file(path):
  """The bytes of a file; one that is not there or not allowed is refused.

  Other errors of the disk are no property of the file, and stay what they are.
  """
  try:
    return pathlib.Path(path).read_bytes()
  except (IsADirectoryError, PermissionError, *_NO_FILE) as error:
    if isinstance(error, OSError) and error.errno not in _ERRNOS:
      raise
    raise artifacts.InputError(
      f"The image file {path} cannot be read:"
      f" {getattr(error, 'strerror', None) or error}."
    ) from error


def file_sizes(paths):
  """Bytes of each file; -1 for one that is not there."""
  sizes = []
  for path in paths:
    try:
      sizes.append(os.stat(path).st_size)
    except (PermissionError, *_NO_FILE) as error:
      if isinstance(error, OSError) and error.errno not in _ERRNOS:
        raise
      sizes.append(-1)
  return sizes


def _relative_names(folder):
  """Path below `folder` of every image file, in the order of the disk."""
  above_of = {str(folder): ()}  # Folders that a folder lies in, by identity.
  for root, folders, files in os.walk(folder, followlinks=True):
    above = pathlib.Path(root).relative_to(folder).as_posix()
    status = os.stat(root)
    lineage = (*above_of.pop(root), (status.st_dev, status.st_ino))
    for name in list(folders):
      status = os.stat(os.path.join(root, name))
      if (status.st_dev, status.st_ino) in lineage:
        folders.remove(name)  # A link to where we come from.
      else:
        above_of[os.path.join(root, name)] = lineage
    for name in files:
      if is_image_name(name):
        yield name if above == "." else f"{above}/{name}"


def _check(indices, num_images):
  """The indices as an array, refused if one lies outside [0, num_images)."""
  indices = np.asarray(indices)
  outside = (indices < 0) | (indices >= num_images)
  if np.any(outside):
    raise IndexError(
      f"Image {indices[outside].flat[0]} of a collection that has"
      f" {num_images} images."
    )
  return indices
