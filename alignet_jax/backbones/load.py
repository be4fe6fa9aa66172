"""A backbone by name: model, parameters, and what its pixels must look like.

Usage:
  backbone = load.load("dinov2_s14", "dinov2_vits14.safetensors")
  print(backbone.report)
  _, out = backbone.model.apply({"params": backbone.params}, image)
  out[backbone.output]                                      # f32[b 384]
  backbone.save("dinov2_s14.npz")        # and what the tensors do not show
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from alignet_jax import artifacts
from alignet_jax.backbones import (
  architecture,
  big_vision,
  families,
  huggingface,
  names,
  safetensors_file,
  vit,
  weights,
)
from alignet_jax.images import preprocess

# Field of `vit.ViT` to the names that transformers' config.json has for it.
# Only these two cannot be seen from the tensors, so the file decides on them.
_DECIDED = {"norm_epsilon": "layer_norm_eps", "activation": "hidden_act"}
_ACTIVATION_NAMES = {
  "gelu": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "quick_gelu": "quick_gelu",
}
_CHECKED = {
  "width": "hidden_size",
  "depth": "num_hidden_layers",
  "num_heads": "num_attention_heads",
  "patch_size": "patch_size",
}


# Stands for the name of whatever model the file of weights notes.
NOTED = "noted"

# Patch size and patches per edge of models that leave out the last pixels.
_PUBLISHED_SIZES = {(14, 27): 384}


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A model that is ready to run.

  Attributes:
    model: Maps f32[b h w 3] to (x, dict of named outputs).
    params: Its parameters, a tree of f32 arrays.
    preprocessing: How images become its input. Belongs to the weights.
    report: `weights.Report`: what was loaded, unused and resampled.
    output: The named output, f32[b d], that stands for an image.
    family: Name in `families.FAMILIES`.
    posemb_rule: How its positions are resampled, a name in `posemb.RULES`.
    grid: Rows and columns of its positions; None if nobody knows.
  """

  model: nn.Module
  params: Any
  preprocessing: preprocess.Preprocessing
  report: weights.Report
  output: str = "pre_logits"
  family: str = ""
  posemb_rule: str = "bilinear_corners"
  grid: tuple[int, int] | None = None

  def save(self, path):
    """Writes the parameters as npz, with what they do not show of the model.

    Args:
      path: Where to write; ends in .npz. big_vision reads the file, too.
    """
    note = architecture.describe(
      self.model,
      family=self.family,
      posemb_rule=self.posemb_rule,
      grid=self.grid,
      preprocessing=self.preprocessing,
    )
    weights.save(path, self.params, architecture=note)


