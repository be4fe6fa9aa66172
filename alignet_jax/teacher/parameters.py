"""The map that is being fitted: full or low rank, with or without a bias.

A full map is a matrix W. A low-rank one is W = c I + U V for wide features,
which has 2 d r + 1 numbers instead of d^2 and never makes the d x d matrix: the
identity is what the pull goes to, so what is learnt is the rest.

Usage:
  params = parameters.init(512, rank=0, use_bias=True)
  z = parameters.embed(params, x)                          # f32[n d]
  transform_weights, bias = parameters.to_dense(params)
"""

import jax.numpy as jnp
import numpy as np

from alignet_jax.teacher import objectives


def init(width, *, rank=0, use_bias=True, scale=None, bias=0.0, seed=0):
  """The map before the first step: a multiple of the identity.

  Args:
    width: Number d of features.
    rank: Rank r of what is added to the identity, or 0 for a full matrix.
    use_bias: Whether there is a bias.
    scale: Multiple c of the identity, or None for 1 / sqrt(d), which gives
      standardised features a mean squared length of 1.
    bias: Value of every entry of the bias.
    seed: Decides the U of a low-rank map; its V is zero.

  Returns:
    dict of f32 arrays: "weights" [d d], or "scale" [], "left" [d r] and "right"
    [r d]; and "bias" [d] if there is one.
  """
  if not 0 <= rank < width:
    raise ValueError(
      f"rank is {rank}; expected 0 (full), or 1 to {width - 1} for {width} "
      "features."
    )
  scale = 1 / np.sqrt(width) if scale is None else scale
  if rank:
    np_rng = np.random.default_rng([seed, rank])
    left = np_rng.standard_normal((width, rank)) / np.sqrt(width)
    params = {
      "scale": jnp.float32(scale),
      "left": jnp.asarray(left, jnp.float32),
      "right": jnp.zeros((rank, width), jnp.float32),
    }
  else:
    params = {"weights": scale * jnp.eye(width, dtype=jnp.float32)}
  if use_bias:
    params["bias"] = jnp.full(width, bias, jnp.float32)
  return params


def embed(params, x):
  """Maps standardised features.

  Args:
    params: As of `init`.
    x: f32[n d].

  Returns:
    f32[n d].
  """
  if "weights" in params:
    z = x @ params["weights"]
  else:
    z = params["scale"] * x + (x @ params["left"]) @ params["right"]
  return z + params["bias"][None, :] if "bias" in params else z


def penalty(params, name):
  """One of `objectives.PENALTIES` of the map's matrix.

  Args:
    params: As of `init`.
    name: Name of the penalty.

  Returns:
    f32[] >= 0.
  """
  if "weights" in params:
    return objectives.PENALTIES[name](params["weights"])
  scale, left, right = params["scale"], params["left"], params["right"]
  # W = c I + U V: inner products of its parts, without making it.
  squared = jnp.sum((left.T @ left) * (right @ right.T))
  trace = jnp.sum(left * right.T)
  width = len(left)
  if name == "identity":
    return squared - trace**2 / width
  squared = scale**2 * width + 2 * scale * trace + squared
  if name == "squared_frobenius":
    return squared
  return objectives.root(squared)


def to_dense(params):
  """The map as the arrays of a `transform.AffineTransform`.

  Args:
    params: As of `init`, of numpy or JAX.

  Returns:
    (weights, bias): f32[d d] and f32[d], zero if there is none.
  """
  if "weights" in params:
    weights = np.asarray(params["weights"])
  else:
    left, right = np.asarray(params["left"]), np.asarray(params["right"])
    identity = np.eye(len(left), dtype=np.float32)
    weights = np.asarray(params["scale"]) * identity + left @ right
  bias = params.get("bias", np.zeros(len(weights), np.float32))
  return weights.astype(np.float32), np.asarray(bias, np.float32)
