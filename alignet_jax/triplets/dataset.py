"""Batches of labelled triplets: the batch of step s depends on (seed, s) only.

Training reads a stream that goes through all triplets epoch after epoch, each
epoch in another order. Order and positions are hashes of (seed, place in the
stream), so that any batch can be asked for at no cost: a run that goes on after
a kill needs its step and nothing else.

A batch may be made by several hosts, each its share: `host_index` of
`num_hosts`. Put one after the other, the shares are the batch of one host.

Usage:
  for batch in dataset.make_dataset(
      indices, pair_sims, images, batch_size=512, seed=0, start_step=0,
      num_steps=100):
    batch["image"]                                 # uint8[512 3 224 224 3]
  for batch in dataset.make_epoch(
      indices, pair_sims, images, batch_size=512, seed=0):
    batch["mask"]                                  # False: fills up the last
"""

from alignet_jax.triplets import batches as batches_lib
from alignet_jax.triplets import stream


def make_batch(step, indices, pair_sims, images, **settings):
  """Makes the batch of one step, without TensorFlow.

  Args:
    step: int, at least 0.
    indices: int[n 3] images of each triplet.
    pair_sims: f32[n 3] similarities of their pairs (01, 02, 12).
    images: A collection (`images/collections.py`).
    **settings: `batch_size`, `seed` and others of `make_dataset`.

  Returns:
    Dict of numpy arrays, b the share of this host: "image" uint8[b 3 h w 3],
    "target_logprobs" f32[b 3] (entry p: log probability that the teacher calls
    the image at position p odd, at temperature 1), "index" int64[b], the row of
    `indices`, "mask" bool[b], False for what fills up the last batch of an
    epoch, and "replaced" bool[b], True where another triplet had a broken
    image.
  """
  return batches_lib.Batches(indices, pair_sims, images, **settings).make(step)


def make_dataset(
  indices,
  pair_sims,
  images,
  *,
  batch_size,
  seed,
  start_step,
  num_steps,
  num_parallel_batches=2,
  num_parallel_images=None,
  num_prefetched=2,
  host_index=0,
  num_hosts=1,
  on_error="refuse",
  broken=None,
):
  """Makes the batches of steps start_step, start_step + 1, ... ahead of use.

  Files are decoded and resized in C++, each distinct one of a batch once.

  Args:
    indices: int[n 3] images of each triplet; may be memory-mapped.
    pair_sims: f32[n 3] similarities of their pairs (01, 02, 12).
    images: A collection (`images/collections.py`), read from several threads.
    batch_size: Triplets per batch of all hosts.
    seed: int.
    start_step: First step; getting there costs nothing.
    num_steps: How many batches to give.
    num_parallel_batches: Batches whose files are read at the same time.
    num_parallel_images: Images decoded at the same time; None for one per core.
    num_prefetched: Finished batches that wait for the consumer at most.
    host_index: Which of `num_hosts` hosts this is.
    num_hosts: How many share each batch; divides `batch_size`.
    on_error: What to do about an image that cannot be decoded: "refuse", or
      "replace" each triplet that has it by another one, drawn by the seed and
      the place in the stream.
    broken: Dict that gets image -> why, for those; or None.

  Yields:
    Dicts as `make_batch`, of step start_step, start_step + 1, ...

  Raises:
    artifacts.InputError: An image is refused; names it. Raised when the batch
      that needs it is due, as is whatever else reading an image raises.
  """
  batches = batches_lib.Batches(
    indices,
    pair_sims,
    images,
    batch_size=batch_size,
    seed=seed,
    host_index=host_index,
    num_hosts=num_hosts,
    on_error=on_error,
  )
  if broken is not None:
    batches.broken = broken
  yield from stream.iterate(
    batches,
    start_step,
    start_step + num_steps,
    num_parallel_batches=num_parallel_batches,
    num_parallel_images=num_parallel_images,
    num_prefetched=num_prefetched,
  )


def make_epoch(indices, pair_sims, images, *, batch_size, seed, **hosts):
  """Goes through all triplets once, in the order of the file.

  Args:
    indices: int[n 3] images of each triplet.
    pair_sims: f32[n 3] similarities of their pairs (01, 02, 12).
    images: A collection (`images/collections.py`).
    batch_size: Triplets per batch of all hosts.
    seed: int; decides the positions of the images, as in training: a model
      that always calls the same position odd is right by chance only.
    **hosts: `host_index` and `num_hosts`, as of `make_dataset`.

  Yields:
    Dicts as `make_batch`. The last batch is filled up, "mask" tells with what.
  """
  batches = batches_lib.Batches(
    indices,
    pair_sims,
    images,
    batch_size=batch_size,
    seed=seed,
    one_epoch=True,
    **hosts,
  )
  yield from stream.iterate(batches, 0, -(-len(indices) // batch_size))