def load(
  name,
  weights_path=None,
  *,
  image_size=None,
  pool=None,
  dtype="float32",
  remat=False,
  scan=False,
  seed=0,
  **fields,
):
  """Makes a backbone and fills it with published weights.

  Args:
    name: See `families.get`; or "big_vision:B/16" and the like for the model
      of that repository, see `big_vision.py`; or "noted" for the model that a
      file of our own was saved from, of a family or not.
    weights_path: npz of big_vision, vit_jax or our own, perhaps with a part
      (":img"); safetensors as transformers or timm name them, a folder of such
      files, or a hub id. None draws random parameters.
    image_size: Height and width in pixels, or a pair of them. None: what the
      note of a file of our own says; else what the family is used at, else what
      the weights were trained at.
    pool: See `vit.ViT`; None for the family's.
    dtype: Of matrix products, "float32" or "bfloat16".
    remat: See `vit.ViT`.
    scan: See `vit.ViT`.
    seed: Of random parameters.
    **fields: Further fields of `vit.ViT`, which win over all else: for weights
      of another size, say, or the activation of CLIP's weights where there is
      no config.json that says it.

  Returns:
    `Backbone`.

  Raises:
    artifacts.InputError: The name is unknown, or the weights do not fit.
  """
  if name.startswith(big_vision.PREFIX):
    if remat:
      raise artifacts.InputError(
        "big_vision's model has no remat of its own; it comes with scan=True."
      )
    fields = {"dtype": dtype, "scan": scan, "pool": pool or "map", **fields}
    return _big_vision(name, weights_path, image_size, seed, fields)
  family, base = _noted(weights_path) if name == NOTED else families.get(name)
  settings = {"dtype": dtype, "remat": remat, "scan": scan, **fields}
  if pool is not None:
    settings["pool"] = pool
  if weights_path is None:
    model = vit.ViT(**{**base, **settings})
    size = image_size or family.preprocessing.size
    params, report = _random(name, model, size, seed)
    return Backbone(
      model,
      params,
      _preprocessing(family, size),
      report,
      family=family.name,
      posemb_rule=family.posemb["npz"],
      grid=weights.grid_of(model, size),
    )

  flat, library, decided, rule, note = _read(
    weights_path, family, base, settings
  )
  grid = note.get("grid")
  noted = architecture.preprocessing_of(note, weights_path)
  model = vit.ViT(**{**base, **decided, **settings})
  size = image_size or _default_size(family, flat, model, grid, noted)
  unused_ok = ("pre_logits", *huggingface.UNUSED_OK)
  if model.pool != "map":
    unused_ok += ("MAPHead_0",)
  notes = [f"names of {library}"] if library != "npz" else []
  notes += [f"{field} = {value}" for field, value in decided.items()]
  if noted is not None and noted != _preprocessing(family, noted.size):
    notes.append(
      f"preprocessing = {noted.resize} by {noted.interpolation}, as the file"
      " says, not as the family"
    )
  if library == "npz" and "activation" not in {**settings, **decided}:
    if family.has_two_activations:
      notes.append(
        f"activation = {model.activation}, as the file does not say another"
      )
  params, report = weights.fit(
    flat,
    model,
    image_size=size,
    unused_ok=unused_ok,
    posemb_rule=rule,
    posemb_grid=grid,
    path=f"{weights_path} (as {name})",
    settings=notes,
  )
  return Backbone(
    model,
    params,
    _preprocessing(family, size, noted),
    report,
    family=family.name,
    posemb_rule=rule,
    grid=weights.grid_of(model, size),
  )


def _noted(weights_path):
  """`families.get` of the note in a file of weights."""
  note = None
  if str(weights_path).endswith(".npz"):
    note = weights.read_architecture(weights_path)
  if note is None:
    raise artifacts.InputError(
      f"The model {NOTED!r} is that of the note in an .npz file that this"
      f" package saved; {weights_path} has none. Give the name of its backbone."
    )
  family = families.FAMILIES.get(note["family"])
  if family is None:  # Of sizes of its own, as those of the quickstart.
    family = dataclasses.replace(families.FAMILIES["big_vision"], name="")
  return family, note["model"]


def _big_vision(name, weights_path, image_size, seed, fields):
  """`load` for the model of big_vision's repository."""
  variant = name.removeprefix(big_vision.PREFIX)
  model = big_vision.make(variant, **fields)
  family = families.FAMILIES["big_vision"]
  noted = None
  if weights_path is not None:
    note = weights.read_architecture(weights_path) or {}
    noted = architecture.preprocessing_of(note, weights_path)
  size = image_size or (noted or family.preprocessing).size
  if weights_path is None:
    params, report = _random(name, model, size, seed)
  else:
    params, report = weights.load(
      weights_path, model, image_size=size, unused_ok=("pre_logits",)
    )
  return Backbone(
    model,
    params,
    _preprocessing(family, size, noted),
    report,
    family=family.name,
    grid=weights.grid_of(model, size),
  )


# Of the module, so that a model of the same fields is compiled once.
@functools.partial(jax.jit, static_argnames=("model", "height", "width"))
def _init(rng, *, model, height, width):
  """Random parameters for images of a size."""
  return model.init(rng, jnp.zeros([1, height, width, 3]))["params"]


def _random(name, model, size, seed):
  """Random parameters, and a report that says so."""
  height, width = weights.height_and_width(size)
  params = _init(jax.random.key(seed), model=model, height=height, width=width)
  words = f"random parameters of seed {seed}, no weights"
  return params, weights.Report(name, 0, (), (), (words,))


