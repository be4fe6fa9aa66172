"""Files that are complete or absent, the same bytes, and no pickle."""

import errno
import io
import json
import os
import pathlib
import zipfile

import ml_collections
import numpy as np
import pytest

from alignet_jax import artifacts, manifest


def test_a_writer_that_raises_leaves_the_old_file_and_no_half_one(tmp_path):
  path = tmp_path / "a.bin"
  artifacts.write_bytes(path, b"old")
  with pytest.raises(RuntimeError), artifacts.writer(path) as f:
    f.write(b"new, but only ha")
    f.flush()
    raise RuntimeError
  assert path.read_bytes() == b"old"
  assert os.listdir(tmp_path) == ["a.bin"]


def test_nothing_is_visible_under_the_name_before_the_end(tmp_path):
  path = tmp_path / "a.bin"
  with artifacts.writer(path) as f:
    f.write(b"data")
    f.flush()
    assert not path.exists()
  assert path.read_bytes() == b"data"


def test_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
  calls = []
  fsync, replace = os.fsync, os.replace
  monkeypatch.setattr(os, "fsync", lambda fd: calls.append("sync") or fsync(fd))
  monkeypatch.setattr(
    os, "replace", lambda a, b: calls.append("replace") or replace(a, b)
  )
  artifacts.write_bytes(tmp_path / "a", b"data")
  assert calls == ["sync", "replace", "sync"]


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
  def full(fd):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match="No space"):
    artifacts.write_npz(tmp_path / "a.npz", x=np.arange(3))
  assert os.listdir(tmp_path) == []


def test_npz_has_the_same_bytes_at_another_time_and_order(
  tmp_path, monkeypatch
):
  x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.int64(7)
  artifacts.write_npz(tmp_path / "a.npz", x=x, y=y)
  monkeypatch.setattr("time.time", lambda: 2e9)
  artifacts.write_npz(tmp_path / "b.npz", y=y, x=np.asfortranarray(x))
  first, second = (tmp_path / name for name in ("a.npz", "b.npz"))
  assert first.read_bytes() == second.read_bytes()
  with zipfile.ZipFile(first) as archive:
    for info in archive.infolist():
      assert info.compress_type == zipfile.ZIP_STORED
      assert info.date_time == (1980, 1, 1, 0, 0, 0)


def test_npz_round_trip_keeps_names_shapes_and_dtypes(tmp_path):
  arrays = {
    "path": np.arange(5, dtype=np.int32),
    "encoder/kernel": np.ones((2, 3), np.float16),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 7), bool),
    "names": np.array(["cat", "snail"]),
  }
  artifacts.write_npz(tmp_path / "a.npz", **arrays)
  for read in (artifacts.read_npz, lambda p: dict(np.load(p))):
    loaded = read(tmp_path / "a.npz")
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
      assert loaded[name].dtype == array.dtype
      assert loaded[name].shape == array.shape
      np.testing.assert_array_equal(loaded[name], array)


@pytest.mark.parametrize("mmap", [False, True])
def test_npy_round_trip(tmp_path, mmap):
  array = np.arange(6, dtype=np.float32).reshape(3, 2)
  artifacts.write_npy(tmp_path / "a.npy", array)
  loaded = artifacts.read_npy(tmp_path / "a.npy", mmap=mmap)
  assert isinstance(loaded, np.memmap) == mmap
  np.testing.assert_array_equal(loaded, array)


def test_what_needs_pickle_is_not_written(tmp_path):
  ragged = np.array([[1], [1, 2]], dtype=object)
  with pytest.raises(ValueError, match=r"a.npz.*'ragged'.*object"):
    artifacts.write_npz(tmp_path / "a.npz", ragged=ragged)
  with pytest.raises(ValueError, match="a.npy: the array has dtype object"):
    artifacts.write_npy(tmp_path / "a.npy", ragged)
  assert os.listdir(tmp_path) == []


def test_bfloat16_is_refused_because_it_would_read_back_as_raw_bytes(tmp_path):
  ml_dtypes = pytest.importorskip("ml_dtypes")
  with pytest.raises(ValueError, match="bfloat16.*float32"):
    artifacts.write_npz(tmp_path / "a.npz", x=np.ones(3, ml_dtypes.bfloat16))


def test_reading_object_arrays_explains_and_runs_nothing(tmp_path):
  class Bomb:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / "ran"),)

  bombs = np.array([Bomb()], dtype=object)
  np.save(tmp_path / "a.npy", bombs, allow_pickle=True)
  np.savez(tmp_path / "a.npz", x=bombs)
  with pytest.raises(
    artifacts.InputError, match=r"a\.npy holds Python objects"
  ):
    artifacts.read_npy(tmp_path / "a.npy")
  with pytest.raises(
    artifacts.InputError, match=r"a\.npz holds Python objects"
  ):
    artifacts.read_npz(tmp_path / "a.npz")
  assert not (tmp_path / "ran").exists()


