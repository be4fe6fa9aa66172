"""Public weights of big_vision and vit_jax, and our own, as npz files.

All of them are archives of arrays named by their place in the tree, such as
"Transformer/encoderblock_0/LayerNorm_0/scale"; `names.py` turns each published
spelling into that of `vit.py`. Nothing is left out in silence: what is missing,
unused or of another shape is listed, and only a classifier that the model has
no use for is no error.

Usage:
  params, report = weights.load("webli_en_b16_224_63724782.npz:img", model,
                                image_size=224)
  weights.save("student.npz", params)
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from alignet_jax import artifacts
from alignet_jax.backbones import architecture as architecture_lib
from alignet_jax.backbones import names, posemb

# Collections that hold the parameters; the rest of such a file, for example
# the state of the optimiser, is not read. In order of preference.
_PARAMS_PREFIXES = ("params/", "opt/target/")


@dataclasses.dataclass(frozen=True)
class Report:
  """What happened to the tensors of a file.

  Attributes:
    path: The file, with the part that was read.
    num_tensors: How many went into the model.
    unused: Names in the file that the model has no use for.
    resampled: Names whose grid of positions was resampled.
    settings: What else the source decided, one line each.
  """

  path: str
  num_tensors: int
  unused: tuple[str, ...]
  resampled: tuple[str, ...]
  settings: tuple[str, ...] = ()

  def __str__(self):
    words = [f"{self.path}: {self.num_tensors} tensors loaded"]
    if self.unused:
      words.append(f"not used: {', '.join(self.unused)}")
    if self.resampled:
      words.append(f"resampled: {', '.join(self.resampled)}")
    words += self.settings
    return "; ".join(words)


def load(path, model, *, image_size, unused_ok=()):
  """Reads the parameters of a model from a file.

  Args:
    path: npz file, perhaps with a part after a colon; see `read`.
    model: `vit.ViT`.
    image_size: Height and width in pixels, or a pair of them.
    unused_ok: Names, or first parts of names, of tensors that the file may
      have without use, such as ("pre_logits",). The classifier, "head", always
      may, for models without classes.

  Returns:
    Tree of f32 numpy arrays for `model.apply`, and a `Report`.

  Raises:
    artifacts.InputError: The file cannot be read, does not fit the model, or
      says that it was saved from another one.
  """
  note = read_architecture(path)
  flat = names.modern_names(read(path), with_cls_position=note is None)
  rule, grid = "bilinear_corners", None
  if note is not None:
    architecture_lib.check(note, model, path=path)
    rule, grid = note["posemb_rule"], note.get("grid")
  return fit(
    flat,
    model,
    image_size=image_size,
    unused_ok=unused_ok,
    posemb_rule=rule,
    posemb_grid=grid,
    path=path,
  )


def fit(
  loaded,
  model,
  *,
  image_size,
  unused_ok=(),
  posemb_rule="bilinear_corners",
  posemb_grid=None,
  path="The parameters",
  settings=(),
):
  """Turns named tensors into the parameters of a model.

  Args:
    loaded: Dict from a name of `vit.ViT`, blocks one by one, to f32 array.
    model: `vit.ViT`.
    image_size: Height and width in pixels, or a pair of them.
    unused_ok: See `load`.
    posemb_rule: How positions are resampled, a name in `posemb.RULES`.
    posemb_grid: Rows and columns of the positions that there are. None: not
      known, so a square, as published weights have.
    path: Where the tensors are from, for the report and errors.
    settings: Lines for the report: what the file says of the model.

  Returns:
    Tree of f32 numpy arrays for `model.apply`, and a `Report`.

  Raises:
    artifacts.InputError: The tensors do not fit the model; or nobody says which
      grid their positions are of, and they may be turned.
  """
  shapes = names.split_blocks(expected_shapes(model, image_size=image_size))
  unused = [
    name
    for name in loaded
    if name not in shapes
    and any(
      name == ok or name.startswith(f"{ok}/") for ok in ("head", *unused_ok)
    )
  ]
  loaded = {name: x for name, x in loaded.items() if name not in unused}
  resampled = []
  x = loaded.get("pos_embedding")
  if x is not None and x.ndim == 3:
    grid = grid_of(model, image_size)
    old_grid = _old_grid(x.shape[1], grid, posemb_grid, path)
    # As many patches in another shape have other positions all the same.
    is_other = old_grid is not None and old_grid != grid
    if is_other and x.shape[2] == shapes["pos_embedding"][2]:
      loaded["pos_embedding"] = posemb.resample(
        x, grid, rule=posemb_rule, old_grid=old_grid
      )
      resampled.append("pos_embedding")
  check(loaded, shapes, path=path)
  report = Report(
    str(path), len(loaded), tuple(unused), tuple(resampled), tuple(settings)
  )
  if getattr(model, "scan", False):
    loaded = names.stack_blocks(loaded)
  return unflatten(loaded), report


def save(path, params, *, architecture=None):
  """Writes a tree of parameters under its "/"-joined names, in float32.

  Stacked blocks are written one by one, so that there is one form of file.
  big_vision reads such a file as it is, with `scan` or without.

  Args:
    path: Where to write; ends in .npz.
    params: Nested dicts of arrays of any float type.
    architecture: What the tensors do not show, of `architecture.describe`; it
      is saved with them, and decides when they are read. None: a reader goes by
      the name that it is given, or by the conventions of big_vision.
  """
  flat = names.split_blocks(flatten(params))
  comment = ""
  if architecture is not None:
    comment = architecture_lib.to_comment(architecture)
  artifacts.write_archive(
    path,
    {name: np.asarray(x, np.float32) for name, x in flat.items()},
    comment=comment,
  )


def read(path):
  """Reads the parameters in a file, under the names that the file gives them.

  Args:
    path: npz file. A part of a larger model can be named after a colon:
      "siglip.npz:img" takes what begins with "img/", without those letters.

  Returns:
    Dict from name to f32 array.

  Raises:
    artifacts.InputError: The file is missing or damaged, or has no such part.
  """
  file, part = _file_and_part(path)
  if file.endswith((".pth", ".pt", ".bin", ".ckpt")):
    raise artifacts.InputError(pickle_message(file))
  flat = artifacts.read_npz(file)
  for prefix in _PARAMS_PREFIXES:
    if any(name.startswith(prefix) for name in flat):
      flat = _below(prefix, flat)
      break
  if part:
    tops = sorted({name.split("/")[0] for name in flat})
    flat = _below(f"{part}/", flat)
    if not flat:
      raise artifacts.InputError(
        f"{file} has no part {part!r}; it has {', '.join(tops)}."
      )
  return {name: _as_float32(x, name, file) for name, x in flat.items()}


def read_architecture(path):
  """What a file says of its model beside the tensors.

  Args:
    path: npz file, perhaps with a part; see `read`.

  Returns:
    As of `architecture.describe`; None if the file does not say.

  Raises:
    artifacts.InputError: The file cannot be read, or what it says is damaged.
  """
  file, _ = _file_and_part(path)
  return architecture_lib.from_comment(artifacts.read_comment(file), file)


def pickle_message(file):
  """Why a PyTorch file is refused, and the command that converts it."""
  stem = str(file).rsplit(".", 1)[0]
  return (
    f"{file} is a PyTorch file, which holds Python objects; reading it could "
    "run foreign code. Convert it once, where PyTorch is installed: "
    'python -c "import torch, safetensors.torch as s; '
    f"x = torch.load('{file}', map_location='cpu', weights_only=True); "
    "x = x.get('state_dict', x.get('model', x)); "
    "s.save_file({k: v.clone().contiguous() for k, v in x.items()}, "
    f"'{stem}.safetensors')\" (Tensors under big_vision's names can also be "
    "saved with numpy.savez.)"
  )


def expected_shapes(model, *, image_size):
  """Names and shapes of a model's parameters, without making them.

  Args:
    model: flax module that takes f32[b h w 3].
    image_size: Height and width in pixels, or a pair of them.

  Returns:
    Dict from "/"-joined name to shape.
  """
  image = jnp.zeros([1, *height_and_width(image_size), 3])
  params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
  return {name: x.shape for name, x in flatten(params).items()}


def check(loaded, shapes, *, path="The parameters"):
  """Raises one error that lists all that does not fit.

  Args:
    loaded: Dict from name to array.
    shapes: Dict from name to shape, what the model needs.
    path: What is checked, for the error.

  Raises:
    artifacts.InputError: A tensor is missing, has no use, or is of another
      shape.
  """
  problems = [
    f"missing: {name} {list(shapes[name])}"
    for name in sorted(shapes.keys() - loaded.keys())
  ]
  problems += [
    f"not used: {name} {list(loaded[name].shape)}"
    for name in sorted(loaded.keys() - shapes.keys())
  ]
  problems += [
    f"shape: {name} is {list(loaded[name].shape)}, the model needs "
    f"{list(shapes[name])}"
    for name in sorted(shapes.keys() & loaded.keys())
    if tuple(loaded[name].shape) != tuple(shapes[name])
  ]
  if not problems:
    return
  advice = ""
  tops = {name.split("/")[0] for name in loaded}
  if "img" in tops:
    advice = (
      "\nThe file holds a text and an image model: name the latter by putting "
      ":img behind the path."
    )
  raise artifacts.InputError(
    f"{path} does not fit the model:\n  " + "\n  ".join(problems) + advice
  )


def resample_posemb(x, grid):
  """`posemb.resample` as in big_vision and vit_jax."""
  return posemb.resample(x, grid, rule="bilinear_corners")


def flatten(tree):
  """Nested dicts as one dict whose names are joined by "/", sorted."""
  flat = {}
  for key, value in tree.items():
    if hasattr(value, "items"):
      flat.update({f"{key}/{k}": v for k, v in flatten(value).items()})
    else:
      flat[key] = value
  return dict(sorted(flat.items()))


def unflatten(flat):
  """Inverse of `flatten`."""
  tree = {}
  for name, value in flat.items():
    *parents, leaf = name.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return tree


def grid_of(model, image_size):
  """Rows and columns of patches that a model cuts images into.

  Args:
    model: `vit.ViT`, or the model of big_vision.
    image_size: Height and width in pixels, or a pair of them.
  """
  patch = height_and_width(model.patch_size)  # A pair in big_vision.
  pairs = zip(height_and_width(image_size), patch, strict=True)
  return tuple(int(pixels // edge) for pixels, edge in pairs)


def _old_grid(num, grid, noted, path):
  """The grid that so many positions are of; None if they are of none."""
  if noted is not None:
    if math.prod(noted) != num:
      raise artifacts.InputError(
        f"{path} holds {num} positions, and its note on the architecture says"
        f" {noted[0]} x {noted[1]}. Save the weights again."
      )
    return tuple(noted)
  if num == math.prod(grid) and grid[0] != grid[1]:
    raise artifacts.InputError(
      f"{path} holds {num} positions and does not say of which grid; for"
      f" {grid[0]} x {grid[1]} patches they may be as they are, turned, or of"
      " another shape. Files that Backbone.save writes do say. Load this one at"
      " the image size that it was trained at, save it so, and load that file;"
      " without a note, only square grids are loaded."
    )
  edge = math.isqrt(num)
  return (edge, edge) if num and edge**2 == num else None


def _file_and_part(path):
  """A path without the part after the colon, and that part or ""."""
  file, colon, part = str(path).rpartition(":")
  if not colon or not file.endswith(".npz"):
    return str(path), ""
  return file, part


def _below(prefix, flat):
  """What begins with a prefix, without it."""
  return {
    name.removeprefix(prefix): x
    for name, x in flat.items()
    if name.startswith(prefix)
  }


def _as_float32(x, name, file):
  """Numbers of a file in f32; bfloat16 is two bytes without type there."""
  if x.dtype.kind == "V" and x.dtype.itemsize == 2:
    x = x.view(jnp.bfloat16)
  elif x.dtype.kind not in "fiu":
    raise artifacts.InputError(
      f"{file}: {name!r} has dtype {x.dtype}; numbers are needed."
    )
  return x.astype(np.float32)


def height_and_width(image_size):
  """Edge of a square, or a pair, as a pair."""
  return (image_size,) * 2 if np.ndim(image_size) == 0 else tuple(image_size)
