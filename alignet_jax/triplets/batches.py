"""Which triplets make a batch, and what such a batch holds.

The batch of a step is a function of (seed, step): order and positions are
hashes of (seed, place in the stream), so nothing is kept between batches.

Usage:
  rows, order = batches.batch_rows(
    step, num_triplets=10_000, batch_size=512, seed=0)
  batch = batches.Batches(
    indices, pair_sims, images, batch_size=512, seed=0).make(step)
"""

import itertools

import numpy as np

from alignet_jax import artifacts
from alignet_jax.triplets import hashing, labels

# All orders of the three positions of a triplet, int64[6 3].
ORDERS = np.array(list(itertools.permutations(range(3))))

# Streams of a seed.
_EPOCH_ORDER, _POSITIONS, _REPLACEMENTS = 0, 1, 2

ON_ERROR = ("refuse", "replace")

# Triplets in a row with a broken image before it is no accident.
MAX_REPLACEMENTS = 100


def batch_rows(step, *, num_triplets, batch_size, seed):
  """Says which triplets make a batch, and where their images stand in it.

  The stream of steps 0, 1, ... holds every triplet once per epoch, in an order
  of its own each epoch; a batch may hold the end of one and the start of the
  next. Each of the six orders of a triplet's images is equally likely, anew
  each epoch, because in files the odd image always stands last.

  Args:
    step: int, at least 0.
    num_triplets: n, at least 1.
    batch_size: b, at least 1.
    seed: int.

  Returns:
    rows: int64[b], triplets in [0, n).
    order: int64[b 3]; position p of the batch shows image order[:, p] of the
      triplet.
  """
  place = int(step) * batch_size + np.arange(batch_size, dtype=np.int64)
  epoch_keys = hashing.fold_in(
    hashing.key(seed, _EPOCH_ORDER), place // num_triplets
  )
  rows = hashing.permute(epoch_keys, place % num_triplets, num_triplets)
  orders = hashing.below(hashing.key(seed, _POSITIONS), place, len(ORDERS))
  return rows, ORDERS[orders]


def epoch_rows(step, *, num_triplets, batch_size, seed):
  """Says which triplets make a batch of one epoch in the order of the file.

  Args:
    step: int, at least 0.
    num_triplets: n, at least 1.
    batch_size: b, at least 1.
    seed: int; decides the positions of the images.

  Returns:
    rows, order: As of `batch_rows`. Where the file is at its end, its last
      triplet again.
    mask: bool[b], False for these.
  """
  place = int(step) * batch_size + np.arange(batch_size, dtype=np.int64)
  orders = hashing.below(hashing.key(seed, _POSITIONS), place, len(ORDERS))
  rows = np.minimum(place, num_triplets - 1)
  return rows, ORDERS[orders], place < num_triplets


def check_on_error(on_error):
  """Refuses what `ON_ERROR` does not name."""
  if on_error not in ON_ERROR:
    raise artifacts.InputError(
      f"on_error is {on_error!r}; known are {', '.join(ON_ERROR)}."
    )


def share_of(size, host_index, num_hosts, *, unit):
  """Which part of each batch a host makes.

  Args:
    size: Of the batch of all hosts, in `unit`s.
    host_index: Which of the hosts this is.
    num_hosts: How many there are.
    unit: What a batch is made of, in the plural.

  Returns:
    slice of [0, size).

  Raises:
    artifacts.InputError: The batch cannot be cut so, or there is no such host.
  """
  if size < 1 or size % num_hosts:
    raise artifacts.InputError(
      f"A batch of {size} {unit} cannot be cut into {num_hosts} equal"
      " shares, one per host: make the batch size a multiple of that."
    )
  if not 0 <= host_index < num_hosts:
    raise artifacts.InputError(
      f"host_index is {host_index}; expected at least 0 and less than"
      f" num_hosts, {num_hosts}."
    )
  share = size // num_hosts
  return slice(host_index * share, (host_index + 1) * share)


def find_broken(images, items, broken):
  """Decodes images one by one to find those that cannot be.

  Args:
    images: A collection.
    items: int[...] images, of which one could not be loaded.
    broken: Dict from image to why; gets those found.

  Returns:
    Whether one was found that was not known.
  """
  if not hasattr(images, "decode"):
    return False
  num_known = len(broken)
  for item in np.unique(items).tolist():
    try:
      images.decode(images.read(item), item)
    except artifacts.InputError as error:
      broken[item] = str(error)
  return len(broken) > num_known


