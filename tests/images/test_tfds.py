import importlib.resources.abc
import sys

import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.evals import models, shift_sets, usefulness
from alignet_jax.images import graph, opening, pack, preprocess, tfds
from alignet_jax.triplets import dataset

WNIDS = ["n01440764", "n01443537", "n01484850"]

SMALL = preprocess.Preprocessing(5)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Data sets of seven images each, in the two formats of TFDS."""
  tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
  folder = tmp_path_factory.mktemp("tfds")

  with pytest.MonkeyPatch.context() as patch:
    # Writing, not reading, wants this package, which is the standard library's
    # own module under its older name.
    patch.setitem(sys.modules, "importlib_resources", importlib.resources)
    for name, file_format in (
      ("dots", "array_record"),
      ("stripes", "tfrecord"),
      ("words", "array_record"),
      ("photos", "array_record"),
      ("labelled", "array_record"),
    ):
      key, feature = (
        "image",
        tensorflow_datasets.features.Image(shape=(9, 9, 3)),
      )
      values = [np.full((9, 9, 3), 30 * i, np.uint8) for i in range(7)]
      if name == "photos":
        feature = tensorflow_datasets.features.Image(encoding_format="jpeg")
        np_rng = np.random.default_rng(0)
        values = [
          np_rng.integers(0, 256, (9 + i, 13, 3), np.uint8) for i in range(7)
        ]
      if name == "words":
        key, feature = "text", tensorflow_datasets.features.Text()
        values = [str(i) for i in range(7)]
      features = {key: feature}
      records = [{key: value} for value in values]
      if name == "labelled":
        features["label"] = tensorflow_datasets.features.ClassLabel(names=WNIDS)
        for i, record in enumerate(records):
          record["label"] = (5 * i) % 3
      tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        data_dir=folder,
        features=tensorflow_datasets.features.FeaturesDict(features),
        split_datasets={"train": list(enumerate(records))},
        file_format=file_format,
        disable_shuffling=True,
      )
  return folder


def test_records_by_their_index(data_dir):
  images = tfds.TfdsImages(
    "dots", "train", data_dir=data_dir, preprocessing=SMALL
  )
  assert len(images) == 7 and images.names[3] == "train/3"
  pixels = images.load(np.array([6, 0, 2]))
  np.testing.assert_array_equal(pixels[:, 0, 0, 0], [180, 0, 60])
  assert images.read(4).startswith(b"\x89PNG")
  assert images.fingerprint == "dots/1.0.0 7"
  assert images.num_bytes(2, 5) == [-1] * 3
  some = tfds.TfdsImages("dots", "train[5:]", data_dir=data_dir)
  assert len(some) == 2 and some.read(1) == images.read(6)


def test_classes_are_in_the_records(data_dir):
  images = tfds.TfdsImages("labelled", "train[1:6]", data_dir=data_dir)
  expected = tuple(WNIDS[(5 * i) % 3] for i in range(1, 6))
  assert images.read_classes() == expected
  assert images.read_classes() is images.read_classes()  # Read once.
  plain = tfds.TfdsImages("dots", "train", data_dir=data_dir)
  with pytest.raises(artifacts.InputError, match="dots/1.0.0 has no feature l"):
    plain.read_classes()


def test_usefulness_takes_the_classes_of_records(data_dir):
  images = tfds.TfdsImages(
    "labelled", "train", data_dir=data_dir, preprocessing=SMALL
  )
  x = np.arange(21, dtype=np.float32).reshape(7, 3)
  names = images.names[::-1]  # As of a file in another order.
  model = models.from_features("m", x, names)
  features, classes, files = models.labelled(
    model, "imagenet-a", {"imagenet-a": images}
  )
  np.testing.assert_array_equal(features, x)
  assert classes.tolist() == [WNIDS[(5 * i) % 3] for i in range(7)][::-1]
  assert files == tuple(names)
  ids = shift_sets.labels("imagenet-a", classes, WNIDS, check=False)
  assert ids.tolist() == [(5 * i) % 3 for i in range(7)][::-1]
  # Without them, a split would be taken for a class.
  with pytest.raises(models.Missing, match="tfds:NAME/SPLIT"):
    models.labelled(model, "imagenet-a")
  other = models.from_features("m", x[:1], ["test/7"])
  with pytest.raises(models.Missing, match="the first is test/7"):
    models.labelled(other, "imagenet-a", {"imagenet-a": images})


@pytest.mark.parametrize(
  ("name", "split", "message"),
  [
    ("nothing", "train", "tfds:nothing/train cannot be read: .*not found"),
    ("dots", "test", "tfds:dots/test cannot be read: .*test"),
    ("words", "train", "has no feature image but text"),
    ("stripes", "train", "tfds:stripes/train cannot be read: .*array_record"),
  ],
)
def test_what_cannot_be_read_is_refused(data_dir, name, split, message):
  with pytest.raises(artifacts.InputError, match=f"(?is){message}"):
    tfds.TfdsImages(name, split, data_dir=data_dir)


def test_batches_of_records_are_the_same_in_tensorflow(data_dir):
  images = tfds.TfdsImages(
    "photos", "train", data_dir=data_dir, preprocessing=SMALL
  )
  assert images.read(0).startswith(b"\xff\xd8") and graph.can_decode(images)
  indices = np.random.default_rng(0).permuted([range(7)] * 9, axis=1)[:, :3]
  labelled = indices, np.zeros((9, 3), np.float32)
  settings = {"batch_size": 4, "seed": 0}
  made = dataset.make_dataset(
    *labelled, images, start_step=5, num_steps=2, **settings
  )
  for step, batch in enumerate(made, 5):
    want = dataset.make_batch(step, *labelled, images, **settings)
    np.testing.assert_array_equal(batch["image"], want["image"], strict=True)
    np.testing.assert_array_equal(batch["index"], want["index"])


def test_records_can_be_packed(data_dir, tmp_path):
  flags = ["--images=tfds:photos/train", "--size=5"]
  assert (
    pack.main([*flags, f"--out={tmp_path / 'a'}", f"--data_dir={data_dir}"])
    == 0
  )
  images = tfds.TfdsImages(
    "photos", "train", data_dir=data_dir, preprocessing=SMALL
  )
  packed = opening.open_collection(tmp_path / "a", SMALL)
  np.testing.assert_array_equal(packed.load(range(7)), images.load(range(7)))
  assert packed.names[6] == "train/6"


def test_shift_of_a_variant_in_records(data_dir):
  images = tfds.TfdsImages("labelled", "train", data_dir=data_dir)
  labels = [(5 * i) % 3 for i in range(7)]
  centres = 9 * np.eye(3, dtype=np.float32)
  train = models.Rows(
    centres[[0, 0, 1, 1, 2, 2]], tuple(f"{WNIDS[i // 2]}/{i}" for i in range(6))
  )
  # The features of two records are those of another class.
  wrong = [*labels[:5], *((label + 1) % 3 for label in labels[5:])]
  model = models.from_features(
    "m",
    {
      "in/train": train,
      "in/test": train,
      "imagenet-a": models.Rows(centres[wrong], tuple(images.names)),
    },
  )
  rows, _ = usefulness.run(
    {"m": model},
    ["in"],
    shots=(1,),
    imagenet="in",
    images={"imagenet-a": images},
    check_counts=False,
  )
  (row,) = (r for r in rows if r.dataset == "imagenet-a")
  assert row.value == pytest.approx(5 / 7) and row.num == 7
