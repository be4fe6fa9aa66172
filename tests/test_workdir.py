"""The folder of a run: lock, leftovers, scratch, digests of inputs."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from alignet_jax import artifacts, workdir

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

HOLDER = """
import sys
from alignet_jax import workdir
with workdir.opened(sys.argv[1], log=print):
  print("locked", flush=True)
  sys.stdin.read()
"""


def _open(path):
  with workdir.opened(path, log=print) as folder:
    return folder


def test_a_second_process_is_told_which_one_holds_the_folder(tmp_path):
  command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
  with subprocess.Popen(
    command,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    cwd=REPOSITORY,
  ) as holder:
    try:
      assert holder.stdout.readline() == b"locked\n"
      sentence = rf"{tmp_path / 'run'} is in use by process {holder.pid} on "
      with pytest.raises(artifacts.InputError, match=sentence):
        _open(tmp_path / "run")
    finally:
      holder.kill()
  _open(tmp_path / "run")  # Nothing that a killed process left is in the way.


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch):
  def refuse(*args):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(workdir.fcntl, "lockf", refuse)
  lines = []
  with workdir.opened(tmp_path, log=lines.append):
    pass
  assert len(lines) == 1
  assert "No locks available" in lines[0]


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_place_of_the_folder_is_explained(tmp_path, name):
  (tmp_path / "file").write_text("", encoding="utf-8")
  with pytest.raises(artifacts.InputError, match=f"{name} cannot be made"):
    _open(tmp_path / name)


def test_a_read_only_folder_is_explained(tmp_path, monkeypatch):
  def refuse(path, *args, **kwargs):
    raise OSError(errno.EROFS, "Read-only file system", str(path))

  monkeypatch.setattr(os, "mkdir", refuse)
  with pytest.raises(
    artifacts.InputError, match="run cannot be written to: Read-only file"
  ):
    _open(tmp_path / "run")


def test_leftovers_are_removed_and_scratch_is_kept(tmp_path):
  folder = _open(tmp_path)
  (folder.partial / "teacher" / "sub").mkdir(parents=True)
  (folder.partial / "teacher.old").mkdir()
  (folder.partial / "file").write_text("", encoding="utf-8")
  (tmp_path / ".results.json.77.partial").write_text("{", encoding="utf-8")
  (tmp_path / "teacher").mkdir()
  (folder.scratch("teacher", "aa") / "checkpoint").write_text("1", "utf-8")
  _open(tmp_path)
  assert sorted(os.listdir(tmp_path)) == [".lock", ".partial", "teacher"]
  assert os.listdir(folder.partial) == ["teacher.scratch-aa"]
  assert os.listdir(folder.scratch("teacher", "aa")) == ["checkpoint"]


def test_scratch_of_another_key_of_the_same_stage_is_removed(tmp_path):
  folder = _open(tmp_path)
  for stage, key in (("a", "1"), ("b", "1"), ("a", "2")):
    folder.scratch(stage, key)
  assert sorted(os.listdir(folder.partial)) == ["a.scratch-2", "b.scratch-1"]
  folder.remove_scratch("b", "2")
  folder.remove_scratch("b", "1")
  assert os.listdir(folder.partial) == ["a.scratch-2"]


def test_a_file_is_hashed_again_only_if_size_or_time_changed(
  tmp_path, monkeypatch
):
  path = tmp_path / "x.npy"
  hashed = []
  digest_path = artifacts.digest_path
  monkeypatch.setattr(
    artifacts, "digest_path", lambda p: hashed.append(p) or digest_path(p)
  )

  def digest():
    return _open(tmp_path / "run").digest(path)

  path.write_bytes(b"abc")
  first = digest()
  assert first == artifacts.sha256_file(path)
  assert digest() == first
  assert len(hashed) == 1
  os.utime(path, ns=(1, 1))
  assert digest() == first
  path.write_bytes(b"abd")
  assert digest() == artifacts.sha256_file(path) != first
  assert len(hashed) == 3
  (tmp_path / "run" / ".hashes.json").write_text("{", encoding="utf-8")
  assert digest() == artifacts.sha256_file(path)


@pytest.mark.parametrize("content", ["", "[]", "[1]", '{"x": 1}', "3"])
def test_a_damaged_cache_of_hashes_is_ignored(tmp_path, content):
  path = tmp_path / "x"
  path.write_bytes(b"abc")
  folder = tmp_path / "run"
  folder.mkdir()
  content = content.replace("x", str(path))
  (folder / ".hashes.json").write_text(content, encoding="utf-8")
  assert _open(folder).digest(path) == artifacts.sha256_file(path)


def test_large_files_are_announced(tmp_path, monkeypatch):
  monkeypatch.setattr(workdir, "LARGE_FILE", 2)
  (tmp_path / "x").write_bytes(b"abc")
  lines = []
  with workdir.opened(tmp_path / "run", log=lines.append) as folder:
    folder.digest(tmp_path / "x")
  assert lines == [f"reading {tmp_path / 'x'} (0.0 GB) for changes"]


def test_an_input_that_cannot_be_read_is_named(tmp_path):
  with pytest.raises(
    artifacts.InputError, match="none cannot be read: No such"
  ):
    _open(tmp_path).digest(tmp_path / "none")
