"""Dense batches with their images and the teacher's similarities.

The batch of step s depends on (seed, s) alone, as that of `batches.Batches`
does, and its files are decoded by the same stream. Its target is the matrix of
the teacher's similarities between its images, computed as the batch is made
from rows of the teacher's features.

Usage:
  for batch in dense_batches.make_dataset(
      cluster_ids, features, images, transform=transform, clusters_per_batch=48,
      images_per_cluster=32, seed=0, start_step=0, num_steps=100):
    batch["image"], batch["teacher_sims"]       # [1536 h w 3], [1536 1536]
"""

import numpy as np

from alignet_jax import artifacts
from alignet_jax.triplets import batches as batches_lib
from alignet_jax.triplets import dense, hashing, stream

# A stream of the seed; those of `batches` are 0 to 2.
_DRAWS, _REPLACEMENTS = 3, 4


class DenseBatches:
  """Makes any dense batch of a seed; nothing is kept from batch to batch.

  Attributes:
    fields: dtype of each field of a batch but the images.
    shape: Of the items of a batch, -1 for its share.
    images: The collection.
    num_items: Images per batch of this host.
    broken: Dict from each image that was found broken to why.
  """

  fields = {"teacher_sims": "float32", "index": "int64", "replaced": "bool"}
  shape = (-1,)

  def __init__(
    self,
    cluster_ids,
    features,
    images,
    *,
    clusters_per_batch,
    images_per_cluster,
    seed,
    transform=None,
    temperature=1.0,
    host_index=0,
    num_hosts=1,
    on_error="refuse",
  ):
    """Describes the batches; reads no image. See `make_dataset`."""
    batches_lib.check_on_error(on_error)
    if on_error == "replace" and num_hosts > 1:
      raise artifacts.InputError(
        "on_error is 'replace', which dense batches allow on one host only: a"
        " host does not know which images of the others are broken. Find them"
        " by packing the images, or use on_error='refuse'."
      )
    size = clusters_per_batch * images_per_cluster
    self._share = batches_lib.share_of(
      size, host_index, num_hosts, unit="images"
    )
    if not len(cluster_ids) == len(features) == len(images):
      raise artifacts.InputError(
        f"There are {len(images)} images, {len(features)} rows of features and"
        f" {len(cluster_ids)} cluster numbers; all must be of the same images."
      )
    try:
      self._sampler = dense.Sampler(
        cluster_ids,
        (seed, _DRAWS),
        clusters_per_batch=clusters_per_batch,
        images_per_cluster=images_per_cluster,
      )
    except ValueError as error:
      raise artifacts.InputError(
        f"{error} Lower one of the two numbers, or make fewer clusters."
      ) from error
    self.images = images
    self.num_items = self._share.stop - self._share.start
    self.broken = {}
    self._cluster_ids = np.asarray(cluster_ids)
    self._features, self._transform = features, transform
    self._temperature = np.float32(temperature)
    self._seed, self._on_error = seed, on_error

  def plan(self, step):
    """What a batch consists of, as far as broken images are known.

    Args:
      step: int, at least 0.

    Returns:
      items: int64[s], the images of this host's share s of the batch.
      fields: The batch without its images, see `make_dataset`.
    """
    drawn = self._sampler.draw(1, start=int(step)).reshape(-1)
    items = self._replace(drawn, int(step))
    return items[self._share], {
      "teacher_sims": self._similarities(items)[self._share],
      "index": items[self._share],
      "replaced": (items != drawn)[self._share],
    }

  def make(self, step):
    """The batch of one step; see `make_dataset`."""
    while True:
      items, fields = self.plan(step)
      try:
        image = self.images.load(items)
      except artifacts.InputError:
        if not self.note_broken(items):
          raise
        continue
      return {"image": image, **fields}

  def note_broken(self, items):
    """As of `batches.Batches`."""
    if self._on_error == "refuse":
      return False
    return batches_lib.find_broken(self.images, items, self.broken)

  def _similarities(self, items):
    """The teacher's similarities between images, f32[m m]."""
    x = np.asarray(self._features[items], np.float32)
    if self._transform is not None:
      x = self._transform.apply(x)
    # Of all images, also for a share: the last bits of a product of matrices
    # depend on its shape.
    with np.errstate(over="ignore", invalid="ignore"):
      sims = x @ x.T / self._temperature
    if not np.all(np.isfinite(sims)):
      bad = items[np.argmin(np.isfinite(np.diagonal(sims)))]
      raise artifacts.InputError(
        f"The teacher's similarities of image {bad} are not finite: its row of"
        " the features holds NaN or infinity, or numbers that are too large."
      )
    return sims

  def _replace(self, drawn, step):
    """Puts other images of the same cluster in place of broken ones.

    The candidates of a place stand in an order that depends on the seed, the
    step and the place, and are gone through from the first; so the batch does
    not depend on when an image was found to be broken.
    """
    items = drawn.copy()
    for place in np.flatnonzero(np.isin(drawn, list(self.broken))):
      cluster = self._cluster_ids[drawn[place]]
      members = np.flatnonzero(self._cluster_ids == cluster)
      key = hashing.key(self._seed, _REPLACEMENTS, step, place)
      order = hashing.permute(key, np.arange(len(members)), len(members))
      usable = ~np.isin(members, [*self.broken, *items, *drawn])
      left = members[order][usable[order]]
      if not len(left):
        raise artifacts.InputError(
          f"Cluster {cluster} has too few images that are not broken for a"
          f" dense batch. One of them: {self.broken[int(drawn[place])]}"
        )
      items[place] = left[0]
    return items


def make_dataset(
  cluster_ids,
  features,
  images,
  *,
  start_step,
  num_steps,
  num_parallel_batches=2,
  num_parallel_images=None,
  num_prefetched=2,
  broken=None,
  **settings,
):
  """Makes the dense batches of steps start_step, ... ahead of their use.

  Args:
    cluster_ids: int[n] cluster of each image.
    features: [n d] numbers, the teacher's raw features; may be memory-mapped.
    images: A collection (`images/collections.py`) of the same n images.
    start_step: First step; getting there costs nothing.
    num_steps: How many batches to give.
    num_parallel_batches: See `dataset.make_dataset`.
    num_parallel_images: Likewise.
    num_prefetched: Likewise.
    broken: Likewise.
    **settings: `clusters_per_batch` P, `images_per_cluster` K and `seed`, ints;
      `transform`, an `AffineTransform` for the features, or None;
      `temperature`, positive, divides the similarities; `host_index`,
      `num_hosts` and `on_error` of `dataset.make_dataset`, with another image
      of the same cluster in place of a broken one.

  Yields:
    Dicts of numpy arrays, m = P K images, cluster after cluster, and s this
    host's share of them: "image" uint8[s h w 3], "teacher_sims" f32[s m],
    "index" int64[s], the images, and "replaced" bool[s].

  Raises:
    artifacts.InputError: An image is refused, or there are too few clusters.
  """
  batches = DenseBatches(cluster_ids, features, images, **settings)
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
