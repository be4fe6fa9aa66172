import io

import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts
from alignet_jax.images import collections
from alignet_jax.triplets import dataset, labels, sampling

NUM_IMAGES, NUM_TRIPLETS, SIZE = 19, 29, 11
STEP = 12_345
SETTINGS = {"batch_size": 8, "seed": 3}


@pytest.fixture(name="folder")
def _folder(tmp_path, np_rng):
  """JPEG, PNG and palette files of different sizes."""
  for i in range(NUM_IMAGES):
    shape = (13 + i, 17 + 2 * (i % 5), 3)
    image = Image.fromarray(np_rng.integers(0, 256, shape, np.uint8))
    if i % 7 == 3:
      image = image.quantize(5)
    image.save(tmp_path / f"{i:02d}.{'jpg' if i % 3 and i % 7 != 3 else 'png'}")
  return tmp_path


@pytest.fixture(name="labelled")
def _labelled(np_rng):
  features = np_rng.normal(size=(NUM_IMAGES, 5)).astype(np.float32)
  triplets = sampling.random(np.zeros(NUM_IMAGES), NUM_TRIPLETS, seed=0)
  return labels.label(features, triplets)


class Counted(collections.FolderImages):
  """Notes what is read."""

  reads = ()

  def read(self, index):
    self.reads = (*self.reads, int(index))
    return super().read(index)


def assert_equal(batch, other):
  assert sorted(batch) == sorted(other)
  for name in batch:
    np.testing.assert_array_equal(batch[name], other[name], strict=True)


def first(labelled, images, step, **settings):
  settings = SETTINGS | {"num_steps": 1} | settings
  made = dataset.make_dataset(*labelled, images, start_step=step, **settings)
  return next(made)


def test_step_12345_is_the_same_however_it_is_reached(folder, labelled):
  images = collections.FolderImages(folder, size=SIZE)
  # By PIL and numpy, without TensorFlow.
  want = dataset.make_batch(STEP, *labelled, images, **SETTINGS)
  assert want["image"].shape == (8, 3, SIZE, SIZE, 3)
  assert len(np.unique(labelled[0][want["index"]])) < 24  # Has repeats.
  assert_equal(first(labelled, images, STEP), want)
  prefetched = {"num_parallel_images": 3, "num_prefetched": 1}
  for start, settings in (
    (STEP - 2, {}),
    (STEP - 3, {"num_parallel_batches": 5, "num_prefetched": 4}),
    (STEP - 1, {"num_parallel_batches": 1, **prefetched}),
  ):
    made = dataset.make_dataset(
      *labelled,
      images,
      start_step=start,
      num_steps=4,
      **SETTINGS,
      **settings,
    )
    assert_equal(list(made)[STEP - start], want)
  shares = [
    first(labelled, images, STEP, host_index=host, num_hosts=4)
    for host in range(4)
  ]
  assert [len(share["image"]) for share in shares] == [2] * 4
  joined = {
    name: np.concatenate([share[name] for share in shares]) for name in want
  }
  assert_equal(joined, want)


def test_each_distinct_image_of_a_batch_is_read_once(folder, labelled):
  images = Counted(folder, size=SIZE)
  batch = first(labelled, images, 5)
  items = labelled[0][batch["index"]]
  assert sorted(images.reads) == np.unique(items).tolist()


def uses(labelled, image, num_steps):
  """Steps of which a triplet has the image."""
  rows = (
    dataset.make_batch(
      step,
      *labelled,
      collections.ArrayImages(np.zeros((NUM_IMAGES, 1, 1, 3), np.uint8)),
      **SETTINGS,
    )["index"]
    for step in range(num_steps)
  )
  return [np.any(labelled[0][row] == image) for row in rows]


