"""Sets of images by config: their paths, their preprocessing, their rows."""

import ml_collections
import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.images import collections, preprocess, sources


@pytest.fixture
def config(tmp_path, np_rng):
  pixels = np_rng.integers(256, size=(3, 11, 11, 3)).astype(np.uint8)
  np.save(tmp_path / "collection.npy", pixels)
  np.save(tmp_path / "packed.npy", pixels[:, :7, :7])
  return ml_collections.ConfigDict(
    {
      "images": {
        "source": "files",
        "collection": str(tmp_path / "collection.npy"),
        "stimuli": str(tmp_path / "nothing"),
      },
      "student": {"collection": ""},
    }
  )


def test_the_preprocessing_is_the_one_asked_for_or_that_of_a_size(config):
  own = preprocess.Preprocessing(5, interpolation="bilinear")
  images = sources.open_images(config, "collection", preprocessing=own)
  assert images.preprocessing == own
  assert images.load(np.array([0, 2])).shape == (2, 5, 5, 3)
  images = sources.open_images(config, "collection", size=5)
  assert images.preprocessing == preprocess.Preprocessing(5)


def test_the_student_s_collection_is_the_collection_unless_there_is_one(
  config, tmp_path
):
  def first():
    images = sources.open_images(config, "student_collection", size=7)
    return images.load(np.array([0]))[0]

  assert not sources.has_student_collection(config)
  resized = first()
  config.student.collection = str(tmp_path / "packed.npy")
  assert sources.has_student_collection(config)
  np.testing.assert_array_equal(
    first(), np.load(tmp_path / "packed.npy", mmap_mode="r")[0]
  )
  assert (first() != resized).any()
  config.student.collection = str(tmp_path / "none")
  with pytest.raises(
    artifacts.InputError, match=r"config\.student\.collection:"
  ):
    first()
  del config.student
  assert not sources.has_student_collection(config)


def test_what_cannot_be_opened_is_named_by_its_field(config):
  with pytest.raises(
    artifacts.InputError, match=r"config\.images\.stimuli: There are no images"
  ):
    sources.open_images(config, "stimuli", size=7)


def test_an_unknown_source_is_refused(config):
  config.images.source = "folder"
  with pytest.raises(artifacts.InputError, match="known are generated, files"):
    sources.open_images(config, "collection", size=7)


def images_of(*names):
  pixels = np.zeros((len(names), 2, 2, 3), np.uint8)
  return collections.ArrayImages(pixels, names=list(names))


def test_only_the_same_images_in_the_same_order_are_the_same():
  described = sources.describe(images_of("a/1", "b/2", "c"))
  assert described["num_images"] == 3
  sources.check_same(images_of("a/1", "b/2", "c"), described)
  for other, sentence in (
    (
      images_of("a/1", "b/2"),
      "student.collection has 2 images, .* of 3[.] Its",
    ),
    (images_of("b/2", "a/1", "c"), "has other names or another order than"),
    (images_of("a/1", "b/3", "c"), "images.pack --images="),
  ):
    with pytest.raises(artifacts.InputError, match=sentence):
      sources.check_same(other, described)
