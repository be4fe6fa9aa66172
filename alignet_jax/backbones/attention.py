"""Scaled dot-product attention, fused where the hardware has a kernel for it.

Usage:
  y = attention.attend(q, k, v)                              # [b n h e]
"""

import math

import jax
import jax.numpy as jnp


def attend(q, k, v):
  """Scaled dot-product attention, with the softmax in float32.

  On a GPU in half precision it is cuDNN's fused kernel, which never writes the
  scores to memory. Elsewhere it is written out: on a CPU that is as fast as
  `jax.nn.dot_product_attention`, which makes the same two products of it.

  Args:
    q: [b n h e] queries.
    k: [b m h e] keys.
    v: [b m h e] values.

  Returns:
    [b n h e], in the type of `v`.
  """
  if uses_fused_attention(q.dtype, q.shape[-1]):
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
  logits = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32)
  probs = jax.nn.softmax(logits / math.sqrt(q.shape[-1]), axis=-1)
  return jnp.einsum("bhqk,bkhd->bqhd", probs.astype(v.dtype), v)


def uses_fused_attention(dtype, head_dim):
  """Whether attention goes to cuDNN, which takes half precision only.

  Args:
    dtype: Of queries, keys and values.
    head_dim: Size of a head; cuDNN wants a multiple of 8, at most 128.
  """
  half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
  fits = head_dim % 8 == 0 and head_dim <= 128
  return half and fits and jax.default_backend() == "gpu"
