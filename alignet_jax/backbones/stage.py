"""The stage "features": one row per object and per image of the collection.

The backbone is trained here on the generated world, or read from public
weights; or the features of the objects are given in a file, and there is no
collection.

A config, and the `backbone.json` beside saved weights, describes a backbone in
one of two ways: by `name`, a published family's, whose sizes single fields may
replace, with `size`, `pool` ("" for the family's) and `preprocessing`; or by
its sizes, with `pool`, `size` and `value_range`, for small models of our own.

Usage:
  backbone, params = load(config.student.backbone.to_dict(), print)
  model = make_model(backbone)
  x = extract(model, params, images, backbone=backbone, batch_size=64, label="")
"""

import dataclasses

import numpy as np

from alignet_jax import artifacts, progress
from alignet_jax.backbones import architecture as architecture_lib
from alignet_jax.backbones import families, vit
from alignet_jax.backbones import features as features_lib
from alignet_jax.backbones import load as load_lib
from alignet_jax.backbones import weights as weights_lib
from alignet_jax.images import preprocess, sources
from alignet_jax.judgments import things

SOURCES = ("pretrain", "backbone", "file")

# Of pixels: as the weights were trained, or as the released students.
PREPROCESSINGS = ("own", "alignet")

# Fields of a backbone's config that are its sizes: all of them where it has no
# name, else those in which it is not as published.
SIZES = ("patch_size", "width", "depth", "mlp_dim", "num_heads")

# In a description, of loaded weights: all fields of `vit.ViT`, some of which
# the weights decided; how positions are resampled; what pixels they want.
ARCHITECTURE = "architecture"
POSEMB_RULE = "posemb_rule"
PREPROCESSING = "preprocessing_of_weights"


def run_features(context):
  """Extracts the features that judgments, clusters and triplets refer to.

  Writes `stimuli.npy` f32[objects d]; unless the features come from a file,
  `collection.npy` f32[n d]; and `backbone.npz` with `backbone.json`, the
  parameters and the architecture, if the backbone was trained here.

  Args:
    context: `pipeline.StageContext`; reads config.features and what opens the
      images.

  Returns:
    Metrics of the training, if there was one.
  """
  config = context.config
  settings = config.features
  if settings.source not in SOURCES:
    raise artifacts.InputError(
      f"config.features.source is {settings.source!r}; known are "
      f"{', '.join(SOURCES)}."
    )
  metrics = {}
  if settings.source == "file":
    features = things.load_features(config.things.features)
    artifacts.write_npy(context.out / "stimuli.npy", features)
    return metrics
  if settings.source == "pretrain":
    from alignet_jax.backbones import pretrain

    backbone = settings.backbone.to_dict()
    params, metrics = pretrain.run(context, make_model(backbone))
    save(context.out / "backbone.npz", params, backbone)
    artifacts.write_json(context.out / "backbone.json", backbone)
  else:
    backbone, params = load(settings.backbone.to_dict(), context.log)
  described = {}
  for name in ("stimuli", "collection"):
    images = sources.open_images(
      config, name, preprocessing=preprocessing(backbone)
    )
    features = extract(
      make_model(backbone),
      params,
      images,
      backbone=backbone,
      batch_size=settings.batch_size,
      label=f"features of {name}",
    )
    artifacts.write_npy(context.out / f"{name}.npy", features)
    described[name] = sources.describe(images)
  artifacts.write_json(context.out / "images.json", described)
  return metrics


def make_model(backbone):
  """Makes the ViT that a backbone's description stands for.

  Args:
    backbone: Mapping; see the module. Of a name, without weights to decide,
      the fields are those of big_vision's and the family's own files.

  Returns:
    `vit.ViT` without classes.

  Raises:
    artifacts.InputError: The name is not known.
  """
  if ARCHITECTURE in backbone:
    return vit.ViT(**backbone[ARCHITECTURE])
  sizes = {field: backbone[field] for field in SIZES if field in backbone}
  if "name" not in backbone:
    return vit.ViT(**sizes, pool=backbone["pool"])
  _, fields = families.get(backbone["name"])
  pool = backbone["pool"] or fields["pool"]
  return vit.ViT(**{**fields, **sizes, "pool": pool})


