"""Turns tensors under PyTorch's names into those of `vit.ViT`.

Two libraries name every family their way, transformers and timm; DINOv2's own
files are close to timm's. Which one wrote a file shows in its names. PyTorch
keeps matrices as [out in], heads joined, and convolutions as [out in h w]; here
they are [in heads d] and [h w in out]. A name that is in no table is passed on
as it is, so that it is listed as unused.

Usage:
  library = huggingface.library(source.tensors)
  flat = huggingface.rename(source.tensors, num_heads=12)
"""

import re

import numpy as np

from alignet_jax import artifacts

_ATTENTION = "MultiHeadDotProductAttention_0"
_MAP_ATTENTION = "MAPHead_0/MultiHeadDotProductAttention_0"

# What image models of two towers, or of a task, are put below.
_PREFIXES = ("vision_model.", "vit.", "dinov2.", "dinov2_with_registers.")

# Parts of such files that are no part of the image model.
OTHER_PARTS = ("text_model.", "text_projection.", "logit_scale", "logit_bias")

# Tensors that no output depends on, or that come after the last one.
UNUSED_OK = (
  "embeddings.mask_token",
  "mask_token",
  "embeddings.position_ids",
  "visual_projection.weight",
  "pre_logits",
  "classifier.weight",
  "classifier.bias",
  "head.weight",
  "head.bias",
)

_BLOCK = re.compile(
  r"^(?:encoder\.layers?|blocks(?:\.\d+(?=\.\d))?)\.(\d+)\.(.+)$"
)

# Module within a block to ours: transformers' ViT and DINOv2, then its SigLIP
# and CLIP, then timm and facebook.
_BLOCK_MODULES = {
  "attention.attention.query": f"{_ATTENTION}/query",
  "attention.attention.key": f"{_ATTENTION}/key",
  "attention.attention.value": f"{_ATTENTION}/value",
  "attention.output.dense": f"{_ATTENTION}/out",
  "layernorm_before": "LayerNorm_0",
  "layernorm_after": "LayerNorm_1",
  "intermediate.dense": "MlpBlock_0/Dense_0",
  "output.dense": "MlpBlock_0/Dense_1",
  "mlp.weights_in": "MlpBlock_0/Dense_0",
  "mlp.weights_out": "MlpBlock_0/Dense_1",
  "self_attn.q_proj": f"{_ATTENTION}/query",
  "self_attn.k_proj": f"{_ATTENTION}/key",
  "self_attn.v_proj": f"{_ATTENTION}/value",
  "self_attn.out_proj": f"{_ATTENTION}/out",
  "layer_norm1": "LayerNorm_0",
  "layer_norm2": "LayerNorm_1",
  "attn.qkv": f"{_ATTENTION}/query+key+value",
  "attn.proj": f"{_ATTENTION}/out",
  "norm1": "LayerNorm_0",
  "norm2": "LayerNorm_1",
  "mlp.fc1": "MlpBlock_0/Dense_0",
  "mlp.fc2": "MlpBlock_0/Dense_1",
  "mlp.w12": "MlpBlock_0/Dense_0",
  "mlp.w3": "MlpBlock_0/Dense_1",
}

_BLOCK_TENSORS = {
  "layer_scale1.lambda1": "LayerScale_0/scale",
  "layer_scale2.lambda1": "LayerScale_1/scale",
  "ls1.gamma": "LayerScale_0/scale",
  "ls2.gamma": "LayerScale_1/scale",
}

_MODULES = {
  "embeddings.patch_embeddings.projection": "embedding",
  "embeddings.patch_embedding": "embedding",
  "patch_embed.proj": "embedding",
  "layernorm": "Transformer/encoder_norm",
  "post_layernorm": "Transformer/encoder_norm",
  "norm": "Transformer/encoder_norm",
  "pre_layrnorm": "pre_norm",  # So spelt in transformers.
  "norm_pre": "pre_norm",
  "pooler.dense": "pre_logits",
  "head.attention.out_proj": f"{_MAP_ATTENTION}/out",
  "head.layernorm": "MAPHead_0/LayerNorm_0",
  "head.mlp.fc1": "MAPHead_0/MlpBlock_0/Dense_0",
  "head.mlp.fc2": "MAPHead_0/MlpBlock_0/Dense_1",
  "attn_pool.q": f"{_MAP_ATTENTION}/query",
  "attn_pool.kv": f"{_MAP_ATTENTION}/key+value",
  "attn_pool.proj": f"{_MAP_ATTENTION}/out",
  "attn_pool.norm": "MAPHead_0/LayerNorm_0",
  "attn_pool.mlp.fc1": "MAPHead_0/MlpBlock_0/Dense_0",
  "attn_pool.mlp.fc2": "MAPHead_0/MlpBlock_0/Dense_1",
}