# A JPEG with half its scan, found broken by the decoder; a file without
# content, found broken when it is read.
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_broken_image_is_refused_by_name_when_it_is_due(
  folder, labelled, share
):
  path = folder / "01.jpg"
  path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
  images = collections.FolderImages(folder, size=SIZE)
  due = uses(labelled, 1, 20).index(True)
  made = dataset.make_dataset(
    *labelled, images, start_step=0, num_steps=20, **SETTINGS
  )
  for _ in range(due):
    next(made)
  with pytest.raises(artifacts.InputError, match=r"01\.jpg"):
    next(made)


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_broken_image_is_replaced_alike_however_a_step_is_reached(
  folder, labelled, share
):
  whole = collections.FolderImages(folder, size=SIZE)
  want = [dataset.make_batch(s, *labelled, whole, **SETTINGS) for s in range(6)]
  path = folder / "01.jpg"
  path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
  images = collections.FolderImages(folder, size=SIZE)
  settings = SETTINGS | {"on_error": "replace"}
  broken = {}
  made = list(
    dataset.make_dataset(
      *labelled, images, start_step=0, num_steps=6, broken=broken, **settings
    )
  )
  assert list(broken) == [1] and "01.jpg" in broken[1]
  assert sum(np.sum(batch["replaced"]) for batch in made) > 0
  for step, (batch, old) in enumerate(zip(made, want, strict=True)):
    has_it = np.any(labelled[0][old["index"]] == 1, axis=-1)
    np.testing.assert_array_equal(batch["replaced"], has_it)
    assert not np.any(labelled[0][batch["index"]] == 1)
    for name in ("image", "index", "target_logprobs"):
      np.testing.assert_array_equal(
        batch[name][~has_it], old[name][~has_it], strict=True
      )
    # Without TensorFlow, and, once, started at this very step.
    assert_equal(dataset.make_batch(step, *labelled, images, **settings), batch)
    if step == 4:
      assert_equal(first(labelled, images, step, **settings), batch)


def test_too_many_broken_images_are_refused(folder, labelled):
  for path in folder.iterdir():
    path.write_bytes(b"")
  images = collections.FolderImages(folder, size=SIZE)
  with pytest.raises(artifacts.InputError, match="in a row .* is empty"):
    first(labelled, images, 0, on_error="replace")


def test_image_that_only_pil_takes_is_decoded_by_it(folder, labelled):
  tf = pytest.importorskip("tensorflow")
  f = io.BytesIO()
  pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  Image.fromarray(pixels).save(f, "PNG")
  data = f.getvalue()[:-16]  # Without its last checksum and its end.
  with pytest.raises(tf.errors.InvalidArgumentError):
    tf.io.decode_png(data)
  (folder / "01.jpg").write_bytes(data)
  images = collections.FolderImages(folder, size=SIZE)
  made = dataset.make_dataset(
    *labelled, images, start_step=0, num_steps=9, **SETTINGS
  )
  assert any(uses(labelled, 1, 9))
  for step, batch in enumerate(made):
    want = dataset.make_batch(step, *labelled, images, **SETTINGS)
    assert_equal(batch, want)
  assert step == 8


@pytest.mark.parametrize("num_hosts", [1, 2])
def test_epoch_has_every_triplet_once_and_masks_the_rest(
  folder, labelled, num_hosts
):
  images = collections.FolderImages(folder, size=SIZE)
  shares = [
    list(
      dataset.make_epoch(
        *labelled, images, **SETTINGS, host_index=host, num_hosts=num_hosts
      )
    )
    for host in range(num_hosts)
  ]
  batches = [
    {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for parts in zip(*shares, strict=True)
  ]
  assert len(batches) == 4  # Of 8 for 29 triplets.
  index = np.concatenate([batch["index"] for batch in batches])
  mask = np.concatenate([batch["mask"] for batch in batches])
  np.testing.assert_array_equal(index[mask], np.arange(29), strict=True)
  np.testing.assert_array_equal(mask, np.arange(32) < 29)
  for batch in batches:
    items = labelled[0][batch["index"]]
    odd = np.argmax(batch["target_logprobs"], axis=-1)
    shown = batch["image"][np.arange(8), odd]
    np.testing.assert_array_equal(shown, images.load(items[:, 2]))


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"num_hosts": 3}, "batch of 8 triplets cannot be cut into 3"),
    ({"num_hosts": 2, "host_index": 2}, "host_index is 2; .* num_hosts, 2"),
    ({"on_error": "skip"}, "on_error is 'skip'; known are refuse, replace"),
  ],
)
def test_wrong_settings_are_refused(folder, labelled, settings, message):
  images = collections.FolderImages(folder, size=SIZE)
  with pytest.raises(artifacts.InputError, match=message):
    first(labelled, images, 0, **settings)
