"""Which class an image of an ImageNet variant belongs to.

ImageNet-A and -R have 200 of the 1,000 classes, -V2 and -Sketch all of them. A
folder is named by the WordNet id of its class; those of -V2 are numbered, by
the place of the id among all 1,000 in alphabetical order. A classifier of 1,000
classes is scored among the classes of the variant only, as their papers do.

Usage:
  labels = shift_sets.labels("imagenet-v2", folders, classes)     # int[n]
  accuracy = shift_sets.accuracy(logits, labels)
"""

import re

import numpy as np

# Number of classes of each variant.
NUM_CLASSES = {
  "imagenet-a": 200,
  "imagenet-r": 200,
  "imagenet-v2": 1000,
  "imagenet-sketch": 1000,
}

_WNID = re.compile(r"n\d{8}")


def labels(name, folders, classes, *, check=True):
  """Class of each image by the folder that it lies in.

  Args:
    name: One of `NUM_CLASSES`.
    folders: str[n], folder of each image.
    classes: Sorted WordNet ids of the classifier's classes.
    check: Whether the number of classes must be the published one.

  Returns:
    int64[n], places in `classes`.

  Raises:
    ValueError: Another number of classes, or a folder that is no class.
  """
  if name not in NUM_CLASSES:
    raise ValueError(
      f"There is no variant {name!r}; known are {', '.join(NUM_CLASSES)}."
    )
  classes = list(classes)
  if classes != sorted(set(classes)):
    raise ValueError("The classes must be sorted and different.")
  different = sorted(set(map(str, folders)))
  if check and len(different) != NUM_CLASSES[name]:
    raise ValueError(
      f"{name} has {len(different)} classes here; the published one has "
      f"{NUM_CLASSES[name]}."
    )
  if all(_WNID.fullmatch(folder) for folder in different):
    place = {wnid: index for index, wnid in enumerate(classes)}
  elif all(re.fullmatch(r"\d{1,4}", folder) for folder in different):
    # By number and not by text: "10" comes after "9".
    place = {folder: int(folder) for folder in different}
    place = {k: v for k, v in place.items() if v < len(classes)}
  else:
    odd = next(f for f in different if not re.fullmatch(r"n\d{8}|\d{1,4}", f))
    raise ValueError(
      f"the folder {odd!r} is neither a WordNet id nor a number of a class."
    )
  unknown = [folder for folder in different if folder not in place]
  if unknown:
    raise ValueError(
      f"{len(unknown)} classes of {name} are not among the {len(classes)} of "
      f"the classifier, the first is {unknown[0]}."
    )
  return np.array([place[str(folder)] for folder in folders], np.int64)


def correct(logits, labels):
  """Whether the best class among those that occur is the right one.

  Args:
    logits: f[n c] of a classifier of all classes.
    labels: int[n].

  Returns:
    bool[n].
  """
  occurring = np.unique(labels)
  best = occurring[np.asarray(logits)[:, occurring].argmax(axis=1)]
  return best == labels
