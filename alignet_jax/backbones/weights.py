"""Public weights of big_vision and vit_jax, and our own, as npz files.

All of them are archives of arrays named by their place in the tree, such as
"Transformer/encoderblock_0/LayerNorm_0/scale". Names changed over the years:
`modern_names` turns each published spelling into that of `backbones/vit.py`.
Nothing is left out in silence: whatever is missing, unused or of another shape
is listed, and only a classifier that the model has no use for is not an error.

Usage:
  params, report = weights.load("webli_en_b16_224_63724782.npz:img", model,
                                image_size=224)
  weights.save("student.npz", params)
"""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from alignet_jax import artifacts

# Collections that hold the parameters; the rest of such a file, for example
# the state of the optimiser, is not read. In order of preference.
_PARAMS_PREFIXES = ("params/", "opt/target/")

# Names inside an encoder block: vit_jax numbers all submodules together.
_VIT_JAX_NAMES = {
  "LayerNorm_2": "LayerNorm_1",
  "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
  "MlpBlock_3": "MlpBlock_0",
}
_VIT_JAX_BLOCK = re.compile(
  rf"^(Transformer/encoderblock_\d+)/({'|'.join(_VIT_JAX_NAMES)})/"
)

# Where position embeddings stood before they became a parameter of the model.
_OLD_POSEMB = (
  "Transformer/posembed_input/pos_embedding",
  "Transformer/pos_embedding",
)

# Parts of the MAP head, which early files have at the top of the tree.
_INLINED_MAP_HEAD = re.compile(
  r"^(probe$|MlpBlock_0/|MultiHeadDotProductAttention_0/|LayerNorm_0/)"
)

_SCANNED_BLOCKS = "Transformer/encoderblock/"


@dataclasses.dataclass(frozen=True)
class Report:
  """What happened to the tensors of a file.

  Attributes:
    path: The file, with the part that was read.
    num_tensors: How many went into the model.
    unused: Names in the file that the model has no use for.
    resampled: Names whose grid of positions was resampled.
  """

  path: str
  num_tensors: int
  unused: tuple[str, ...]
  resampled: tuple[str, ...]

  def __str__(self):
    words = [f"{self.path}: {self.num_tensors} tensors loaded"]
    if self.unused:
      words.append(f"not used: {', '.join(self.unused)}")
    if self.resampled:
      words.append(f"resampled: {', '.join(self.resampled)}")
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
    artifacts.InputError: The file cannot be read, or does not fit the model.
  """
  shapes = expected_shapes(model, image_size=image_size)
  loaded = modern_names(read(path))
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
  posemb = loaded.get("pos_embedding")
  if posemb is not None and posemb.shape != shapes["pos_embedding"]:
    width = shapes["pos_embedding"][2]
    if _is_grid(posemb.shape, num_extra=0) and posemb.shape[2] == width:
      grid = [n // model.patch_size for n in _height_and_width(image_size)]
      loaded["pos_embedding"] = resample_posemb(posemb, grid)
      resampled.append("pos_embedding")
  check(loaded, shapes, path=path)
  report = Report(str(path), len(loaded), tuple(unused), tuple(resampled))
  return unflatten(loaded), report


def save(path, params):
  """Writes a tree of parameters under its "/"-joined names, in float32.

  big_vision reads such a file as it is.

  Args:
    path: Where to write; ends in .npz.
    params: Nested dicts of arrays of any float type.
  """
  flat = flatten(params)
  artifacts.write_npz(
    path, **{name: np.asarray(x, np.float32) for name, x in flat.items()}
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
  file, colon, part = str(path).rpartition(":")
  if not colon or not file.endswith(".npz"):
    file, part = str(path), ""
  if file.endswith((".pth", ".pt", ".bin", ".ckpt")):
    raise artifacts.InputError(
      f"{file} is a PyTorch file, which holds Python objects; reading it could "
      "run foreign code. Save its tensors by name with numpy.savez."
    )
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


def modern_names(flat):
  """Renames tensors of any published ViT file to the names of `vit.ViT`.

  Besides renaming, it splits blocks that are stacked along a first axis, and
  adds the position embedding of the class token, which early models had, to
  the token itself: the sum is all that the model ever used.

  Args:
    flat: Dict from name to array.

  Returns:
    Dict from name to array, sorted by name.
  """
  out = {}
  for name, x in flat.items():
    if name in _OLD_POSEMB:
      out["pos_embedding"] = x
    elif _INLINED_MAP_HEAD.match(name):
      out[f"MAPHead_0/{name}"] = x
    elif name.startswith(_SCANNED_BLOCKS):
      rest = name.removeprefix(_SCANNED_BLOCKS)
      for i, x_i in enumerate(x):
        out[f"Transformer/encoderblock_{i}/{rest}"] = x_i
    else:
      name = _VIT_JAX_BLOCK.sub(
        lambda match: f"{match[1]}/{_VIT_JAX_NAMES[match[2]]}/", name
      )
      out[name] = x
  posemb = out.get("pos_embedding")
  if posemb is not None and _is_grid(posemb.shape, num_extra=1):
    out["pos_embedding"] = posemb[:, 1:]
    if "cls" in out:
      out["cls"] = out["cls"] + posemb[:, :1]
  return dict(sorted(out.items()))


def expected_shapes(model, *, image_size):
  """Names and shapes of a model's parameters, without making them.

  Args:
    model: flax module that takes f32[b h w 3].
    image_size: Height and width in pixels, or a pair of them.

  Returns:
    Dict from "/"-joined name to shape.
  """
  image = jnp.zeros([1, *_height_and_width(image_size), 3])
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


def resample_posemb(posemb, grid):
  """Resamples position embeddings to another grid of patches.

  Bilinear, first and last row and column kept in place, as in big_vision and
  vit_jax (scipy.ndimage.zoom of order 1).

  Args:
    posemb: f32[1 n d]; n is a square number.
    grid: Rows and columns that are wanted.

  Returns:
    f32[1 rows*columns d]; the input itself if it has that grid.
  """
  edge = math.isqrt(posemb.shape[1])
  rows, columns = grid
  if (rows, columns) == (edge, edge):
    return posemb
  x = np.asarray(posemb, np.float32).reshape(edge, edge, -1)
  x = np.einsum(
    "ri,cj,ijd->rcd", _weights(edge, rows), _weights(edge, columns), x
  )
  return x.astype(np.float32).reshape(1, rows * columns, -1)


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


def _weights(old, new):
  """Linear interpolation from `old` to `new` points, as f64[new old]."""
  place = np.linspace(0, old - 1, new)
  return np.maximum(1 - np.abs(place[:, None] - np.arange(old)), 0)


def _height_and_width(image_size):
  return (image_size,) * 2 if np.ndim(image_size) == 0 else tuple(image_size)


def _is_grid(shape, *, num_extra):
  """Whether [1 n d] is a square of patches and so many extra tokens."""
  num_patches = shape[1] - num_extra if len(shape) == 3 else 0
  return num_patches > 0 and math.isqrt(num_patches) ** 2 == num_patches
