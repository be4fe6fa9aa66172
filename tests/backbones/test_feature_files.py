"""Streaming: the same bits after any interruption, and refusals that name."""

import csv
import fcntl
import hashlib
import json
import os
import tempfile
import threading
import tracemalloc

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts, manifest
from alignet_jax.backbones import feature_files, feature_locks, feature_parts
from alignet_jax.images import collections, decoded, preprocess

SIZE = 5
PREPROCESSING = preprocess.Preprocessing(
  SIZE, mean=(0.5, 0.25, 0.125), std=(0.5, 0.5, 0.25)
)


class Probe(nn.Module):
  """Stands for a backbone: image -> its mean colour, and its rows."""

  @nn.compact
  def __call__(self, image):
    gain = self.param("gain", nn.initializers.ones, ())
    x = gain * jnp.mean(image, axis=(1, 2))
    rows = jnp.mean(image, axis=2)
    half = x.astype(jnp.bfloat16)
    out = {"pre_logits": x, "rows": rows, "half": half, "one": jnp.mean(x)}
    return x, {**out, "root": jnp.sqrt(x)}


PARAMS = {"gain": jnp.float32(3.0)}


class Killed(BaseException):
  """Stands for a kill: nothing may handle it."""


@pytest.fixture
def folder(tmp_path):
  """17 lossless images of several sizes in two classes."""
  np_rng = np.random.default_rng(7)
  for i in range(17):
    path = tmp_path / "images" / "ab"[i % 2] / f"{i:02d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np_rng.integers(0, 256, (6 + i, 9, 3), np.uint8)
    Image.fromarray(image).save(path)
  return tmp_path / "images"


def run(out, folder, outputs=("pre_logits",), params=PARAMS, **options):
  images = collections.FolderImages(folder, preprocessing=PREPROCESSING)
  of_settings = {
    name: options.pop(name)
    for name in ("batch_size", "dtype", "model")
    if name in options
  }
  asked = feature_files.settings(
    **{"model": {"name": "probe"}, "batch_size": 3, **of_settings},
    images=images,
    outputs=outputs,
  )
  options = {"part_size": 6, "num_threads": 2, **options}
  return feature_files.extract(out, Probe(), params, images, asked, **options)


def read_csv(path):
  with open(path, newline="", encoding="utf-8") as f:
    return list(csv.reader(f))


def content(out, names=("features.npy", "index.csv")):
  return [(out / name).read_bytes() for name in names]


def expected(folder, names):
  """Each image by itself: f64[n 3]."""
  images = collections.FolderImages(folder, preprocessing=PREPROCESSING)
  rows = []
  for name in names:
    (pixels,) = images.load([images.names.index(name)]).astype(np.float64)
    x = (pixels / 255 - PREPROCESSING.mean) / PREPROCESSING.std
    rows.append(3 * x.mean((0, 1)))
  return np.array(rows)


def test_rows_index_and_manifest(folder, tmp_path):
  out = tmp_path / "deep" / "out"
  made = run(out, folder, sources={"w.npz": "12ab"})
  x = artifacts.read_npy(out / "features.npy")
  header, *index = read_csv(out / "index.csv")
  assert header == ["row", "file", "sha256"]
  assert [row[0] for row in index] == [str(i) for i in range(17)]
  names = [row[1] for row in index]
  assert names[:2] == ["a/00.png", "a/02.png"] and names[-1] == "b/15.png"
  np.testing.assert_allclose(x, expected(folder, names), rtol=1e-5, atol=1e-5)
  assert x.dtype == np.float32
  for _, name, digest in index:
    data = (folder / name).read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
  assert sorted(os.listdir(out)) == [
    "features.npy",
    "index.csv",
    "manifest.json",
  ]
  assert made == manifest.read(out)
  assert manifest.damaged_output(out, made, read=True) is None
  assert made.metrics == {"num_rows": 17, "num_skipped": 0}
  assert made.external == {"w.npz": "12ab"}
  recorded = preprocess.from_dict(made.config["preprocessing"])
  assert recorded == PREPROCESSING


