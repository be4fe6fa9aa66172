"""Tests of the generated world."""

import numpy as np
import pytest

from alignet_jax.images import world as world_lib

NUM_IMAGES = {"pretrain": 2, "collection": 3, "support": 2, "evaluation": 4}


@pytest.fixture(name="world", scope="module")
def make_world_fixture():
  return world_lib.make_world(seed=0, num_exemplars=3, num_heldout_basics=2)


def test_taxonomy_is_complete_and_looks_differ_within_a_basic(world):
  num_basics = len(world_lib.SUPERORDINATES) * len(world_lib.OUTLINES)
  np.testing.assert_array_equal(np.bincount(world.basic), [3] * num_basics)
  for basic in range(num_basics):
    assert len(set(world.look[world.basic == basic])) == 3
  assert world.name(0).endswith("disc animal")


def test_held_out_basics_are_whole_and_every_outline_is_aligned(world):
  for basic in np.unique(world.basic):
    assert len(set(world.heldout[world.basic == basic])) == 1
  for upper in np.unique(world.superordinate):
    rows = (world.superordinate == upper) & world.heldout
    assert len(set(world.basic[rows])) == 2
  aligned = set(world.outline[~world.heldout])
  assert aligned == set(range(len(world_lib.OUTLINES)))


@pytest.mark.parametrize("field", ["num_exemplars", "num_heldout_basics"])
def test_impossible_worlds_are_refused(field):
  settings = {"num_exemplars": 3, "num_heldout_basics": 2, field: 99}
  with pytest.raises(ValueError, match=f"{field} is 99"):
    world_lib.make_world(seed=0, **settings)


def test_picture_depends_on_seed_stream_and_position_alone(world):
  rows = np.array([0, 5, 9, 5])

  def draw(rows, **changes):
    settings = {"size": 16, "seed": 1, "stream": "a", **changes}
    return world_lib.draw(world, rows, **settings)

  whole = draw(rows)
  np.testing.assert_array_equal(draw(rows, chunk_size=3), whole)
  np.testing.assert_array_equal(draw(rows[2:], first=2), whole[2:])
  assert (whole[1] != whole[3]).any()
  assert (draw(rows, seed=2) != whole).any()
  assert (draw(rows, stream="b") != whole).any()
  assert whole.dtype == np.uint8 and whole.shape == (4, 16, 16, 3)


def test_parts_tell_superordinates_apart(world):
  """Same outline, look and view: only a small part of the picture differs."""
  same = (world.outline == 0) & (world.basic % 8 == 0)
  exemplars = np.flatnonzero(same)[::3][:2]
  fields = {"look": np.zeros_like(world.look)}
  twin = world_lib.World(**{**vars(world), **fields})
  first, second = (
    world_lib.draw(twin, exemplars[[i]], size=32, seed=0, stream="x")[0]
    for i in (0, 1)
  )
  differs = (np.abs(first.astype(int) - second) > 20).any(axis=-1)
  assert 0.01 < differs.mean() < 0.25


def test_sets_share_no_basic_between_alignment_and_evaluation(world):
  def basics(name):
    return set(
      world.basic[world_lib.exemplars_of(world, name, NUM_IMAGES)].tolist()
    )

  assert not basics("stimuli") & basics("evaluation")
  assert basics("collection") == basics("stimuli")
  assert basics("support") == basics("evaluation")
  assert len(world_lib.exemplars_of(world, "pretrain", NUM_IMAGES)) == (
    2 * len(world)
  )
  with pytest.raises(ValueError, match="no image set 'nothing'"):
    world_lib.exemplars_of(world, "nothing", NUM_IMAGES)
