"""The generated world: pictures of objects in a three-level taxonomy.

Nothing here is a model of human vision. The world exists so that the whole
road, from judgments to an aligned student, runs in minutes without a download,
and it is made so that there is something to align: what tells exemplars and
basic concepts apart (look and outline) fills the picture and is shared
between superordinates, while the superordinate itself shows only in a few small
parts (wheels, eyes, leaves, ...). A network trained on exemplar labels
therefore represents the superordinate weakly, as the paper reports of real
vision models at the coarse level (paper.md, section E). A gain measured here
shows that the code works, not how large the gain is on photographs.

  superordinate   which small parts the object has           6 kinds
  basic concept   a superordinate with one of 8 outlines     48
  exemplar        a basic concept in one of 32 looks         6 per basic concept

Every picture is a function of (seed, stream, position), so that any part of a
collection can be drawn again at any time.

Usage:
  world = make_world(seed=0, num_exemplars=6, num_heldout_basics=3)
  images = draw(world, exemplars, size=32, seed=0, stream="stimuli")
"""

import dataclasses
import zlib

import numpy as np

from alignet_jax.images import render

SUPERORDINATES = ("animal", "vehicle", "plant", "tool", "food", "furniture")
OUTLINES = (
  "disc",
  "box",
  "wedge",
  "star",
  "loaf",
  "flower",
  "cross",
  "pillar",
)
COLOURS = (
  "red",
  "orange",
  "yellow",
  "green",
  "cyan",
  "blue",
  "purple",
  "pink",
)
PATTERNS = ("plain", "striped", "dotted", "banded")
# A look is a pattern in a colour; look number l has colour l % 8.
LOOKS = tuple(f"{p} {c}" for p in PATTERNS for c in COLOURS)


@dataclasses.dataclass(frozen=True)
class World:
  """The taxonomy: one row per exemplar.

  Attributes:
    superordinate: int32[n], index into `SUPERORDINATES`.
    outline: int32[n], index into `OUTLINES`.
    basic: int32[n], `superordinate * 8 + outline`.
    look: int32[n], index into `LOOKS`.
    heldout: bool[n], True where the basic concept is kept out of the alignment
      (judgments, triplets, students) and used for evaluation alone.
  """

  superordinate: np.ndarray
  outline: np.ndarray
  basic: np.ndarray
  look: np.ndarray
  heldout: np.ndarray

  def __len__(self):
    return len(self.basic)

  def name(self, exemplar):
    """Returns a readable name, such as "striped orange disc animal"."""
    return " ".join(
      (
        LOOKS[self.look[exemplar]],
        OUTLINES[self.outline[exemplar]],
        self.superordinate_name(exemplar),
      )
    )

  def superordinate_name(self, exemplar):
    """Returns the name of an exemplar's superordinate, such as "animal"."""
    return SUPERORDINATES[self.superordinate[exemplar]]


def make_world(*, seed, num_exemplars, num_heldout_basics):
  """Draws the taxonomy.

  Args:
    seed: int; decides the looks and which basics are held out.
    num_exemplars: exemplars per basic concept, 2 to 32.
    num_heldout_basics: basic concepts per superordinate, 1 to 6, that the
      alignment never sees. Their outlines differ from one superordinate to
      the next, so that every outline is also seen in alignment.

  Returns:
    A `World` of 6 * 8 * num_exemplars rows, sorted by basic concept.
  """
  if not 2 <= num_exemplars <= len(LOOKS):
    raise ValueError(
      f"num_exemplars is {num_exemplars}; allowed are 2 to {len(LOOKS)}."
    )
  num_outlines = len(OUTLINES)
  if not 1 <= num_heldout_basics <= num_outlines - 2:
    raise ValueError(
      f"num_heldout_basics is {num_heldout_basics}; allowed are 1 to "
      f"{num_outlines - 2}."
    )
  np_rng = np.random.default_rng([seed, zlib.crc32(b"world")])
  num_basics = len(SUPERORDINATES) * num_outlines
  basic = np.repeat(np.arange(num_basics), num_exemplars)
  looks = np.concatenate(
    [
      np_rng.choice(len(LOOKS), num_exemplars, replace=False)
      for _ in range(num_basics)
    ]
  )
  # A rotated window over one order of the outlines: neighbours in the list of
  # superordinates hold out different ones.
  order = np_rng.permutation(num_outlines)
  heldout_basic = np.zeros((len(SUPERORDINATES), num_outlines), bool)
  for index in range(len(SUPERORDINATES)):
    window = (np.arange(num_heldout_basics) + index) % num_outlines
    heldout_basic[index, order[window]] = True
  basic, looks = basic.astype(np.int32), looks.astype(np.int32)
  return World(
    superordinate=basic // num_outlines,
    outline=basic % num_outlines,
    basic=basic,
    look=looks,
    heldout=heldout_basic.reshape(-1)[basic],
  )


def draw(world, exemplars, *, size, seed, stream, first=0, chunk_size=512):
  """Draws one picture for each exemplar named.

  Position, scale, tilt, background, light and pixel noise vary from picture to
  picture; look, outline and parts are the exemplar's.

  Args:
    world: the `World`.
    exemplars: int[n], rows of `world`.
    size: side of the square picture in pixels, at least 16.
    seed: int.
    stream: name of the collection; the same exemplar at the same position in
      another stream is another picture.
    first: position of `exemplars[0]` in the stream.
    chunk_size: pictures drawn at a time; has no influence on the result.

  Returns:
    uint8[n size size 3].
  """
  if size < 16:
    raise ValueError(f"size is {size} pixels; allowed is 16 or more.")
  exemplars = np.asarray(exemplars)
  images = np.empty((len(exemplars), size, size, 3), np.uint8)
  for start in range(0, len(exemplars), chunk_size):
    rows = exemplars[start : start + chunk_size]
    views = render.sample_views(
      len(rows),
      size=size,
      seed=(seed, zlib.crc32(stream.encode())),
      first=first + start,
    )
    images[start : start + len(rows)] = render.render(
      views,
      size=size,
      outline=world.outline[rows],
      look=world.look[rows],
      parts=world.superordinate[rows],
    )
  return images


def exemplars_of(world, name, num_images):
  """Lists which exemplar each picture of an image set shows.

  The sets:
    pretrain: every exemplar; the backbone learns to name them.
    stimuli: exemplars of the alignment, one picture each; people judge them.
    collection: exemplars of the alignment; triplets are drawn from it.
    support: held-out exemplars; examples for few-shot classification.
    evaluation: held-out exemplars; levels and few-shot tests.

  Args:
    world: the `World`.
    name: name of the set.
    num_images: mapping from the name of each set but "stimuli" to the number of
      pictures per exemplar.

  Returns:
    int32[n] rows of `world`: all exemplars once, then again, and so on.
  """
  heldout = {
    "pretrain": None,
    "stimuli": False,
    "collection": False,
    "support": True,
    "evaluation": True,
  }
  if name not in heldout:
    raise ValueError(
      f"The generated world has no image set {name!r}; it has "
      f"{', '.join(heldout)}."
    )
  rows = np.arange(len(world), dtype=np.int32)
  if heldout[name] is not None:
    rows = rows[world.heldout == heldout[name]]
  repeats = 1 if name == "stimuli" else num_images[name]
  return np.tile(rows, repeats)
