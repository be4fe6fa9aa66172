"""Vision transformer with the parameter names of big_vision.

The students and the generated world's backbone are this one module, and the
public weights of big_vision, vit_jax and SigLIP fit it name by name (paper.md,
section C); CLIP, DINO and DINOv2 differ by fields (`families.py`). Its inner
products are arranged for few, wide matrix products: the
patches are cut by a reshape, and query, key and value are one product whose
kernel is joined at call time. The tree of parameters knows nothing of that.

Usage:
  model = vit.from_variant("B/16", pool="map")
  params = model.init(rng, jnp.zeros([1, 224, 224, 3]))["params"]
  x, out = model.apply({"params": params}, image)    # out["pre_logits"]
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from alignet_jax.backbones import blocks

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

# What there is besides: the class token, then the mean of the patches.
CLS_PATCH_MEAN = "cls_patch_mean"


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
  """Vision transformer with norms before each part, without dropout.

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
      "cls_patch_mean": the latter, then the former, of size 2 width.
    num_classes: Size of the linear classifier, 0 for none.
    rep_size: Size of a tanh layer before the classifier, 0 for none.
    dtype: Type of the matrix products: "float32" or "bfloat16".
    cls_token: Whether there is a class token; None where `pool` reads it.
    num_registers: Learnt tokens after the class token that nothing reads.
    pre_norm: Whether all tokens are normalised before the first block (CLIP).
    patch_bias: Whether the map of the patches has a bias (CLIP: no).
    activation: "gelu_tanh", "gelu" or "quick_gelu".
    mlp: "mlp", or "swiglu", which has no use for `activation`.
    layer_scale: Whether learnt factors scale what blocks add (DINOv2).
    norm_epsilon: Added to the variance by all norms. flax's 1e-6 is what all
      big_vision weights were trained with.
    remat: Whether the gradient recomputes the blocks, to save memory.
    scan: Whether the blocks are one compiled loop. Their parameters are then
      stacked, "Transformer/encoderblock/...", as in big_vision.
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
  cls_token: bool | None = None
  num_registers: int = 0
  pre_norm: bool = False
  patch_bias: bool = True
  activation: str = "gelu_tanh"
  mlp: str = "mlp"
  layer_scale: bool = False
  norm_epsilon: float = 1e-6
  remat: bool = False
  scan: bool = False

  @nn.compact
  def __call__(self, image):
    """Encodes images.

    Args:
      image: f32[b h w 3], in the value range that the weights were made for.
        Pixels at the right and at the bottom that make no whole patch are left
        out, as by the convolution of the published models (So400m/14 at 384
        pixels sees 378). The number of whole patches is that of the position
        embeddings in the parameters.

    Returns:
      The last output, f32[b num_classes] or f32[b rep_size or width], and a
      dict of named intermediate ones. With n patches, t class and register
      tokens, and width d:
      "stem" and "with_posemb" f32[b n d]; "block00", "block01" ... the residual
      stream after each block, [b t+n d], in `dtype`; "encoded" the same after
      the last norm, f32; "patch_mean" f32[b d]; "cls" f32[b d] if there is one;
      "head_input" f32[b d] after pooling; "pre_logits"; "logits" if there are
      classes. (What transformers calls the last hidden state of CLIP is not
      normalised: it is the output of the last block.)

    Raises:
      ValueError: The image or a field does not fit.
    """
    self._check(image.shape)
    out = {}
    x = blocks.Patches(
      self.patch_size, self.width, self.dtype, self.patch_bias, name="embedding"
    )(image)
    out["stem"] = x
    posemb = self.param(
      "pos_embedding",
      nn.initializers.normal(stddev=1 / np.sqrt(self.width)),
      (1, x.shape[1], self.width),
    )
    x = x + posemb.astype(x.dtype)
    out["with_posemb"] = x
    num_patches = x.shape[1]
    x = self._add_tokens(x)
    if self.pre_norm:
      x = blocks.LayerNorm(self.norm_epsilon, name="pre_norm")(x)
      x = x.astype(self.dtype)

    options = blocks.Options(
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      dtype=self.dtype,
      activation=self.activation,
      mlp=self.mlp,
      layer_scale=self.layer_scale,
      norm_epsilon=self.norm_epsilon,
    )
    x, stream = blocks.Transformer(
      self.depth, options, self.remat, self.scan, name="Transformer"
    )(x)
    out.update(stream)
    out["encoded"] = x
    out["patch_mean"] = jnp.mean(x[:, x.shape[1] - num_patches :], axis=1)
    if self.has_cls:
      out["cls"] = x[:, 0]

    if self.pool == "map":
      x = blocks.MapHead(options, name="MAPHead_0")(x)
    elif self.pool == "gap":
      x = out["patch_mean"]
    elif self.pool == "cls":
      x = out["cls"]
    else:
      x = jnp.concatenate([out["cls"], out["patch_mean"]], axis=-1)
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

  @property
  def has_cls(self):
    """Whether there is a class token."""
    if self.cls_token is None:
      return self.pool in ("cls", CLS_PATCH_MEAN)
    return self.cls_token

  def _add_tokens(self, x):
    """Puts the class token and the registers before the patches."""
    tokens = []
    if self.has_cls:
      tokens.append(
        self.param("cls", nn.initializers.zeros, (1, 1, self.width))
      )
    if self.num_registers:
      shape = (1, self.num_registers, self.width)
      # As in DINOv2: all alike at first only up to this noise.
      init = nn.initializers.normal(stddev=1e-6)
      tokens.append(self.param("registers", init, shape))
    tokens = [
      jnp.broadcast_to(t.astype(x.dtype), (len(x), *t.shape[1:]))
      for t in tokens
    ]
    return jnp.concatenate([*tokens, x], axis=1) if tokens else x

  def _check(self, shape):
    for field, value, known in (
      ("pool", self.pool, (*POOLS, CLS_PATCH_MEAN)),
      ("activation", self.activation, tuple(blocks.ACTIVATIONS)),
      ("mlp", self.mlp, blocks.MLPS),
    ):
      if value not in known:
        raise ValueError(
          f"Unknown {field} {value!r}; known are {', '.join(known)}."
        )
    if self.pool in ("cls", CLS_PATCH_MEAN) and not self.has_cls:
      raise ValueError(
        f"pool={self.pool!r} reads the class token; cls_token is False."
      )
    if self.width % self.num_heads:
      raise ValueError(
        f"width={self.width} is not a multiple of num_heads={self.num_heads}."
      )
    p = self.patch_size
    if len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < p:
      raise ValueError(
        f"Images of shape {tuple(shape)} do not fit: [b h w 3] is needed, with "
        f"h and w at least patch_size={p}."
      )
