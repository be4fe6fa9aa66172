"""Parts of feature files: what an interrupted extraction goes on from.

A part holds the rows of `part_size` images at most: one .npy file per output
and the names and checksums of the images. Its .json is written last, with the
SHA-256 of the others, so a part is complete or does not count. Parts are about
positions in the collection; an image that is left out only makes its own part
shorter.

Usage:
  parts = feature_parts.Parts(out / "parts", images, outputs, run=run, ...)
  parts.write(3, features, digests, skipped)
  parts.assemble(out, names)
"""

import csv
import io
import pathlib

import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import listing


class Parts:
  """The parts of one extraction in a folder.

  Attributes:
    ranges: (start, stop) of the images of each part.
  """

  def __init__(self, folder, images, num_outputs, *, run, part_size):
    """Describes the parts; reads and writes nothing.

    Args:
      folder: Where they are; must exist before the first is written.
      images: The collection.
      num_outputs: Arrays per part.
      run: Digest of all that the rows depend on but the images.
      part_size: Images per part, the last one may have fewer.
    """
    self._folder = pathlib.Path(folder)
    self._images = images
    self._num_outputs = num_outputs
    self._run = run
    self.ranges = [
      (start, min(start + part_size, len(images)))
      for start in range(0, len(images), part_size)
    ]

  def write(self, part, features, digests, skipped):
    """Writes a part.

    Args:
      part: Its number, from 0.
      features: List of [rows ...], one per output.
      digests: SHA-256 of each image of the part, None if it is left out.
      skipped: Index of an image -> why it is left out.
    """
    start, stop = self.ranges[part]
    present = [
      (self._images.names[start + i], digest)
      for i, digest in enumerate(digests)
      if digest is not None
    ]
    assert len(present) + len(skipped) == stop - start
    files = [self._file(part, f".{i}.npy") for i in range(self._num_outputs)]
    for path, x in zip(files, features, strict=True):
      assert len(x) == len(present)
      artifacts.write_npy(path, x)
    files.append(self._file(part, ".csv"))
    artifacts.write_bytes(files[-1], listing.csv_bytes(present))
    artifacts.write_json(
      self._file(part, ".json"),
      {
        "run": self._run,
        "images": listing.digest(self._images, start, stop),
        "start": start,
        "stop": stop,
        "num_rows": len(present),
        "skipped": [
          [self._images.names[i], reason] for i, reason in skipped.items()
        ],
        "files": {path.name: artifacts.sha256_file(path) for path in files},
      },
    )

  def read(self, part, *, verify):
    """What is known of a part, or None if it must be made.

    Args:
      part: Its number, from 0.
      verify: Whether to compare checksums of its files, and the names and sizes
        of its images with those of the collection.

    Returns:
      The content of its .json, or None if it is missing, damaged, or of another
      run or other images.
    """
    path = self._file(part, ".json")
    if not path.exists():
      return None
    try:
      about = artifacts.read_json(path)
      if about["run"] != self._run:
        return None
      if [about["start"], about["stop"]] != list(self.ranges[part]):
        return None
      if verify:
        if about["images"] != listing.digest(
          self._images, about["start"], about["stop"]
        ):
          return None
        for name, digest in about["files"].items():
          if artifacts.sha256_file(self._folder / name) != digest:
            return None
    except (artifacts.InputError, FileNotFoundError, KeyError, TypeError):
      return None
    return about

  def missing(self):
    """Numbers of the parts that are not there; checksums are not compared."""
    numbers = range(len(self.ranges))
    return [part for part in numbers if self.read(part, verify=False) is None]

  def assemble(self, out, names, *, list_skipped):
    """Joins the parts, one after the other in memory.

    Args:
      out: Folder of `names`, `index.csv` and, if asked for, `skipped.csv`.
      names: File of each output.
      list_skipped: Whether to write `skipped.csv`.

    Returns:
      The number of rows and the number of images left out.

    Raises:
      artifacts.InputError: If a part is missing or damaged; it is made again by
        the next run. If images were left out and are not to be listed.
    """
    abouts = []
    for part in range(len(self.ranges)):
      abouts.append(self.read(part, verify=True))
      if abouts[-1] is None:
        raise artifacts.InputError(
          f"{self._file(part, '.json')}, or a file that it is about, is missing"
          " or damaged. The same command makes this part again."
        )
    num_rows = sum(about["num_rows"] for about in abouts)
    skipped = [row for about in abouts for row in about["skipped"]]
    if skipped and not list_skipped:  # By another process, which may.
      raise artifacts.InputError(f"{skipped[0][1]}\n{listing.SKIP_HINT}")
    if not num_rows:
      raise artifacts.InputError(
        f"None of the {len(skipped)} images could be decoded. The first:"
        f" {skipped[0][1]}"
      )
    for output, name in enumerate(names):
      with artifacts.writer(pathlib.Path(out) / name) as f:
        for part in range(len(self.ranges)):
          x = artifacts.read_npy(self._file(part, f".{output}.npy"))
          if part == 0:
            np.lib.format.write_array_header_1_0(
              f,
              {
                "descr": np.lib.format.dtype_to_descr(x.dtype),
                "fortran_order": False,
                "shape": (num_rows, *x.shape[1:]),
              },
            )
          f.write(x.data)
    with artifacts.writer(pathlib.Path(out) / "index.csv") as f:
      f.write(listing.csv_bytes([("row", "file", "sha256")]))
      row = 0
      for part in range(len(self.ranges)):
        text = self._file(part, ".csv").read_bytes().decode(**listing.ENCODING)
        lines = list(csv.reader(io.StringIO(text, newline="")))
        if len(lines) != abouts[part]["num_rows"]:
          raise artifacts.InputError(
            f"{self._file(part, '.csv')} has {len(lines)} lines for"
            f" {abouts[part]['num_rows']} rows of features."
          )
        f.write(
          listing.csv_bytes((row + i, *line) for i, line in enumerate(lines))
        )
        row += len(lines)
    path = pathlib.Path(out) / "skipped.csv"
    if list_skipped:
      artifacts.write_bytes(path, listing.skipped_bytes(skipped))
    else:  # Of a run that was to list them, and was killed before its end.
      path.unlink(missing_ok=True)
    return num_rows, len(skipped)

  def _file(self, part, ending):
    return self._folder / f"part-{part:05d}{ending}"
