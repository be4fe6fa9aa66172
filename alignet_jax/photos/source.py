"""The photographs of a run, what people say of them, and the backbone.

Two sources give the same: files, or, to try the road without any, pictures of
the generated world with the similarities of its taxonomy.

Usage:
  photos = source.make(config)
  pixels = photos.open(preprocessing).load(rows)       # uint8[b size size 3]
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from alignet_jax import artifacts
from alignet_jax.backbones import load
from alignet_jax.images import collections, sources
from alignet_jax.images import world as world_lib
from alignet_jax.judgments import simulated, things
from alignet_jax.photos import index

# Whose similarities the generated source takes: what sharing a thing adds.
_WEIGHTS = {
  "kind": 0.3,
  "superordinate": 3.0,
  "basic": 1.0,
  "exemplar": 2.5,
  "outline": 0.7,
  "colour": 0.7,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """Photographs and what is known of them.

  Attributes:
    open: From a `preprocess.Preprocessing` to the collection of n images.
    names: One per photograph.
    matched: int64[m] rows of the photographs that show a concept, ascending.
    embedding: f32[m e] of people's choices about these; dot products are their
      similarities, temperature 1.
    categories: m strings: superordinate category, "" for none.
  """

  open: Callable
  names: list[str]
  matched: np.ndarray
  embedding: np.ndarray
  categories: list[str]


def make(config):
  """Reads or generates the source of `config.photos`.

  Args:
    config: has photos, and world and seed if it is generated.

  Returns:
    `Source`.

  Raises:
    artifacts.InputError: A file is missing or does not fit the others.
  """
  kind = config.photos.source
  if kind not in SOURCES:
    raise artifacts.InputError(
      f"config.photos.source is {kind!r}; known are {', '.join(SOURCES)}."
    )
  return SOURCES[kind](config)


def load_backbone(config, size):
  """Loads the backbone of `config.photos.backbone` for a number of pixels."""
  settings = config.photos.backbone
  return load.load(
    settings.name,
    settings.weights or None,
    image_size=size,
    seed=config.seed,
    **settings.fields.to_dict(),
  )


def _read(config):
  paths = config.photos
  embedding = things.load_embedding(paths.vice_embedding)
  listed = index.read(paths.index, num_objects=len(embedding))
  concepts = listed.concepts[listed.matched]
  return Source(
    open=lambda preprocessing: index.open_images(
      paths.index, paths.images, preprocessing
    ),
    names=listed.names,
    matched=listed.matched,
    embedding=embedding[concepts],
    categories=index.categories(paths.concepts, paths.category, concepts),
  )


def _generate(config):
  """Pictures of the world: one per exemplar judged, and others beside them."""
  world = sources.make_world(config)
  sets = [
    world_lib.exemplars_of(world, name, config.world.num_images)
    for name in ("stimuli", "evaluation")
  ]
  judged, exemplars = sets[0], np.concatenate(sets)
  pixels = world_lib.draw(
    world,
    exemplars,
    size=config.world.size,
    seed=config.seed,
    stream="photographs",
  )
  names = [
    f"{row}: {world.name(exemplar)}" for row, exemplar in enumerate(exemplars)
  ]
  images = collections.ArrayImages(pixels, names=names)
  weights = simulated.average_weights(_WEIGHTS)
  sims = simulated.shared(world, judged[:, None], judged) @ weights
  # Rows whose dot products are these, up to negative eigenvalues.
  values, vectors = np.linalg.eigh(sims)
  embedding = vectors * np.sqrt(np.maximum(values, 0.0))[None]
  return Source(
    open=images.with_preprocessing,
    names=names,
    matched=np.arange(len(judged)),
    embedding=embedding.astype(np.float32),
    categories=[world.superordinate_name(exemplar) for exemplar in judged],
  )


SOURCES = {"files": _read, "generated": _generate}
