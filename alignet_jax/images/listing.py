"""Lists of images: the csv files beside what was made of them, and digests.

Usage:
  artifacts.write_bytes(out / "skipped.csv", listing.skipped_bytes(skipped))
  listing.digest(images)                         # no image is read
"""

import csv
import hashlib
import io
import json

# Bytes of a file name that is not UTF-8 go into the csv as they are.
ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}

SKIP_HINT = "Give --on_error=skip to leave out such images and list them."


def skipped_bytes(rows):
  """Content of `skipped.csv` for pairs of file and reason."""
  return csv_bytes([("file", "reason"), *rows])


def csv_bytes(rows):
  """Lines of a csv file."""
  text = io.StringIO(newline="")
  plain = csv.writer(text, lineterminator="\n")
  quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
  for row in rows:
    # A carriage return ends a line for readers; Python 3.11 does not quote it.
    has_return = any("\r" in str(field) for field in row)
    (quoted if has_return else plain).writerow(row)
  return text.getvalue().encode(**ENCODING)


def digest(images, start=0, stop=None):
  """A digest of the names and sizes of images, none of which is read.

  Args:
    images: A collection.
    start: Index of the first image.
    stop: Index after the last one; the end by default.

  Returns:
    64 hexadecimal digits. An image that is replaced by another one of the same
    name and size goes unnoticed.
  """
  stop = len(images) if stop is None else stop
  sha256 = hashlib.sha256(getattr(images, "fingerprint", "").encode())
  for chunk in range(start, stop, 4096):
    end = min(chunk + 4096, stop)
    listing = [images.names[chunk:end], images.num_bytes(chunk, end)]
    sha256.update(json.dumps(listing).encode())
  return sha256.hexdigest()


def names_digest(images):
  """A digest of the names of all images in their order."""
  sha256 = hashlib.sha256(getattr(images, "fingerprint", "").encode())
  for name in images.names:
    sha256.update(json.dumps(name).encode())
  return sha256.hexdigest()
