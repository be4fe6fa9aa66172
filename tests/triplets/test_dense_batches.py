"""Dense batches: content, any step, shares of hosts, broken images."""

import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts
from alignet_jax.images import collections
from alignet_jax.teacher import transform as transform_lib
from alignet_jax.triplets import dense_batches, dense_files

NUM_IMAGES, WIDTH, SIZE = 31, 5, 7
# Sizes 11, 9, 7 and 4.
CLUSTERS = np.repeat([3, 0, 2, 5], [11, 9, 7, 4])
SIZES = {"clusters_per_batch": 2, "images_per_cluster": 3, "seed": 7}


@pytest.fixture(name="features")
def _features(np_rng):
  return np_rng.normal(size=(NUM_IMAGES, WIDTH)).astype(np.float32)


@pytest.fixture(name="images")
def _images(np_rng):
  pixels = np_rng.integers(0, 256, (NUM_IMAGES, SIZE, SIZE, 3), np.uint8)
  return collections.ArrayImages(pixels)


@pytest.fixture(name="folder")
def _folder(tmp_path, np_rng):
  for i in range(NUM_IMAGES):
    pixels = np_rng.integers(0, 256, (9 + i, 17, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"{i:02d}.jpg")
  return tmp_path


def make(features, images, step, **settings):
  settings = SIZES | settings
  made = dense_batches.DenseBatches(CLUSTERS, features, images, **settings)
  return made.make(step)


def assert_equal(batch, other):
  assert sorted(batch) == sorted(other)
  for name in batch:
    np.testing.assert_array_equal(batch[name], other[name], strict=True)


def test_a_batch_holds_its_images_and_the_teachers_similarities(
  features, images, np_rng
):
  transform = transform_lib.AffineTransform(
    np_rng.normal(size=(WIDTH, 2)), np.ones(2), np.float32(0.3), np.float32(2)
  )
  batch = make(features, images, 13, transform=transform, temperature=1.7)
  items = batch["index"]
  clusters = CLUSTERS[items].reshape(2, 3)
  assert (
    np.all(clusters == clusters[:, :1]) and clusters[0, 0] != clusters[1, 0]
  )
  np.testing.assert_array_equal(batch["image"], images.load(items))
  z = (features[items] - 0.3) / 2 @ transform.weights + 1
  want = [[a @ b / 1.7 for b in z] for a in z]
  np.testing.assert_allclose(batch["teacher_sims"], want, rtol=1e-4, atol=1e-5)
  assert not batch["replaced"].any()


def test_a_step_is_the_same_however_it_is_reached(features, folder):
  """By PIL and numpy, and from two starts by TensorFlow."""
  images = collections.FolderImages(folder, size=SIZE)
  want = make(features, images, 12)
  for start in (10, 12):
    made = dense_batches.make_dataset(
      CLUSTERS, features, images, start_step=start, num_steps=3, **SIZES
    )
    assert_equal(list(made)[12 - start], want)
  other = make(features, images, 12, seed=8)
  assert np.any(other["index"] != want["index"])


def test_shares_of_hosts_make_the_batch_of_one(features, images):
  want = make(features, images, 4)
  shares = [
    make(features, images, 4, host_index=host, num_hosts=3) for host in range(3)
  ]
  joined = {name: np.concatenate([x[name] for x in shares]) for name in want}
  assert_equal(joined, want)
  with pytest.raises(artifacts.InputError, match="6 images .* into 4 equal"):
    make(features, images, 4, num_hosts=4)


def test_pixels_go_through_the_stream_too(features, images):
  made = dense_batches.make_dataset(
    CLUSTERS, features, images, start_step=5, num_steps=2, **SIZES
  )
  for step, batch in enumerate(made, start=5):
    assert_equal(batch, make(features, images, step))


def test_broken_images_are_refused_or_replaced_from_their_cluster(
  features, folder
):
  images = collections.FolderImages(folder, size=SIZE)
  whole = make(features, images, 9)
  bad = whole["index"][[0, 4]]
  for item in bad:
    (folder / f"{item:02d}.jpg").write_bytes(b"no image")
  with pytest.raises(artifacts.InputError, match="cannot be decoded"):
    make(features, images, 9)
  batch = make(features, images, 9, on_error="replace")
  np.testing.assert_array_equal(batch["replaced"], np.arange(6) % 4 == 0)
  assert len(set(batch["index"].tolist())) == 6
  assert not set(bad.tolist()) & set(batch["index"].tolist())
  np.testing.assert_array_equal(
    CLUSTERS[batch["index"]], CLUSTERS[whole["index"]]
  )
  np.testing.assert_array_equal(batch["image"], images.load(batch["index"]))
  x = features[batch["index"]]
  np.testing.assert_allclose(
    batch["teacher_sims"], x @ x.T, rtol=1e-5, atol=1e-6
  )
  # Whichever of them is known before.
  broken = {int(bad[1]): "known"}
  made = dense_batches.make_dataset(
    CLUSTERS,
    features,
    images,
    start_step=9,
    num_steps=1,
    on_error="replace",
    broken=broken,
    **SIZES,
  )
  assert_equal(next(made), batch)
  assert set(broken) == set(bad.tolist())


def test_what_cannot_be_is_refused(features, images):
  for settings, message in (
    (
      {"images_per_cluster": 10},
      "2 clusters with 10 images.*there are 1.*Lower",
    ),
    ({"on_error": "ignore"}, "on_error is 'ignore'; known are refuse, replace"),
    ({"on_error": "replace", "num_hosts": 2}, "on one host only"),
  ):
    with pytest.raises(artifacts.InputError, match=message):
      make(features, images, 0, **settings)
  with pytest.raises(artifacts.InputError, match="31 images, 30 rows"):
    make(features[:30], images, 0)
  with pytest.raises(artifacts.InputError, match="not finite"):
    make(features * np.float32(1e38), images, 0)


def test_the_teacher_comes_back_from_its_file(tmp_path, np_rng):
  transform = transform_lib.AffineTransform(
    np_rng.normal(size=(3, 2)), np.ones(2), np.zeros(3), np.ones(3)
  )
  for name in ("aligned", "untransformed"):
    (tmp_path / name).mkdir()
  dense_files.write(
    tmp_path / "aligned", cluster_ids=[1, 0, 1], transform=transform
  )
  teacher = dense_files.read(tmp_path / "aligned")
  np.testing.assert_array_equal(teacher.transform.weights, transform.weights)
  assert teacher.temperature == 1
  dense_files.write(
    tmp_path / "untransformed", cluster_ids=[1, 0, 1], temperature=3.5
  )
  teacher = dense_files.read(tmp_path / "untransformed")
  assert teacher.transform is None and teacher.temperature == 3.5
  np.testing.assert_array_equal(teacher.cluster_ids, [1, 0, 1])
  with pytest.raises(artifacts.InputError, match="dense.npz"):
    dense_files.read(tmp_path)
