"""Batches of decoded images, made in threads ahead of what takes them.

Every batch has the same shape and always the same images in the same places,
wherever a run begins: so no bit of features or of packed images depends on an
interruption.

Usage:
  for batch in decoded.decode_ahead(images, ranges, num_rows=64):
    x = forward(params, batch.image)
"""

import collections
import concurrent.futures
import dataclasses
import hashlib

import numpy as np

from alignet_jax import artifacts

# Batches that are decoded, or being decoded, before they are asked for.
NUM_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Batch:
  """Images start, start + 1, ... stop - 1 of a collection, decoded.

  Attributes:
    start: Index of the first image.
    stop: Index after the last one.
    image: uint8[num_rows size size 3]; rows from stop - start on, and those
      that could not be decoded, are zeros.
    sha256: One per image: 64 hexadecimal digits of its bytes, or None if it
      could not be decoded.
    reasons: Index of an image -> why it could not be decoded.
  """

  start: int
  stop: int
  image: np.ndarray
  sha256: list[str | None]
  reasons: dict[int, str]


def decode_ahead(images, ranges, *, num_rows, num_threads=4):
  """Decodes the images of several ranges in turn.

  Args:
    images: A collection with `read` and `decode` (`images/collections.py`).
    ranges: List of (start, stop), each of 1 to `num_rows` images.
    num_rows: Rows of each batch.
    num_threads: Images decoded at the same time.

  Yields:
    A `Batch` for each range, in order.

  Raises:
    OSError: If the disk failed, when the batch that needs it is due.
  """

  def decode(index, row):
    try:
      data = images.read(index)
      row[...] = images.decode(data, index)
    except artifacts.InputError as error:
      return None, str(error)
    return hashlib.sha256(data).hexdigest(), None

  def submit(start, stop):
    image = np.zeros((num_rows, images.size, images.size, 3), np.uint8)
    futures = [
      pool.submit(decode, index, image[index - start])
      for index in range(start, stop)
    ]
    return start, stop, image, futures

  pool = concurrent.futures.ThreadPoolExecutor(num_threads)
  try:
    waiting = collections.deque()
    for start, stop in [*ranges, *[(None, None)] * NUM_AHEAD]:
      if start is not None:
        waiting.append(submit(start, stop))
      if waiting and (len(waiting) > NUM_AHEAD or start is None):
        yield _collect(*waiting.popleft())
  finally:
    pool.shutdown(cancel_futures=True)


def _collect(start, stop, image, futures):
  done = [future.result() for future in futures]
  reasons = {
    start + row: reason
    for row, (_, reason) in enumerate(done)
    if reason is not None
  }
  return Batch(start, stop, image, [digest for digest, _ in done], reasons)
