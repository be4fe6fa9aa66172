"""Reads tensors from safetensors: a file, a folder, shards, or a hub id.

The format holds numbers only. What PyTorch pickled is refused, with the command
that converts it.

Usage:
  source = safetensors_file.read("google/siglip-base-patch16-224")
  source.tensors["vision_model.post_layernorm.weight"]      # f32[768]
"""

import dataclasses
import pathlib
import re

import numpy as np

from alignet_jax import artifacts
from alignet_jax.backbones import weights

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Endings of files with pickled objects.
PICKLES = (".pth", ".pt", ".bin", ".ckpt")

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?<!\.npz)(?<!\.safetensors)(?<!\.json)")


def is_hub_id(path):
  """Whether a path that is not there may be an id of the Hugging Face hub."""
  return bool(_HUB_ID.fullmatch(str(path)))


@dataclasses.dataclass(frozen=True)
class Source:
  """Named tensors, and what the folder says of the model.

  Attributes:
    path: What was read.
    tensors: Dict from the file's own name to f32 array.
    config: Content of config.json beside the file; {} without one.
  """

  path: str
  tensors: dict
  config: dict


def read(path, *, skip=()):
  """Reads all tensors of a source.

  Args:
    path: A .safetensors file; an index of shards (.json); a folder that holds
      either; or a hub id such as "facebook/dinov2-small", which is fetched
      where there is no such folder.
    skip: First parts of names that are not read, such as "text_model.".

  Returns:
    `Source`.

  Raises:
    artifacts.InputError: There is no such source, or it is damaged.
  """
  file = resolve(path)
  skip = tuple(skip)
  config = {}
  if (file.parent / "config.json").exists():
    config = artifacts.read_json(file.parent / "config.json")
  if file.suffix != ".json":
    return Source(str(path), _read_file(file, skip), config)
  listed = artifacts.read_json(file).get("weight_map")
  if not isinstance(listed, dict) or not listed:
    raise artifacts.InputError(
      f"{file} has no 'weight_map' from tensor to file; an index of "
      "safetensors is needed."
    )
  tensors = {}
  for shard in sorted(set(listed.values())):
    if not (file.parent / shard).exists():
      raise artifacts.InputError(
        f"{file} names {shard}, which is not in {file.parent}."
      )
    tensors.update(_read_file(file.parent / shard, skip))
  absent = [
    name
    for name in sorted(listed)
    if name not in tensors and not name.startswith(skip)
  ]
  if absent:
    raise artifacts.InputError(
      f"{file} lists tensors that its files do not hold: {', '.join(absent)}."
    )
  return Source(str(path), tensors, config)


def resolve(path):
  """The file to read for a path or hub id: .safetensors, or an index of it."""
  local = pathlib.Path(path).expanduser()
  if local.name.endswith(PICKLES):
    raise artifacts.InputError(weights.pickle_message(path))
  if local.is_dir():
    return _in_folder(local)
  if local.exists():
    if not local.name.endswith((".safetensors", ".json")):
      raise artifacts.InputError(
        f"{path} is not a file of weights; known are .npz, .safetensors, "
        ".safetensors.index.json, and folders that hold one."
      )
    return local
  if is_hub_id(path):
    return _in_folder(_fetch(str(path)))
  raise artifacts.InputError(f"There is no file or folder {path}.")


def files(path):
  """Files that decide what is read: weights, shards, index and config.json.

  Args:
    path: File, folder or hub id.

  Returns:
    List of `pathlib.Path`.
  """
  file = resolve(path)
  found = [file]
  if file.suffix == ".json":
    shards = artifacts.read_json(file).get("weight_map") or {}
    found += [file.parent / shard for shard in sorted(set(shards.values()))]
  config = file.parent / "config.json"
  return [*found, *([config] if config.exists() else [])]


def _in_folder(folder):
  """The weights in a folder: one file, else an index, else the only file."""
  for name in (SINGLE, INDEX):
    if (folder / name).exists():
      return folder / name
  found = sorted(folder.glob("*.safetensors"))
  if len(found) == 1:
    return found[0]
  if found:
    raise artifacts.InputError(
      f"{folder} holds several models: {', '.join(x.name for x in found)}. "
      "Name one of these files."
    )
  for file in sorted(folder.iterdir()):
    if file.name.endswith(PICKLES):
      raise artifacts.InputError(weights.pickle_message(file))
  raise artifacts.InputError(
    f"{folder} holds neither {SINGLE} nor {INDEX}, nor another .safetensors."
  )


def _fetch(hub_id):
  """Folder with the files of a model of the Hugging Face hub."""
  try:
    import huggingface_hub
  except ImportError:
    raise artifacts.InputError(
      f"There is no folder {hub_id}. If it is a model of the Hugging Face hub: "
      "fetching it needs `pip install huggingface_hub`; or download its "
      f"{SINGLE} and config.json and name their folder."
    ) from None
  try:
    folder = huggingface_hub.snapshot_download(
      hub_id, allow_patterns=["*.safetensors", INDEX, "config.json"]
    )
  except Exception as error:  # Many kinds: network, access, name.
    raise artifacts.InputError(
      f"There is no folder {hub_id}, and the Hugging Face hub gives no such "
      f"model: {type(error).__name__}: {error}"
    ) from error
  return pathlib.Path(folder)


def _read_file(file, skip):
  """Tensors of one file, floats in f32."""
  import safetensors

  tensors = {}
  try:
    with safetensors.safe_open(file, framework="numpy") as f:
      for name in f.keys():  # noqa: SIM118 (not a dict)
        if name.startswith(skip):
          continue
        x = f.get_tensor(name)
        tensors[name] = x.astype(np.float32)
  except safetensors.SafetensorError as error:
    raise artifacts.InputError(
      f"{file} is damaged or not safetensors: {error}."
    ) from error
  except OSError as error:
    raise artifacts.InputError(f"{file} cannot be read: {error}.") from error
  return tensors
