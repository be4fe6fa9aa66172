import math

import numpy as np
import pytest

from alignet_jax.evals import breeds, corruptions, models, score, usefulness

SHIFT_NAMES = {"imagenet-a", "imagenet-r", "imagenet-v2", "imagenet-sketch"}


def blobs(classes, num, seed, spread=0.5):
  """Features and names "class/file" around a centre per class."""
  np_rng = np.random.default_rng(seed)
  names, x = [], []
  for wnid in classes:
    centre = np.random.default_rng(int(wnid[1:])).normal(size=8)
    x.append(centre + spread * np_rng.normal(size=(num, 8)))
    names += [f"{wnid}/{i}.jpg" for i in range(num)]
  return models.Rows(np.concatenate(x).astype(np.float32), tuple(names))


def scores(rows):
  return {(r.dataset, r.measure, r.variant): r for r in rows}


def test_all_measures_and_what_is_missing():
  classes = [f"n0000000{i}" for i in range(4)]
  model = models.from_features(
    "m",
    {
      "pets/train": blobs(classes, 11, 0),
      "pets/test": blobs(classes, 5, 1),
    },
  )
  rows, seconds = usefulness.run({"m": model}, ["pets", "birds"])
  found = scores(rows)
  for variant in ("1-shot", "5-shot", "10-shot"):
    row = found["pets", "few_shot", variant]
    assert 0.5 < row.value <= 1 and row.chance == 0.25 and row.num == 20
  assert "11 training images" in found["pets", "few_shot", "25-shot"].note
  assert found["pets", "linear_probe", ""].value > 0.8
  assert found["pets", "nearest_neighbours", "k = 20"].value > 0.8
  row = found["pets", "anomaly_auc", "one against the rest"]
  assert row.value > 0.8 and row.chance == 0.5 and row.num == 20
  assert found["pets", "nearest_neighbours", "k = 20"].chance == 0.25
  assert found["pets", "linear_probe", ""].chance == 0.25
  assert found["pets", "corruption", ""].is_skipped
  assert "no features of birds/train" in found["birds", "all", ""].note
  # Nothing that the suite could have is left out in silence.
  for name in (*breeds.TASKS, *SHIFT_NAMES):
    assert found[name, "shift", ""].is_skipped
  assert set(seconds) == {("m", "pets"), ("m", "birds")}
  assert {row.model for row in rows} == {"m"}


@pytest.fixture(scope="module")
def imagenet():
  """Two superclasses; the classes of a third are aside."""
  edges = [
    (breeds.ROOT, "w1"),
    ("w1", "n00004258"),
    ("n00004258", "w3"),
    ("w3", "w4"),
  ]
  classes = []
  for node in range(2):
    edges.append(("w4", f"s{node}"))
    for index in range(4):
      classes.append(f"n{node + 1:04d}{index:04d}")
      edges.append((f"s{node}", classes[-1]))
  return breeds.make_hierarchy(edges, classes), classes


def test_breeds_and_variants_by_folders(imagenet):
  tree, classes = imagenet
  some = classes[1:4]
  model = models.from_features(
    "m",
    {
      "in/train": blobs(classes, 7, 0),
      "in/test": blobs(classes, 3, 1),
      "imagenet-a": blobs(some, 5, 2),
      "imagenet-v2": models.Rows(
        blobs(classes, 2, 3).features,
        tuple(f"{i // 2}/{i}.jpg" for i in range(16)),
      ),
      "imagenet-r": blobs(["n99990000"], 2, 3),
    },
  )
  rows, _ = usefulness.run(
    {"m": model},
    ["in"],
    shots=(1,),
    imagenet="in",
    hierarchy=tree,
    check_counts=False,
  )
  assert {row.measure for row in rows} <= set(score.MEASURES)
  found = scores(rows)
  same = found["living17", "shift", "same subclasses"]
  other = found["living17", "shift", "other subclasses"]
  # Centres are unrelated, so other subclasses are a guess among two.
  assert same.value > 0.8 and same.num == other.num == 12
  assert same.chance == 0.5
  assert found["imagenet-a", "shift", "linear probe"].value > 0.8
  assert found["imagenet-a", "shift", "linear probe"].chance == 1 / 3
  # Folders by number are places among the sorted classes.
  assert found["imagenet-v2", "shift", "linear probe"].value > 0.8
  assert "has 0 superclasses" in found["entity13", "shift", ""].note
  assert "not among" in found["imagenet-r", "shift", ""].note
  assert "no features" in found["imagenet-sketch", "shift", ""].note
  assert math.isnan(found["imagenet-sketch", "shift", ""].value)


