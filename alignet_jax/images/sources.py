"""Opens the image sets that a config names.

A config has one source for all its images. Each source has the same sets:
"stimuli", what people judged, one row per object; "collection", the unlabelled
images that clusters and triplets are made of. The generated world has three
more: "pretrain", "support" and "evaluation" (see `images.world`).

Usage:
  images = sources.open_images(config, "collection", size=224)
"""

from alignet_jax import artifacts
from alignet_jax.images import collections, opening, preprocess
from alignet_jax.images import world as world_lib

SOURCES = ("generated", "folder")


def open_images(config, name, *, size):
  """Opens one set of images.

  Args:
    config: has `images.source`, one of `SOURCES`, `seed`, and `world` or the
      path `images.<name>`: a folder or what else `opening` opens.
    name: name of the set.
    size: height and width in pixels that the model takes.

  Returns:
    A collection, see `images.collections`.

  Raises:
    artifacts.InputError: for an unknown source, a missing folder, or a
      generated world of another size.
  """
  source = config.images.source
  if source == "generated":
    if size != config.world.size:
      raise artifacts.InputError(
        f"The model takes images of {size} pixels but config.world.size is "
        f"{config.world.size}; they must be equal."
      )
    world = make_world(config)
    exemplars = world_lib.exemplars_of(world, name, config.world.num_images)
    pixels = world_lib.draw(
      world, exemplars, size=size, seed=config.seed, stream=name
    )
    return collections.ArrayImages(
      pixels,
      names=[
        f"{name}/{row}: {world.name(exemplar)}"
        for row, exemplar in enumerate(exemplars)
      ],
      labels=exemplars,
    )
  if source == "folder":
    return opening.open_collection(
      config.images[name], preprocess.Preprocessing(size)
    )
  raise artifacts.InputError(
    f"config.images.source is {source!r}; known are {', '.join(SOURCES)}."
  )


def make_world(config):
  """Makes the world of a config."""
  return world_lib.make_world(
    seed=config.seed,
    num_exemplars=config.world.num_exemplars,
    num_heldout_basics=config.world.num_heldout_basics,
  )