@pytest.mark.parametrize(
  ("batch_size", "part_size"), [(1, 1), (4, 4), (5, 7), (64, 2048)]
)
def test_rows_do_not_depend_on_batches_and_parts(
  folder, tmp_path, batch_size, part_size
):
  run(tmp_path / "out", folder, batch_size=batch_size, part_size=part_size)
  x = artifacts.read_npy(tmp_path / "out" / "features.npy")
  names = [row[1] for row in read_csv(tmp_path / "out" / "index.csv")[1:]]
  np.testing.assert_allclose(x, expected(folder, names), rtol=1e-5, atol=1e-5)


def test_batches_are_spread_over_all_devices(folder, tmp_path, monkeypatch):
  seen, forward = [], feature_files.features.forward

  def spy(params, image, **settings):
    if isinstance(image, jax.Array) and not isinstance(image, jax.core.Tracer):
      seen.append((image.shape, len(image.sharding.device_set)))
    return forward(params, image, **settings)

  monkeypatch.setattr(feature_files.features, "forward", spy)
  run(tmp_path / "out", folder, batch_size=13)
  devices = len(jax.local_devices())
  rows = -(-13 // devices) * devices
  assert seen == [((rows, SIZE, SIZE, 3), devices)] * 2


def test_several_outputs_of_any_rank_in_one_pass(folder, tmp_path):
  run(tmp_path / "out", folder, ("pre_logits", "rows", "half"))
  x, rows, half = (
    artifacts.read_npy(tmp_path / "out" / f"features_{name}.npy")
    for name in ("pre_logits", "rows", "half")
  )
  assert rows.shape == (17, SIZE, 3)
  np.testing.assert_allclose(3 * rows.mean(1), x, rtol=1e-5, atol=1e-5)
  assert half.dtype == np.float32
  np.testing.assert_allclose(half, x, rtol=1e-2, atol=1e-5)


def test_half_precision(folder, tmp_path):
  run(tmp_path / "full", folder)
  run(tmp_path / "half", folder, dtype="float16")
  x = artifacts.read_npy(tmp_path / "half" / "features.npy")
  full = artifacts.read_npy(tmp_path / "full" / "features.npy")
  np.testing.assert_array_equal(x, full.astype(np.float16), strict=True)


@pytest.mark.parametrize("kills", [[1], [4, 2], [8, 1, 6], [12], [13, 1, 2, 3]])
def test_same_bytes_after_kills_at_any_write(
  folder, tmp_path, monkeypatch, kills
):
  """Each number counts files that appear before the process is gone.

  A whole run has 14: run.json, three of each part, and the four results.
  """
  run(tmp_path / "whole", folder, on_error="skip")
  replace = os.replace
  for kill in kills:
    left = kill

    def replace_or_die(source, target):
      nonlocal left
      if not left:
        raise Killed
      left -= 1
      return replace(source, target)

    with monkeypatch.context() as patch:
      patch.setattr(os, "replace", replace_or_die)
      with pytest.raises(Killed):
        run(tmp_path / "out", folder, on_error="skip")
    assert not (tmp_path / "out" / "manifest.json").exists()
  run(tmp_path / "out", folder, on_error="skip")
  assert content(tmp_path / "out") == content(tmp_path / "whole")
  names = set(os.listdir(tmp_path / "out"))
  assert names == set(os.listdir(tmp_path / "whole"))


@pytest.fixture
def stopped(folder, tmp_path, monkeypatch):
  """A run of which the first two of three parts are there."""

  def stop(self, *args, **kwargs):
    raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(feature_parts.Parts, "assemble", stop)
    with pytest.raises(Killed):
      run(tmp_path / "out", folder)
  (tmp_path / "out" / "parts" / "part-00002.json").unlink()
  return tmp_path / "out"


def count_decoded(monkeypatch):
  seen, decode = [], collections.FolderImages.decode
  monkeypatch.setattr(
    collections.FolderImages,
    "decode",
    lambda self, data, i: seen.append(i) or decode(self, data, i),
  )
  return seen


def test_what_killed_processes_left_half_is_removed(folder, stopped):
  half = stopped / f".features.npy.999999{artifacts.PARTIAL_SUFFIX}"
  half.write_bytes(b"half")
  run(stopped, folder, process_index=1, process_count=2)
  # The other process may just be writing it.
  assert half.exists()
  run(stopped, folder)
  assert sorted(os.listdir(stopped)) == [
    "features.npy",
    "index.csv",
    "manifest.json",
  ]


def test_only_missing_parts_are_made(folder, stopped, monkeypatch):
  seen = count_decoded(monkeypatch)
  run(stopped, folder)
  assert sorted(seen) == list(range(12, 17))
  seen.clear()
  run(stopped, folder)
  assert seen == []


@pytest.mark.parametrize("name", ["0.npy", "csv", "json"])
def test_a_damaged_part_is_made_again(
  folder, stopped, tmp_path, monkeypatch, name
):
  path = stopped / "parts" / f"part-00001.{name}"
  data = bytearray(path.read_bytes())
  data[-9] ^= 1
  path.write_bytes(data)
  seen = count_decoded(monkeypatch)
  run(stopped, folder)
  assert sorted(seen) == list(range(6, 17))
  run(tmp_path / "whole", folder)
  assert content(stopped) == content(tmp_path / "whole")


def test_a_replaced_image_makes_only_its_part_again(
  folder, stopped, monkeypatch
):
  images = collections.FolderImages(folder)
  Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(folder / images.names[1])
  seen = count_decoded(monkeypatch)
  run(stopped, folder)
  assert sorted(seen) == [*range(6), *range(12, 17)]


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"batch_size": 6}, "batch_size 3 -> 6"),
    ({"dtype": "float16"}, 'dtype "float32" -> "float16"'),
    ({"outputs": ("half",)}, r'outputs \["pre_logits"\] -> \["half"\]'),
    ({"model": {"name": "else"}}, 'model.name "probe" -> "else"'),
  ],
)
@pytest.mark.parametrize("is_finished", [False, True])
def test_changed_settings_are_refused_or_overwrite(
  folder, stopped, tmp_path, changed, message, is_finished
):
  if is_finished:
    run(stopped, folder)
  with pytest.raises(artifacts.InputError, match=message):
    run(stopped, folder, **changed)
  run(stopped, folder, **changed, overwrite=True)
  run(tmp_path / "fresh", folder, **changed)
  assert content(stopped) == content(tmp_path / "fresh")


