import contextlib
import csv
import fcntl
import json
import os

import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts
from alignet_jax.images import (
  collections,
  opening,
  pack,
  pack_files,
  packed,
  preprocess,
)

SIZE, NUM_IMAGES = 5, 17


@pytest.fixture(name="folder")
def _folder(tmp_path, np_rng):
  for i in range(NUM_IMAGES):
    path = tmp_path / "files" / f"{'ab'[i % 2]} c" / f"{i:02d}, x.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np_rng.integers(0, 256, (7 + i, 11, 3), np.uint8)
    Image.fromarray(pixels).save(path)
  return tmp_path / "files"


def run(folder, out, *flags, size=SIZE):
  return pack.main(
    [
      f"--images={folder}",
      f"--size={size}",
      f"--out={out}",
      "--part_size=4",
      *flags,
    ]
  )


def content(out):
  """All files but the manifest, which holds times."""
  return {
    p.name: p.read_bytes() for p in out.iterdir() if p.name != "manifest.json"
  }


def test_packed_images_are_the_images(folder, tmp_path, capsys):
  out = tmp_path / "out"
  assert run(folder, out) == 0
  assert sorted(content(out)) == ["images.npy", "index.csv"]
  images = collections.FolderImages(folder, size=SIZE)
  made = opening.open_collection(out)
  assert isinstance(made, packed.PackedImages)
  assert len(made) == NUM_IMAGES and made.size == SIZE
  assert list(made.names) == images.names
  assert made.class_names == images.class_names == ["a c", "b c"]
  np.testing.assert_array_equal(made.labels, images.labels, strict=True)
  indices = [16, 3, 0, 3]
  np.testing.assert_array_equal(
    made.load(indices), images.load(indices), strict=True
  )
  np.testing.assert_array_equal(
    np.load(out / "images.npy", mmap_mode="r"), images.load(range(NUM_IMAGES))
  )
  with open(out / "index.csv", newline="") as f:
    rows = list(csv.DictReader(f))
  for i, row in enumerate(rows):
    path = folder / row["file"]
    assert row["row"] == str(i) and path == folder / images.names[i]
    assert row["sha256"] == artifacts.sha256_file(path)
    assert row["label"] == path.parent.name
  before = content(out), (out / "manifest.json").stat().st_mtime_ns
  assert run(folder, out) == 0
  assert "up to date" in capsys.readouterr().out
  assert before == (content(out), (out / "manifest.json").stat().st_mtime_ns)


def test_killed_anywhere_it_goes_on_to_the_same_bytes(
  folder, tmp_path, monkeypatch
):
  assert run(folder, tmp_path / "whole") == 0
  want = content(tmp_path / "whole")
  out = tmp_path / "out"
  fsync, killed_at = os.fsync, set()

  class Killed(BaseException):
    pass

  # Dies where something is made sure to be on the disk, each time further on.
  for num_kills in range(14):
    left = [1 + num_kills % 3]

    def dying(descriptor, left=left):
      if not left[0]:
        raise Killed
      left[0] -= 1
      fsync(descriptor)

    monkeypatch.setattr(os, "fsync", dying)
    with contextlib.suppress(Killed):
      run(folder, out)
    monkeypatch.setattr(os, "fsync", fsync)
    parts = out / pack_files.PARTS
    killed_at.add(parts.stat().st_size if parts.exists() else None)
    if not (out / "manifest.json").exists():
      with pytest.raises(artifacts.InputError, match="goes on where"):
        opening.open_collection(out)
  assert len(killed_at) > 4
  assert run(folder, out) == 0
  assert content(out) == want


