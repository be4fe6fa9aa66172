"""Batches of triplets made ahead of their use by tf.data.

Files are read in Python, a batch of them in one call, and decoded and resized
in C++, one image per task, so that all cores have work whatever the size of the
batch. Images that are pixels already are gathered by numpy, one batch per task.

Usage:
  for batch in stream.iterate(batches, start_step, stop_step):
    batch["image"]
"""

import concurrent.futures
import os

import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import graph


def iterate(
  batches,
  start_step,
  stop_step,
  *,
  num_parallel_batches=2,
  num_parallel_images=None,
  num_prefetched=2,
):
  """Gives the batches of several steps in turn.

  Args:
    batches: `batches.Batches` or `dense_batches.DenseBatches`.
    start_step: First step.
    stop_step: Step after the last one.
    num_parallel_batches: See `dataset.make_dataset`.
    num_parallel_images: Likewise.
    num_prefetched: Likewise.

  Yields:
    Dicts as of `batches.make`.

  Raises:
    Whatever loading an image raised, when the batch that needs it is due.
  """
  # Here, so that the maths of batches can be used without TensorFlow.
  import tensorflow as tf

  if graph.can_decode(batches.images):
    with concurrent.futures.ThreadPoolExecutor(
      batches.images.num_threads
    ) as pool:
      yield from _iterate_files(
        batches,
        pool,
        start_step,
        stop_step,
        num_parallel_batches=num_parallel_batches,
        num_parallel_images=num_parallel_images or os.cpu_count() or 1,
        num_prefetched=num_prefetched,
      )
    return
  failures = {}

  def make(step):
    try:
      batch = batches.make(int(step))
    except Exception as error:
      failures[int(step)] = error
      raise
    return batch["image"], *(batch[name] for name in batches.fields)

  def make_in_graph(step):
    image, *fields = tf.numpy_function(
      make, [step], ["uint8", *batches.fields.values()]
    )
    return {"image": image, **dict(zip(batches.fields, fields, strict=True))}

  dataset = tf.data.Dataset.range(start_step, stop_step)
  dataset = dataset.map(
    make_in_graph, num_parallel_calls=num_parallel_batches, deterministic=True
  ).prefetch(num_prefetched)
  try:
    yield from dataset.with_options(_options()).as_numpy_iterator()
  except tf.errors.OpError:
    # TensorFlow keeps only the text of an error raised in a map.
    if failures:
      raise failures[min(failures)] from None
    raise


