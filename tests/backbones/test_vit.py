"""The ViT: names, shapes, numerics against plain numpy, laws of pooling."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax.backbones import vit, weights

# Distinct sizes everywhere: 2 images of 3 x 5 patches of 2 x 2 pixels.
SIZES = {
  "patch_size": 2,
  "width": 14,
  "depth": 2,
  "mlp_dim": 11,
  "num_heads": 2,
}
SHAPE = (2, 6, 10, 3)


def make(np_rng, **settings):
  """A model with random parameters, none of them at rest, and images."""
  model = vit.ViT(**{**SIZES, **settings})
  shapes = weights.expected_shapes(model, image_size=SHAPE[1:3])
  flat = {
    name: np_rng.normal(size=shape, scale=0.4).astype(np.float32)
    for name, shape in shapes.items()
  }
  image = np_rng.normal(size=SHAPE).astype(np.float32)
  return model, weights.unflatten(flat), image


# Compiled once per model and shape, also where several tests ask for it.
@functools.partial(jax.jit, static_argnames=("model",))
def compiled(params, image, model):
  return model.apply({"params": params}, image)


def apply(model, params, image):
  return compiled(params, image, model)


def plain_layer_norm(x, p):
  mean = x.mean(-1, keepdims=True)
  variance = ((x - mean) ** 2).mean(-1, keepdims=True)
  return (x - mean) / np.sqrt(variance + 1e-6) * p["scale"] + p["bias"]


def plain_attention(x, keys, p):
  """One token and head at a time: x [n d], keys [m d] -> [n d]."""
  q, k, v = (
    np.einsum("nd,dhe->nhe", t, p[name]["kernel"]) + p[name]["bias"]
    for t, name in ((x, "query"), (keys, "key"), (keys, "value"))
  )
  out = np.zeros(q.shape)
  for i in range(q.shape[0]):
    for h in range(q.shape[1]):
      scores = np.array([q[i, h] @ k[j, h] for j in range(len(keys))])
      probs = np.exp(scores / np.sqrt(q.shape[2]))
      probs /= probs.sum()
      out[i, h] = sum(probs[j] * v[j, h] for j in range(len(keys)))
  return np.einsum("nhe,hed->nd", out, p["out"]["kernel"]) + p["out"]["bias"]


def plain_mlp(x, p):
  y = x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
  y = y * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
  return y @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]


def plain_forward(image, p, *, pool, depth, patch_size):
  """Encodes one image [h w 3]; returns the tokens and the pooled vector."""
  kernel = p["embedding"]["kernel"]
  tokens = []
  for i in range(0, image.shape[0], patch_size):
    for j in range(0, image.shape[1], patch_size):
      patch = image[i : i + patch_size, j : j + patch_size]
      tokens.append(np.tensordot(patch, kernel, 3) + p["embedding"]["bias"])
  x = np.stack(tokens) + p["pos_embedding"][0]
  if pool == "cls":
    x = np.concatenate([p["cls"][0], x])
  for i in range(depth):
    block = p["Transformer"][f"encoderblock_{i}"]
    y = plain_layer_norm(x, block["LayerNorm_0"])
    x = x + plain_attention(y, y, block["MultiHeadDotProductAttention_0"])
    y = plain_layer_norm(x, block["LayerNorm_1"])
    x = x + plain_mlp(y, block["MlpBlock_0"])
  x = plain_layer_norm(x, p["Transformer"]["encoder_norm"])
  if pool == "gap":
    return x, x.mean(0)
  if pool == "cls":
    return x, x[0]
  head = p["MAPHead_0"]
  y = plain_attention(
    head["probe"][0], x, head["MultiHeadDotProductAttention_0"]
  )
  return x, (
    y + plain_mlp(plain_layer_norm(y, head["LayerNorm_0"]), head["MlpBlock_0"])
  )[0]


@pytest.mark.parametrize("pool", vit.POOLS)
def test_forward_equals_plain_numpy(np_rng, pool):
  model, params, image = make(np_rng, pool=pool, num_classes=7, rep_size=5)
  logits, out = apply(model, params, image)
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  for b in range(len(image)):
    encoded, pooled = plain_forward(
      image[b].astype(np.float64), p, pool=pool, depth=2, patch_size=2
    )
    pre = np.tanh(pooled @ p["pre_logits"]["kernel"] + p["pre_logits"]["bias"])
    expected = pre @ p["head"]["kernel"] + p["head"]["bias"]
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(out["encoded"][b], encoded, **close)
    np.testing.assert_allclose(out["head_input"][b], pooled, **close)
    np.testing.assert_allclose(out["pre_logits"][b], pre, **close)
    np.testing.assert_allclose(logits[b], expected, **close)
    patches = encoded[1:] if pool == "cls" else encoded
    np.testing.assert_allclose(out["patch_mean"][b], patches.mean(0), **close)


def test_first_output_is_the_last_that_there_is(np_rng):
  model, params, image = make(np_rng, pool="gap")
  x, out = apply(model, params, image)
  np.testing.assert_array_equal(x, out["pre_logits"])
  np.testing.assert_array_equal(x, out["head_input"])
  assert "logits" not in out
  assert out["block01"].shape == (2, 15, 14)


def test_gradient_of_every_parameter_is_finite_and_not_zero(np_rng):
  model, params, image = make(np_rng, pool="map", num_classes=7)

  def loss_fn(params):
    return jnp.mean(jnp.square(apply(model, params, image)[0]))

  grads = weights.flatten(jax.jit(jax.grad(loss_fn))(params))
  for name, grad in grads.items():
    assert np.all(np.isfinite(grad)), name
    if not name.endswith("key/bias"):  # shifts all scores of a query alike
      assert np.max(np.abs(grad)) > 1e-6, name


def expected_b16():
  """Names and shapes of big_vision's B/16 with MAP head, written out."""
  d, mlp, heads = 768, 3072, 12

  def norm(name):
    return {f"{name}/scale": (d,), f"{name}/bias": (d,)}

  def attention(name):
    shapes = {}
    for part in ("query", "key", "value"):
      shapes[f"{name}/{part}/kernel"] = (d, heads, 64)
      shapes[f"{name}/{part}/bias"] = (heads, 64)
    return {
      **shapes,
      f"{name}/out/kernel": (heads, 64, d),
      f"{name}/out/bias": (d,),
    }

  def mlp_block(name):
    return {
      f"{name}/Dense_0/kernel": (d, mlp),
      f"{name}/Dense_0/bias": (mlp,),
      f"{name}/Dense_1/kernel": (mlp, d),
      f"{name}/Dense_1/bias": (d,),
    }

  shapes = {
    "embedding/kernel": (16, 16, 3, d),
    "embedding/bias": (d,),
    "pos_embedding": (1, 196, d),
    **norm("Transformer/encoder_norm"),
    "MAPHead_0/probe": (1, 1, d),
    **attention("MAPHead_0/MultiHeadDotProductAttention_0"),
    **norm("MAPHead_0/LayerNorm_0"),
    **mlp_block("MAPHead_0/MlpBlock_0"),
  }
  for i in range(12):
    block = f"Transformer/encoderblock_{i}"
    shapes.update(norm(f"{block}/LayerNorm_0"))
    shapes.update(attention(f"{block}/MultiHeadDotProductAttention_0"))
    shapes.update(norm(f"{block}/LayerNorm_1"))
    shapes.update(mlp_block(f"{block}/MlpBlock_0"))
  return shapes