def test_published_counts_are_asked_for(imagenet):
  tree, classes = imagenet
  model = models.from_features(
    "m",
    {
      "in/train": blobs(classes, 3, 0),
      "in/test": blobs(classes, 3, 1),
      "imagenet-a": blobs(classes, 3, 1),
    },
  )
  rows, _ = usefulness.run(
    {"m": model}, ["in"], shots=(1,), imagenet="in", hierarchy=tree
  )
  found = scores(rows)
  assert "has 2 superclasses" in found["living17", "shift", ""].note
  assert "has 8 classes here" in found["imagenet-a", "shift", ""].note


class Pictures:
  """A collection, as of `images.collections`."""

  def __init__(self, pixels, names):
    self.pixels, self.names = pixels, names

  def __len__(self):
    return len(self.pixels)

  def load(self, rows):
    return self.pixels[rows]


def test_corruptions_take_a_callable(monkeypatch):
  np_rng = np.random.default_rng(0)
  sets = {}
  for name, num in (("pets/train", 20), ("pets/test", 10)):
    label = np.arange(num) % 2
    # One class is bright on the left, the other one on the right.
    pixels = np_rng.integers(0, 60, (num, 8, 8, 3), np.uint8)
    for row, side in enumerate(label):
      pixels[row, :, 4 * side : 4 * side + 4] += 150
    sets[name] = Pictures(pixels, [f"{c}/{i}" for i, c in enumerate(label)])

  def function(image):
    return image.mean(axis=3).reshape(len(image), -1) / 255

  seen, apply = [], corruptions.apply

  def seeing(image, name, *, severity):
    seen.append((name, severity))
    return apply(image, name, severity=severity)

  monkeypatch.setattr(corruptions, "apply", seeing)
  model = models.from_callable("m", function, sets)
  rows, _ = usefulness.run(
    {"m": model}, ["pets"], shots=(1,), images=sets, severities=(1, 5)
  )
  expected = {(name, s) for name in corruptions.CORRUPTIONS for s in (1, 5)}
  assert set(seen) == expected
  found = scores(rows)
  for name in ("gaussian_noise", "blur", "contrast", "pixelate", "jpeg"):
    row = found["pets", "corruption", name]
    assert 0.4 <= row.value <= 1 and row.num == 10
  assert found["pets", "linear_probe", ""].value == 1


def with_nan(rows, *places):
  features = rows.features.copy()
  features[list(places)] = np.nan
  return models.Rows(features, rows.names)


@pytest.mark.parametrize("image_set", ["pets/train", "pets/test"])
def test_features_that_are_not_finite_are_never_scored(image_set):
  # As the first class, which NaN used to be scored as, all would be right.
  sets = {
    "pets/train": blobs(["n00000001", "n00000002"], 3, 0),
    "pets/test": blobs(["n00000001", "n00000002"], 3, 1),
  }
  sets[image_set] = with_nan(sets[image_set], 1, 2)
  model = models.from_features("m", sets)
  rows, _ = usefulness.run({"m": model}, ["pets"])
  of_set = [row for row in rows if row.dataset == "pets"]
  assert [(row.measure, row.note) for row in of_set] == [
    (
      "all",
      f"skipped: 2 of 6 images of {image_set} have features that are not "
      "finite, the first is n00000001/1.jpg.",
    )
  ]


def test_variants_that_cannot_be_scored_say_why():
  classes = [f"n0000000{i}" for i in range(3)]
  narrow = blobs(classes, 2, 3)
  model = models.from_features(
    "m",
    {
      "in/train": blobs(classes, 3, 0),
      "in/test": blobs(classes, 2, 1),
      "imagenet-a": with_nan(blobs(classes, 6, 2), 0, 3, 5),
      "imagenet-r": models.Rows(narrow.features[:, :5], narrow.names),
    },
  )
  rows, _ = usefulness.run(
    {"m": model}, ["in"], shots=(1,), imagenet="in", check_counts=False
  )
  found = scores(rows)
  note = found["imagenet-a", "shift", ""].note
  assert "3 of 18 images of imagenet-a" in note and "n00000000/0.jpg" in note
  assert ("imagenet-a", "shift", "linear probe") not in found
  assert found["imagenet-r", "shift", ""].note == (
    "skipped: the features of imagenet-r have 5 columns and those of in/train "
    "8; expected as many."
  )


