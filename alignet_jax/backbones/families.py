"""The published families of vision transformers, by name.

A name is "<family>_<size><patch>", such as "dinov2_s14" or "siglip_so400m14".
It stands for the fields of `vit.ViT`, the way in which position embeddings
change resolution, and the preprocessing that the weights were trained with.
What differs between the libraries that publish the same weights (transformers
computes AugReg with the exact GELU, vit_jax with its tanh form) is listed with
the family, and read off the names in the file.

Usage:
  family, fields = families.get("dinov2_s14")
  model = vit.ViT(**fields)
"""

import dataclasses
import difflib
import re

from alignet_jax import artifacts
from alignet_jax.backbones import vit
from alignet_jax.images import preprocess

_HALF = (0.5, 0.5, 0.5)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Where a size means something else than in `vit.VARIANTS`.
_DINOV2_G = {
  "width": 1536,
  "depth": 40,
  "mlp_dim": 4096,
  "num_heads": 24,
  "mlp": "swiglu",
}
_SIGLIP2_GOPT = {"width": 1536, "depth": 40, "mlp_dim": 6144, "num_heads": 16}

# What the file of a library means, however it is named: see `huggingface.py`.
LIBRARIES = ("npz", "transformers", "timm", "facebook")


@dataclasses.dataclass(frozen=True)
class Family:
  """What the models of a family have in common.

  Attributes:
    name: Of the family.
    members: "<size><patch>" of the published models.
    fields: Fields of `vit.ViT` besides the sizes.
    preprocessing: Of pixels, for `preprocessing.size` pixels.
    posemb: From library to rule of `posemb.RULES`.
    by_library: From library to fields of `vit.ViT` that its implementation
      computes differently.
    sizes: From a size to fields, where `vit.VARIANTS` does not hold.
    native_size: Whether a model runs, by default, at the resolution of its
      position embeddings, instead of at `preprocessing.size`.
    has_two_activations: Whether weights of one name and library were trained
      with different activations, so that the source has to say which.
  """

  name: str
  members: tuple[str, ...]
  fields: dict
  preprocessing: preprocess.Preprocessing
  posemb: dict
  by_library: dict
  sizes: dict = dataclasses.field(default_factory=dict)
  native_size: bool = True
  has_two_activations: bool = False


def _preprocessing(resize, short_side, interpolation, mean, std):
  return preprocess.Preprocessing(
    size=224,
    resize=resize,
    short_side=short_side,
    interpolation=interpolation,
    mean=mean,
    std=std,
  )


_IMAGENET = (preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD)

_DINOV2 = {
  "pool": "cls",
  "cls_token": True,
  "activation": "gelu",
  "layer_scale": True,
}
_SIGLIP = {"pool": "map"}
_SIGLIP_POSEMB = {
  "npz": "bilinear_corners",
  "transformers": "bicubic",
  "timm": "bicubic_antialias",
}