def test_names_and_shapes_of_b16_are_those_of_big_vision():
  model = vit.from_variant("B/16", pool="map")
  assert weights.expected_shapes(model, image_size=224) == expected_b16()


@pytest.mark.parametrize(
  "variant, pool, num_classes, millions",
  [
    # timm's counts of the same models, less `width` with "cls": there the
    # class token has a position embedding, which changes nothing.
    ("Ti/16", "cls", 1000, 5.72),
    ("S/16", "cls", 1000, 22.05),
    ("B/16", "cls", 1000, 86.57),
    ("B/16", "cls", 0, 85.80),
    ("L/16", "cls", 1000, 304.33),
    ("H/14", "cls", 1000, 632.04),
    ("B/16", "map", 0, 92.88),
    ("So400m/14", "map", 0, 427.68),
  ],
)
def test_number_of_parameters(variant, pool, num_classes, millions):
  model = vit.from_variant(variant, pool=pool, num_classes=num_classes)
  shapes = weights.expected_shapes(model, image_size=224)
  count = sum(math.prod(shape) for shape in shapes.values())
  assert round(count / 1e6, 2) == millions


def test_settings_win_over_the_variant():
  model = vit.from_variant("S/8", depth=2, pool="gap", dtype="bfloat16")
  assert (model.patch_size, model.depth, model.width) == (8, 2, 384)
  assert (model.pool, model.dtype) == ("gap", "bfloat16")


@pytest.mark.parametrize("variant", ["X/16", "B", "B/", "B/x", "B/0", ""])
def test_unknown_variants_are_refused_with_the_known_ones(variant):
  with pytest.raises(
    ValueError, match=r"SIZE/PATCH.*Ti, S, B, L, So400m, H, g"
  ):
    vit.from_variant(variant)


@pytest.mark.parametrize(
  "settings, shape, words",
  [
    ({"pool": "tok"}, SHAPE, "cls, gap, map"),
    ({"num_heads": 3}, SHAPE, "width=14 is not a multiple of num_heads=3"),
    ({}, (2, 6, 1, 3), "at least patch_size=2"),
    ({}, (2, 1, 10, 3), "at least patch_size=2"),
    ({}, (6, 10, 3), r"\[b h w 3\]"),
    ({}, (2, 6, 10, 1), r"\[b h w 3\]"),
  ],
)
def test_what_does_not_fit_is_refused(settings, shape, words):
  model = vit.ViT(**{**SIZES, **settings})
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


