"""Vision transformer with the parameter names of big_vision.

The students and the generated world's backbone are this one module, and the
public weights of big_vision, vit_jax and SigLIP fit it name by name (paper.md,
section C). Its inner products are arranged for few, wide matrix products: the
patches are cut by a reshape, and query, key and value are one product whose
kernel is joined at call time. The tree of parameters knows nothing of that.

Usage:
  model = vit.from_variant("B/16", pool="map")
  params = model.init(rng, jnp.zeros([1, 224, 224, 3]))["params"]
  x, out = model.apply({"params": params}, image)    # out["pre_logits"]
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Width, depth, mlp_dim, num_heads. Table 2 of arXiv:2106.04560; So400m is from
# arXiv:2305.13035.
VARIANTS = {
  "Ti": (192, 12, 768, 3),
  "S": (384, 12, 1536, 6),
  "B": (768, 12, 3072, 12),
  "L": (1024, 24, 4096, 16),
  "So400m": (1152, 27, 4304, 16),
  "H": (1280, 32, 5120, 16),
  "g": (1408, 40, 6144, 16),
}

POOLS = ("cls", "gap", "map")

# flax's default, and so what all big_vision weights were trained with.
LAYER_NORM_EPSILON = 1e-6

_xavier = nn.initializers.xavier_uniform()
_tiny_normal = nn.initializers.normal(stddev=1e-6)


def from_variant(variant, **settings):
  """Makes the ViT that big_vision calls by a string such as "B/16".

  Args:
    variant: "<size>/<patch>", a size of `VARIANTS` and a patch edge in pixels.
    **settings: Further fields of `ViT`; they win over those of the variant.

  Returns:
    `ViT` module, without parameters.

  Raises:
    ValueError: `variant` is not of that form, or the size is not known.
  """
  size, _, patch = variant.partition("/")
  if size not in VARIANTS or not patch.isdigit() or int(patch) < 1:
    raise ValueError(
      f"Unknown ViT variant {variant!r}. Write SIZE/PATCH, for example B/16, "
      f"with one of the sizes {', '.join(VARIANTS)}."
    )
  width, depth, mlp_dim, num_heads = VARIANTS[size]
  fields = {
    "patch_size": int(patch),
    "width": width,
    "depth": depth,
    "mlp_dim": mlp_dim,
    "num_heads": num_heads,
  }
  return ViT(**{**fields, **settings})


class ViT(nn.Module):
  """Vision transformer, pre-norm, without dropout.

  Parameters are float32 whatever `dtype` is; normalisations, softmax, pooling
  and everything after it are computed in float32.

  Attributes:
    patch_size: Edge of the square patches, in pixels.
    width: Size of a token.
    depth: Number of blocks.
    mlp_dim: Hidden size of the blocks' two-layer perceptrons.
    num_heads: Attention heads; divides `width`.
    pool: How tokens become one vector. "map": attention with a learnt probe.
      "gap": mean of the patch tokens. "cls": a learnt token put before the
      patches, without position embedding (big_vision calls it "tok").
    num_classes: Size of the linear classifier, 0 for none.
    rep_size: Size of a tanh layer before the classifier, 0 for none.
    dtype: Type of the matrix products: "float32" or "bfloat16".
  """

  patch_size: int
  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  pool: str = "map"
  num_classes: int = 0
  rep_size: int = 0
  dtype: Any = "float32"

  @nn.compact
  def __call__(self, image):
    """Encodes images.

    Args:
      image: f32[b h w 3], in the value range that the weights were made for. h
        and w are multiples of `patch_size`, and h w / patch_size^2 is the
        number of position embeddings in the parameters.

    Returns:
      The last output, f32[b num_classes] or f32[b rep_size or width], and a
      dict of named intermediate ones. With n patches and width d:
      "stem" and "with_posemb" f32[b n d]; "block00", "block01" ... the residual
      stream after each block, [b n d] or [b 1+n d] with "cls", in `dtype`;
      "encoded" the same after the last norm, f32; "patch_mean" f32[b d]; "cls"
      f32[b d] if there is one; "head_input" f32[b d] after pooling;
      "pre_logits"; "logits" if there are classes.

    Raises:
      ValueError: The image or a field does not fit.
    """
    self._check(image.shape)
    out = {}
    x = _Patches(self.patch_size, self.width, self.dtype, name="embedding")(
      image
    )
    out["stem"] = x
    posemb = self.param(
      "pos_embedding",
      nn.initializers.normal(stddev=1 / np.sqrt(self.width)),
      (1, x.shape[1], self.width),
    )
    x = x + posemb.astype(x.dtype)
    out["with_posemb"] = x
    if self.pool == "cls":
      cls = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
      cls = jnp.broadcast_to(cls.astype(x.dtype), (len(x), 1, self.width))
      x = jnp.concatenate([cls, x], axis=1)

    x, blocks = _Transformer(
      self.depth, self.mlp_dim, self.num_heads, self.dtype, name="Transformer"
    )(x)
    out.update(blocks)
    out["encoded"] = x
    patches = x[:, 1:] if self.pool == "cls" else x
    out["patch_mean"] = jnp.mean(patches, axis=1)

    if self.pool == "map":
      x = _MapHead(self.mlp_dim, self.num_heads, name="MAPHead_0")(x)
    elif self.pool == "gap":
      x = out["patch_mean"]
    else:
      x = out["cls"] = x[:, 0]
    out["head_input"] = x
    if self.rep_size:
      x = jnp.tanh(nn.Dense(self.rep_size, name="pre_logits")(x))
    out["pre_logits"] = x
    if self.num_classes:
      # Zero start as in big_vision: the first loss is ln(num_classes).
      x = nn.Dense(
        self.num_classes, kernel_init=nn.initializers.zeros, name="head"
      )(x)
      out["logits"] = x
    return x, out

  def _check(self, shape):
    if self.pool not in POOLS:
      raise ValueError(
        f"Unknown pool {self.pool!r}; known are {', '.join(POOLS)}."
      )
    if self.width % self.num_heads:
      raise ValueError(
        f"width={self.width} is not a multiple of num_heads={self.num_heads}."
      )
    p = self.patch_size
    if len(shape) != 4 or shape[3] != 3 or shape[1] % p or shape[2] % p:
      raise ValueError(
        f"Images of shape {tuple(shape)} do not fit: [b h w 3] is needed, with "
        f"h and w multiples of patch_size={p}."
      )


class _Patches(nn.Module):
  """Linear map of each patch: a convolution without overlap, as a product."""

  patch_size: int
  width: int
  dtype: Any

  @nn.compact
  def __call__(self, image):
    b, h, w, c = image.shape
    p = self.patch_size
    kernel = self.param(
      "kernel", nn.initializers.lecun_normal(), (p, p, c, self.width)
    )
    bias = self.param("bias", nn.initializers.zeros, (self.width,))
    x = image.astype(self.dtype).reshape(b, h // p, p, w // p, p, c)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * p * c)
    return _affine(x, kernel.reshape(p * p * c, self.width), bias)


class _Transformer(nn.Module):
  """The blocks and the last norm; also returns the stream after each block."""

  depth: int
  mlp_dim: int
  num_heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    out = {}
    for i in range(self.depth):
      x = _Block(
        self.mlp_dim, self.num_heads, self.dtype, name=f"encoderblock_{i}"
      )(x)
      out[f"block{i:02d}"] = x
    return _LayerNorm(name="encoder_norm")(x), out


class _Block(nn.Module):
  """Self-attention and perceptron, each after a norm and added to the input."""

  mlp_dim: int
  num_heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    y = _LayerNorm(name="LayerNorm_0")(x)
    x = x + _Attention(
      self.num_heads, self.dtype, name="MultiHeadDotProductAttention_0"
    )(y)
    y = _LayerNorm(name="LayerNorm_1")(x)
    return x + _Mlp(self.mlp_dim, self.dtype, name="MlpBlock_0")(y)


class _MapHead(nn.Module):
  """Attention pooling with one learnt query; always in float32."""

  mlp_dim: int
  num_heads: int

  @nn.compact
  def __call__(self, x):
    b, _, d = x.shape
    probe = self.param("probe", _xavier, (1, 1, d))
    x = _Attention(
      self.num_heads, "float32", name="MultiHeadDotProductAttention_0"
    )(jnp.broadcast_to(probe, (b, 1, d)), x)
    y = _LayerNorm(name="LayerNorm_0")(x)
    x = x + _Mlp(self.mlp_dim, "float32", name="MlpBlock_0")(y)
    return x[:, 0]


class _Attention(nn.Module):
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
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32)
    probs = jax.nn.softmax(logits / math.sqrt(heads[1]), axis=-1)
    y = jnp.einsum("bhqk,bkhd->bqhd", probs.astype(v.dtype), v)
    return _affine(y.reshape(x.shape), kernel.reshape(d, d), bias)


class _Mlp(nn.Module):
  """Two affine maps with a GELU, in its tanh form, between them."""

  mlp_dim: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    d = x.shape[-1]
    first = _Affine((d, self.mlp_dim), 1, _tiny_normal, name="Dense_0")()
    second = _Affine((self.mlp_dim, d), 1, _tiny_normal, name="Dense_1")()
    x = _affine(x.astype(self.dtype), *first)
    return _affine(jax.nn.gelu(x, approximate=True), *second)


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


class _LayerNorm(nn.Module):
  """Layer norm over the last axis, in float32."""

  @nn.compact
  def __call__(self, x):
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
    shape = x.shape
    x = x.astype(jnp.float32).reshape(-1, shape[-1])
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    return (x * scale[None] + bias[None]).reshape(shape)


def _affine(x, kernel, bias):
  """x @ kernel + bias over the last axis, in the type of `x`.

  The product is one of two matrices, also where `x` has more axes: for the
  gradient of the kernel XLA on CPU otherwise transposes the incoming gradient
  in memory first, which makes that product two to three times as slow.
  """
  y = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
  y = y + bias.astype(x.dtype)[None]
  return y.reshape(*x.shape[:-1], -1)


def _project(x, heads, *affines):
  """Applies several affine maps in one product; gives each [b n h d/h]."""
  b, n, d = x.shape
  kernel = jnp.concatenate([a[0].reshape(d, d) for a in affines], axis=1)
  bias = jnp.concatenate([a[1].reshape(d) for a in affines])
  y = _affine(x, kernel, bias).reshape(b, n, len(affines), *heads)
  return [y[:, :, i] for i in range(len(affines))]
