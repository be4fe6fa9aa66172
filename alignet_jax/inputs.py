"""Which files outside the workdir each stage reads, and where they come from.

Kept apart from the stages, so that a run can name every missing file at once
and before anything heavy is imported.
"""

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
    "needed)"
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

_BUCKET = "https://storage.googleapis.com/"


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
    inputs.append(_weights("features.backbone.weights", settings.backbone))
  return inputs + _images(config, ("stimuli", "collection"))


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
  inputs = _images(config, ("collection",))
  if backbone.source == "weights":
    inputs.insert(0, _weights("student.backbone.weights", backbone))
  return inputs


def _evaluate(config):
  if "images" not in config or "student" not in config:
    return []
  return _images(config, ("stimuli",))


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


def _images(config, names):
  if config.images.source != "folder":
    return []
  return [_input("images", config.images, name) for name in names]


def _input(section, fields, name, *, optional=False):
  return artifacts.ExternalInput(
    f"{section}.{name}", fields[name], REMEDIES[name], optional=optional
  )


def _weights(field, backbone):
  """A weight file; a ":subtree" at its end is no part of the path."""
  path = backbone.weights
  if ".npz:" in path:
    path = path.rpartition(":")[0]
  remedy = "weights of the backbone, .npz with the names of big_vision"
  if backbone.url:
    remedy += f": wget {_BUCKET}{backbone.url}"
  return artifacts.ExternalInput(field, path, remedy)


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