def test_damaged_part_is_made_again(folder, tmp_path):
  assert run(folder, tmp_path / "whole") == 0
  bad = folder / "b c" / "13, x.png"
  data = bad.read_bytes()
  out = tmp_path / "out"
  bad.write_bytes(b"x" * len(data))  # Of the same length: the listing stays.
  assert run(folder, out) == 2
  bad.write_bytes(data)
  pixels = out / pack_files.PIXELS
  damaged = bytearray(pixels.read_bytes())
  damaged[128 + 6 * 3 * SIZE**2] ^= 1  # Image 6, in the second part.
  pixels.write_bytes(damaged + b"rest of a part")
  with open(out / pack_files.PARTS, "ab") as f:
    f.write(b'{"stop": 1')
  assert run(folder, out) == 0
  assert content(out) == content(tmp_path / "whole")


def test_broken_images_are_refused_or_listed(folder, tmp_path, capsys):
  (folder / "a c" / "04, x.png").write_bytes(b"")
  (folder / "b c" / "15, x.png").write_bytes(b"x")
  assert run(folder, tmp_path / "out") == 2
  assert "a c/04, x.png is empty" in capsys.readouterr().err
  # Goes on with what was written before the first.
  assert run(folder, tmp_path / "out", "--on_error=skip") == 0
  made = opening.open_collection(tmp_path / "out")
  images = collections.FolderImages(folder, size=SIZE)
  good = [i for i, name in enumerate(images.names) if name[4:6] not in "04 15"]
  assert len(good) == 15 == len(made)
  assert list(made.names) == [images.names[i] for i in good]
  np.testing.assert_array_equal(made.load(range(15)), images.load(good))
  with open(tmp_path / "out" / "skipped.csv", newline="") as f:
    rows = list(csv.reader(f))
  assert [row[0] for row in rows] == ["file", "a c/04, x.png", "b c/15, x.png"]
  assert "is empty" in rows[1][1]
  assert run(folder, tmp_path / "out") == 2
  assert 'on_error "skip" -> "refuse"' in capsys.readouterr().err


def test_other_settings_and_other_folders_are_refused(folder, tmp_path, capsys):
  out = tmp_path / "out"
  assert run(folder, out) == 0
  assert run(folder, out, size=6) == 2
  assert "preprocessing.size 5 -> 6" in capsys.readouterr().err
  assert run(folder, out, "--overwrite", size=6) == 0
  assert opening.open_collection(out).size == 6
  assert run(folder, folder) == 2
  assert "holds other files" in capsys.readouterr().err
  about = json.loads((out / "manifest.json").read_text())
  (out / "manifest.json").write_text(json.dumps(about | {"stage": "features"}))
  assert run(folder, out, "--overwrite") == 2
  assert "the files of 'features'" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    run(folder, tmp_path / "new", "--part_size=0")
  assert run(tmp_path / "nothing", tmp_path / "new") == 2


def test_full_disk_is_told_before(folder, tmp_path, capsys, monkeypatch):
  usage = type("Usage", (), {"free": 1000})
  monkeypatch.setattr(pack.shutil, "disk_usage", lambda path: usage)
  assert run(folder, tmp_path / "out") == 2
  assert "GB free" in capsys.readouterr().err


def test_two_processes_do_not_write_the_same(folder, tmp_path, capsys):
  out = tmp_path / "out"
  (folder / "a c" / "00, x.png").write_bytes(b"")
  assert run(folder, out) == 2
  with open(out / packed.RUN, "rb") as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    assert run(folder, out, "--on_error=skip") == 2
  assert "another process" in capsys.readouterr().err


def test_model_with_another_geometry_is_refused(folder, tmp_path):
  assert run(folder, tmp_path / "out") == 0
  made = opening.open_collection(tmp_path / "out")
  scaled = preprocess.Preprocessing(SIZE, mean=preprocess.IMAGENET_MEAN)
  assert made.with_preprocessing(scaled).preprocessing == scaled
  opening.open_collection(tmp_path / "out", scaled)
  for other, message in (
    (preprocess.Preprocessing(SIZE + 1), "size 5, not 6"),
    (preprocess.Preprocessing(SIZE, "short_side"), "resize 'squash'"),
    (
      preprocess.Preprocessing(SIZE, interpolation="bilinear"),
      "interpolation 'cubic_no_antialias', not 'bilinear'",
    ),
  ):
    for action in (
      lambda other=other: made.with_preprocessing(other),
      lambda other=other: opening.open_collection(tmp_path / "out", other),
    ):
      with pytest.raises(artifacts.InputError, match=message):
        action()


