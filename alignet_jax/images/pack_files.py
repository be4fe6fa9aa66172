"""Packed images on the disk while they grow, also over kills.

Pixels are appended to one file. A journal says, part by part, which images they
are; a part is on the disk before its line, so what is not as its line says, or
has none, is cut off and made again.

Usage:
  with pack_files.Writer(out, images) as writer:
    writer.add(batch)                              # uint8 rows of 64 images
    writer.end_part(64)
    writer.finish(list_skipped=False)
"""

import contextlib
import hashlib
import json
import os

import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import listing, packed

# Pixels, and one line of JSON per part that is in them.
PIXELS, PARTS = ".images.npy.partial", "parts.jsonl"


class Writer:
  """The pixels on the disk, and the journal of what is in them.

  Attributes:
    start: Index of the first image that is not there.
    skipped: Why the first image left out so far was, or None.
  """

  def __init__(self, out, images):
    """Opens both files at the end of the last part that is as it was."""
    self._out, self._images = out, images
    self._row_bytes = 3 * images.size**2
    # Killed after its renaming: what follows is done again.
    if (out / packed.IMAGES).exists() and not (out / PIXELS).exists():
      os.replace(out / packed.IMAGES, out / PIXELS)
    self.start, self.skipped = 0, None
    self._num_rows = self._num_skipped = 0
    self._files = contextlib.ExitStack()
    for name in (PIXELS, PARTS):
      (out / name).touch()
    self._pixels = self._files.enter_context(open(out / PIXELS, "r+b"))
    self._parts = self._files.enter_context(open(out / PARTS, "r+b"))
    self._write_header(len(images))
    end = 0
    for line in self._parts:
      part = self._valid(line)
      if part is None:
        break
      self._count(part)
      end += len(line)
    for file, place in (
      (self._parts, end),
      (self._pixels, self._first + self._num_rows * self._row_bytes),
    ):
      file.seek(place)
      file.truncate()
    self._begin_part()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._files.close()

  def add(self, batch):
    """Writes the images of a `decoded.Batch` that are not broken."""
    good = [i for i, digest in enumerate(batch.sha256) if digest is not None]
    data = np.ascontiguousarray(batch.image[good])
    self._pixels.write(data.data)
    self._digest.update(data.data)
    for i in good:
      self._rows.append([batch.start + i, batch.sha256[i]])
    self._reasons += batch.reasons.items()

  def end_part(self, stop):
    """Makes sure that what was added is on the disk, and notes it.

    Args:
      stop: Index after the last image that was added or left out.
    """
    if stop == self.start:
      return
    part = {
      "stop": stop,
      "rows": self._rows,
      "skipped": self._reasons,
      "sha256": self._digest.hexdigest(),
    }
    line = json.dumps(part).encode() + b"\n"
    for file, data in ((self._pixels, b""), (self._parts, line)):
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    self._count(part)
    self._begin_part()

  def finish(self, *, list_skipped):
    """Gives the files their names; returns numbers of rows and skipped."""
    if not self._num_rows:
      raise artifacts.InputError(
        f"None of the {self._num_skipped} images could be decoded. The first:"
        f" {self.skipped}"
      )
    self._write_header(self._num_rows)
    self._pixels.flush()
    os.fsync(self._pixels.fileno())
    with artifacts.writer(self._out / packed.INDEX) as f:
      self._write_index(f)
    if list_skipped:
      with artifacts.writer(self._out / packed.SKIPPED) as f:
        f.write(listing.skipped_bytes([]))
        for part in self._read_parts():
          f.write(
            listing.csv_bytes(
              (self._images.names[i], why) for i, why in part["skipped"]
            )
          )
    os.replace(self._out / PIXELS, self._out / packed.IMAGES)
    return {"num_rows": self._num_rows, "num_skipped": self._num_skipped}

  def _begin_part(self):
    self._rows, self._reasons = [], []
    self._digest = hashlib.sha256()

  def _count(self, part):
    self.start = part["stop"]
    self._num_rows += len(part["rows"])
    self._num_skipped += len(part["skipped"])
    if part["skipped"] and self.skipped is None:
      self.skipped = part["skipped"][0][1]

  def _valid(self, line):
    """A part, or None if line or pixels are not as they were written."""
    try:
      part = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
      part = None
    if part is None:
      return None
    self._pixels.seek(self._first + self._num_rows * self._row_bytes)
    digest = hashlib.sha256()
    for _ in part["rows"]:
      digest.update(self._pixels.read(self._row_bytes))
    return part if digest.hexdigest() == part["sha256"] else None

  def _write_header(self, num_rows):
    """Puts the header of a .npy file there; its length is always the same."""
    size = self._images.size
    self._pixels.seek(0)
    np.lib.format.write_array_header_1_0(
      self._pixels,
      {
        "descr": "|u1",
        "fortran_order": False,
        "shape": (num_rows, size, size, 3),
      },
    )
    self._first = self._pixels.tell()

  def _read_parts(self):
    self._parts.seek(0)
    for line in self._parts:
      yield json.loads(line)

  def _write_index(self, f):
    names, labels = self._images.names, self._images.labels
    class_names = getattr(self._images, "class_names", None)
    header = ("row", "file", "sha256")
    f.write(
      listing.csv_bytes([header if labels is None else (*header, "label")])
    )
    row = 0
    for part in self._read_parts():
      lines = []
      for i, digest in part["rows"]:
        line = [row, names[i], digest]
        if labels is not None:
          line.append(class_names[labels[i]] if class_names else labels[i])
        lines.append(line)
        row += 1
      f.write(listing.csv_bytes(lines))