def test_pixels_that_make_no_whole_patch_are_left_out(np_rng):
  model, params, image = make(np_rng)
  wider = np_rng.normal(size=(2, 7, 11, 3)).astype(np.float32)
  wider[:, :6, :10] = image
  np.testing.assert_array_equal(
    apply(model, params, wider)[0], apply(model, params, image)[0]
  )


@pytest.mark.parametrize("pool", vit.POOLS)
def test_permuting_patches_and_positions_together_changes_nothing(np_rng, pool):
  """The pooled output; tokens are permuted along. Only positions tell order."""
  model, params, image = make(np_rng, pool=pool, depth=1)
  order = np_rng.permutation(15)
  patches = image.reshape(2, 3, 2, 5, 2, 3).transpose(0, 1, 3, 2, 4, 5)
  patches = patches.reshape(2, 15, 2, 2, 3)[:, order].reshape(2, 3, 5, 2, 2, 3)
  permuted = patches.transpose(0, 1, 3, 2, 4, 5).reshape(image.shape)
  moved = {**params, "pos_embedding": params["pos_embedding"][:, order]}
  run = jax.jit(model.apply)
  x, out = run({"params": params}, image)
  y, out_moved = run({"params": moved}, permuted)
  np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    out["stem"][:, order], out_moved["stem"], rtol=1e-4, atol=1e-5
  )
  other = run({"params": params}, permuted)[0]
  assert np.max(np.abs(x - other)) > 1e-2


@pytest.mark.parametrize("pool", vit.POOLS)
def test_images_of_a_batch_do_not_mix(np_rng, pool):
  model, params, image = make(np_rng, pool=pool, depth=1)
  run = jax.jit(model.apply)
  other = np.stack([image[0], image[1][::-1]])
  x = run({"params": params}, image)[0]
  y = run({"params": params}, other)[0]
  np.testing.assert_array_equal(x[0], y[0])
  assert np.max(np.abs(x[1] - y[1])) > 1e-2


def test_bfloat16_stays_close_and_ends_in_float32(np_rng):
  model, params, image = make(np_rng, pool="map", depth=1)
  half = model.clone(dtype="bfloat16")
  x, _ = apply(model, params, image)
  y, out = apply(half, params, image)
  assert out["block00"].dtype == jnp.bfloat16
  assert y.dtype == out["encoded"].dtype == jnp.float32
  # bfloat16 has 8 bits: 0.4% per operation, some ten of them in a row.
  np.testing.assert_allclose(x, y, rtol=0.05, atol=0.15)
  assert np.any(x != y)


@pytest.mark.parametrize("pool", vit.POOLS)
def test_bfloat16_is_for_products_only(np_rng, pool):
  """Softmax (exp), norms (rsqrt) and sums are computed in float32."""
  model, params, image = make(np_rng, pool=pool, depth=1, dtype="bfloat16")
  jaxpr = str(jax.make_jaxpr(model.apply)({"params": params}, image))
  types = {}  # From primitive to those of its results: "a:f32[2,3] = exp b".
  for dtype, name in re.findall(r":(\w+)\[[\d,]*\] = (\w+)", jaxpr):
    types.setdefault(name, set()).add(dtype)
  for name in ("exp", "rsqrt", "reduce_sum"):
    assert types[name] == {"f32"}
  in_head = {"f32"} if pool == "map" else set()
  assert types["dot_general"] == {"bf16"} | in_head


def test_initial_parameters_are_float32_and_spread_as_in_big_vision():
  model = vit.ViT(**{**SIZES, "depth": 1}, num_classes=7, dtype="bfloat16")
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros(SHAPE))["params"]
  params = weights.flatten(params)
  assert {x.dtype for x in params.values()} == {jnp.dtype("float32")}
  assert not np.any(params["head/kernel"]) and not np.any(params["head/bias"])
  d, mlp_dim = 14, 11
  block = "Transformer/encoderblock_0"
  limits = {  # Xavier uniform: sqrt(6 / (inputs + outputs))
    f"{block}/MultiHeadDotProductAttention_0/query/kernel": 6 / (d + d),
    f"{block}/MultiHeadDotProductAttention_0/out/kernel": 6 / (d + d),
    f"{block}/MlpBlock_0/Dense_0/kernel": 6 / (d + mlp_dim),
    "MAPHead_0/probe": 6 / (1 + d),
  }
  for name, square in limits.items():
    largest = np.max(np.abs(params[name]))
    assert 0.6 * np.sqrt(square) < largest < np.sqrt(square), name
  np.testing.assert_allclose(
    np.std(params["pos_embedding"]), d**-0.5, rtol=0.15, atol=0
  )