def _read(path, family, base, settings):
  """Tensors by our names, library, fields it decides, posemb rule and note.

  Libraries resample positions, and compute GELU, each in their way. The one
  whose names the file has decides: it is what its users compare with.
  `Deviation:` of DINOv2 in the names of transformers, which leaves out the 0.1
  that DINOv2's own code adds to the scale (`posemb.bicubic_offset`).
  """
  file = str(path).rpartition(":")[0] or str(path)
  if str(path).endswith(".npz") or file.endswith(".npz"):
    note = weights.read_architecture(path)
    flat = names.modern_names(
      weights.read(path), with_cls_position=note is None
    )
    if note is None:
      return flat, "npz", {}, family.posemb["npz"], {}
    decided = architecture.decided(
      note, base, settings, family=family.name, path=path
    )
    return flat, "npz", decided, note["posemb_rule"], note
  source = safetensors_file.read(path, skip=huggingface.OTHER_PARTS)
  library = huggingface.library(source.tensors)
  if library not in family.posemb:
    raise artifacts.InputError(
      f"{path} has the names of {library}, which has no {family.name} models; "
      f"known for them are {', '.join(family.posemb)}."
    )
  fields = {**base, **settings}
  decided = dict(families.library_fields(family, base, library))
  if library == "transformers":
    decided.update(_from_config(source, {**fields, **decided}))
  if family.has_two_activations and "activation" not in decided:
    decided["activation"] = settings.get("activation") or _clip_activation(
      source, library
    )
  flat = huggingface.rename(
    source.tensors,
    num_heads=fields["num_heads"],
    patch_size=fields["patch_size"],
  )
  rule = family.posemb[library]
  if huggingface.has_flat_patches(source.tensors):
    rule = "bilinear_antialias"
  decided = {k: v for k, v in decided.items() if k not in settings}
  return names.modern_names(flat), library, decided, rule, {}


def _from_config(source, fields):
  """What config.json says of the model, checked against its name."""
  config = source.config.get("vision_config") or source.config
  wrong = [
    f"{key} is {config[key]}, the name says {fields[field]}"
    for field, key in _CHECKED.items()
    if isinstance(config.get(key), int) and config[key] != fields[field]
  ]
  if wrong:
    raise artifacts.InputError(
      f"{source.path} is another architecture: in config.json "
      f"{'; '.join(wrong)}."
    )
  decided = {}
  for field, key in _DECIDED.items():
    gated = fields.get("mlp") == "swiglu"  # Has an activation of its own.
    if key not in config or (field == "activation" and gated):
      continue
    value = config[key]
    if field == "activation":
      if value not in _ACTIVATION_NAMES:
        raise artifacts.InputError(
          f"{source.path}: hidden_act in config.json is {value!r}; known are "
          f"{', '.join(_ACTIVATION_NAMES)}."
        )
      value = _ACTIVATION_NAMES[value]
    decided[field] = value
  return decided


def _clip_activation(source, library):
  """The activation of CLIP's weights, which no tensor and no size shows."""
  config = source.config
  if library == "timm" and isinstance(config.get("architecture"), str):
    quick = "quickgelu" in config["architecture"]
    return "quick_gelu" if quick else "gelu"
  # transformers leaves out what is the default of its own class.
  if library == "transformers" and str(config.get("model_type", "")).startswith(
    "clip"
  ):
    return "quick_gelu"
  raise artifacts.InputError(
    f"{source.path}: no config.json beside the weights says which activation"
    " they were trained with, and their tensors do not show it. Put it there,"
    ' or give activation="quick_gelu" (--activation=quick_gelu) for the weights'
    ' of OpenAI, activation="gelu" (--activation=gelu) for those of OpenCLIP'
    " without quickgelu in their name."
  )


def _default_size(family, flat, model, grid=None, noted=None):
  """Pixels at which a model runs where nobody asks for others."""
  is_square = grid is None or grid[0] == grid[1]
  if noted is not None and is_square:
    return noted.size
  posemb = flat.get("pos_embedding")
  if not family.native_size or posemb is None or posemb.ndim != 3:
    return family.preprocessing.size
  if grid is not None and grid[0] != grid[1]:
    return tuple(n * model.patch_size for n in grid)
  edge = math.isqrt(posemb.shape[1])
  return _PUBLISHED_SIZES.get((model.patch_size, edge), edge * model.patch_size)


def _preprocessing(family, size, noted=None):
  """Of a square; another shape of image is cut from it by whoever asked."""
  edge = max(weights.height_and_width(size))
  return (noted or family.preprocessing).at_size(edge)
