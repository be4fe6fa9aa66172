"""Which files outside the workdir each stage reads, and where they come from.

Kept apart from the stages, so that a run can name every missing file at once
and before anything heavy is imported.
"""

import pathlib
import re

from alignet_jax import artifacts

# The command or page that provides each input, by the last part of its field.
REMEDIES = {
  "triplets_train": (
    "THINGS odd-one-out judgments (Hebart et al. 2023, CC BY 4.0): "
    "https://osf.io/f5rn6, an N x 3 table of 0-based objects with the odd one "
    "last, .npy or .txt (for example train_90.txt)"
  ),
  "triplets_test": (
    "THINGS odd-one-out judgments: https://osf.io/f5rn6, in the form of the "
    "training triplets (for example test_10.txt)"
  ),
  "repeats": (
    "repeated THINGS triplets: https://osf.io/f5rn6, as .npz with triplets "
    "[m 3] and odd_counts [m 3]"
  ),
  "features": (
    "features of the 1,854 THINGS objects, .npy or .txt [objects d] with one "
    "row per object in the order of things_concepts.tsv; any model will do"
  ),
  "vice_embedding": (
    "VICE embedding of the THINGS objects: https://github.com/LukasMut/VICE, "
    "a table [objects dimensions]; or --config.judgments.soft=vice to fit one "
    "here"
  ),
  "stimuli": (
    "one image per THINGS object, sorted by name as in things_concepts.tsv: "
    "https://osf.io/jum2f (licence to be accepted there)"
  ),
  "collection": (
    "ImageNet-1k training images in a folder per class "
    "(train/n01440764/*.JPEG): https://image-net.org/download.php (account "
    "needed); a .tar, a .csv list, or tfds:imagenet2012/train will do"
  ),
  "student.collection": (
    "the images of config.images.collection resized once for the student: "
    "python -m alignet_jax.images.pack --images=COLLECTION --size=224 "
    "--out=DIR; or leave it empty"
  ),
}

_PHOTO_REMEDIES = {
  "images": "folder of photographs",
  "index": (
    "a csv of the photographs, with the columns file (below the folder) and"
    " things_index (0-based row of things_concepts.tsv, or nothing)"
  ),
  "vice_embedding": (
    "VICE embedding of the THINGS objects: https://github.com/LukasMut/VICE, "
    "a table [objects dimensions]"
  ),
  "concepts": "things_concepts.tsv of THINGS: https://osf.io/jum2f",
}

# Begins what TensorFlow Datasets keeps where it likes.
_TFDS = "tfds:"

# "owner/name" on the Hugging Face hub, like `safetensors_file.is_hub_id`.
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?<!\.npz)(?<!\.safetensors)(?<!\.json)")


def external_inputs(stage_name, config):
  """Lists the files that a stage needs.

  Args:
    stage_name: Name of the stage.
    config: The part of the config that the stage sees.

  Returns:
    A list of `artifacts.ExternalInput`.
  """
  list_inputs = _STAGES.get(stage_name)
  return list_inputs(config) if list_inputs else []


def _judgments(config):
  if config.judgments.source != "things":
    return []
  fields = ["triplets_train", "triplets_test"]
  if config.judgments.soft == "embedding":
    fields.append("vice_embedding")
  if not config.things.num_objects:
    fields.append("features")  # Its rows are counted.
  inputs = [_input("things", config.things, field) for field in fields]
  inputs.append(_input("things", config.things, "repeats", optional=True))
  return inputs


def _features(config):
  settings = config.features
  if settings.source == "file":
    return [_input("things", config.things, "features")]
  inputs = []
  if settings.source == "backbone":
    inputs += _weights("features.backbone.weights", settings.backbone)
  size = settings.backbone.size
  return inputs + _images(config, ("stimuli", "collection"), size)


def _teacher(config):
  return [
    artifacts.ExternalInput(
      "teacher.local_features",
      config.teacher.local_features,
      "features [items d] of the teacher's model, .npy",
      optional=True,
    )
  ]