def test_every_cut_of_a_file_is_an_input_error_that_names_it(tmp_path):
  buffer = io.BytesIO()
  np.savez_compressed(buffer, x=np.arange(3), y=np.ones(2))
  whole = {"cut.npz": buffer.getvalue()}
  artifacts.write_npy(tmp_path / "whole.npy", np.arange(4))
  whole["cut.npy"] = (tmp_path / "whole.npy").read_bytes()
  readers = {"cut.npz": artifacts.read_npz, "cut.npy": artifacts.read_npy}
  for name, data in whole.items():
    for length in range(0, len(data), 7):
      (tmp_path / name).write_bytes(data[:length])
      with pytest.raises(artifacts.InputError, match=name):
        readers[name](tmp_path / name)


def test_a_flipped_byte_of_an_array_is_noticed(tmp_path):
  path = tmp_path / "a.npz"
  artifacts.write_npz(path, x=np.arange(1000))
  data = bytearray(path.read_bytes())
  data[4000] ^= 1
  path.write_bytes(data)
  with pytest.raises(artifacts.InputError, match=r"a\.npz is damaged"):
    artifacts.read_npz(path)


def test_readers_name_what_is_wrong_with_the_path(tmp_path):
  artifacts.write_npy(tmp_path / "one.npy", np.arange(3))
  artifacts.write_npz(tmp_path / "many.npz", x=np.arange(3))
  (tmp_path / "text.json").write_text("{", encoding="utf-8")
  cases = [
    (artifacts.read_npz, "none.npz", "There is no file .*none.npz"),
    (artifacts.read_npz, ".", "is a folder"),
    (artifacts.read_npz, "one.npy", "one.npy .*one array"),
    (artifacts.read_npy, "many.npz", "many.npz .*several arrays"),
    (artifacts.read_json, "text.json", "text.json is damaged"),
    (artifacts.read_json, "none.json", "There is no file"),
  ]
  for read, name, sentence in cases:
    with pytest.raises(artifacts.InputError, match=sentence):
      read(tmp_path / name)


def test_a_required_array_that_is_missing_is_named_with_those_present(tmp_path):
  artifacts.write_npz(tmp_path / "a.npz", loc=np.ones(2), scale=np.ones(2))
  with pytest.raises(
    artifacts.InputError,
    match="a.npz has no array 'triplets'; it has loc, scale",
  ):
    artifacts.read_npz(tmp_path / "a.npz", required=("loc", "triplets"))


def test_json_keeps_order_and_exact_numbers(tmp_path):
  values = {"b": 0.1 + 0.2, "a": [1, None, "\u00e9"]}
  artifacts.write_json(tmp_path / "a.json", values)
  loaded = artifacts.read_json(tmp_path / "a.json")
  assert loaded == values
  assert list(loaded) == ["b", "a"]
  artifacts.write_json(tmp_path / "a.json", values, sort_keys=True)
  assert list(artifacts.read_json(tmp_path / "a.json")) == ["a", "b"]


def test_sha256_of_a_file_is_the_published_one(tmp_path):
  # The example of FIPS 180-2.
  (tmp_path / "abc").write_bytes(b"abc")
  expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
  assert artifacts.sha256_file(tmp_path / "abc") == expected
  assert artifacts.digest_path(tmp_path / "abc") == expected


def test_digest_of_a_folder_depends_on_names_and_sizes(tmp_path):
  def make(folder, files):
    for name, data in files.items():
      path = tmp_path / folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
    return artifacts.digest_path(tmp_path / folder)

  first = make("a", {"x/1.png": b"12", "2.png": b"3"})
  assert make("b", {"2.png": b"9", "x/1.png": b"45"}) == first
  assert make("c", {"x/1.png": b"123", "2.png": b"3"}) != first
  assert make("d", {"y/1.png": b"12", "2.png": b"3"}) != first


def test_commit_replaces_the_old_folder_as_a_whole(tmp_path):
  partial, final = tmp_path / "partial", tmp_path / "final"
  for folder, name in ((final, "old"), (partial, "new")):
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / name).write_text(name, encoding="utf-8")
  artifacts.commit_directory(partial, final)
  assert [p.name for p in (final / "sub").iterdir()] == ["new"]
  assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_config_hash_ignores_order_and_tuple_or_list_but_no_value():
  base = manifest.config_hash({"a": (1, 2), "b": {"c": "x", "d": None}})
  same = ml_collections.ConfigDict({"b": {"d": None, "c": "x"}, "a": [1, 2]})
  assert manifest.config_hash(same) == base
  reordered = {"b": {"d": None, "c": "x"}, "a": (1, 2)}
  assert manifest.config_hash(reordered) == base
  frozen = ml_collections.FrozenConfigDict(same)
  assert manifest.config_hash(frozen) == base
  for other in (
    {"a": (1, 3), "b": {"c": "x", "d": None}},
    {"a": (2, 1), "b": {"c": "x", "d": None}},
    {"a": (1, 2), "b": {"c": "x", "d": False}},
    {"a": (1, 2), "b": {"c": "x"}},
    {"a": (1, 2), "b": {"c": "x", "d": None}, "e": {}},
  ):
    assert manifest.config_hash(other) != base
  assert manifest.config_hash({"a": np.int32(1)}) == manifest.config_hash(
    {"a": 1}
  )
  with pytest.raises(TypeError, match="PosixPath"):
    manifest.config_hash({"a": pathlib.PosixPath("x")})


