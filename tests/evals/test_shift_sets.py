import numpy as np
import pytest

from alignet_jax.evals import shift_sets

CLASSES = [f"n{index:08d}" for index in range(1000)]


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_two_hundred_classes_by_their_ids(name):
  places = np.arange(3, 1000, 5)[:200][::-1]
  folders = [CLASSES[place] for place in places]
  labels = shift_sets.labels(name, folders, CLASSES)
  np.testing.assert_array_equal(labels, places)
  with pytest.raises(ValueError, match="has 199 classes here"):
    shift_sets.labels(name, folders[1:], CLASSES)


def test_numbered_folders_are_places_by_number():
  folders = [str(index) for index in range(1000)]
  labels = shift_sets.labels("imagenet-v2", folders, CLASSES)
  np.testing.assert_array_equal(labels, np.arange(1000))
  labels = shift_sets.labels("imagenet-sketch", CLASSES[::-1], CLASSES)
  np.testing.assert_array_equal(labels, np.arange(1000)[::-1])


def test_bad_folders():
  def labels(folders, classes=CLASSES):
    return shift_sets.labels("imagenet-r", folders, classes, check=False)

  with pytest.raises(ValueError, match="'dog' is neither"):
    labels(["dog"])
  with pytest.raises(ValueError, match="the first is n99999999"):
    labels(["n99999999"])
  with pytest.raises(ValueError, match="the first is 1000"):
    labels(["1000"])
  with pytest.raises(ValueError, match="sorted"):
    labels([CLASSES[0]], CLASSES[::-1])
  with pytest.raises(ValueError, match="no variant"):
    shift_sets.labels("imagenet-x", CLASSES, CLASSES)


def test_only_classes_that_occur_compete():
  logits = np.array([[9.0, 1, 2], [9.0, 3, 2]])
  labels = np.array([2, 2])
  # Class 0 is the best of all and not of the variant; neither is class 1.
  np.testing.assert_array_equal(
    shift_sets.correct(logits, labels), [True, True]
  )
  np.testing.assert_array_equal(
    shift_sets.correct(logits, np.array([2, 1])), [True, True]
  )
  np.testing.assert_array_equal(
    shift_sets.correct(logits, np.array([1, 2])), [False, False]
  )