FAMILIES = {
  # vit_jax, arXiv:2106.10270. PyTorch ports have the exact GELU.
  "augreg": Family(
    name="augreg",
    members=("ti16", "s16", "s32", "b8", "b16", "b32", "l16", "l32", "h14"),
    fields={"pool": "cls", "cls_token": True},
    preprocessing=_preprocessing("squash", 0, "bilinear", _HALF, _HALF),
    posemb={
      "npz": "bilinear_corners",
      "transformers": "bicubic",
      "timm": "bicubic_antialias",
    },
    by_library={
      "transformers": {"activation": "gelu", "norm_epsilon": 1e-12},
      "timm": {"activation": "gelu"},
    },
  ),
  # big_vision's own training on ImageNet, arXiv:2205.01580.
  "big_vision": Family(
    name="big_vision",
    members=("ti16", "s16", "s32", "b16", "b32", "l16", "so400m14", "g14"),
    fields={"pool": "gap"},
    preprocessing=_preprocessing("short_side", 256, "bilinear", _HALF, _HALF),
    posemb={"npz": "bilinear_corners"},
    by_library={},
  ),
  # arXiv:2303.15343.
  "siglip": Family(
    name="siglip",
    members=("b16", "l16", "so400m14"),
    fields=_SIGLIP,
    preprocessing=_preprocessing("squash", 0, "bicubic", _HALF, _HALF),
    posemb=_SIGLIP_POSEMB,
    by_library={"timm": {"activation": "gelu"}},
  ),
  # arXiv:2502.14786. The files of the variable-resolution models ("naflex")
  # are read too; their own rule for position embeddings goes by the file.
  "siglip2": Family(
    name="siglip2",
    members=("b16", "b32", "l16", "so400m14", "so400m16", "gopt16"),
    fields=_SIGLIP,
    preprocessing=_preprocessing("squash", 0, "bilinear", _HALF, _HALF),
    posemb=_SIGLIP_POSEMB,
    # timm: exact for the sizes that SigLIP had, tanh for the new ones.
    by_library={"timm": {"activation": "gelu"}},
    sizes={"gopt": _SIGLIP2_GOPT},
  ),
  # arXiv:2103.00020. OpenAI's weights have the quick GELU, most of OpenCLIP's
  # the exact one: that is in config.json, or whoever loads them has to know.
  "clip": Family(
    name="clip",
    members=("b16", "b32", "l14", "h14", "g14"),
    fields={
      "pool": "cls",
      "cls_token": True,
      "pre_norm": True,
      "patch_bias": False,
      "activation": "quick_gelu",
      "norm_epsilon": 1e-5,
    },
    preprocessing=_preprocessing(
      "short_side", 224, "bicubic", _CLIP_MEAN, _CLIP_STD
    ),
    posemb={
      "npz": "bicubic",
      "transformers": "bicubic",
      "timm": "bicubic_antialias",
    },
    by_library={},
    has_two_activations=True,
  ),
  # arXiv:2104.14294.
  "dino": Family(
    name="dino",
    members=("s8", "s16", "b8", "b16"),
    fields={"pool": "cls", "cls_token": True, "activation": "gelu"},
    preprocessing=_preprocessing("short_side", 256, "bicubic", *_IMAGENET),
    posemb={
      "npz": "bicubic",
      "transformers": "bicubic",
      "timm": "bicubic_antialias",
    },
    by_library={"transformers": {"norm_epsilon": 1e-12}},
  ),
  # arXiv:2304.07193. Trained at 518 pixels at last, mostly used at 224.
  "dinov2": Family(
    name="dinov2",
    members=("s14", "b14", "l14", "g14"),
    fields=_DINOV2,
    preprocessing=_preprocessing("short_side", 256, "bicubic", *_IMAGENET),
    posemb={
      "npz": "bicubic",
      "transformers": "bicubic",
      "timm": "bicubic_antialias",
      "facebook": "bicubic_offset",
    },
    by_library={},
    sizes={"g": _DINOV2_G},
    native_size=False,
  ),
  # arXiv:2309.16588.
  "dinov2_reg": Family(
    name="dinov2_reg",
    members=("s14", "b14", "l14", "g14"),
    fields={**_DINOV2, "num_registers": 4},
    preprocessing=_preprocessing("short_side", 256, "bicubic", *_IMAGENET),
    posemb=dict.fromkeys(LIBRARIES, "bicubic_antialias"),
    by_library={},
    sizes={"g": _DINOV2_G},
    native_size=False,
  ),
}

_NAME = re.compile(
  r"^(?P<family>[a-z0-9_]+?)_(?:vit)?(?P<size>[a-z]+|so400m)(?P<patch>\d+)"
  r"(?P<registers>_reg4?)?$"
)


def known_names():
  """All names, family by family."""
  return [
    f"{family.name}_{member}"
    for family in FAMILIES.values()
    for member in family.members
  ]


def is_name(name):
  """Whether `get` knows a name."""
  return _canonical(name) in known_names()


def get(name):
  """Looks a model up by its name.

  Args:
    name: "<family>_<size><patch>", for example "dinov2_s14"; the spelling of
      torch.hub, "dinov2_vits14" and "dinov2_vits14_reg", is understood too.

  Returns:
    `Family`, and the fields of `vit.ViT` as a dict.

  Raises:
    artifacts.InputError: The name is not known.
  """
  canonical = _canonical(name)
  if canonical not in known_names():
    near = difflib.get_close_matches(canonical, known_names(), n=1, cutoff=0)
    raise artifacts.InputError(
      f"Unknown backbone {name!r}; did you mean {near[0]!r}? Known are "
      f"{', '.join(known_names())}."
    )
  family_name, _, member = canonical.rpartition("_")
  family = FAMILIES[family_name]
  size = re.sub(r"\d+$", "", member)
  fields = {"patch_size": int(member.removeprefix(size))}
  if size in family.sizes:
    fields.update(family.sizes[size])
  else:
    variant = {key.lower(): key for key in vit.VARIANTS}[size]
    sizes = ("width", "depth", "mlp_dim", "num_heads")
    fields.update(zip(sizes, vit.VARIANTS[variant], strict=True))
  return family, {**family.fields, **fields}


def library_fields(family, fields, library):
  """Fields of `vit.ViT` that a library computes differently.

  Args:
    family: `Family`.
    fields: What `get` gives, for the published size.
    library: A name in `LIBRARIES`.

  Returns:
    Dict of fields.
  """
  if family.name == "siglip2" and library == "timm":
    newer = {(768, 32), (1152, 16), (1536, 16)}
    if (fields["width"], fields["patch_size"]) in newer:
      return {}
  return family.by_library.get(library, {})


def preprocessing(family, image_size):
  """Preprocessing for a resolution; margins of the crop in proportion.

  Args:
    family: `Family`.
    image_size: Height and width in pixels.

  Returns:
    `preprocess.Preprocessing`.
  """
  return family.preprocessing.at_size(image_size)


def _canonical(name):
  match = _NAME.match(name.lower())
  if not match:
    return name.lower()
  family = match["family"]
  if match["registers"] and not family.endswith("_reg"):
    family += "_reg"
  return f"{family}_{match['size']}{match['patch']}"
