"""BREEDS: superclasses whose subclasses differ between training and test.

Superclasses are the nodes at one depth of a class hierarchy below an ancestor,
with enough ImageNet classes below them; half of each one's classes are for
training, the other half for test (Santurkar et al., 2021; paper.md, section E).
The hierarchy is the user's: the files of the authors' release, dataset_class_
info.json and class_hierarchy.txt (node_names.txt is not needed).

The subclasses are drawn by numpy's `RandomState(2)`, superclass after
superclass in the order of their ids, by which the published splits were drawn.

Usage:
  tree = breeds.load_hierarchy("imagenet_class_hierarchy/modified")
  split = breeds.split(tree, "living17")
  split.source["n02084071"]                 # ("n02085620", "n02088364")
"""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from alignet_jax import artifacts

FILES = ("dataset_class_info.json", "class_hierarchy.txt")

ROOT = "n00001740"


class Task(NamedTuple):
  """Which nodes become superclasses.

  Attributes:
    depth: Steps from the root, along the longest way.
    ancestor: Node that they are below.
    num_subclasses: ImageNet classes of each, half of them for the test.
    num_superclasses: How many there are in the published hierarchy.
  """

  depth: int
  ancestor: str
  num_subclasses: int
  num_superclasses: int


TASKS = {
  "entity13": Task(3, ROOT, 20, 13),
  "entity30": Task(4, ROOT, 8, 30),
  "living17": Task(5, "n00004258", 4, 17),
  "nonliving26": Task(5, "n00021939", 4, 26),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Hierarchy:
  """Parents and children of nodes, with only what leads to a class.

  Attributes:
    children: Dict from node to its sorted children.
    classes: Ids of the ImageNet classes.
    depth: Dict from node to the length of its longest way from the root.
  """

  children: dict
  classes: frozenset
  depth: dict

  def classes_below(self, node):
    """Sorted ImageNet classes at or below a node; not below a class."""
    found, todo = set(), [node]
    while todo:
      here = todo.pop()
      if here in self.classes:
        found.add(here)
      else:
        todo += self.children.get(here, ())
    return sorted(found)


class Split(NamedTuple):
  """Dicts from superclass to the ids of its classes in training and test."""

  source: dict
  target: dict


def load_hierarchy(folder):
  """Reads the files of a class hierarchy.

  Args:
    folder: Holds `FILES`: a list of [number, id, name], and lines of a parent
      and a child.

  Returns:
    `Hierarchy`.

  Raises:
    artifacts.InputError: A file is missing or of another form.
  """
  folder = pathlib.Path(folder)
  info = artifacts.read_json(folder / FILES[0])
  try:
    classes = [str(entry[1]) for entry in info]
  except (TypeError, IndexError, KeyError) as error:
    raise artifacts.InputError(
      f"{folder / FILES[0]}: expected a list of [number, id, name]."
    ) from error
  path = folder / FILES[1]
  try:
    text = path.read_text(encoding="utf-8")
  except OSError as error:
    raise artifacts.InputError(
      f"{path} cannot be read: {error.strerror}."
    ) from error
  edges = []
  for number, line in enumerate(text.splitlines(), start=1):
    words = line.split()
    if words and len(words) != 2:
      raise artifacts.InputError(
        f"{path}, line {number}: expected a parent and a child, and it is "
        f"{line.strip()[:50]!r}."
      )
    edges += [tuple(words)] if words else []
  return make_hierarchy(edges, classes)


def make_hierarchy(edges, classes):
  """A hierarchy of (parent, child) edges above some classes."""
  parents = {}
  for parent, child in edges:
    parents.setdefault(child, set()).add(parent)
  children, todo, seen = {}, list(classes), set()
  while todo:
    node = todo.pop()
    if node in seen:
      continue
    seen.add(node)
    for parent in parents.get(node, ()):
      children.setdefault(parent, set()).add(node)
      todo.append(parent)
  children = {node: sorted(below) for node, below in children.items()}
  if ROOT not in children:
    raise artifacts.InputError(
      f"The hierarchy has no way from {ROOT} to any of its {len(classes)} "
      "classes."
    )
  depth, level = {}, {ROOT}
  for step in range(len(seen) + 1):
    if not level:
      return Hierarchy(children, frozenset(classes), depth)
    depth |= dict.fromkeys(level, step)  # A longer way overwrites a shorter.
    level = {child for node in level for child in children.get(node, ())}
  raise artifacts.InputError("The hierarchy has a ring.")


def split(hierarchy, name, *, check=True, seed=2):
  """The superclasses of a task and their classes.

  Args:
    hierarchy: `Hierarchy`.
    name: One of `TASKS`.
    check: Whether the number of superclasses must be the published one.
    seed: Of the draws; the published splits have 2.

  Returns:
    `Split`, equally many classes in both of every superclass.

  Raises:
    artifacts.InputError: Another name or number of superclasses.
  """
  if name not in TASKS:
    raise artifacts.InputError(
      f"There is no task {name!r}; known are {', '.join(TASKS)}."
    )
  task = TASKS[name]
  below, todo = set(), [task.ancestor]
  while todo:
    node = todo.pop()
    if node not in below:
      below.add(node)
      todo += hierarchy.children.get(node, ())
  nodes = sorted(
    node
    for node in below
    if hierarchy.depth.get(node) == task.depth
    and len(hierarchy.classes_below(node)) >= task.num_subclasses
  )
  if check and len(nodes) != task.num_superclasses:
    raise artifacts.InputError(
      f"{name} has {len(nodes)} superclasses in this hierarchy; the published "
      f"one has {task.num_superclasses}. Give the modified hierarchy of the "
      "BREEDS release."
    )
  rng = np.random.RandomState(seed)
  source, target = {}, {}
  half = task.num_subclasses // 2
  for node in nodes:
    drawn = rng.choice(
      hierarchy.classes_below(node), task.num_subclasses, replace=False
    )
    source[node] = tuple(map(str, drawn[:half]))
    target[node] = tuple(map(str, drawn[half:]))
  return Split(source, target)
