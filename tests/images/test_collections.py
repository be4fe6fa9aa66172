import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts
from alignet_jax.images import collections, preprocess, resize


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
  seen, read = [], collections.FolderImages.read
  monkeypatch.setattr(
    collections.FolderImages,
    "read",
    lambda self, index: seen.append(self.names[index]) or read(self, index),
  )
  images = collections.FolderImages(folder, size=5)
  images.load(np.array([3, 1, 3, 3, 1]))
  assert sorted(seen) == ["a c/x.PNG", "b/2.JPEG"]


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


def test_bytes_and_pixels_of_one_image(folder):
  images = collections.FolderImages(folder, size=5)
  data = images.read(2)
  assert data == (folder / "b" / "10.png").read_bytes()
  np.testing.assert_array_equal(images.decode(data, 2), images.load([2])[0])
  sizes = [(folder / name).stat().st_size for name in images.names]
  assert images.num_bytes(1, 4) == sizes[1:]


def test_preprocessing_of_a_model_replaces_the_squeeze(folder):
  wide = preprocess.Preprocessing(3, resize="short_side", short_side=7)
  images = collections.FolderImages(folder, preprocessing=wide)
  want = wide.apply(_pattern(13, 15))
  np.testing.assert_array_equal(images.load([2])[0], want)
  listed = collections.FolderImages(folder)
  other = listed.with_preprocessing(wide)
  np.testing.assert_array_equal(other.load([2])[0], want)
  assert (other.size, listed.preprocessing) == (3, None)


def test_image_too_long_to_resize_is_named(folder, monkeypatch):
  monkeypatch.setattr(preprocess, "MAX_PIXELS", 3 * 5 * 5)
  Image.fromarray(_pattern(1, 17)).save(folder / "a" / "y.jpg", format="PNG")
  wide = preprocess.Preprocessing(5, resize="short_side")
  images = collections.FolderImages(folder, preprocessing=wide)
  with pytest.raises(artifacts.InputError, match=r"a/y\.jpg .*17 x 1 .*85 x 5"):
    images.load([0])


def test_a_file_that_vanished_is_named_and_a_failing_disk_is_an_error(
  folder, monkeypatch
):
  images = collections.FolderImages(folder, size=5)
  (folder / "b" / "2.JPEG").unlink()
  with pytest.raises(artifacts.InputError, match=r"b/2\.JPEG cannot be read"):
    images.load([3])
  assert images.num_bytes(3, 4) == [-1]

  def fail(self):
    raise OSError(5, "Input/output error")

  monkeypatch.setattr("pathlib.Path.read_bytes", fail)
  with pytest.raises(OSError, match="Input/output"):
    images.load([0])


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


def test_array_of_another_size_is_preprocessed_like_files():
  pixels = np.stack([_pattern(7, 7), _pattern(7, 7)[::-1]])
  images = collections.ArrayImages(pixels)
  assert images.read(1) == pixels[1].tobytes()
  same = images.with_preprocessing(
    preprocess.Preprocessing(7, resize="short_side", short_side=11)
  )
  np.testing.assert_array_equal(same.load([1, 0]), pixels[::-1])
  np.testing.assert_array_equal(same.decode(same.read(1), 1), pixels[1])
  small = images.with_preprocessing(preprocess.Preprocessing(5))
  want = resize.resize_cubic(pixels[1], 5)
  np.testing.assert_array_equal(small.load([0, 1])[1], want)
  np.testing.assert_array_equal(small.decode(small.read(1), 1), want)
  assert (small.size, images.size, images.num_bytes(0, 2)) == (5, 7, [147] * 2)


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


def test_a_ring_of_links_is_walked_once(folder):
  before = collections.FolderImages(folder, size=8).names
  (folder / "ring").symlink_to(folder, target_is_directory=True)
  assert collections.FolderImages(folder, size=8).names == before


def test_a_link_to_another_folder_is_followed(folder, tmp_path):
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  Image.fromarray(_pattern(5, 7)).save(elsewhere / "a.png")
  (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
  assert "linked/a.png" in collections.FolderImages(folder, size=8).names


@pytest.mark.parametrize(
  "name", ["x" * 300, "file/y.png", "nul\0.png"], ids=["long", "below", "nul"]
)
def test_names_under_which_there_can_be_no_file(tmp_path, name):
  (tmp_path / "file").write_bytes(b"1")
  path = f"{tmp_path}/{name}"
  assert collections.file_sizes([path]) == [-1]
  with pytest.raises(artifacts.InputError, match="cannot be read"):
    collections.read_file(path)