class Batches:
  """Makes any batch of one stream; nothing is kept from batch to batch.

  Attributes:
    fields: dtype of each field of a batch but the images.
    shape: Of the items of a batch, -1 for its share.
    images: The collection.
    num_items: Images per batch of this host, three for each triplet.
    broken: Dict from each image that was found broken to why.
  """

  fields = {
    "target_logprobs": "float32",
    "index": "int64",
    "mask": "bool",
    "replaced": "bool",
  }
  shape = (-1, 3)

  def __init__(
    self,
    indices,
    pair_sims,
    images,
    *,
    batch_size,
    seed,
    host_index=0,
    num_hosts=1,
    on_error="refuse",
    one_epoch=False,
  ):
    """Describes the stream; reads no image. See `dataset.make_dataset`."""
    check_on_error(on_error)
    self._share = share_of(batch_size, host_index, num_hosts, unit="triplets")
    if not len(indices):
      raise artifacts.InputError("There is no triplet to make a batch of.")
    self.images = images
    self.broken = {}
    self._indices, self._pair_sims = indices, pair_sims
    self._batch_size, self._seed = batch_size, seed
    self.num_items = 3 * (self._share.stop - self._share.start)
    self._on_error, self._one_epoch = on_error, one_epoch

  def plan(self, step):
    """What a batch consists of, as far as broken images are known.

    Args:
      step: int, at least 0.

    Returns:
      items: int64[b 3], the image at each position.
      fields: The batch without its images, see `dataset.make_batch`.
    """
    rows, order, mask = self._rows(step)
    rows, order, mask = (x[self._share] for x in (rows, order, mask))
    place = step * self._batch_size + np.arange(self._batch_size)[self._share]
    rows, replaced = self._replace(rows, place)
    items = np.asarray(self._indices[rows], np.int64)
    logprobs = labels.target_logprobs(self._pair_sims[rows])
    return np.take_along_axis(items, order, axis=-1), {
      "target_logprobs": np.take_along_axis(logprobs, order, axis=-1),
      "index": rows,
      "mask": mask,
      "replaced": replaced,
    }

  def make(self, step):
    """The batch of one step; see `dataset.make_batch`."""
    while True:
      items, fields = self.plan(step)
      try:
        image = self.images.load(items.reshape(-1))
      except artifacts.InputError:
        if not self.note_broken(items):
          raise
        continue
      return {"image": image.reshape(*self.shape, *image.shape[1:]), **fields}

  def note_broken(self, items):
    """Looks for broken images, if these shall be replaced.

    Args:
      items: int[...] images, of which one could not be loaded.

    Returns:
      Whether there is a batch without them to be made instead.
    """
    if self._on_error == "refuse":
      return False
    return find_broken(self.images, items, self.broken)

  def _rows(self, step):
    where = {
      "num_triplets": len(self._indices),
      "batch_size": self._batch_size,
      "seed": self._seed,
    }
    if self._one_epoch:
      return epoch_rows(step, **where)
    rows, order = batch_rows(step, **where)
    return rows, order, np.ones(len(rows), bool)

  def _replace(self, rows, place):
    """Puts other triplets in place of those with a broken image.

    Which ones depends on the seed and the place in the stream, and not on when
    an image was found to be broken: the candidates of a place are always gone
    through from the first.
    """
    first = rows
    for attempt in range(MAX_REPLACEMENTS if self.broken else 0):
      items = np.asarray(self._indices[rows], np.int64)
      is_bad = np.isin(items, list(self.broken)).any(axis=-1)
      if not is_bad.any():
        break
      keys = hashing.fold_in(hashing.key(self._seed, _REPLACEMENTS), attempt)
      others = hashing.below(keys, place, len(self._indices))
      rows = np.where(is_bad, others, rows)
    else:
      if self.broken:
        raise artifacts.InputError(
          f"{MAX_REPLACEMENTS} triplets in a row have a broken image. The"
          f" first: {next(iter(self.broken.values()))}"
        )
    return rows, rows != first
