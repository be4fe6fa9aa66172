import io
import os
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts
from alignet_jax.images import collections, preprocess, tar

SMALL = preprocess.Preprocessing(5)


@pytest.fixture
def folder(tmp_path):
  np_rng = np.random.default_rng(3)
  for name in ("b/2.JPEG", "b/10.png", "a c/x.PNG", "a/y.jpg"):
    path = tmp_path / "folder" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np_rng.integers(0, 256, (13, 7 + len(name), 3), np.uint8)
    Image.fromarray(pixels).save(path)
  (tmp_path / "folder" / "b" / "notes.txt").write_text("not an image")
  (tmp_path / "folder" / "b" / "._2.JPEG").write_bytes(b"metadata")
  return tmp_path / "folder"


def pack(path, members, mode="w", **options):
  """Writes a tar file of (name or TarInfo, bytes)."""
  with tarfile.open(path, mode, **options) as archive:
    for info, data in members:
      if isinstance(info, str):
        info = tarfile.TarInfo(info)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return path


def link(name, kind, target):
  info = tarfile.TarInfo(name)
  info.type, info.linkname = kind, target
  return info, b""


@pytest.mark.parametrize(
  "format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
@pytest.mark.parametrize("prefix", ["", "./"])
def test_equals_the_folder_that_it_was_made_of(
  folder, tmp_path, format, prefix
):
  path = tmp_path / "images.tar"
  with tarfile.open(path, "w", format=format) as archive:
    archive.add(folder, arcname=prefix or "/", recursive=True)
  images = tar.TarImages(path, preprocessing=SMALL)
  files = collections.FolderImages(folder, preprocessing=SMALL)
  assert images.names == files.names
  assert images.class_names == files.class_names == ["a", "a c", "b"]
  np.testing.assert_array_equal(images.labels, files.labels, strict=True)
  indices = [3, 0, 2, 1, 3]
  np.testing.assert_array_equal(images.load(indices), files.load(indices))
  for i in range(4):
    assert images.read(i) == files.read(i)
  assert images.num_bytes(1, 3) == files.num_bytes(1, 3)
  assert (len(images), images.size, images.num_links) == (4, 5, 0)


def test_long_names_and_the_later_of_two_members(tmp_path):
  name = "/".join(["x" * 60] * 5) + "/i.png"
  path = pack(
    tmp_path / "a.tar", [(name, b"1"), ("b.png", b"2"), (name, b"33")]
  )
  images = tar.TarImages(path)
  assert images.names == ["b.png", name]
  assert images.read(1) == b"33"
  assert images.labels is None


def test_links_are_left_out_and_counted(tmp_path):
  secret = tmp_path / "secret.png"
  secret.write_bytes(b"secret")
  members = [
    ("a.png", b"a"),
    link("soft.png", tarfile.SYMTYPE, str(secret)),
    link("hard.png", tarfile.LNKTYPE, "a.png"),
    link("soft.txt", tarfile.SYMTYPE, str(secret)),
    link("pipe.png", tarfile.FIFOTYPE, ""),
  ]
  images = tar.TarImages(pack(tmp_path / "a.tar", members))
  assert images.names == ["a.png"] and images.num_links == 2
  with pytest.raises(artifacts.InputError, match="no file .* but 2 links"):
    tar.TarImages(pack(tmp_path / "b.tar", members[1:]))


def test_hostile_names_are_only_names(tmp_path):
  before = sorted(os.listdir(tmp_path))
  names = ["../up.png", "/etc/passwd.png", "a/../../b.png", "a/\n\udcff.png"]
  path = pack(tmp_path / "a.tar", [(name, b"x") for name in names])
  images = tar.TarImages(path)
  assert [images.read(i) for i in range(4)] == [b"x"] * 4
  assert sorted(images.names) == sorted(
    ["../up.png", "etc/passwd.png", "a/../../b.png", "a/\n\udcff.png"]
  )
  assert sorted(os.listdir(tmp_path)) == [*before, "a.tar"]


@pytest.mark.parametrize(
  ("kind", "program"), [("gz", "gunzip"), ("bz2", "bunzip2"), ("xz", "unxz")]
)
def test_compressed_archives_are_refused_with_the_remedy(
  tmp_path, kind, program
):
  path = pack(tmp_path / f"a.tar.{kind}", [("a.png", b"a")], f"w:{kind}")
  with pytest.raises(
    artifacts.InputError, match=f"`{program} --keep .*{kind}`"
  ):
    tar.TarImages(path)


@pytest.mark.parametrize("kept", [1, 2, 300, 512, 513, 900, 1024, 1500, 2048])
def test_archives_cut_off_anywhere_are_refused(tmp_path, kept):
  path = pack(tmp_path / "a.tar", [("a.png", b"a" * 9), ("b.png", b"b" * 9)])
  assert len(tar.TarImages(path)) == 2
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(artifacts.InputError, match=r"a\.tar is cut off"):
    tar.TarImages(path)


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
  path = pack(tmp_path / "a.tar", [("a.png", b"a" * 9), ("b.png", b"b" * 9)])
  data = bytearray(path.read_bytes())
  data[1024 + 150] ^= 1  # In the checksum of the second header.
  path.write_bytes(data)
  with pytest.raises(artifacts.InputError, match="damaged at byte 1024"):
    tar.TarImages(path)


def test_other_files_are_refused(tmp_path):
  with pytest.raises(artifacts.InputError, match="no file .*nowhere.tar"):
    tar.TarImages(tmp_path / "nowhere.tar")
  (tmp_path / "a.tar").write_bytes(b"these are not the bytes of a tar" * 99)
  with pytest.raises(artifacts.InputError, match="no tar file"):
    tar.TarImages(tmp_path / "a.tar")
  path = pack(tmp_path / "b.tar", [("a.txt", b"a")])
  with pytest.raises(artifacts.InputError, match="no file that ends in .jpg"):
    tar.TarImages(path)


def test_a_tar_that_shrinks_later_is_named(tmp_path):
  path = pack(tmp_path / "a.tar", [("a.png", b"a" * 5000)])
  images = tar.TarImages(path)
  os.truncate(path, 2048)
  with pytest.raises(artifacts.InputError, match="ends within a.png"):
    images.read(0)


def test_threads_and_copies_read_from_one_open_file(tmp_path):
  members = [(f"{i:03d}.png", b"%d" % i * (i + 1)) for i in range(50)]
  images = tar.TarImages(pack(tmp_path / "a.tar", members))
  other = images.with_preprocessing(SMALL)
  del images
  wrong = []

  def read():
    for i in range(50):
      if other.read(i) != members[i][1]:
        wrong.append(i)

  threads = [threading.Thread(target=read) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong


def test_tiny_imagenet(shared_data):
  images = tar.TarImages(
    shared_data / "tiny_imagenet" / "train.tar",
    preprocessing=preprocess.Preprocessing(64),
  )
  assert len(images) == 20_000
  assert images.names == sorted(images.names)
  assert len(images.class_names) == images.labels.max() + 1
  batch = images.load([0, 10_000, 19_999])
  assert batch.shape == (3, 64, 64, 3) and batch.std(axis=(1, 2, 3)).min() > 5
