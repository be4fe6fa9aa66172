import os

import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.judgments import prepared

ABOUT = {"data_set": "x", "sources": [{"name": "a", "sha256": "12"}]}
TABLES = {"a.npy": {"rows": 3}}


def make(out, about=ABOUT, content=3):
  with prepared.writer(out, about) as (folder, tables):
    artifacts.write_npy(folder / "a.npy", np.arange(content))
    tables |= {"a.npy": {"rows": content}}


def test_same_again_is_up_to_date(tmp_path):
  out = tmp_path / "deep" / "out"
  assert prepared.up_to_date(out, ABOUT) is None
  make(out)
  assert prepared.up_to_date(out, ABOUT) == TABLES
  assert sorted(os.listdir(out)) == ["a.npy", "prepared.json"]
  assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize(
  "change", [{"data_set": "y"}, {"sources": []}, {"options": {}}]
)
def test_other_sources_are_not_up_to_date(tmp_path, change):
  make(tmp_path / "out")
  assert prepared.up_to_date(tmp_path / "out", ABOUT | change) is None


def test_changed_or_lost_files_are_not_up_to_date(tmp_path):
  out = tmp_path / "out"
  make(out)
  artifacts.write_npy(out / "a.npy", np.arange(4))
  assert prepared.up_to_date(out, ABOUT) is None
  (out / "a.npy").unlink()
  assert prepared.up_to_date(out, ABOUT) is None


def test_another_format_is_not_up_to_date(tmp_path, monkeypatch):
  make(tmp_path / "out")
  monkeypatch.setattr(prepared, "FORMAT", 0)
  assert prepared.up_to_date(tmp_path / "out", ABOUT) is None
  prepared.check_free(tmp_path / "out")


def test_new_folder_replaces_the_old_one(tmp_path):
  out = tmp_path / "out"
  make(out)
  (out / "more").write_text("x")
  make(out, content=5)
  assert len(artifacts.read_npy(out / "a.npy")) == 5
  assert sorted(os.listdir(out)) == ["a.npy", "prepared.json"]
  assert os.listdir(tmp_path) == ["out"]


def test_error_leaves_the_old_folder(tmp_path):
  out = tmp_path / "out"
  make(out)
  with pytest.raises(ZeroDivisionError):
    with prepared.writer(out, ABOUT) as (folder, _):
      (folder / "half").write_text("x")
      raise ZeroDivisionError
  assert prepared.up_to_date(out, ABOUT) == TABLES
  assert os.listdir(tmp_path) == ["out"]


def test_rest_of_a_killed_call_is_swept_away(tmp_path):
  left = tmp_path / ".out.partial"
  left.mkdir()
  (left / "half").write_text("x")
  make(tmp_path / "out")
  assert sorted(os.listdir(tmp_path / "out")) == ["a.npy", "prepared.json"]


@pytest.mark.parametrize(
  "text", [None, "", "[]", "{}", '{"format": 1}', '{"format": 1, "tables": 2}']
)
def test_folders_of_others_are_not_free(tmp_path, text):
  out = tmp_path / "out"
  prepared.check_free(out)
  out.mkdir()
  prepared.check_free(out)
  (out / "thesis.tex").write_text("x")
  if text is not None:
    (out / "prepared.json").write_text(text)
  with pytest.raises(artifacts.InputError, match="not made by this command"):
    prepared.check_free(out)
  with pytest.raises(artifacts.InputError, match="not made by this command"):
    prepared.check_free(out / "thesis.tex")


def test_tables():
  text = prepared.format_tables(
    {
      "train.npy": {"rows": 12_345, "participants": None, "per_row": 1.23456},
      "b": {"rows": 1, "new": 2},
    }
  )
  assert text.split("\n") == [
    "             rows  participants  per row  new",
    "train.npy  12,345             -    1.235    -",
    "b               1             -        -    2",
  ]