class _Files:
  """The files of batches, and what becomes of them.

  Attributes:
    batches: `batches.Batches`.
    failures: Step -> what reading its files raised.
  """

  def __init__(self, batches, pool, slow):
    self.batches = batches
    self.failures = {}
    self._pool = pool
    self._slow = slow  # Set of images that only Python decodes.
    self._fields = {}  # Step -> inverse and fields, until its images are made.

  def read(self, step):
    """Reads the distinct images of a batch.

    Returns:
      bytes[num_items], those too many empty, and int32[num_items], what they
      are (see `graph`).
    """
    try:
      return self._read(int(step))
    except Exception as error:
      self.failures[int(step)] = error
      raise

  def fields(self, step):
    """For each item of a batch its place in what `read` gave; the fields."""
    inverse, fields = self._fields.pop(int(step))
    return inverse, *(fields[name] for name in self.batches.fields)

  def make_slowly(self, step):
    """The batch by Python alone, after TensorFlow refused an image of it."""
    import tensorflow as tf

    batch = self.batches.make(step)  # Raises what names the image.
    items, _ = self.batches.plan(step)
    for item in np.unique(items).tolist():
      data = self.batches.images.read(item)
      if graph.is_plain(data):
        try:
          tf.io.decode_jpeg(data, channels=3)
        except tf.errors.OpError:
          self._slow.add(item)  # Else it would break every batch it is in.
    return batch

  def _read(self, step):
    while True:
      items, fields = self.batches.plan(step)
      distinct, first, inverse = np.unique(
        items, return_index=True, return_inverse=True
      )
      # In the order of the batch, so that one without repeats is not moved.
      order = np.argsort(first)
      place = np.empty(len(order), np.int64)
      place[order] = np.arange(len(order))
      try:
        read = self._prepare(distinct[order].tolist())
      except artifacts.InputError:
        if not self.batches.note_broken(items):
          raise
        continue
      break
    self._fields[step] = place[inverse.reshape(-1)], fields
    data = np.full(items.size, b"", object)
    data[: len(read)] = [x for x, _ in read]
    kind = np.full(items.size, graph.NOTHING, np.int32)
    kind[: len(read)] = [x for _, x in read]
    return data, kind

  def _prepare(self, items):
    """`graph.prepare` of each item; several threads wait for the disk."""
    images = self.batches.images

    def prepare(part):
      return [
        graph.prepare(images, item, is_slow=item in self._slow) for item in part
      ]

    # A task for each image would cost more than reading it from memory.
    length = -(-len(items) // images.num_threads)
    parts = [items[i : i + length] for i in range(0, len(items), length)]
    return [x for part in self._pool.map(prepare, parts) for x in part]


def _iterate_files(batches, pool, start_step, stop_step, **settings):
  """`iterate` for images that are files."""
  import tensorflow as tf

  step, slow = start_step, set()
  while step < stop_step:
    # Anew after an image was replaced, or TensorFlow was stricter than PIL:
    # what was made ahead may have that image too.
    files = _Files(batches, pool, slow)
    made = _make_files_dataset(files, step, stop_step, **settings)
    try:
      for batch in made.as_numpy_iterator():
        yield batch
        step += 1
    except tf.errors.OpError:
      if step in files.failures:
        raise files.failures[step] from None
      batch = files.make_slowly(step)
    else:
      return
    yield batch
    step += 1


def _make_files_dataset(
  files,
  start_step,
  stop_step,
  *,
  num_parallel_batches,
  num_parallel_images,
  num_prefetched,
):
  """The tf.data dataset of `_iterate_files`."""
  import tensorflow as tf

  size, num_items = files.batches.images.size, files.batches.num_items
  dtypes, shape = files.batches.fields, files.batches.shape

  def read(step):
    data, kind = tf.numpy_function(files.read, [step], ["string", "int32"])
    return (
      tf.ensure_shape(data, [num_items]),
      tf.ensure_shape(kind, [num_items]),
    )

  def decode(data, kind):
    return graph.decode_square(data, kind, size)

  def finish(step, square):
    inverse, *fields = tf.numpy_function(
      files.fields, [step], ["int64", *dtypes.values()]
    )
    in_place = tf.reduce_all(inverse == tf.range(num_items, dtype=tf.int64))
    image = tf.cond(
      in_place, lambda: square, lambda: tf.gather(square, inverse)
    )
    image = tf.reshape(image, [*shape, size, size, 3])
    return {"image": image, **dict(zip(dtypes, fields, strict=True))}

  steps = tf.data.Dataset.range(start_step, stop_step)
  squares = (
    steps.map(read, num_parallel_calls=num_parallel_batches, deterministic=True)
    .unbatch()
    .map(decode, num_parallel_calls=num_parallel_images, deterministic=True)
    .batch(num_items, drop_remainder=True)
  )
  options = _options()
  # There is an image for every core already.
  options.threading.max_intra_op_parallelism = 1
  return (
    tf.data.Dataset.zip((steps, squares))
    .map(finish)
    .prefetch(num_prefetched)
    .with_options(options)
  )


def _options():
  """tf.data without its tuning.

  Its thread has nothing to tune here, and now and then the end of a dataset
  waits for it: 60 short ones took 1.9 s to close instead of 0.02 s, and on a
  busy machine single ones half a minute.
  """
  import tensorflow as tf

  options = tf.data.Options()
  options.autotune.enabled = False
  return options
