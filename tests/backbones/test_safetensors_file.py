"""Files, folders, shards and hub ids: what is read, and what is refused."""

import json
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from alignet_jax import artifacts
from alignet_jax.backbones import safetensors_file


def save(path, **tensors):
  safetensors.numpy.save_file(
    {name: np.ascontiguousarray(x) for name, x in tensors.items()}, path
  )
  return path


def test_all_float_types_become_float32(np_rng, tmp_path):
  x = np_rng.normal(size=(3, 5))
  types_ = {
    "half": np.float16,
    "brain": ml_dtypes.bfloat16,
    "single": np.float32,
    "double": np.float64,
  }
  path = save(
    tmp_path / "a.safetensors", **{k: x.astype(t) for k, t in types_.items()}
  )
  source = safetensors_file.read(path)
  assert source.config == {}
  for name, dtype in types_.items():
    assert source.tensors[name].dtype == np.float32
    np.testing.assert_array_equal(
      source.tensors[name], x.astype(dtype).astype(np.float32)
    )


def test_a_folder_with_its_config_and_parts_that_are_skipped(tmp_path):
  save(
    tmp_path / "model.safetensors", **{"a": np.ones(2), "text.b": np.ones(3)}
  )
  save(tmp_path / "other.safetensors", c=np.ones(1))
  (tmp_path / "config.json").write_text('{"hidden_size": 5}')
  source = safetensors_file.read(tmp_path, skip=("text.",))
  assert list(source.tensors) == ["a"]
  assert source.config == {"hidden_size": 5}
  (tmp_path / "model.safetensors").unlink()
  assert list(safetensors_file.read(tmp_path).tensors) == ["c"]
  save(tmp_path / "third.safetensors", c=np.ones(1))
  with pytest.raises(artifacts.InputError, match="other.safetens.*third.safe"):
    safetensors_file.read(tmp_path)


def write_shards(folder):
  save(folder / "x-1-of-2.safetensors", a=np.zeros(2))
  save(folder / "x-2-of-2.safetensors", b=np.ones(3))
  index = {"a": "x-1-of-2.safetensors", "b": "x-2-of-2.safetensors"}
  path = folder / "model.safetensors.index.json"
  path.write_text(json.dumps({"weight_map": index}))
  return path, index


def test_shards_by_folder_and_by_index(tmp_path):
  path, index = write_shards(tmp_path)
  for source in (tmp_path, path):
    tensors = safetensors_file.read(source).tensors
    assert {k: x.shape for k, x in tensors.items()} == {"a": (2,), "b": (3,)}
  index["c"] = "x-1-of-2.safetensors"
  path.write_text(json.dumps({"weight_map": index}))
  with pytest.raises(artifacts.InputError, match="do not hold: c"):
    safetensors_file.read(tmp_path)
  (tmp_path / "x-2-of-2.safetensors").unlink()
  with pytest.raises(artifacts.InputError, match="names x-2-of-2.safetensors"):
    safetensors_file.read(tmp_path)
  path.write_text("{}")
  with pytest.raises(artifacts.InputError, match="no 'weight_map'"):
    safetensors_file.read(tmp_path)


def test_damaged_and_absent_files_are_named(tmp_path):
  path = tmp_path / "cut.safetensors"
  save(path, a=np.ones(100))
  path.write_bytes(path.read_bytes()[:-7])
  with pytest.raises(artifacts.InputError, match="cut.safetensors is damaged"):
    safetensors_file.read(path)
  with pytest.raises(artifacts.InputError, match="no file or folder .*absent"):
    safetensors_file.read(tmp_path / "absent.safetensors")
  (tmp_path / "empty").mkdir()
  with pytest.raises(artifacts.InputError, match="holds neither model.safe"):
    safetensors_file.read(tmp_path / "empty")
  (tmp_path / "readme.txt").write_text("")
  with pytest.raises(artifacts.InputError, match="not a file of weights"):
    safetensors_file.read(tmp_path / "readme.txt")


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "pytorch_model.bin"])
def test_pickles_are_refused_with_the_command_that_converts(tmp_path, name):
  (tmp_path / name).write_bytes(b"never read")
  stem = name.rpartition(".")[0]
  for path in (tmp_path / name, tmp_path):
    with pytest.raises(artifacts.InputError, match="foreign code") as error:
      safetensors_file.read(path)
    assert "torch.load" in str(error.value)
    assert "weights_only=True" in str(error.value)
    assert f"{stem}.safetensors" in str(error.value)


def test_a_hub_id_is_fetched_or_the_remedy_told(tmp_path, monkeypatch):
  save(tmp_path / "model.safetensors", a=np.ones(2))
  asked = []

  def snapshot_download(hub_id, *, allow_patterns):
    asked.append((hub_id, allow_patterns))
    return str(tmp_path)

  hub = types.SimpleNamespace(snapshot_download=snapshot_download)
  monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
  source = safetensors_file.read("facebook/dinov2-small")
  assert source.path == "facebook/dinov2-small"
  assert list(source.tensors) == ["a"]
  assert asked[0][0] == "facebook/dinov2-small"
  assert "config.json" in asked[0][1] and "*.bin" not in asked[0][1]

  def no_network(hub_id, *, allow_patterns):
    raise OSError("no route")

  hub.snapshot_download = no_network
  with pytest.raises(artifacts.InputError, match="hub gives no such.*no route"):
    safetensors_file.read("facebook/dinov2-small")
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(artifacts.InputError, match="pip install huggingface_hub"):
    safetensors_file.read("facebook/dinov2-small")