def test_config_changes_name_each_field_with_both_values():
  changes = manifest.config_changes(
    {"seed": 0, "a": {"x": [1, 2], "y": "s"}, "gone": {}},
    {"seed": 0, "a": {"x": [1, 3], "y": "t", "z": True}},
  )
  assert changes == [
    "config.a.x [1, 2] -> [1, 3]",
    'config.a.y "s" -> "t"',
    "config.a.z (none) -> true",
    "config.gone {} -> (none)",
  ]


def _manifest(**changes):
  values = {
    "stage": "s",
    "config": {"seed": 3},
    "config_hash": "c",
    "inputs": {},
    "external": {},
    "outputs": {},
    "digest": "d",
    "versions": manifest.versions(),
    "seed": 3,
    "seconds": 0.5,
    "created": "2026-01-01T00:00:00+00:00",
    "metrics": {"b": 1.5, "a": 2},
  }
  return manifest.Manifest(**{**values, **changes})


def test_manifest_round_trip_keeps_the_order_of_metrics(tmp_path):
  assert manifest.read(tmp_path) is None
  written = _manifest()
  manifest.write(tmp_path, written)
  loaded = manifest.read(tmp_path)
  assert loaded == written
  assert list(loaded.metrics) == ["b", "a"]
  assert {"alignet_jax", "python", "numpy"} <= set(loaded.versions)


@pytest.mark.parametrize(
  "text",
  ["", "{", "[]", "{}", '{"stage": "s"}', "\xff"],
  ids=["empty", "cut", "list", "bare", "fields", "bytes"],
)
def test_a_damaged_manifest_is_an_input_error(tmp_path, text):
  (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
  with pytest.raises(artifacts.InputError, match=r"manifest\.json"):
    manifest.read(tmp_path)


def test_a_manifest_with_a_list_for_a_map_is_damaged(tmp_path):
  manifest.write(tmp_path, _manifest())
  path = tmp_path / "manifest.json"
  values = json.loads(path.read_text(encoding="utf-8"))
  path.write_text(json.dumps({**values, "outputs": []}), encoding="utf-8")
  with pytest.raises(artifacts.InputError, match="outputs is not a map"):
    manifest.read(tmp_path)


def test_outputs_are_listed_with_sizes_and_missing_ones_are_found(tmp_path):
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub" / "abc").write_bytes(b"abc")
  (tmp_path / "empty").write_bytes(b"")
  (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
  outputs = manifest.describe_outputs(tmp_path)
  assert list(outputs) == ["empty", "sub/abc"]
  assert outputs["sub/abc"]["bytes"] == 3
  assert outputs["sub/abc"]["sha256"].startswith("ba7816bf")
  made = _manifest(outputs=outputs)
  assert manifest.damaged_output(tmp_path, made) is None
  (tmp_path / "empty").write_bytes(b"x")
  assert manifest.damaged_output(tmp_path, made) == "empty"
  (tmp_path / "empty").unlink()
  assert manifest.damaged_output(tmp_path, made) == "empty"


def test_parts_are_written_as_the_whole_would_be(tmp_path):
  whole = np.arange(35, dtype=np.int32).reshape(7, 5)
  parts = (whole[i : i + 3].astype(np.int64) for i in range(0, 7, 3))
  artifacts.write_npz(tmp_path / "whole.npz", x=whole, y=np.ones(2))
  artifacts.write_npz(
    tmp_path / "parts.npz",
    x=artifacts.Parts((7, 5), np.int32, parts),
    y=np.ones(2),
  )
  both = [(tmp_path / f"{n}.npz").read_bytes() for n in ("whole", "parts")]
  assert both[0] == both[1]
  with pytest.raises(ValueError, match=r"\(7, 5\) lack 4"):
    artifacts.write_npz(
      tmp_path / "less.npz", x=artifacts.Parts((7, 5), np.int32, [whole[:3]])
    )
  assert not (tmp_path / "less.npz").exists()


def test_mapped_arrays_are_not_loaded(tmp_path):
  path = tmp_path / "x.npz"
  objects = np.array([None, 1], dtype=object)
  want = np.arange(6.0).reshape(2, 3)
  np.savez(path, a=want, f=np.asfortranarray(want), e=want[:0], o=objects)
  arrays, names = artifacts.map_npz(path, ("a", "f", "e"))
  assert sorted(names) == ["a", "e", "f", "o"]
  for name, array in arrays.items():
    np.testing.assert_array_equal(array, want[:0] if name == "e" else want)
  assert isinstance(arrays["a"], np.memmap)
  assert isinstance(arrays["f"], np.memmap)
  with pytest.raises(artifacts.InputError, match="Python objects"):
    artifacts.map_npz(path, ("o",))
  with pytest.raises(artifacts.InputError, match="no array 'b'; it has a, e,"):
    artifacts.map_npz(path, ("b",))
