"""The stage "features": one row per object and per image of the collection.

The backbone is trained here on the generated world, or read from public
weights; or the features of the objects are given in a file, and there is no
collection.
"""

import numpy as np

from alignet_jax import artifacts, progress
from alignet_jax.backbones import features as features_lib
from alignet_jax.backbones import vit
from alignet_jax.backbones import weights as weights_lib
from alignet_jax.images import sources
from alignet_jax.judgments import things

SOURCES = ("pretrain", "backbone", "file")

# Fields of a backbone's config that `vit.ViT` takes where there is no variant.
_SIZES = ("patch_size", "width", "depth", "mlp_dim", "num_heads")


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
  model = make_model(settings.backbone)
  if settings.source == "pretrain":
    from alignet_jax.backbones import pretrain

    params, metrics = pretrain.run(context, model)
    weights_lib.save(context.out / "backbone.npz", params)
    artifacts.write_json(
      context.out / "backbone.json", settings.backbone.to_dict()
    )
  else:
    params = load_params(settings.backbone, model, context.log)
  for name in ("stimuli", "collection"):
    images = sources.open_images(config, name, size=settings.backbone.size)
    features = extract(
      model,
      params,
      images,
      backbone=settings.backbone,
      batch_size=settings.batch_size,
      label=f"features of {name}",
    )
    artifacts.write_npy(context.out / f"{name}.npy", features)
  return metrics


def make_model(backbone):
  """Makes the ViT that a backbone's config describes.

  Args:
    backbone: mapping with pool, and variant or the fields of its size.

  Returns:
    `vit.ViT` without classes.
  """
  if backbone["variant"]:
    return vit.from_variant(backbone["variant"], pool=backbone["pool"])
  sizes = {field: backbone[field] for field in _SIZES}
  return vit.ViT(**sizes, pool=backbone["pool"])


def load_params(backbone, model, log):
  """Reads the weights that a backbone's config names.

  Args:
    backbone: mapping with weights, a path, and size in pixels.
    model: `vit.ViT`.
    log: Prints a line.

  Returns:
    Tree of f32 arrays.
  """
  params, report = weights_lib.load(
    backbone["weights"],
    model,
    image_size=backbone["size"],
    unused_ok=("pre_logits",),
  )
  log(str(report))
  return params


def extract(model, params, images, *, backbone, batch_size, label):
  """Extracts pooled features with a progress bar; see `features.extract`."""
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
      value_range=tuple(backbone["value_range"]),
      callback=advance,
    )
  bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
  if bad.size:
    raise artifacts.InputError(
      f"{label}: {bad.size} rows hold NaN or infinity, the first is "
      f"{images.names[bad[0]]}. The weights or the value range do not fit."
    )
  return features