def _student(config):
  backbone = config.student.backbone
  inputs = []
  if backbone.source == "weights":
    inputs += _weights("student.backbone.weights", backbone)
  size = backbone.get("size", None)
  if config.images.source != "files" or not config.student.get("collection"):
    return inputs + _images(config, ("collection",), size)
  path = config.student.collection
  _check_packed("student.collection", path, size)
  remedy = REMEDIES["student.collection"]
  if not path.startswith(_TFDS):
    inputs.append(artifacts.ExternalInput("student.collection", path, remedy))
  return inputs


def _evaluate(config):
  if "images" not in config or "student" not in config:
    return []
  size = config.student.backbone.get("size", None)
  return _images(config, ("stimuli",), size)


def _photos(config):
  """All of the photographs' files: each stage of that run opens the source."""
  paths = config.photos
  if paths.source != "files":
    return []
  names = ("images", "index", "vice_embedding", "concepts")
  inputs = [
    artifacts.ExternalInput(
      f"photos.{name}", paths[name], _PHOTO_REMEDIES[name]
    )
    for name in names
  ]
  inputs.append(
    artifacts.ExternalInput(
      "photos.backbone.weights",
      paths.backbone.weights,
      "weights of the backbone, as alignet_jax.features takes them",
    )
  )
  return inputs


def _images(config, names, size):
  """The sets of images that are files or folders of this machine."""
  if config.images.source != "files":
    return []
  for name in names:
    _check_packed(f"images.{name}", config.images[name], size)
  return [
    _input("images", config.images, name)
    for name in names
    if not config.images[name].startswith(_TFDS)
  ]


def _check_packed(field, path, size):
  """Refuses packed images of another size than the model takes, if known.

  They would be refused only when a stage reads them, hours later perhaps.
  """
  packed = _packed_size(path)
  if None in (packed, size) or packed == size:
    return
  also = ""
  if field == "images.collection":
    also = (
      " What is packed for the student goes into config.student.collection."
    )
  raise artifacts.InputError(
    f"config.{field} is {path}, whose images were packed at {packed} pixels;"
    f" the model takes {size}. Give the original images, or pack them by"
    f" `python -m alignet_jax.images.pack --size={size}`.{also}"
  )


def _packed_size(path):
  """Pixels of the images in a folder that `images.pack` wrote, else None."""
  file = pathlib.Path(path, "manifest.json")
  if not path or not file.exists():
    return None
  made = artifacts.read_json(file)
  if made.get("stage") != "packed_images":
    return None
  return made["config"]["preprocessing"]["size"]


def _input(section, fields, name, *, optional=False):
  return artifacts.ExternalInput(
    f"{section}.{name}", fields[name], REMEDIES[name], optional=optional
  )


def _weights(field, backbone):
  """Files of weights; a ":subtree" at the end is no part of the path.

  Of a hub id there is nothing to list: it is fetched when it is read. Of an
  index of safetensors the shards count too.
  """
  path = backbone.weights
  if ".npz:" in path:
    path = path.rpartition(":")[0]
  if path and not pathlib.Path(path).exists() and _HUB_ID.fullmatch(path):
    return []
  remedy = (
    f"weights of {backbone.name}: .npz of big_vision or vit_jax, .safetensors"
    " of transformers or timm, a folder with one, or an id of the Hugging Face"
    " hub"
  )
  if backbone.url.startswith("https://"):
    url, is_npz, part = backbone.url.partition(".npz")
    remedy += f"; for example wget {url}{is_npz}"
    remedy += f", with {part} behind its path" if part else ""
  elif backbone.url:
    remedy += f"; for example --config.{field}={backbone.url}"
  shards = []
  if path.endswith(".json") and pathlib.Path(path).exists():
    listed = artifacts.read_json(path).get("weight_map") or {}
    folder = pathlib.Path(path).parent
    shards = [str(folder / name) for name in sorted(set(listed.values()))]
  return [
    artifacts.ExternalInput(field, name, remedy) for name in (path, *shards)
  ]


_STAGES = {
  "judgments": _judgments,
  "features": _features,
  "teacher": _teacher,
  "student": _student,
  "evaluate": _evaluate,
  "photo_features": _photos,
  "photo_teachers": _photos,
  "photo_students": _photos,
  "photo_scores": _photos,
}
