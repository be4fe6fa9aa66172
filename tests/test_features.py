"""The command: what it writes and refuses, and that kills leave no trace."""

import csv
import functools
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts, features
from alignet_jax.backbones import blocks, vit
from alignet_jax.backbones import weights as weights_lib
from alignet_jax.images import collections, preprocess

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def make_backbone(name, weights=None, *, image_size=8, pool="cls", **_):
  """Stands for `backbones.load.load`: a tiny ViT."""
  model = vit.ViT(
    patch_size=4, width=8, depth=2, mlp_dim=16, num_heads=2, pool=pool
  )
  return types.SimpleNamespace(
    model=model,
    params=random_params(model, image_size),
    preprocessing=preprocess.Preprocessing(image_size),
    report=f"{name} from {weights}",
  )


def random_params(model, image_size):
  """Parameters by numpy: initialising in JAX takes seconds."""
  image = jnp.zeros([1, image_size, image_size, 3])
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
  np_rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: np_rng.normal(size=x.shape, scale=0.3).astype(np.float32), shapes
  )


@pytest.fixture
def images(tmp_path):
  np_rng = np.random.default_rng(5)
  for i in range(11):
    path = tmp_path / "images" / "ab"[i % 2] / f"{i:02d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np_rng.integers(0, 256, (7, 9, 3), np.uint8)
    Image.fromarray(pixels).save(path)
  return tmp_path / "images"


@pytest.fixture
def command(images, tmp_path, capsys):
  """Runs the command; returns its exit code, output and errors."""
  (tmp_path / "w.npz").write_bytes(b"weights")

  def run(*args, load=make_backbone, **flags):
    flags = {
      "model": "tiny",
      "weights": tmp_path / "w.npz",
      "images": images,
      "out": tmp_path / "out",
      **flags,
    }
    flags = [f"--{name}={value}" for name, value in flags.items()]
    code = features.main([*flags, *args], load=load)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err

  return run


def refuse_to_load(*args, **kwargs):
  raise AssertionError("the weights are read for nothing")


def test_writes_features_index_and_manifest(command, images, tmp_path):
  code, text, _ = command(output="cls", batch_size=4)
  assert code == 0
  assert f"wrote {tmp_path}/out/features.npy [11, 8]" in text
  assert f"tiny from {tmp_path}/w.npz" in text
  x = artifacts.read_npy(tmp_path / "out" / "features.npy")
  backbone = make_backbone("tiny")
  with open(tmp_path / "out" / "index.csv", newline="") as f:
    rows = list(csv.DictReader(f))
  for row in rows:
    pixels = np.asarray(Image.open(images / row["file"]))
    pixels = backbone.preprocessing.apply(pixels)[None] / np.float32(255)
    _, out = backbone.model.apply({"params": backbone.params}, pixels)
    np.testing.assert_allclose(
      x[int(row["row"])], out["cls"][0], rtol=1e-4, atol=1e-4
    )
  made = json.loads((tmp_path / "out" / "manifest.json").read_text())
  digest = artifacts.sha256_file(tmp_path / "w.npz")
  assert made["config"]["model"] == {"name": "tiny", "weights_sha256": digest}
  assert made["external"][str(tmp_path / "w.npz")] == digest
  assert made["config"]["preprocessing"]["size"] == 8


def test_a_finished_run_says_so_without_reading_the_weights(command, tmp_path):
  command()
  before = os.stat(tmp_path / "out" / "features.npy").st_mtime_ns
  code, text, _ = command(load=refuse_to_load)
  assert code == 0 and "out is up to date" in text
  assert os.stat(tmp_path / "out" / "features.npy").st_mtime_ns == before


def test_changed_settings_are_refused_or_overwrite(command, tmp_path):
  command()
  for flags, message in (
    ({"model": "else"}, 'model.name "tiny" -> "else"'),
    ({"output": "cls"}, 'outputs ["pre_logits"] -> ["cls"]'),
    ({"pool": "gap"}, 'model.pool (none) -> "gap"'),
    ({"image_size": 12}, "model.image_size (none) -> 12"),
  ):
    code, _, err = command(load=refuse_to_load, **flags)
    assert code == 2 and message in err and "--overwrite" in err
  (tmp_path / "w.npz").write_bytes(b"other weights")
  code, _, err = command(load=refuse_to_load)
  assert code == 2 and "model.weights_sha256" in err
  code, text, _ = command("--overwrite", image_size=12, output="block01")
  assert code == 0 and "features.npy [11, 10, 8]" in text