def test_changed_machine_and_preprocessing_are_refused_while_unfinished(
  folder, stopped, monkeypatch
):
  devices = jax.local_devices()
  with monkeypatch.context() as patch:
    patch.setattr(jax, "local_devices", lambda: devices[:1])
    if len(devices) > 1:
      with pytest.raises(artifacts.InputError, match="machine.devices .*1 x"):
        run(stopped, folder)
    patch.setitem(globals(), "PREPROCESSING", preprocess.Preprocessing(SIZE))
    with pytest.raises(artifacts.InputError, match="preprocessing.mean"):
      run(stopped, folder)
  run(stopped, folder)


def test_overwrite_goes_on_where_nothing_differs(folder, stopped, monkeypatch):
  seen = count_decoded(monkeypatch)
  run(stopped, folder, overwrite=True)
  run(stopped, folder, overwrite=True)
  assert sorted(seen) == list(range(12, 17))


def test_other_images_are_refused(folder, stopped, tmp_path):
  (folder / "a" / "00.png").rename(folder / "a" / "01.png")
  with pytest.raises(artifacts.InputError, match="images.names_sha256"):
    run(stopped, folder)
  (folder / "a" / "01.png").rename(folder / "a" / "00.png")
  run(stopped, folder)
  Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(folder / "a" / "00.png")
  with pytest.raises(artifacts.InputError, match="sizes of image files"):
    run(stopped, folder)


def test_files_of_others_are_not_replaced(folder, tmp_path):
  np.save(tmp_path / "features.npy", np.zeros(3))
  with pytest.raises(
    artifacts.InputError, match="holds features.*features.npy"
  ):
    run(tmp_path, folder)
  assert np.load(tmp_path / "features.npy").shape == (3,)