# Parameters that belong to no layer: they keep their numbers, given a shape.
_TENSORS = {
  "embeddings.cls_token": "cls",
  "embeddings.class_embedding": "cls",
  "cls_token": "cls",
  "embeddings.register_tokens": "registers",
  "register_tokens": "registers",
  "reg_token": "registers",
  "embeddings.position_embeddings": "pos_embedding",
  "embeddings.position_embedding.weight": "pos_embedding",
  "pos_embed": "pos_embedding",
  "head.probe": "MAPHead_0/probe",
  "attn_pool.latent": "MAPHead_0/probe",
}

_PACKED = {
  "head.attention.in_proj_weight": "weight",
  "head.attention.in_proj_bias": "bias",
}


def library(names):
  """Which library named the tensors: a name in `families.LIBRARIES`.

  Args:
    names: Of the tensors.

  Raises:
    artifacts.InputError: They are no vision transformer's that is known.
  """
  names = {_without_prefix(name) for name in names}
  if any(name.startswith("blocks.") for name in names):
    own = {"mask_token", "register_tokens"} & names
    return "facebook" if own else "timm"
  if any(
    name.startswith(("encoder.layer.", "encoder.layers.")) for name in names
  ):
    return "transformers"
  shown = ", ".join(sorted(names)[:5]) or "none"
  raise artifacts.InputError(
    "The tensors are not named as those of a vision transformer of transformers"
    f" or timm; there are {shown}, ..."
  )


def has_flat_patches(tensors):
  """Whether patches are embedded by a matrix: SigLIP2's naflex models."""
  return any(
    name.endswith("embeddings.patch_embedding.weight") and x.ndim == 2
    for name, x in tensors.items()
  )


def rename(tensors, *, num_heads, patch_size):
  """Gives tensors the names and shapes of `vit.ViT`.

  Args:
    tensors: Dict from PyTorch's name to f32 array.
    num_heads: Of the model; it cannot be seen from the shapes.
    patch_size: Of the model, for patches that are embedded by a matrix.

  Returns:
    Dict from name to f32 array, sorted by name. The class token's position
    embedding is still beside those of the patches.

  Raises:
    artifacts.InputError: A tensor has a shape that no such layer has.
  """
  out = {}
  for full_name, x in tensors.items():
    name = _without_prefix(full_name)
    if name.startswith(OTHER_PARTS):
      continue
    try:
      out.update(_convert(name, x, num_heads, patch_size))
    except ValueError as error:
      raise artifacts.InputError(
        f"{full_name} has shape {list(x.shape)}, which does not fit a model of "
        f"{num_heads} heads and patches of {patch_size} pixels: {error}."
      ) from error
  return dict(sorted(out.items()))


def _without_prefix(name):
  for prefix in _PREFIXES:
    if name.startswith(prefix):
      return name.removeprefix(prefix)
  return name


def _convert(name, x, num_heads, patch_size):
  """One tensor as {name: array}, or several where it holds several."""
  block = _BLOCK.match(name)
  place = f"Transformer/encoderblock_{block[1]}/" if block else ""
  rest = block[2] if block else name
  tensor = (_BLOCK_TENSORS if block else _TENSORS).get(rest)
  if tensor:
    if tensor in ("cls", "registers", "pos_embedding", "MAPHead_0/probe"):
      x = x.reshape(1, -1, x.shape[-1])
    return {place + tensor: x}
  module, _, leaf = rest.rpartition(".")
  module = (_BLOCK_MODULES if block else _MODULES).get(module)
  if not block and rest in _PACKED:
    module, leaf = f"{_MAP_ATTENTION}/query+key+value", _PACKED[rest]
  if not module or leaf not in ("weight", "bias"):
    return {name: x}
  parent, _, last = module.rpartition("/")
  parts = last.split("+")
  result = {}
  for part, piece in zip(parts, np.split(x, len(parts)), strict=True):
    target = f"{place}{parent}/{part}" if parent else place + part
    kind, array = _layer(target, piece, leaf, num_heads, patch_size)
    result[f"{target}/{kind}"] = array
  return result


def _layer(target, x, leaf, num_heads, patch_size):
  """Name and array of a layer's weight or bias."""
  last = target.rpartition("/")[2]
  if "orm" in last:
    return ("scale" if leaf == "weight" else "bias"), x
  heads = (num_heads, -1)
  if leaf == "bias":
    return "bias", x.reshape(heads) if last in ("query", "key", "value") else x
  if target == "embedding":
    if x.ndim == 2:  # Pixels of a patch in the order row, column, channel.
      return "kernel", x.T.reshape(patch_size, patch_size, -1, len(x))
    return "kernel", x.transpose(2, 3, 1, 0)
  if last in ("query", "key", "value"):
    return "kernel", x.T.reshape(x.shape[1], *heads)
  if last == "out":
    return "kernel", x.T.reshape(*heads, len(x))
  return "kernel", x.T