def test_an_unknown_output_lists_those_that_there_are(command):
  code, _, err = command(output="nose")
  assert code == 2
  for name in ("nose", "pre_logits", "cls", "patch_mean", "block00", "block01"):
    assert name in err


def test_damaged_images_are_refused_or_skipped(command, images, tmp_path):
  (images / "b" / "03.png").write_bytes(b"")
  code, _, err = command()
  assert code == 2 and "b/03.png is empty" in err and "--on_error=skip" in err
  assert not (tmp_path / "out" / "features.npy").exists()
  code, text, _ = command(on_error="skip")
  assert code == 0 and "1 images were left out" in text
  with open(tmp_path / "out" / "skipped.csv", newline="") as f:
    assert list(csv.reader(f)) == [
      ["file", "reason"],
      ["b/03.png", "The image file b/03.png is empty."],
    ]
  assert len(artifacts.read_npy(tmp_path / "out" / "features.npy")) == 10


# Above the limit but below twice the limit PIL itself only warns.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_images_one_of_each_kind(command, tmp_path, monkeypatch):
  """The table of `images.decode`, from a tar to the rows and the list."""
  noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
  image = Image.fromarray(noise)
  turned = Image.Exif()
  turned[0x0112] = 6
  deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 256)
  files = {
    "0_truncated.jpg": encode(image, "JPEG")[:-200],
    "1_cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
    "2_deep.png": encode(deep, "PNG"),
    "3_palette.JPEG": encode(image.convert("P"), "PNG"),
    "4_exif.jpg": encode(image, "JPEG", exif=turned),
    "5_dot.png": encode(image.crop((0, 0, 1, 1)), "PNG"),
    "6_bomb.png": encode(Image.new("1", (2000, 1000)), "PNG"),
    "7_empty.jpg": b"",
    "8_text.jpg": b"<html>not found</html>",
    "9_whole.png": encode(image, "PNG"),
  }
  monkeypatch.setattr(preprocess, "MAX_PIXELS", 2_000_000 - 1)
  with tarfile.open(tmp_path / "hostile.tar", "w") as archive:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  code, _, err = command(images=tmp_path / "hostile.tar")
  assert code == 2 and "0_truncated.jpg cannot be decoded" in err
  code, _, _ = command(images=tmp_path / "hostile.tar", on_error="skip")
  assert code == 0
  with open(tmp_path / "out" / "index.csv", newline="") as f:
    names = [row["file"] for row in csv.DictReader(f)]
  assert [name[0] for name in names] == list("123459")
  with open(tmp_path / "out" / "skipped.csv", newline="") as f:
    reasons = {row["file"][0]: row["reason"] for row in csv.DictReader(f)}
  assert list(reasons) == list("0678")
  for number, word in (("0", "truncated"), ("6", "pixels"), ("7", "empty")):
    assert word in reasons[number]


def encode(image, format, **options):
  f = io.BytesIO()
  image.save(f, format=format, **options)
  return f.getvalue()


def test_processes_in_turn(command, tmp_path):
  code, text, _ = command(process_index=1, process_count=2, part_size=1)
  assert code == 0 and "parts are not there yet" in text
  code, text, _ = command(process_index=0, process_count=2, part_size=1)
  assert code == 0 and "features.npy [11, 8]" in text


def test_mistakes_end_with_exit_code_2(command, tmp_path):
  for flags, message in (
    ({"images": tmp_path / "nowhere"}, "no images"),
    ({"weights": tmp_path / "nowhere"}, "no weights"),
    ({"out": tmp_path / "w.npz" / "x"}, "cannot be made a folder"),
    ({"output": "cls,cls"}, "each once"),
  ):
    code, _, err = command(**flags)
    assert code == 2 and message in err, err
  for flags in ({"batch_size": 0}, {"dtype": "int8"}, {"on_error": "x"}):
    with pytest.raises(SystemExit) as error:
      command(**flags)
    assert error.value.code == 2


def test_a_folder_that_cannot_be_written_is_refused_before_the_weights(
  command, tmp_path, monkeypatch
):
  code, _, err = command(out=tmp_path / "w.npz" / "x", load=refuse_to_load)
  assert code == 2 and "cannot be made a folder" in err

  def refuse(dir):
    raise OSError(30, "Read-only file system")

  monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
  code, _, err = command(load=refuse_to_load)
  assert code == 2 and "out: Read-only file system" in err