def test_damaged_results_are_refused(folder, stopped):
  run(stopped, folder)
  with open(stopped / "features.npy", "ab") as f:
    f.write(b"x")
  with pytest.raises(artifacts.InputError, match="features.npy, which is not"):
    run(stopped, folder)


def spoil(folder, *names):
  for name in names:
    (folder / name).write_bytes(b"no image")


def test_an_undecodable_image_is_refused_and_the_work_before_it_kept(
  folder, tmp_path, monkeypatch
):
  spoil(folder, "a/12.png")  # Image 6, the first of the second part.
  with pytest.raises(artifacts.InputError, match=r"a/12\.png .*\n.*=skip"):
    run(tmp_path / "out", folder)
  assert not (tmp_path / "out" / "features.npy").exists()
  seen = count_decoded(monkeypatch)
  with pytest.raises(artifacts.InputError, match=r"a/12\.png"):
    run(tmp_path / "out", folder)
  assert min(seen) == 6
  seen.clear()
  # Mended: the part before it is still good.
  Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(folder / "a" / "12.png")
  run(tmp_path / "out", folder)
  assert min(seen) == 6


def test_skipped_images_are_listed_and_have_no_row(folder, tmp_path):
  bad = ["a/00.png", "b/01.png", "b/03.png", "b/15.png"]
  spoil(folder, *bad)
  made = run(tmp_path / "out", folder, on_error="skip")
  header, *skipped = read_csv(tmp_path / "out" / "skipped.csv")
  assert header == ["file", "reason"]
  assert [row[0] for row in skipped] == bad
  assert all("cannot be decoded" in row[1] for row in skipped)
  x = artifacts.read_npy(tmp_path / "out" / "features.npy")
  index = read_csv(tmp_path / "out" / "index.csv")[1:]
  assert [row[0] for row in index] == [str(i) for i in range(13)]
  names = [row[1] for row in index]
  assert not set(names) & set(bad)
  np.testing.assert_allclose(x, expected(folder, names), rtol=1e-5, atol=1e-5)
  assert made.metrics == {"num_rows": 13, "num_skipped": 4}
  with pytest.raises(artifacts.InputError, match='on_error "skip" -> "refuse"'):
    run(tmp_path / "out", folder)


def test_a_part_without_any_image_and_a_collection_without_any(
  folder, tmp_path
):
  names = collections.FolderImages(folder).names
  spoil(folder, *names[:6])
  run(tmp_path / "out", folder, on_error="skip")
  x = artifacts.read_npy(tmp_path / "out" / "features.npy")
  assert x.shape == (11, 3)
  spoil(folder, *names)
  with pytest.raises(artifacts.InputError, match="None of the 17 images"):
    run(tmp_path / "none", folder, on_error="skip")


def test_parts_with_skipped_images_are_not_taken_where_that_is_refused(
  folder, tmp_path, monkeypatch
):
  spoil(folder, "a/00.png")

  def stop(self, *args, **kwargs):
    raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(feature_parts.Parts, "assemble", stop)
    with pytest.raises(Killed):
      run(tmp_path / "out", folder, on_error="skip")
  with pytest.raises(artifacts.InputError, match=r"a/00\.png .*\n.*=skip"):
    run(tmp_path / "out", folder)
  run(tmp_path / "out", folder, on_error="skip")


