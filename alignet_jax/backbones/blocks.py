"""The parts of the vision transformer: norms, attention, perceptrons, blocks.

Names and shapes of the parameters are those that flax's own modules have in
big_vision; what big_vision has no name for (layer scale, registers) is named
in the same manner. Matrix products are in `dtype`, all else in float32.

Usage:
  x = blocks.Block(options, name="encoderblock_0")(x)        # [b n d]
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from alignet_jax.backbones import attention

# Between the two affine maps of a perceptron. vit_jax and big_vision use the
# tanh form of GELU, the PyTorch models the exact one, CLIP x sigmoid(1.702 x).
ACTIVATIONS = {
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}

MLPS = ("mlp", "swiglu")

_xavier = nn.initializers.xavier_uniform()
_tiny_normal = nn.initializers.normal(stddev=1e-6)


@dataclasses.dataclass(frozen=True)
class Options:
  """What all blocks of a model share; the fields are those of `vit.ViT`."""

  mlp_dim: int
  num_heads: int
  dtype: Any = "float32"
  activation: str = "gelu_tanh"
  mlp: str = "mlp"
  layer_scale: bool = False
  norm_epsilon: float = 1e-6


class Patches(nn.Module):
  """Linear map of each patch: a convolution without overlap, as a product."""

  patch_size: int
  width: int
  dtype: Any
  use_bias: bool = True

  @nn.compact
  def __call__(self, image):
    """Maps f32[b h w c] to [b n d], in `dtype`."""
    b, h, w, c = image.shape
    p = self.patch_size
    if h % p or w % p:
      h, w = h - h % p, w - w % p
      image = image[:, :h, :w]
    kernel = self.param(
      "kernel", nn.initializers.lecun_normal(), (p, p, c, self.width)
    )
    bias = None
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.width,))
    x = image.astype(self.dtype).reshape(b, h // p, p, w // p, p, c)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * p * c)
    return _affine(x, kernel.reshape(p * p * c, self.width), bias)


class Transformer(nn.Module):
  """The blocks and the last norm; also returns the stream after each block."""

  depth: int
  options: Options
  remat: bool = False
  scan: bool = False

  @nn.compact
  def __call__(self, x):
    """Maps [b n d] to f32[b n d], and to a dict of streams [b n d]."""
    out = {}
    block = Block
    if self.remat:
      # Inside a scan the compiler cannot undo it, so needs no hindrance.
      block = nn.remat(Block, prevent_cse=not self.scan)
    if self.scan:
      block = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=self.depth,
      )
      x, stream = block(self.options, True, name="encoderblock")(x)
      out = {f"block{i:02d}": stream[i] for i in range(self.depth)}
    else:
      for i in range(self.depth):
        x = block(self.options, name=f"encoderblock_{i}")(x)
        out[f"block{i:02d}"] = x
    norm = LayerNorm(self.options.norm_epsilon, name="encoder_norm")
    return norm(x), out


class Block(nn.Module):
  """Self-attention and perceptron, each after a norm and added to the input."""

  options: Options
  scanned: bool = False

  @nn.compact
  def __call__(self, x):
    """Maps [b n d] to the same, and twice, as a scan wants it, if `scanned`."""
    options = self.options
    y = LayerNorm(options.norm_epsilon, name="LayerNorm_0")(x)
    y = Attention(
      options.num_heads, options.dtype, name="MultiHeadDotProductAttention_0"
    )(y)
    x = x + self._scale(y, 0)
    y = LayerNorm(options.norm_epsilon, name="LayerNorm_1")(x)
    x = x + self._scale(Mlp(options, name="MlpBlock_0")(y), 1)
    return (x, x) if self.scanned else x

  def _scale(self, x, index):
    if not self.options.layer_scale:
      return x
    return LayerScale(name=f"LayerScale_{index}")(x)


class MapHead(nn.Module):
  """Attention pooling with one learnt query; always in float32."""

  options: Options

  @nn.compact
  def __call__(self, x):
    """Maps f32[b n d] to f32[b d]."""
    b, _, d = x.shape
    options = dataclasses.replace(self.options, dtype="float32", mlp="mlp")
    probe = self.param("probe", _xavier, (1, 1, d))
    x = Attention(
      options.num_heads, options.dtype, name="MultiHeadDotProductAttention_0"
    )(jnp.broadcast_to(probe, (b, 1, d)), x)
    y = LayerNorm(options.norm_epsilon, name="LayerNorm_0")(x)
    x = x + Mlp(options, name="MlpBlock_0")(y)
    return x[:, 0]


class Attention(nn.Module):
  """Multi-head attention; the names and shapes are those of flax's module."""

  num_heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x, keys=None):
    """Attends from f32[b n d] to `keys` f32[b m d], by default to itself."""
    d = x.shape[-1]
    heads = (self.num_heads, d // self.num_heads)
    query, key, value = (
      _Affine((d, *heads), 1, name=name)() for name in ("query", "key", "value")
    )
    kernel, bias = _Affine((*heads, d), 2, name="out")()
    x = x.astype(self.dtype)
    if keys is None:
      q, k, v = _project(x, heads, query, key, value)
    else:
      (q,) = _project(x, heads, query)
      k, v = _project(keys.astype(self.dtype), heads, key, value)
    y = attention.attend(q, k, v)
    return _affine(y.reshape(x.shape), kernel.reshape(d, d), bias)


class Mlp(nn.Module):
  """Two affine maps with an activation between them, or SwiGLU.

  With SwiGLU the first map is twice as wide, as it is stored in the files of
  DINOv2 g: silu of its first half times its second one.
  """

  options: Options

  @nn.compact
  def __call__(self, x):
    """Maps [b n d] to the same, in `dtype`."""
    d, options = x.shape[-1], self.options
    gated = options.mlp == "swiglu"
    hidden = options.mlp_dim * (2 if gated else 1)
    first = _Affine((d, hidden), 1, _tiny_normal, name="Dense_0")()
    second = _Affine((options.mlp_dim, d), 1, _tiny_normal, name="Dense_1")()
    x = _affine(x.astype(options.dtype), *first)
    if gated:
      gate, x = jnp.split(x, 2, axis=-1)
      x = jax.nn.silu(gate) * x
    else:
      x = ACTIVATIONS[options.activation](x)
    return _affine(x, *second)


class LayerScale(nn.Module):
  """A learnt factor for each feature of what a block adds to its input."""

  @nn.compact
  def __call__(self, x):
    """Maps [b n d] to the same, in the type of `x`."""
    # DINOv2 starts at 1e-5, which nothing that is not trained can tell from 0.
    init = nn.initializers.constant(1e-5)
    scale = self.param("scale", init, (x.shape[-1],))
    return x * scale.astype(x.dtype)[None, None]


class _Affine(nn.Module):
  """Holds a kernel and a bias under one name; the caller multiplies.

  The first `num_inputs` axes of `shape` are inputs, the others are outputs and
  the shape of the bias. The kernel is drawn as the matrix that it stands for.
  """

  shape: tuple[int, ...]
  num_inputs: int
  bias_init: Any = nn.initializers.zeros

  @nn.compact
  def __call__(self):
    inputs = self.shape[: self.num_inputs]
    outputs = self.shape[self.num_inputs :]

    def kernel_init(rng):
      matrix = _xavier(rng, (int(np.prod(inputs)), int(np.prod(outputs))))
      return matrix.reshape(self.shape)

    kernel = self.param("kernel", kernel_init)
    return kernel, self.param("bias", self.bias_init, outputs)


class LayerNorm(nn.Module):
  """Layer norm over the last axis, in float32."""

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x):
    """Maps [*b d] of any float type to f32[*b d]."""
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
    shape = x.shape
    x = x.astype(jnp.float32).reshape(-1, shape[-1])
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + self.epsilon)
    return (x * scale[None] + bias[None]).reshape(shape)


def _affine(x, kernel, bias):
  """x @ kernel + bias over the last axis, in the type of `x`.

  The product is one of two matrices, also where `x` has more axes: for the
  gradient of the kernel XLA on CPU otherwise transposes the incoming gradient
  in memory first, which makes that product two to three times as slow.
  """
  y = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
  if bias is not None:
    y = y + bias.astype(x.dtype)[None]
  return y.reshape(*x.shape[:-1], -1)


def _project(x, heads, *affines):
  """Applies several affine maps in one product; gives each [b n h d/h]."""
  b, n, d = x.shape
  kernel = jnp.concatenate([a[0].reshape(d, d) for a in affines], axis=1)
  bias = jnp.concatenate([a[1].reshape(d) for a in affines])
  y = _affine(x, kernel, bias).reshape(b, n, len(affines), *heads)
  return [y[:, :, i] for i in range(len(affines))]