def test_too_little_memory_makes_no_image_broken(
  command, tmp_path, monkeypatch
):
  original = collections.FolderImages.decode

  def decode(self, data, index):
    if index == 7:
      raise MemoryError
    return original(self, data, index)

  flags = {"on_error": "skip", "batch_size": 2, "part_size": 2}
  with monkeypatch.context() as patch:
    patch.setattr(collections.FolderImages, "decode", decode)
    code, _, err = command(**flags)
  assert code == 2 and "--num_threads=" in err and "--batch_size=2" in err
  assert not (tmp_path / "out" / "skipped.csv").exists()
  code, text, _ = command(**flags)
  assert code == 0 and "features.npy [11, 8]" in text
  assert len((tmp_path / "out" / "skipped.csv").read_text().split("\n")) == 2


def test_the_activation_is_told_to_the_model_and_noted(command, tmp_path):
  told = []

  def load(*args, activation, **kwargs):
    told.append(activation)
    return make_backbone(*args, **kwargs)

  command(load=load, activation="gelu")
  assert told == ["gelu"]
  made = json.loads((tmp_path / "out" / "manifest.json").read_text())
  assert made["config"]["model"]["activation"] == "gelu"
  assert features._ACTIVATIONS == tuple(blocks.ACTIVATIONS)


def test_weights_in_a_folder_are_known_by_their_content(command, tmp_path):
  folder = tmp_path / "weights"
  folder.mkdir()
  (folder / "model.safetensors").write_bytes(b"1")
  command(weights=folder)
  (folder / "README.md").write_bytes(b"not read")
  assert "up to date" in command(weights=folder)[1]
  (folder / "model.safetensors").write_bytes(b"2")
  code, _, err = command(weights=folder)
  assert code == 2 and "weights_sha256" in err


@pytest.mark.parametrize("changed", ["config.json", "b.safetensors"])
def test_all_files_that_decide_the_weights_count(command, tmp_path, changed):
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"x": "b.safetensors"}}))
  (tmp_path / "b.safetensors").write_bytes(b"1")
  (tmp_path / "config.json").write_text("{}")
  command(weights=index)
  assert "up to date" in command(weights=index)[1]
  (tmp_path / changed).write_text('{"layer_norm_eps": 1.0}')
  code, _, err = command(weights=index)
  assert code == 2 and "weights_sha256" in err


