import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts
from alignet_jax.images import opening, preprocess, tfds

SMALL = preprocess.Preprocessing(5)


def test_every_kind_gives_the_same_image(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
  (tmp_path / "folder").mkdir()
  Image.fromarray(pixels).save(tmp_path / "folder" / "x.png")
  with tarfile.open(tmp_path / "a.TAR", "w") as archive:
    archive.add(tmp_path / "folder", arcname=".")
  (tmp_path / "a.csv").write_text("file\nfolder/x.png\n")
  (tmp_path / "b.csv").write_text("file\nx.png\n")
  np.save(tmp_path / "a.npy", pixels[None])
  want = SMALL.apply(pixels)
  for name in ("folder", "a.TAR", "a.csv", "a.npy"):
    images = opening.open_collection(tmp_path / name, SMALL)
    np.testing.assert_array_equal(images.load([0])[0], want)
    listed = opening.open_collection(str(tmp_path / name))
    assert len(listed) == 1
    np.testing.assert_array_equal(
      listed.with_preprocessing(SMALL).load([0])[0], want
    )
  images = opening.open_collection(
    tmp_path / "b.csv", SMALL, root=tmp_path / "folder"
  )
  np.testing.assert_array_equal(images.load([0])[0], want)


def test_other_things_are_refused_with_the_kinds(tmp_path):
  (tmp_path / "a.zip").write_bytes(b"")
  for path in (tmp_path / "a.zip", tmp_path / "nowhere"):
    with pytest.raises(
      artifacts.InputError, match="a folder .* .tar .* .csv .* .npy .* tfds:"
    ):
      opening.open_collection(path)
  with tarfile.open(tmp_path / "a.tgz", "w:gz"):
    pass
  with pytest.raises(artifacts.InputError, match="is compressed"):
    opening.open_collection(tmp_path / "a.tgz")
  np.save(tmp_path / "a.npy", np.zeros((3, 4)))
  with pytest.raises(artifacts.InputError, match=r"float64\[3, 4\]"):
    opening.open_collection(tmp_path / "a.npy")


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("tfds:mnist/train", ("mnist", "train")),
    ("tfds:mnist:3.0.1/train[:5]", ("mnist:3.0.1", "train[:5]")),
    ("tfds:subset/1pct/test", ("subset/1pct", "test")),
  ],
)
def test_names_of_tfds(monkeypatch, text, want):
  monkeypatch.setattr(
    tfds, "TfdsImages", lambda name, split, **options: (name, split, options)
  )
  *got, options = opening.open_collection(text, SMALL, data_dir="d")
  assert tuple(got) == want
  assert options == {"data_dir": "d", "preprocessing": SMALL}


@pytest.mark.parametrize("text", ["tfds:mnist", "tfds:mnist/", "tfds:/train"])
def test_names_of_tfds_without_a_split_are_refused(text):
  with pytest.raises(artifacts.InputError, match="expected tfds:NAME/SPLIT"):
    opening.open_collection(text)


def test_opening_and_the_commands_import_neither_tensorflow_nor_jax():
  code = (
    "import sys; from alignet_jax import features;"
    "from alignet_jax.images import opening, pack;"
    "print([m for m in sys.modules if m.split('.')[0] in"
    " ('tensorflow', 'tensorflow_datasets', 'jax', 'PIL')])"
  )
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c", code],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == "[]\n"
