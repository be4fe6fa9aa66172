"""Names of parameters: each published spelling of them, blocks stacked or not.

Names changed over the years, and with `scan` all blocks are one array each.
Here they become those of `vit.ViT`, one per block, and back.

Usage:
  flat = names.modern_names(artifacts.read_npz("B_16.npz"))
"""

import math
import re

import numpy as np

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
_BLOCK = re.compile(r"^(.*?)Transformer/encoderblock_(\d+)/(.*)$")


def modern_names(flat, *, with_cls_position=True):
  """Renames tensors of any published ViT file to the names of `vit.ViT`.

  Besides renaming, it splits blocks that are stacked along a first axis, and
  adds the position embedding of the class token, which early models had, to
  the token itself: the sum is all that the model ever used.

  Args:
    flat: Dict from name to array.
    with_cls_position: Whether one position more than a square is that of the
      class token. Files of our own never have one: theirs are perhaps 5 x 10.

  Returns:
    Dict from name to array, sorted by name.
  """
  out = {}
  for name, x in split_blocks(flat).items():
    if name in _OLD_POSEMB:
      out["pos_embedding"] = x
    elif _INLINED_MAP_HEAD.match(name):
      out[f"MAPHead_0/{name}"] = x
    else:
      name = _VIT_JAX_BLOCK.sub(
        lambda match: f"{match[1]}/{_VIT_JAX_NAMES[match[2]]}/", name
      )
      out[name] = x
  x = out.get("pos_embedding")
  has_cls_position = with_cls_position and x is not None
  if has_cls_position and is_grid(x.shape, num_extra=1):
    out["pos_embedding"] = x[:, 1:]
    if "cls" in out:
      out["cls"] = out["cls"] + x[:, :1]
  return dict(sorted(out.items()))


def split_blocks(flat):
  """Undoes `stack_blocks`; what is not stacked stays as it is.

  Args:
    flat: Dict from name to array, or to shape.

  Returns:
    Dict from name to array or shape, one name per block.
  """
  out = {}
  for name, x in flat.items():
    before, stacked, rest = name.partition(_SCANNED_BLOCKS)
    if not stacked or before[-1:] not in ("", "/"):
      out[name] = x
      continue
    parts = [x[1:]] * x[0] if isinstance(x, tuple) else x
    for i, part in enumerate(parts):
      out[f"{before}Transformer/encoderblock_{i}/{rest}"] = part
  return out


def stack_blocks(flat):
  """Stacks the blocks' parameters along a first axis, for `ViT(scan=True)`.

  Args:
    flat: Dict from name to array, one name per block.

  Returns:
    Dict from name to array, sorted by name.
  """
  out, stacks = {}, {}
  for name, x in flat.items():
    match = _BLOCK.match(name)
    if match:
      stacks.setdefault(match[1] + _SCANNED_BLOCKS + match[3], {})[
        int(match[2])
      ] = x
    else:
      out[name] = x
  for name, blocks in stacks.items():
    out[name] = np.stack([blocks[i] for i in sorted(blocks)])
  return dict(sorted(out.items()))


def is_grid(shape, *, num_extra):
  """Whether [1 n d] is a square of patches and so many extra tokens."""
  num_patches = shape[1] - num_extra if len(shape) == 3 else 0
  return num_patches > 0 and math.isqrt(num_patches) ** 2 == num_patches
