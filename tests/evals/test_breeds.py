import json

import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.evals import breeds


def make(num_per_node, *, depth=3, ancestor=breeds.ROOT):
  """A chain from the root to `ancestor`, and nodes at a depth with classes."""
  edges, classes = [], []
  way = breeds.ROOT
  for step in range(1, depth):
    below = ancestor if ancestor != breeds.ROOT and step == 2 else f"way{step}"
    edges.append((way, below))
    way = below
  for node, num in enumerate(num_per_node):
    name = f"n{node:08d}"
    edges.append((way, name))
    for index in range(num):
      wnid = f"n1{node:03d}{index:04d}"
      # Half of the classes are one step deeper.
      if index % 2:
        edges += [(name, f"in{wnid}"), (f"in{wnid}", wnid)]
      else:
        edges.append((name, wnid))
      classes.append(wnid)
  return edges, classes


@pytest.mark.parametrize("name", breeds.TASKS)
def test_published_counts(name):
  task = breeds.TASKS[name]
  # Some nodes have too few classes, and do not count.
  sizes = [task.num_subclasses + 3] * task.num_superclasses + [1, 2]
  edges, classes = make(sizes, depth=task.depth, ancestor=task.ancestor)
  edges.append((breeds.ROOT, "aside"))
  edges.append(("aside", classes[0]))  # A shorter way changes no depth.
  tree = breeds.make_hierarchy(edges, classes)
  split = breeds.split(tree, name)
  assert len(split.source) == len(split.target) == task.num_superclasses
  for node in split.source:
    source, target = set(split.source[node]), set(split.target[node])
    assert len(source) == len(target) == task.num_subclasses // 2
    assert not source & target
    assert source | target <= set(tree.classes_below(node))
  assert breeds.split(tree, name) == split
  with pytest.raises(artifacts.InputError, match="the published one has"):
    fewer = breeds.make_hierarchy(
      *make(sizes[1:], depth=task.depth, ancestor=task.ancestor)
    )
    breeds.split(fewer, name)


def test_draws_are_those_of_the_release():
  # The release: RandomState(2), superclass after superclass, a choice of the
  # sorted classes without replacement, the first half for training.
  edges, classes = make([6] * 17, depth=5, ancestor="n00004258")
  tree = breeds.make_hierarchy(edges, classes)
  split = breeds.split(tree, "living17")
  rng = np.random.RandomState(2)
  for node in sorted(split.source):
    below = sorted(c for c in classes if c[2:5] == node[-3:])
    drawn = rng.choice(below, 4, replace=False)
    assert split.source[node] == tuple(drawn[:2])
    assert split.target[node] == tuple(drawn[2:])


def test_files(tmp_path):
  edges, classes = make([4] * 17, depth=5, ancestor="n00004258")
  info = [[i, wnid, "name"] for i, wnid in enumerate(classes)]
  (tmp_path / breeds.FILES[0]).write_text(json.dumps(info))
  path = tmp_path / breeds.FILES[1]
  path.write_text("".join(f"{a} {b}\n" for a, b in edges))
  tree = breeds.load_hierarchy(tmp_path)
  assert len(breeds.split(tree, "living17").source) == 17
  with pytest.raises(artifacts.InputError, match="no task 'living18'"):
    breeds.split(tree, "living18")
  path.write_text("a b c\n")
  with pytest.raises(artifacts.InputError, match="line 1"):
    breeds.load_hierarchy(tmp_path)
  (tmp_path / breeds.FILES[0]).write_text("[1, 2]")
  with pytest.raises(artifacts.InputError, match="list of"):
    breeds.load_hierarchy(tmp_path)


def test_a_ring_is_refused():
  edges = [(breeds.ROOT, "a"), ("a", "b"), ("b", "a"), ("b", "c")]
  with pytest.raises(artifacts.InputError, match="ring"):
    breeds.make_hierarchy(edges, ["c"])
