"""The last blocks of a vision transformer, on what the others gave for them.

Where only the last blocks are trained, the first ones give the same tokens for
an image at every step. Computed once and kept, they leave a step with a part of
its cost: of 12 blocks, training the last 4 takes about a third of the time.
The parameters have the names of the whole model, so they go back into it.

Usage:
  top = tail.Tail(options=tail.options_of(vit), first=8, depth=12)
  z = top.apply({"params": tail.select(params, first=8)}, tokens)   # f32[b d]
  whole = tail.join(params, trained)
"""

import flax.linen as nn
import jax.numpy as jnp

from alignet_jax.backbones import blocks, vit

_BLOCK = "encoderblock_"


class Tail(nn.Module):
  """Blocks `first` to `depth` - 1, the last norm, and the representation.

  Attributes:
    options: `blocks.Options` of the whole model.
    first: Index of the first block that is here.
    depth: Blocks of the whole model.
    pool: "cls", "gap" or "cls_patch_mean", as of `vit.ViT`.
    num_tokens: Tokens before the patches: 1 with a class token alone.
  """

  options: blocks.Options
  first: int
  depth: int
  pool: str = "cls"
  num_tokens: int = 1

  @nn.compact
  def __call__(self, tokens):
    """Maps [b n d], the stream before block `first`, to f32[b d]."""
    x = _Top(
      self.options,
      self.first,
      self.depth,
      self.pool == "cls",
      name="Transformer",
    )(tokens)
    if self.pool == "cls":
      return x[:, 0]
    patch_mean = jnp.mean(x[:, self.num_tokens :], axis=1)
    if self.pool == "gap":
      return patch_mean
    return jnp.concatenate([x[:, 0], patch_mean], axis=-1)


class _Top(nn.Module):
  """The blocks under the name that they have in the whole model."""

  options: blocks.Options
  first: int
  depth: int
  cls_only: bool

  @nn.compact
  def __call__(self, x):
    for i in range(self.first, self.depth):
      is_last = i == self.depth - 1
      kind = _ClsBlock if self.cls_only and is_last else blocks.Block
      x = kind(self.options, name=f"{_BLOCK}{i}")(x)
    return blocks.LayerNorm(self.options.norm_epsilon, name="encoder_norm")(x)


class _ClsBlock(blocks.Block):
  """A block's output for the class token alone, which is all that is read.

  Its one query needs the keys and values of all tokens, but neither their
  perceptrons nor their queries: about a sixth of the products of a block.
  """

  @nn.compact
  def __call__(self, x):
    """Maps [b n d] to [b 1 d]."""
    options = self.options
    y = blocks.LayerNorm(options.norm_epsilon, name="LayerNorm_0")(x)
    y = blocks.Attention(
      options.num_heads, options.dtype, name="MultiHeadDotProductAttention_0"
    )(y[:, :1], y)
    x = x[:, :1] + self._scale(y, 0)
    y = blocks.LayerNorm(options.norm_epsilon, name="LayerNorm_1")(x)
    return x + self._scale(blocks.Mlp(options, name="MlpBlock_0")(y), 1)


def make(model, *, first):
  """Makes the tail of a model.

  Args:
    model: `vit.ViT`, without scan, a layer before its head, or attention
      pooling.
    first: Index of the first block that is trained, 1 to depth - 1.

  Returns:
    `Tail`.

  Raises:
    ValueError: The model or `first` does not allow it.
  """
  if model.pool not in ("cls", "gap", vit.CLS_PATCH_MEAN) or model.rep_size:
    raise ValueError(
      f"The model has pool {model.pool!r} and rep_size {model.rep_size}; only"
      " cls, gap or cls_patch_mean without a further layer can be trained from"
      " the middle."
    )
  if not 1 <= first < model.depth:
    raise ValueError(
      f"The first trained block is {first}; of {model.depth} blocks it may be 1"
      f" to {model.depth - 1}."
    )
  return Tail(
    options=blocks.Options(
      mlp_dim=model.mlp_dim,
      num_heads=model.num_heads,
      dtype=model.dtype,
      activation=model.activation,
      mlp=model.mlp,
      layer_scale=model.layer_scale,
      norm_epsilon=model.norm_epsilon,
    ),
    first=first,
    depth=model.depth,
    pool=model.pool,
    num_tokens=int(model.has_cls) + model.num_registers,
  )


def input_name(first):
  """Name of the output of `vit.ViT` that the tail reads."""
  return f"block{first - 1:02d}"


def select(params, *, first):
  """The part of a model's parameters that its tail has."""
  kept = {
    name: value
    for name, value in params["Transformer"].items()
    if not name.startswith(_BLOCK) or int(name.removeprefix(_BLOCK)) >= first
  }
  return {"Transformer": kept}


def join(params, trained):
  """A model's parameters with those of its tail replaced."""
  blocks_of_model = {**params["Transformer"], **trained["Transformer"]}
  return {**params, "Transformer": blocks_of_model}
