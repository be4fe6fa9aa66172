import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.evals import models
from alignet_jax.teacher import transform as transform_lib


def write(path, x, names=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  artifacts.write_npy(path, x.astype(np.float32))
  if names:
    lines = "".join(f"{i},{n},x\n" for i, n in enumerate(names))
    index = path.with_name("index.csv")
    index.write_text(f"row,file,sha256\n{lines}")


def test_rows_by_name_and_by_order(tmp_path, np_rng):
  x = np_rng.normal(size=(5, 3))
  names = ["d/e.jpg", "a.jpg", "c.png", "b.JPEG", "f.jpg"]
  write(tmp_path / "features.npy", x, names)
  model = models.open_model("m", tmp_path / "features.npy")
  rows = models.rows_of(model, "any", items=("a", "x/b", "c", "e"))
  np.testing.assert_allclose(rows, x[[1, 3, 2, 0]], rtol=1e-6, atol=0)
  rows = models.rows_of(model, "any", num_items=5)
  np.testing.assert_allclose(rows, x, rtol=1e-6, atol=0)
  with pytest.raises(models.Missing, match="5 rows for 7 items"):
    models.rows_of(model, "any", num_items=7)
  with pytest.raises(models.Missing, match="the first is z"):
    models.rows_of(model, "any", items=("a", "z"))
  # As many rows, but of other things.
  with pytest.raises(
    models.Missing, match="1 of 5 items are not .* the first is z"
  ):
    models.rows_of(model, "any", items=("a", "b", "c", "e", "z"))


def test_a_folder_of_image_sets(tmp_path, np_rng):
  things, pets = np_rng.normal(size=(4, 3)), np_rng.normal(size=(2, 3))
  write(tmp_path / "things.npy", things)
  write(tmp_path / "pets" / "train.npy", pets)
  model = models.open_model("m", tmp_path)
  np.testing.assert_allclose(
    models.rows_of(model, "things", num_items=4), things, rtol=1e-6, atol=0
  )
  assert len(models.rows_of(model, "pets/train", num_items=2)) == 2
  with pytest.raises(models.Missing, match="no features at .*mur92"):
    models.rows_of(model, "mur92", num_items=92)
  with pytest.raises(models.Missing, match="no index.csv"):
    models.labelled(model, "pets/train")
  with pytest.raises(artifacts.InputError, match="nothing at"):
    models.open_model("m", tmp_path / "absent")


def test_a_folder_of_another_program(tmp_path, np_rng):
  x = np_rng.normal(size=(3, 2)).astype(np.float32)
  write(tmp_path / "timm" / "features.npy", x, ["a.jpg", "b.jpg", "c.jpg"])
  for path, image_set in ((tmp_path / "timm", "any"), (tmp_path, "timm")):
    model = models.open_model("m", path)
    rows = models.rows_of(model, image_set, items=("c", "a"))
    np.testing.assert_allclose(rows, x[[2, 0]], rtol=1e-6, atol=0)


def test_whole_numbers_are_features(tmp_path, np_rng):
  x = np_rng.integers(-9, 9, (3, 2))
  artifacts.write_npy(tmp_path / "x.npy", x)
  rows = models.rows_of(
    models.open_model("m", tmp_path / "x.npy"), "any", num_items=3
  )
  assert rows.dtype == np.float32
  np.testing.assert_allclose(rows, x, rtol=0, atol=0)


@pytest.mark.parametrize("features", [None, "x", np.ones(3), {"a": None}])
def test_what_is_no_features(features):
  with pytest.raises(artifacts.InputError, match="The model m.* expected numb"):
    models.from_features("m", features)


def test_labels_are_folders(np_rng):
  x = np_rng.normal(size=(3, 2))
  model = models.from_features("m", x, ["train/n1/a.jpg", "n2/b.jpg", "n1/c"])
  features, classes, _ = models.labelled(model, "pets/train")
  assert features.shape == (3, 2)
  assert classes.tolist() == ["n1", "n2", "n1"]
  flat = models.from_features("m", x, ["a.jpg", "b.jpg", "c.jpg"])
  with pytest.raises(models.Missing, match="the first that does not is a.jpg"):
    models.labelled(flat, "pets/train")


def test_npz_with_names(tmp_path, np_rng):
  x = np_rng.normal(size=(3, 2)).astype(np.float16)
  path = tmp_path / "f.npz"
  artifacts.write_npz(path, features=x, files=np.array(["c.jpg", "a.jpg", "b"]))
  rows = models.rows_of(models.open_model("m", path), "any", items=("a", "b"))
  np.testing.assert_allclose(rows, x[1:], rtol=1e-6, atol=0)
  artifacts.write_npz(path, features=x, files=np.array(["c.jpg"]))
  with pytest.raises(artifacts.InputError, match="3 rows and 1 names"):
    models.open_model("m", path)
  artifacts.write_npz(path, features=x[0])
  with pytest.raises(artifacts.InputError, match=r"\[n d\]"):
    models.open_model("m", path)


def test_callables_see_every_image_once(np_rng):
  images = np_rng.integers(0, 255, (131, 2, 2, 3), np.uint8)
  seen = []

  def function(image):
    seen.append(len(image))
    return image.reshape(len(image), -1) / 255

  model = models.from_callable("m", function, {"pets/train": images})
  for _ in range(2):
    rows = models.rows_of(model, "pets/train", num_items=131)
    np.testing.assert_allclose(
      rows, images.reshape(131, -1) / 255, rtol=1e-6, atol=0
    )
  assert sum(seen) == 131
  with pytest.raises(models.Missing, match="no images of mur92"):
    models.rows_of(model, "mur92", num_items=92)


def test_transforms_are_applied(np_rng):
  x = np_rng.normal(size=(5, 3)).astype(np.float32)
  transform = transform_lib.AffineTransform(
    np_rng.normal(size=(3, 2)), np.ones(2), 0.5, 2.0
  )
  model = models.transformed("t", models.from_features("m", x), transform)
  np.testing.assert_allclose(
    models.rows_of(model, "any", num_items=5),
    transform.apply(x),
    rtol=1e-5,
    atol=1e-6,
  )
  other = models.transformed(
    "t", models.from_features("m", x[:, :2]), transform
  )
  with pytest.raises(models.Missing, match="takes 3 features and there are 2"):
    models.rows_of(other, "any", num_items=5)
