"""Sets of images that every stage reads in one form.

A collection has `names` (one str per image), `labels` (int32[n] or None),
`size` (height and width in pixels), a length, and
`load(indices) -> uint8[b size size 3]`. Features, triplets and training refer
to an image by its index in the collection, so the order is part of the data.

Usage:
  images = collections.ArrayImages(np.load("images.npy", mmap_mode="r"))
  images = collections.FolderImages("imagenet/train", size=224)
  batch = images.load(np.array([3, 1, 3]))         # uint8[3 224 224 3]
"""

import concurrent.futures
import os
import pathlib

import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import resize

# Compared in lower case; the content decides how a file is decoded.
EXTENSIONS = (".jpg", ".jpeg", ".png")


class ArrayImages:
  """Images that are in memory, or in a memory-mapped .npy file.

  Attributes:
    names: One str per image; the index as text if none were given.
    labels: int32[n] class of each image, or None.
    size: Height and width in pixels.
  """

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
    self.names = [str(i) for i in range(len(self))] if names is None else names
    self.labels = None if labels is None else np.asarray(labels, np.int32)
    for field, values in (("names", self.names), ("labels", self.labels)):
      if values is not None and len(values) != len(self):
        raise artifacts.InputError(
          f"{len(self)} images need as many {field}, not {len(values)}."
        )

  def __len__(self):
    return len(self._images)

  def load(self, indices):
    """Gathers images.

    Args:
      indices: int[b], each in [0, n); repeats are fine.

    Returns:
      uint8[b size size 3].
    """
    return np.asarray(self._images[_check(indices, len(self))])


class FolderImages:
  """Image files below a folder, decoded and resized when they are asked for.

  Takes every .jpg, .jpeg and .png file (any case) at any depth, links followed,
  names beginning with a dot left out, in the order of the parts of its path
  below the folder. Reads them as the released preprocessing does: RGB, the
  whole image squeezed to a square (`resize.resize_cubic`). Transparency is
  dropped and the orientation note of cameras (EXIF) ignored, both as TFDS does.

  Attributes:
    names: Path below the folder, with "/", one str per image.
    labels: int32[n] index of the sub-folder where every image lies in one
      directly below the folder (`train/n01440764/x.JPEG`); else None.
    class_names: Sorted names of these sub-folders; else None.
    size: Height and width in pixels after resizing.
  """

  def __init__(self, folder, *, size, num_threads=4):
    """Lists the files; reads none.

    Args:
      folder: Path of the folder.
      size: Height and width in pixels that `load` gives.
      num_threads: Files decoded at the same time by one `load`.

    Raises:
      artifacts.InputError: If the folder is missing or has no image.
    """
    self._folder = pathlib.Path(folder)
    if not self._folder.is_dir():
      raise artifacts.InputError(f"The image folder {folder} does not exist.")
    found = sorted(_relative_parts(self._folder))
    if not found:
      raise artifacts.InputError(
        f"The image folder {folder} has no file that ends in"
        f" {', '.join(EXTENSIONS)} (any case)."
      )
    self._num_threads = num_threads
    self.size = size
    self.names = ["/".join(parts) for parts in found]
    self.labels, self.class_names = None, None
    if all(len(parts) == 2 for parts in found):
      self.class_names = sorted({parts[0] for parts in found})
      index = {name: i for i, name in enumerate(self.class_names)}
      self.labels = np.array([index[parts[0]] for parts in found], np.int32)

  def __len__(self):
    return len(self.names)

  def load(self, indices):
    """Decodes and resizes images, each distinct one once.

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
    paths = [self._folder / self.names[i] for i in distinct]
    decoded = np.empty((len(paths), self.size, self.size, 3), np.uint8)

    def read(slot):
      decoded[slot] = resize.resize_cubic(decode(paths[slot]), self.size)

    with concurrent.futures.ThreadPoolExecutor(self._num_threads) as pool:
      # Drawing the results raises the error of the first file that has one.
      for _ in pool.map(read, range(len(paths))):
        pass
    return decoded[inverse]


def decode(path):
  """Decodes one image file to RGB.

  Args:
    path: Path of a file that PIL can read, whatever its extension.

  Returns:
    uint8[h w 3].

  Raises:
    artifacts.InputError: If the file is missing, damaged, or holds more pixels
      than `PIL.Image.MAX_IMAGE_PIXELS` (a decompression bomb).
  """
  from PIL import Image

  try:
    with Image.open(path) as image:
      # PIL only warns up to twice its limit.
      if image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(
          f"{image.width} x {image.height} pixels, more than the"
          f" {Image.MAX_IMAGE_PIXELS} allowed"
        )
      if image.mode.startswith("I;16"):  # PIL would cut off, not scale.
        grey = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
      if image.mode == "P":  # By way of RGBA, else PIL warns at transparency.
        image = image.convert("RGBA")
      return np.asarray(image.convert("RGB"))
  # Damaged files raise whatever the decoder stumbled over, even SyntaxError.
  except Exception as error:
    raise artifacts.InputError(
      f"The image file {path} cannot be decoded: {error}"
    ) from error


def _relative_parts(folder):
  """Path parts below `folder` of every image file, in the order of the disk."""
  for root, _, files in os.walk(folder, followlinks=True):
    above = pathlib.Path(root).relative_to(folder).parts
    for name in files:
      if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
        yield (*above, name)


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
