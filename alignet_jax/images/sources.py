"""Opens the image sets that a config names.

A config has one source for all its images: "generated", or "files", each set of
which may be of another kind (a folder, a tar, a csv list, TFDS, packed pixels;
see `opening.KINDS`). Each source has the same sets: "stimuli", what people
judged, one row per object; "collection", the unlabelled images that clusters
and triplets are made of. The generated world has three more: "pretrain",
"support" and "evaluation" (see `images.world`). Files may have one more,
"student_collection": the collection once more, packed for the student, which
takes another size than the teacher. Its path is in config.student, so that
features do not depend on it.

Usage:
  images = sources.open_images(config, "collection", size=224)
"""

import hashlib

from alignet_jax import artifacts
from alignet_jax.images import collections, opening, preprocess
from alignet_jax.images import world as world_lib

SOURCES = ("generated", "files")

# The collection as the student reads it: another set only where one is given.
STUDENT_COLLECTION = "student_collection"
STUDENT_FIELD = "student.collection"


def open_images(config, name, *, size=None, preprocessing=None):
  """Opens one set of images.

  Args:
    config: has `images.source`, one of `SOURCES`, `seed`, and `world` or the
      path `images.<name>`: what `opening` opens.
    name: name of the set.
    size: height and width in pixels that the model takes, for the whole image
      resized as for the released students.
    preprocessing: `preprocess.Preprocessing`, instead of `size`.

  Returns:
    A collection, see `images.collections`.

  Raises:
    artifacts.InputError: for an unknown source, a path that holds no images,
      pixels packed for another model, or a generated world of another size.
  """
  source = config.images.source
  preprocessing = preprocessing or preprocess.Preprocessing(size)
  size = preprocessing.size
  if name == STUDENT_COLLECTION and not has_student_collection(config):
    name = "collection"
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
  if source == "files":
    field, path = f"images.{name}", config.images.get(name)
    if name == STUDENT_COLLECTION:
      field, path = STUDENT_FIELD, config.student.collection
    try:
      return opening.open_collection(path, preprocessing)
    except artifacts.InputError as error:
      raise artifacts.InputError(f"config.{field}: {error}") from error
  raise artifacts.InputError(
    f"config.images.source is {source!r}; known are {', '.join(SOURCES)}."
  )


def describe(images):
  """What must be the same where rows of a collection are referred to again.

  Args:
    images: A collection.

  Returns:
    Dict of JSON values: how many images there are, and a digest of their names.
  """
  names = "\n".join(images.names).encode("utf-8", "surrogateescape")
  return {
    "num_images": len(images),
    "names_sha256": hashlib.sha256(names).hexdigest(),
  }


def check_same(images, described):
  """Refuses a student's collection that is not the one described.

  Args:
    images: A collection.
    described: What `describe` gave for the one that the rows refer to.

  Raises:
    artifacts.InputError: Another number of images, or other names.
  """
  if len(images) != described["num_images"]:
    differ = (
      f"has {len(images)} images, and the features were extracted of"
      f" {described['num_images']}"
    )
  elif describe(images) != described:
    differ = "has other names or another order than what the features are of"
  else:
    return
  raise artifacts.InputError(
    f"config.{STUDENT_FIELD} {differ}. Its images must be those of"
    " config.images.collection: make it by `python -m alignet_jax.images.pack"
    " --images=...` with that very path, or leave it empty."
  )


def has_student_collection(config):
  """Whether the student reads its images from a place of its own."""
  if config.images.source != "files" or "student" not in config:
    return False
  return bool(config.student.get("collection", ""))


def make_world(config):
  """Makes the world of a config."""
  return world_lib.make_world(
    seed=config.seed,
    num_exemplars=config.world.num_exemplars,
    num_heldout_basics=config.world.num_heldout_basics,
  )