def test_geometry_that_gives_the_same_pixels_is_the_same(folder, tmp_path):
  assert run(folder, tmp_path / "squash") == 0
  # Not read by "squash".
  model = preprocess.Preprocessing(SIZE, short_side=SIZE + 2)
  assert len(opening.open_collection(tmp_path / "squash", model)) == NUM_IMAGES
  assert run(folder, tmp_path / "short", "--resize=short_side") == 0
  model = preprocess.Preprocessing(SIZE, "short_side", short_side=SIZE)
  assert len(opening.open_collection(tmp_path / "short", model)) == NUM_IMAGES
  model = preprocess.Preprocessing(SIZE, "short_side", short_side=SIZE + 1)
  with pytest.raises(artifacts.InputError, match="short_side 0, not 6"):
    opening.open_collection(tmp_path / "short", model)


def test_what_was_written_before_a_broken_image_stays(
  folder, tmp_path, monkeypatch
):
  monkeypatch.setattr(pack, "_BATCH_SIZE", 4)
  images = collections.FolderImages(folder, size=SIZE)
  bad, out = folder / images.names[13], tmp_path / "out"
  data = bad.read_bytes()
  bad.write_bytes(b"x" * len(data))
  assert run(folder, out, "--part_size=8") == 2
  lines = (out / pack_files.PARTS).read_text().splitlines()
  # A part of two batches, and of the next what came before the image.
  assert [json.loads(line)["stop"] for line in lines] == [8, 12]
  bad.write_bytes(data)
  assert run(folder, out, "--part_size=8") == 0
  assert run(folder, tmp_path / "whole") == 0
  assert content(out) == content(tmp_path / "whole")


class Killed(BaseException):
  pass


def test_an_image_that_was_left_out_is_refused_when_asked(
  folder, tmp_path, capsys, monkeypatch
):
  (folder / "a c" / "04, x.png").write_bytes(b"")

  def die(self, **kwargs):
    raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(pack_files.Writer, "finish", die)
    with pytest.raises(Killed):
      run(folder, tmp_path / "out", "--on_error=skip")
  assert run(folder, tmp_path / "out") == 2
  assert "04, x.png is empty" in capsys.readouterr().err
  assert run(folder, tmp_path / "out", "--on_error=skip") == 0


def test_a_kill_while_overwriting_leaves_nothing_of_the_old_settings(
  folder, tmp_path, monkeypatch
):
  out = tmp_path / "out"
  bad = folder / "b c" / "15, x.png"
  data = bad.read_bytes()
  bad.write_bytes(b"x" * len(data))
  assert run(folder, out) == 2  # Some parts are there.
  bad.write_bytes(data)
  write_json = artifacts.write_json

  def write_and_die(path, about):
    write_json(path, about)
    raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(artifacts, "write_json", write_and_die)
    with pytest.raises(Killed):
      run(folder, out, "--overwrite", "--interpolation=bilinear")
  assert run(folder, out, "--interpolation=bilinear") == 0
  assert run(folder, tmp_path / "new", "--interpolation=bilinear") == 0
  assert content(out) == content(tmp_path / "new")


def test_cut_off_pixels_are_refused(folder, tmp_path, capsys):
  assert run(folder, tmp_path / "out") == 0
  with open(tmp_path / "out" / "images.npy", "r+b") as f:
    f.truncate(300)
  with pytest.raises(artifacts.InputError, match=r"images\.npy is missing or"):
    opening.open_collection(tmp_path / "out")
  assert run(folder, tmp_path / "out") == 2
  assert (
    "images.npy, which is not as long as written" in capsys.readouterr().err
  )