def test_without_imagenet_its_variants_are_skipped_by_name():
  bad = with_nan(blobs(["n00000001", "n00000002"], 2, 0), 0)
  model = models.from_features("m", {"in/train": bad, "in/test": bad})
  rows, _ = usefulness.run({"m": model}, ["in"], imagenet="in")
  found = scores(rows)
  assert "not finite" in found["in", "all", ""].note
  for name in (*breeds.TASKS, *SHIFT_NAMES):
    assert "could not be scored" in found[name, "shift", ""].note


def test_widths_of_train_and_test_differ():
  test = blobs(["n00000001", "n00000002"], 3, 1)
  model = models.from_features(
    "m",
    {
      "pets/train": blobs(["n00000001", "n00000002"], 3, 0),
      "pets/test": models.Rows(test.features[:, :7], test.names),
    },
  )
  rows, _ = usefulness.run({"m": model}, ["pets"])
  assert rows[0].note == (
    "skipped: the features of pets/test have 7 columns and those of "
    "pets/train 8; expected as many."
  )


def test_anomalies_of_one_class_are_skipped_by_name():
  train = blobs(["n00000001", "n00000002"], 3, 0)
  test = blobs(["n00000002"], 3, 1)
  model = models.from_features("m", {"pets/train": train, "pets/test": test})
  rows, _ = usefulness.run({"m": model}, ["pets"], shots=(5,))
  found = scores(rows)
  row = found["pets", "anomaly_auc", "one against the rest"]
  assert row.is_skipped and "all test images are of n00000002" in row.note
  # The class has its name, not its number.
  assert found["pets", "few_shot", "5-shot"].note == (
    "skipped: Class n00000001 has 3 training images; 5-shot needs at least 5 "
    "of every class."
  )


def test_corrupted_images_without_features_are_named():
  sets = {}
  for name, num in (("pets/train", 6), ("pets/test", 4)):
    pixels = np.full((num, 8, 8, 3), 250, np.uint8)
    pixels[::2, :4] = 5
    names = [f"{i % 2}/{i}" for i in range(num)]
    sets[name] = Pictures(pixels, names)

  def function(image):
    x = image.reshape(len(image), -1) / 255
    # Only noise has as many values.
    many = [len(np.unique(row)) > 40 for row in x]
    return np.where(np.array(many)[:, None], np.nan, x)

  model = models.from_callable("m", function, sets)
  rows, _ = usefulness.run(
    {"m": model}, ["pets"], shots=(1,), images=sets, severities=(5,)
  )
  found = scores(rows)
  row = found["pets", "corruption", "gaussian_noise"]
  assert row.is_skipped and "not finite" in row.note
  assert "gaussian_noise of severity 5" in row.note
  assert not found["pets", "corruption", "contrast"].is_skipped


def test_a_class_without_training_images_is_named():
  model = models.from_features(
    "m",
    {
      "pets/train": blobs(["n00000001", "n00000002"], 3, 0),
      "pets/test": blobs(["n00000003"], 3, 0),
    },
  )
  rows, _ = usefulness.run({"m": model}, ["pets"])
  assert "class n00000003" in rows[0].note and rows[0].is_skipped


def test_other_subclasses_are_those_of_the_target():
  split = breeds.Split(
    source={"s0": ("a",), "s1": ("b",)}, target={"s0": ("c",), "s1": ("d",)}
  )
  # Other subclasses look like the source of the other superclass.
  side = {"a": -1.0, "b": 1.0, "c": 1.0, "d": -1.0}
  classes = np.repeat(list(side), 3)
  x = np.array([[side[name], 0.1] for name in classes], np.float32)
  same, other = usefulness.superclass_shift(
    "in", (x, classes), (x, classes), split, "living17"
  )
  assert (same.variant, same.value) == ("same subclasses", 1.0)
  assert (other.variant, other.value) == ("other subclasses", 0.0)
  assert same.num == other.num == 6