def test_aligned_models_see_the_whole_image_unscaled(command, images, tmp_path):
  def load(*args, **kwargs):
    backbone = make_backbone(*args, **kwargs)
    backbone.preprocessing = preprocess.Preprocessing(
      8, resize="short_side", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return backbone

  command(load=load, preprocessing="alignet")
  # The stand-in's own preprocessing is that of aligned models.
  command(out=tmp_path / "same")
  same = artifacts.read_npy(tmp_path / "same" / "features.npy")
  aligned = artifacts.read_npy(tmp_path / "out" / "features.npy")
  np.testing.assert_array_equal(aligned, same)
  made = json.loads((tmp_path / "out" / "manifest.json").read_text())
  assert made["config"]["model"]["preprocessing"] == "alignet"
  code, _, err = command(load=refuse_to_load)
  assert code == 2 and "preprocessing" in err
  command(load=load, out=tmp_path / "own")
  own = artifacts.read_npy(tmp_path / "own" / "features.npy")
  assert np.abs(own - same).max() > 1e-3


def test_another_array_under_the_same_name_is_noticed(command, tmp_path):
  np_rng = np.random.default_rng(3)
  path = tmp_path / "x.npy"
  np.save(path, np_rng.integers(0, 256, (5, 8, 8, 3), np.uint8))
  command(images=path)
  assert "up to date" in command(images=path)[1]
  np.save(path, np_rng.integers(0, 256, (5, 8, 8, 3), np.uint8))
  code, _, err = command(images=path)
  assert code == 2 and "images" in err


@pytest.mark.parametrize(
  "flags", [{"pool": "bogus"}, {"image_size": 3}, {"weights": "a/b.npz"}]
)
def test_what_the_model_cannot_have_is_one_line(command, flags):
  code, _, err = command(**flags)
  assert code == 2 and err.startswith("error: ")
  assert "Hugging Face" not in err


def test_the_command_reads_public_weights(command, tmp_path):
  from alignet_jax.backbones import families

  family, fields = families.get("big_vision_ti16")
  params = random_params(vit.ViT(**fields), image_size=32)
  weights_lib.save(tmp_path / "ti16.npz", params)
  code, text, err = command(
    model="big_vision_ti16",
    weights=tmp_path / "ti16.npz",
    image_size=32,
    load=None,
  )
  assert code == 0, err
  assert "features.npy [11, 192]" in text
  made = json.loads((tmp_path / "out" / "manifest.json").read_text())
  expected = families.preprocessing(family, 32).to_dict()
  assert made["config"]["preprocessing"] == expected


@pytest.mark.parametrize("model", ["augreg_ti16", "noted"])
def test_a_student_s_file_needs_no_flag(command, tmp_path, model):
  from alignet_jax.backbones import load, stage

  sizes = {"width": 6, "depth": 1, "mlp_dim": 10, "num_heads": 2}
  backbone = {"name": "augreg_ti16", "pool": "cls_patch_mean", "size": 32}
  backbone |= {**sizes, "preprocessing": "alignet"}
  params = random_params(stage.make_model(backbone), image_size=32)
  stage.save(tmp_path / "aligned.npz", params, backbone)
  flags = {"model": model, "weights": tmp_path / "aligned.npz"}
  if model == "noted":
    code, text, err = command(**flags, load=None)
  else:  # A name stands for its published sizes.
    small = functools.partial(load.load, **sizes)
    code, text, err = command(**flags, load=small)
  assert code == 0, err
  assert "features.npy [11, 12]" in text
  made = json.loads((tmp_path / "out" / "manifest.json").read_text())
  expected = preprocess.Preprocessing(32).to_dict()
  assert made["config"]["preprocessing"] == expected


def test_a_part_of_a_file_of_weights(command, tmp_path):
  assert command(weights=f"{tmp_path / 'w.npz'}:img")[0] == 0
  code, _, err = command(weights=tmp_path / "w.npz")
  assert code == 2 and 'img" -> ' in err
  code, _, err = command(weights=f"{tmp_path / 'nowhere.npz'}:img")
  assert code == 2 and "no weights" in err


# Runs the command in a process of its own, with the stand-in for the weights.
SCRIPT = """
import runpy, sys
module = runpy.run_path("tests/test_features.py")
sys.exit(module["features"].main(sys.argv[1:], load=module["make_backbone"]))
"""


def kill_after(flags, out, more):
  """Kills the command when it has made so many parts; it must not be done."""
  process = subprocess.Popen(
    [sys.executable, "-W", "error", "-c", SCRIPT, *flags],
    cwd=REPOSITORY,
    env={**os.environ, "PYTHONPATH": "."},
    stdout=subprocess.DEVNULL,
  )
  want = num_parts(out) + more
  while num_parts(out) < want:
    assert process.poll() is None, "it ended before it could be killed"
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  assert not (out / "manifest.json").exists()


def num_parts(out):
  return len(list((out / "parts").glob("part-*.json")))


def test_killed_twice_and_started_again_gives_the_same_bytes(
  shared_data, tmp_path
):
  """Images of a tar; SIGKILL, which no handler sees, in other processes."""
  source = shared_data / "tiny_imagenet" / "train.tar"
  with (
    tarfile.open(source) as full,
    tarfile.open(tmp_path / "some.tar", "w") as some,
  ):
    for _ in range(800):
      info = full.next()
      some.addfile(info, full.extractfile(info))
  (tmp_path / "w").write_bytes(b"weights")
  whole, out = tmp_path / "whole", tmp_path / "out"
  flags = {
    folder: [
      "--model=tiny",
      f"--weights={tmp_path / 'w'}",
      f"--images={tmp_path / 'some.tar'}",
      f"--out={folder}",
      "--batch_size=8",
      "--part_size=8",
    ]
    for folder in (whole, out)
  }
  assert features.main(flags[whole], load=make_backbone) == 0
  for more in (3, 5):
    kill_after(flags[out], out, more)
  assert 8 <= num_parts(out) < 100
  assert features.main(flags[out], load=make_backbone) == 0
  for name in ("features.npy", "index.csv"):
    assert (out / name).read_bytes() == (whole / name).read_bytes()
  assert sorted(os.listdir(out)) == sorted(os.listdir(whole))
  assert artifacts.read_npy(out / "features.npy").shape == (800, 8)