def test_rows_that_are_not_finite_are_refused_with_the_first_file(
  folder, tmp_path
):
  name = "a/08.png"
  white = np.full((5, 5, 3), 255, np.uint8)
  for other in collections.FolderImages(folder).names:
    Image.fromarray(white).save(folder / other)
  run(tmp_path / "white", folder, ("root",))
  Image.fromarray(white * 0).save(folder / name)  # A root of less than zero.
  with pytest.raises(artifacts.InputError, match=f"'root' .* for {name}"):
    run(tmp_path / "out", folder, ("root",))
  large = {"gain": jnp.float32(1e5)}
  run(tmp_path / "full", folder, params=large)
  with pytest.raises(artifacts.InputError, match="too large for float16"):
    run(tmp_path / "half", folder, params=large, dtype="float16")
  assert not list(tmp_path.glob("*/features.npy.partial"))


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1, 0, 1), (2, 0, 1, 2)])
def test_processes_share_the_parts_and_the_last_one_joins_them(
  folder, tmp_path, monkeypatch, order
):
  run(tmp_path / "whole", folder)
  seen = count_decoded(monkeypatch)
  done = [
    run(
      tmp_path / "out",
      folder,
      process_index=i,
      process_count=max(order) + 1,
    )
    for i in order
  ]
  last = len(set(order)) - 1
  assert [made is not None for made in done] == [
    i >= last for i in range(len(order))
  ]
  assert sorted(seen) == list(range(17))
  assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_two_processes_of_one_number_are_refused(folder, stopped):
  with feature_locks.lock(stopped / "parts" / "process-0.lock") as is_locked:
    assert is_locked
    with pytest.raises(artifacts.InputError, match="another process 0 of 1"):
      run(stopped, folder)
  run(stopped, folder)


def nested(monkeypatch, name, inner):
  """Runs `inner` once, before the first call of a function of the module."""
  original = getattr(feature_files, name)

  def first_inner(*args, **kwargs):
    monkeypatch.setattr(feature_files, name, original)
    inner()
    return original(*args, **kwargs)

  monkeypatch.setattr(feature_files, name, first_inner)


FINISHED = ["features.npy", "index.csv", "manifest.json"]


def test_of_two_that_end_together_one_joins_and_the_last_tidies_up(
  folder, tmp_path, monkeypatch
):
  out, found, original = tmp_path / "out", [], feature_files._make_parts

  def make_parts(*args, **kwargs):
    original(*args, **kwargs)
    if found:
      return
    found.append(None)  # The other one runs from here to its end.
    found.append(run(out, folder, process_index=0, process_count=2))
    found.append(os.stat(out / "features.npy").st_ino)
    assert (out / "parts").exists()  # This process is still at them.

  monkeypatch.setattr(feature_files, "_make_parts", make_parts)
  made = run(out, folder, process_index=1, process_count=2)
  assert made == found[1] and made.metrics["num_rows"] == 17
  assert os.stat(out / "features.npy").st_ino == found[2]
  assert sorted(os.listdir(out)) == FINISHED


@pytest.mark.parametrize("overwrite", [False, True])
def test_who_begins_while_another_ends_takes_what_that_one_made(
  folder, tmp_path, monkeypatch, overwrite
):
  out, found = tmp_path / "out", []
  nested(monkeypatch, "_machine", lambda: found.append(run(out, folder)))
  assert run(out, folder, overwrite=overwrite) == found[0]
  assert sorted(os.listdir(out)) == FINISHED


def test_parts_that_another_process_makes_are_not_overwritten(
  folder, tmp_path, monkeypatch
):
  out, found = tmp_path / "out", []

  def other():
    with pytest.raises(artifacts.InputError, match="by another process, with"):
      run(out, folder, dtype="float16", overwrite=True)
    with pytest.raises(artifacts.InputError, match="another process 0 of 1"):
      run(out, folder, overwrite=True)
    found.append("refused")

  nested(monkeypatch, "_make_parts", other)
  run(out, folder)
  assert found == ["refused"]
  assert artifacts.read_npy(out / "features.npy").dtype == np.float32


def test_the_state_is_locked_while_parts_are_joined(
  folder, tmp_path, monkeypatch
):
  out, seen, assemble = tmp_path / "out", [], feature_parts.Parts.assemble

  def spy(*args, **kwargs):
    with open(out / ".state.lock", "ab") as f, pytest.raises(BlockingIOError):
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    seen.append("locked")
    return assemble(*args, **kwargs)

  monkeypatch.setattr(feature_parts.Parts, "assemble", spy)
  run(out, folder)
  assert seen == ["locked"]


