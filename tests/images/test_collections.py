import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts
from alignet_jax.images import collections, resize


def _pattern(height, width):
  i, j, c = np.ogrid[:height, :width, :3]
  return ((7 * i + 11 * j + 53 * c) % 256).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
  """Three classes; extensions in both cases; things that are not images."""
  for name in ("b/2.JPEG", "b/10.png", "a c/x.PNG", "a/y.jpg"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(_pattern(13, 7 + len(name))).save(path)
  (tmp_path / "b" / "notes.txt").write_text("not an image")
  (tmp_path / "b" / "._2.JPEG").write_bytes(b"metadata of another system")
  return tmp_path


def test_folder_is_sorted_by_parts_and_labelled_by_sub_folder(folder):
  images = collections.FolderImages(folder, size=5)
  # As strings "a c/x" sorts before "a/y", which would interleave classes.
  assert images.names == ["a/y.jpg", "a c/x.PNG", "b/10.png", "b/2.JPEG"]
  assert images.class_names == ["a", "a c", "b"]
  np.testing.assert_array_equal(images.labels, [0, 1, 2, 2])
  assert images.labels.dtype == np.int32
  assert len(images) == 4


def test_flat_and_deep_folders_have_no_labels(folder, tmp_path):
  assert collections.FolderImages(folder / "b", size=5).labels is None
  Image.fromarray(_pattern(3, 3)).save(tmp_path / "at_the_top.png")
  assert collections.FolderImages(folder, size=5).labels is None


def test_load_decodes_and_squeezes_whole_images(folder):
  images = collections.FolderImages(folder, size=5)
  got = images.load(np.array([2, 1, 2]))
  assert got.shape == (3, 5, 5, 3) and got.dtype == np.uint8
  # PNG is lossless: "b/10.png" has 8 letters, so is 13 x 15.
  want = resize.resize_cubic(_pattern(13, 15), 5)
  np.testing.assert_array_equal(got[0], want)
  np.testing.assert_array_equal(got[2], want)
  want = resize.resize_cubic(_pattern(13, 16), 5)
  np.testing.assert_array_equal(got[1], want)


def test_load_decodes_a_repeated_image_once(folder, monkeypatch):
  seen, decode = [], collections.decode
  monkeypatch.setattr(
    collections, "decode", lambda path: seen.append(path.name) or decode(path)
  )
  images = collections.FolderImages(folder, size=5)
  images.load(np.array([3, 1, 3, 3, 1]))
  assert sorted(seen) == ["2.JPEG", "x.PNG"]


def test_png_named_jpeg_is_decoded_by_its_content(tmp_path):
  path = tmp_path / "really_a_png.JPEG"
  Image.fromarray(_pattern(5, 7)).save(path, format="PNG")
  np.testing.assert_array_equal(collections.decode(path), _pattern(5, 7))


def test_other_colour_modes_become_rgb(tmp_path):
  grey = _pattern(5, 7)[..., 0]
  three = np.repeat(grey[..., None], 3, axis=-1)

  Image.fromarray(grey).save(tmp_path / "grey.png")
  np.testing.assert_array_equal(
    collections.decode(tmp_path / "grey.png"), three
  )

  deep = Image.fromarray(grey.astype(np.uint16) * 256 + 255)
  deep.save(tmp_path / "deep.png")
  np.testing.assert_array_equal(
    collections.decode(tmp_path / "deep.png"), three
  )

  clear = np.dstack([_pattern(5, 7), np.zeros((5, 7), np.uint8)])
  Image.fromarray(clear).save(tmp_path / "clear.png")
  np.testing.assert_array_equal(
    collections.decode(tmp_path / "clear.png"), _pattern(5, 7)
  )

  palette = Image.fromarray(grey).convert("P")
  palette.info["transparency"] = bytes(256)
  palette.save(tmp_path / "palette.png", transparency=bytes(256))
  np.testing.assert_array_equal(
    collections.decode(tmp_path / "palette.png"), three
  )

  # Full cyan ink and no other: red is dark, green and blue are bright.
  inks = np.zeros((16, 16, 4), np.uint8)
  inks[..., 0] = 255
  ink = Image.frombytes("CMYK", (16, 16), inks.tobytes())
  ink.save(tmp_path / "ink.jpg")
  red, green, blue = collections.decode(tmp_path / "ink.jpg")[8, 8]
  assert red < 20 and green > 235 and blue > 235


def test_undecodable_image_is_named(folder):
  (folder / "b" / "2.JPEG").write_bytes(b"these are not the bytes of an image")
  images = collections.FolderImages(folder, size=5)
  images.load(np.array([0, 1, 2]))
  with pytest.raises(artifacts.InputError, match=r"b/2\.JPEG"):
    images.load(np.array([0, 3]))


def test_truncated_image_is_named(folder):
  path = folder / "a" / "y.jpg"
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(artifacts.InputError, match=r"a/y\.jpg"):
    collections.FolderImages(folder, size=5).load(np.array([0]))


# Above the limit but below twice the limit PIL itself only warns.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_named(folder, monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 13 * 14 - 1)
  images = collections.FolderImages(folder, size=5)
  assert images.names[0] == "a/y.jpg"  # 13 x 14
  with pytest.raises(artifacts.InputError, match=r"a/y\.jpg .*13 pixels"):
    images.load(np.array([0]))


def test_missing_and_empty_folders_are_named(tmp_path):
  with pytest.raises(artifacts.InputError, match="nowhere does not exist"):
    collections.FolderImages(tmp_path / "nowhere", size=5)
  (tmp_path / "hollow").mkdir()
  with pytest.raises(artifacts.InputError, match="hollow has no file"):
    collections.FolderImages(tmp_path / "hollow", size=5)


def test_array_collection_gathers_also_from_a_memory_mapped_file(tmp_path):
  pixels = np.random.default_rng(0).integers(
    0, 256, (7, 5, 5, 3), dtype=np.uint8
  )
  np.save(tmp_path / "images.npy", pixels)
  mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
  images = collections.ArrayImages(mapped, labels=[0, 0, 1, 1, 2, 2, 2])
  got = images.load(np.array([6, 0, 6]))
  np.testing.assert_array_equal(got, pixels[[6, 0, 6]])
  assert type(got) is np.ndarray and got.dtype == np.uint8
  assert (len(images), images.size, images.names[3]) == (7, 5, "3")
  assert images.labels.dtype == np.int32


@pytest.mark.parametrize("outside", [-1, 7])
def test_index_outside_the_collection_is_refused(outside):
  images = collections.ArrayImages(np.zeros((7, 5, 5, 3), np.uint8))
  with pytest.raises(IndexError, match=f"Image {outside} of .* 7 images"):
    images.load(np.array([2, outside]))


def test_wrong_arrays_are_refused():
  with pytest.raises(artifacts.InputError, match=r"float32\[2, 5, 5, 3\]"):
    collections.ArrayImages(np.zeros((2, 5, 5, 3), np.float32))
  with pytest.raises(artifacts.InputError, match=r"uint8\[2, 5, 7, 3\]"):
    collections.ArrayImages(np.zeros((2, 5, 7, 3), np.uint8))
  pixels = np.zeros((2, 5, 5, 3), np.uint8)
  with pytest.raises(artifacts.InputError, match="as many labels, not 3"):
    collections.ArrayImages(pixels, labels=[0, 1, 2])
  with pytest.raises(artifacts.InputError, match="as many names, not 1"):
    collections.ArrayImages(pixels, names=["a"])
