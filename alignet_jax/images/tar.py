"""Images inside a tar file, read where they lie; nothing is extracted.

The headers are read once, then every image is one read at its position, from
several threads at a time. So no name in the archive, however hostile, can make
a file anywhere.

Usage:
  images = tar.TarImages("train.tar", preprocessing=preprocess.ALIGNET)
"""

import os
import pathlib
import tarfile

import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import collections

# First bytes, program that unpacks.
_COMPRESSIONS = (
  (b"\x1f\x8b", "gunzip"),
  (b"BZh", "bunzip2"),
  (b"\xfd7zXZ\x00", "unxz"),
  (b"\x28\xb5\x2f\xfd", "unzstd"),
)
_BLOCK = 512


class TarImages(collections.EncodedImages):
  """Image files in an uncompressed tar file, in the order of their paths.

  That order, and what counts as an image, is that of `FolderImages`, so a
  folder and its tar file give the same rows. Of two members of one name the
  later counts, as in unpacking. Links are left out: what they point to is in
  the archive under its own name, or outside.

  Attributes:
    names: Path in the archive, without "./" in front, one str per image.
    labels: int32[n] index of the folder where every image lies in one at the
      top (`n01440764/x.JPEG`); else None.
    class_names: Sorted names of these folders; else None.
    size: Height and width in pixels after preprocessing.
    num_links: Image names that are symbolic or hard links, or sparse files;
      left out.
  """

  def __init__(self, path, *, preprocessing=None):
    """Reads the headers.

    Args:
      path: A .tar file.
      preprocessing: `preprocess.Preprocessing`, or None.

    Raises:
      artifacts.InputError: If the file is missing, compressed, cut off, no tar
        file, or has no image.
    """
    self._path = pathlib.Path(path)
    self._file = _Descriptor(path)
    _refuse_compressed(self._file, self._path)
    self.num_links = 0
    places = {}  # Offset and size in one int: a million tuples are large.
    for info in _headers(self._file, self._path):
      name = "/".join(p for p in info.name.split("/") if p not in ("", "."))
      if not collections.is_image_name(name.rpartition("/")[2]):
        continue
      if info.issym() or info.islnk() or info.issparse():
        self.num_links += 1
      elif info.isreg():
        places[name] = info.offset_data << 64 | info.size
    if not places:
      links = f" but {self.num_links} links" if self.num_links else ""
      raise artifacts.InputError(
        f"{path} has no file that ends in {', '.join(collections.EXTENSIONS)}"
        f" (any case){links}."
      )
    names = sorted(places, key=collections.path_order)
    self._offsets = np.array([places[name] >> 64 for name in names], np.int64)
    self._sizes = np.array([places[name] % 2**64 for name in names], np.int64)
    labels, class_names = collections.labels_of(names)
    super().__init__(
      names,
      preprocessing=preprocessing,
      labels=labels,
      class_names=class_names,
    )

  def read(self, index):
    """The content of member `index`."""
    size = int(self._sizes[index])
    data = self._file.read(int(self._offsets[index]), size)
    if len(data) != size:
      raise artifacts.InputError(
        f"{self._path} ends within {self.names[index]}; it was longer when its"
        " headers were read."
      )
    return data

  def num_bytes(self, start, stop):
    """Sizes of members."""
    return self._sizes[start:stop].tolist()


class _Descriptor:
  """An open file that threads read at any place, closed with its last user."""

  def __init__(self, path):
    self._fd = None
    try:
      self._fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
      raise artifacts.InputError(f"There is no file {path}.") from None
    except OSError as error:
      raise artifacts.InputError(
        f"{path} cannot be read: {error.strerror}."
      ) from error

  def read(self, offset, size):
    """`size` bytes from `offset`, fewer at the end of the file."""
    pieces = []
    while size > 0 and (piece := os.pread(self._fd, size, offset)):
      pieces.append(piece)
      offset, size = offset + len(piece), size - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

  def __del__(self, close=os.close):  # At exit `os` may be gone already.
    if self._fd is not None:
      close(self._fd)


def _refuse_compressed(file, path):
  """Compressed archives have no place to go to: all before must be unpacked."""
  start = file.read(0, 8)
  for magic, program in _COMPRESSIONS:
    if start.startswith(magic):
      raise artifacts.InputError(
        f"{path} is compressed, so that no single image can be read from it."
        f" Unpack it once, by `{program} --keep {path}`, and give the .tar file"
        " or folder that comes out."
      )


def _headers(file, path):
  """All headers of a tar file, without keeping them."""
  try:
    with tarfile.open(path, "r:") as archive:
      while (info := archive.next()) is not None:
        yield info
        archive.members.clear()  # Else a million of them take a gigabyte.
      end = archive.offset
  except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
    raise artifacts.InputError(
      f"{path} is cut off or no tar file: {error}."
    ) from error
  # tarfile takes a damaged header for the end.
  last = file.read(end, _BLOCK)
  if len(last) < _BLOCK or any(last):
    raise artifacts.InputError(
      f"{path} is cut off or damaged at byte {end}: the block of zeros that"
      " ends a tar file is not there."
    )