def test_a_removed_lock_is_no_lock(tmp_path):
  """Whoever waits for it makes a new one, which keeps others out again."""
  entered, leave = threading.Event(), threading.Event()

  def wait_and_hold():
    with feature_locks.state(tmp_path):
      entered.set()
      leave.wait(10)

  thread = threading.Thread(target=wait_and_hold)
  with feature_locks.state(tmp_path):
    thread.start()
    assert not entered.wait(0.05)
  assert entered.wait(10)
  with (
    open(tmp_path / ".state.lock", "ab") as f,
    pytest.raises(BlockingIOError),
  ):
    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
  leave.set()
  thread.join()
  assert not list(tmp_path.iterdir())


def test_a_part_of_another_run_is_made_again(folder, tmp_path):
  """Also where the settings of the folder would not show it."""
  images = collections.FolderImages(folder)

  def parts(run):
    return feature_parts.Parts(tmp_path, images, 1, run=run, part_size=2)

  digests = ["0" * 64] * 2
  parts("run a").write(0, [np.zeros((2, 3), np.float32)], digests, {})
  for verify in (False, True):
    assert parts("run a").read(0, verify=verify)["num_rows"] == 2
    assert parts("run b").read(0, verify=verify) is None
  assert 0 not in parts("run a").missing()
  assert 0 in parts("run b").missing()


def test_the_list_of_the_skipped_follows_a_change_of_mind(folder, tmp_path):
  out = tmp_path / "out"
  bad = "a/12.png"
  whole = (folder / bad).read_bytes()
  spoil(folder, bad)
  with pytest.raises(artifacts.InputError, match="12.png"):
    run(out, folder)
  made = run(out, folder, on_error="skip")
  assert [row[0] for row in read_csv(out / "skipped.csv")] == ["file", bad]
  assert "skipped.csv" in made.outputs and made.metrics["num_skipped"] == 1
  run(tmp_path / "fresh", folder, on_error="skip")
  names = ("features.npy", "index.csv", "skipped.csv")
  assert content(out, names) == content(tmp_path / "fresh", names)
  # Nothing was left out, and then the list is asked for.
  (folder / bad).write_bytes(whole)
  run(tmp_path / "none", folder)
  made = run(tmp_path / "none", folder, on_error="skip")
  assert read_csv(tmp_path / "none" / "skipped.csv") == [["file", "reason"]]
  assert made == manifest.read(tmp_path / "none")
  assert manifest.damaged_output(tmp_path / "none", made, read=True) is None
  run(tmp_path / "list", folder, on_error="skip")
  assert made.outputs == manifest.read(tmp_path / "list").outputs
  assert made.digest == manifest.read(tmp_path / "list").digest


def test_images_that_another_process_left_out_are_never_left_out_in_silence(
  folder, tmp_path
):
  spoil(folder, "a/00.png")
  out, share = tmp_path / "out", {"process_count": 2}
  run(out, folder, on_error="skip", process_index=0, **share)
  with pytest.raises(artifacts.InputError, match=r"a/00\.png .*\n.*=skip"):
    run(out, folder, process_index=1, **share)
  assert not (out / "features.npy").exists()
  made = run(out, folder, on_error="skip", process_index=1, **share)
  assert made.metrics["num_skipped"] == 1
  assert [row[0] for row in read_csv(out / "skipped.csv")][1:] == ["a/00.png"]


def test_a_list_of_a_killed_run_does_not_stay(folder, stopped):
  (stopped / "skipped.csv").write_text("file,reason\n")
  run(stopped, folder)
  assert sorted(os.listdir(stopped)) == FINISHED


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
  def refuse(dir):
    raise PermissionError(13, "Permission denied")

  feature_files.check_writable(tmp_path / "new" / "out")
  assert list((tmp_path / "new" / "out").iterdir()) == []
  monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
  with pytest.raises(artifacts.InputError, match="out: Permission denied"):
    feature_files.check_writable(tmp_path / "new" / "out")