def load(backbone, log, *, seed=None):
  """Reads the weights that a backbone's description names.

  Args:
    backbone: Mapping with a name; see the module.
    log: Prints a line.
    seed: Of random parameters instead of weights, or None.

  Returns:
    The description with what the file of weights may have decided: fields of
    the architecture, such as the kind of GELU, and its own preprocessing; what
    `make_model` and JSON take. And the tree of f32 arrays.

  Raises:
    artifacts.InputError: The weights cannot be read or do not fit.
  """
  loaded = load_lib.load(
    backbone["name"],
    None if seed is not None else backbone["weights"],
    image_size=backbone["size"],
    pool=backbone["pool"] or None,
    seed=seed or 0,
    **{field: backbone[field] for field in SIZES if field in backbone},
  )
  log(str(loaded.report))
  architecture = {
    field.name: getattr(loaded.model, field.name)
    for field in dataclasses.fields(loaded.model)
    if field.name not in ("name", "parent")
  }
  described = {
    **backbone,
    ARCHITECTURE: architecture,
    POSEMB_RULE: loaded.posemb_rule,
    PREPROCESSING: loaded.preprocessing.to_dict(),
  }
  return described, loaded.params


def save(path, params, backbone):
  """Writes parameters as npz, with what they do not show of their model.

  So `load.load` needs the name of a published family and the file alone, also
  of a student whose pixels were prepared otherwise than those of its family.

  Args:
    path: Where to write; ends in .npz.
    params: Tree of arrays.
    backbone: Mapping; see the module.
  """
  model, family = make_model(backbone), ""
  if "name" in backbone:
    family = families.get(backbone["name"])[0].name
  note = architecture_lib.describe(
    model,
    family=family,
    posemb_rule=backbone.get(POSEMB_RULE, "bilinear_corners"),
    grid=weights_lib.grid_of(model, backbone["size"]),
    preprocessing=_whole_preprocessing(backbone),
  )
  weights_lib.save(path, params, architecture=note)


def _whole_preprocessing(backbone):
  """Geometry and scaling, also of a backbone that has only a value range."""
  given = preprocessing(backbone)
  if "name" in backbone:
    return given
  low, high = backbone["value_range"]
  if not low < high:
    return None  # Nothing that a mean and a std could say.
  mean, std = -low / (high - low), 1 / (high - low)
  return dataclasses.replace(given, mean=(mean,) * 3, std=(std,) * 3)


def preprocessing(backbone):
  """How images become the square that a backbone takes.

  Args:
    backbone: Mapping; see the module.

  Returns:
    `preprocess.Preprocessing`; "own" is that of the family, until weights are
    loaded that say another. Of a backbone without a name, only its geometry
    counts: see `scaling`.

  Raises:
    artifacts.InputError: The name or the preprocessing is not known.
  """
  size = backbone["size"]
  if "name" not in backbone:
    return preprocess.Preprocessing(size)
  kind = backbone["preprocessing"]
  if kind == "alignet":
    return preprocess.Preprocessing(size)
  if kind == "own":
    if PREPROCESSING in backbone:
      return preprocess.from_dict(backbone[PREPROCESSING])
    family, _ = families.get(backbone["name"])
    return families.preprocessing(family, size)
  raise artifacts.InputError(
    f"The preprocessing of the backbone {backbone['name']} is {kind!r}; known"
    f" are {', '.join(PREPROCESSINGS)}."
  )


def scaling(backbone):
  """What `features.scale_pixels` takes: the pixels of 0 and 255, or all of it.

  Args:
    backbone: Mapping; see the module.

  Returns:
    A pair of floats, or `preprocess.Preprocessing`.
  """
  if "name" in backbone:
    return preprocessing(backbone)
  return tuple(backbone["value_range"])


def extract(model, params, images, *, backbone, batch_size, label):
  """Extracts pooled features with a progress bar; see `features.extract`.

  Args:
    model: `vit.ViT`.
    params: Its parameters.
    images: A collection, opened for the size of the backbone.
    backbone: Mapping; see the module. Its preprocessing is that of the images,
      with whatever other one they were opened.
    batch_size: Images per call.
    label: Of the progress bar, and of errors.

  Returns:
    f32[n d].

  Raises:
    artifacts.InputError: A feature is not finite.
  """
  if images.preprocessing is not None:
    images = images.with_preprocessing(preprocessing(backbone))
  done = 0
  with progress.Progress(len(images), unit="images", label=label) as bar:

    def advance(num_done):
      nonlocal done
      bar.update(num_done - done)
      done = num_done

    features = features_lib.extract(
      model,
      params,
      images,
      batch_size=batch_size,
      value_range=scaling(backbone),
      callback=advance,
    )
  bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
  if bad.size:
    raise artifacts.InputError(
      f"{label}: {bad.size} rows hold NaN or infinity, the first is "
      f"{images.names[bad[0]]}. The weights or the value range do not fit."
    )
  return features
