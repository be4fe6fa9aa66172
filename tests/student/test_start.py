"""What a student starts from: its backbone, and the images of its triplets."""

import types

import ml_collections
import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.backbones import stage as backbone_stage
from alignet_jax.images import collections, sources
from alignet_jax.student import stage


@pytest.fixture
def context(tmp_path, np_rng):
  """A random student, and features of five images."""
  pixels = np_rng.integers(256, size=(5, 32, 32, 3)).astype(np.uint8)
  np.save(tmp_path / "collection.npy", pixels)
  np.save(tmp_path / "four.npy", pixels[:4])
  images = sources.describe(collections.ArrayImages(pixels))
  artifacts.write_json(tmp_path / "images.json", {"collection": images})
  backbone = {
    "source": "random",
    "name": "augreg_b16",
    "pool": "",
    "size": 32,
    "preprocessing": "alignet",
    "width": 6,
    "depth": 1,
    "mlp_dim": 10,
    "num_heads": 2,
  }
  config = ml_collections.ConfigDict(
    {
      "seed": 3,
      "images": {
        "source": "files",
        "collection": str(tmp_path / "collection.npy"),
      },
      "student": {"backbone": backbone, "collection": ""},
    }
  )
  return types.SimpleNamespace(
    config=config, inputs={"features": tmp_path}, log=lambda line: None
  )


def test_a_random_student_is_drawn_by_the_seed_of_the_config(context):
  backbone, params = stage._base(context)
  settings = context.config.student.backbone.to_dict()
  with pytest.raises(KeyError, match="weights"):  # None is given.
    backbone_stage.load(settings, print)
  _, same = backbone_stage.load(settings, context.log, seed=3)
  np.testing.assert_array_equal(
    params["embedding"]["kernel"], same["embedding"]["kernel"]
  )
  assert backbone["architecture"]["width"] == 6


def test_a_student_s_own_collection_must_be_that_of_the_features(
  context, tmp_path
):
  backbone = context.config.student.backbone.to_dict()
  images = stage._open_collection(context, backbone)
  assert len(images) == 5 and images.size == 32
  context.config.student.collection = str(tmp_path / "collection.npy")
  assert len(stage._open_collection(context, backbone)) == 5
  context.config.student.collection = str(tmp_path / "four.npy")
  with pytest.raises(artifacts.InputError, match="has 4 images, and the featu"):
    stage._open_collection(context, backbone)