def test_wrong_arguments_are_refused(folder, tmp_path):
  for options, message in (
    ({"outputs": ("nose",)}, "no output 'nose'; it has pre_logits, rows, half"),
    ({"outputs": ("one",)}, r"'one' is \[\] for .* no row for each"),
    ({"outputs": ()}, "outputs are none"),
    ({"outputs": ("rows", "rows")}, "rows, rows; expected .* once"),
    ({"dtype": "int8"}, "dtype is 'int8'; known are float32, float16"),
    ({"on_error": "hope"}, "on_error is 'hope'; known are refuse, skip"),
    ({"process_index": 2, "process_count": 2}, "less than process_count, 2"),
  ):
    with pytest.raises(artifacts.InputError, match=message):
      run(tmp_path / "out", folder, **options)
  assert not (tmp_path / "out" / "features.npy").exists()


def test_parts_are_small_enough_for_the_memory(folder, tmp_path, monkeypatch):
  # A row has 12 bytes and a batch 3 rows: two batches fit.
  monkeypatch.setattr(feature_files, "MAX_PART_BYTES", 2 * 3 * 12 + 1)
  made = run(tmp_path / "out", folder, part_size=2048)
  assert made.config["part_size"] == 6
  assert made.metrics["num_rows"] == 17


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
  """Ten times the images: 28 MB more pixels and 0.9 MB more features."""
  size = 128

  def peak(n):
    file = np.lib.format.open_memmap(
      tmp_path / f"{n}.npy", "w+", np.uint8, (n, size, size, 3)
    )
    images = collections.ArrayImages(file).with_preprocessing(
      preprocess.Preprocessing(size)
    )
    asked = feature_files.settings({}, images, ["rows"], batch_size=8)
    tracemalloc.start()
    try:
      feature_files.extract(
        tmp_path / f"out{n}", Probe(), PARAMS, images, asked, part_size=16
      )
      return tracemalloc.get_traced_memory()[1]
    finally:
      tracemalloc.stop()

  peak(8)  # What is compiled and imported stays.
  few, many = peak(60), peak(600)
  assert many < few + 400_000


def test_decoding_runs_ahead_but_not_far():
  """What is decoded and not yet asked for is bounded."""
  started = []

  class Images:
    size = 2

    def read(self, index):
      started.append(index)
      return b"%d" % index

    def decode(self, data, index):
      return np.full((2, 2, 3), index, np.uint8)

  ranges = [(i, i + 2) for i in range(0, 40, 2)]
  batches = decoded.decode_ahead(Images(), ranges, num_rows=3)
  first = next(batches)
  assert (first.start, first.stop) == (0, 2)
  np.testing.assert_array_equal(first.image[:, 0, 0, 0], [0, 1, 0])
  assert first.sha256[1] == hashlib.sha256(b"1").hexdigest()
  assert max(started) < 2 * (decoded.NUM_AHEAD + 1)
  starts = [batch.start for batch in batches]
  assert starts == list(range(2, 40, 2))
  batches.close()


def test_an_error_of_the_disk_ends_the_run(folder, tmp_path, monkeypatch):
  def fail(self, index):
    raise OSError(5, "Input/output error")

  with monkeypatch.context() as patch:
    patch.setattr(collections.FolderImages, "read", fail)
    with pytest.raises(OSError, match="Input/output"):
      run(tmp_path / "out", folder, on_error="skip")
  run(tmp_path / "out", folder)


def test_names_that_are_not_text_keep_their_bytes(folder, tmp_path):
  strange = os.fsdecode(b'a/\xff,"\n.png')
  os.rename(folder / "a" / "00.png", folder / strange)
  run(tmp_path / "out", folder)
  with open(
    tmp_path / "out" / "index.csv",
    encoding="utf-8",
    errors="surrogateescape",
    newline="",
  ) as f:
    names = [row[1] for row in csv.reader(f)]
  assert strange in names
  assert json.loads((tmp_path / "out" / "manifest.json").read_text())


def test_a_return_in_a_name_is_no_new_line(folder, tmp_path):
  first = sorted(path for path in folder.rglob("*") if path.is_file())[0]
  first.rename(first.with_name(f"a\rb{first.suffix}"))
  made = run(tmp_path / "out", folder)
  rows = read_csv(tmp_path / "out" / "index.csv")[1:]
  assert len(rows) == made.metrics["num_rows"] == 17
  assert sum("\r" in row[1] for row in rows) == 1
  assert [int(row[0]) for row in rows] == list(range(17))
