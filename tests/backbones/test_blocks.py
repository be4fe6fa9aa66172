"""What other families add to the ViT, each part against plain numpy."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from alignet_jax.backbones import (
  architecture,
  attention,
  blocks,
  names,
  vit,
  weights,
)

SIZES = {
  "patch_size": 2,
  "width": 14,
  "depth": 3,
  "mlp_dim": 11,
  "num_heads": 2,
}
SHAPE = (2, 6, 10, 3)  # 3 x 5 patches

DINOV2 = {
  "pool": "cls",
  "num_registers": 4,
  "layer_scale": True,
  "activation": "gelu",
}
CLIP = {
  "pool": "cls",
  "pre_norm": True,
  "patch_bias": False,
  "activation": "quick_gelu",
  "norm_epsilon": 1e-5,
}


def make(np_rng, **settings):
  model = vit.ViT(**{**SIZES, **settings})
  shapes = names.split_blocks(
    weights.expected_shapes(model, image_size=SHAPE[1:3])
  )
  flat = {
    name: np_rng.normal(size=shape, scale=0.4).astype(np.float32)
    for name, shape in shapes.items()
  }
  if model.scan:
    flat = names.stack_blocks(flat)
  image = np_rng.normal(size=SHAPE).astype(np.float32)
  return model, weights.unflatten(flat), image


# Compiled once per model and shape, also where several tests ask for it.
@functools.partial(jax.jit, static_argnames=("model",))
def outputs(params, image, model):
  return model.apply({"params": params}, image)[1]


@functools.partial(jax.jit, static_argnames=("model",))
def outputs_and_gradient(params, image, model):
  def loss_fn(params):
    x, out = model.apply({"params": params}, image)
    return jnp.sum(jnp.square(x)), out

  grads, out = jax.grad(loss_fn, has_aux=True)(params)
  return out, grads


def run(model, params, image):
  return outputs(params, image, model)


@pytest.mark.parametrize(
  "name, expected",
  [
    ("gelu", lambda x: x * (1 + scipy.special.erf(x / np.sqrt(2))) / 2),
    ("quick_gelu", lambda x: x / (1 + np.exp(-1.702 * x))),
    (
      "gelu_tanh",
      lambda x: (
        x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
      ),
    ),
  ],
)
def test_activations(name, expected):
  x = np.linspace(-6, 6, 101)
  ours = blocks.ACTIVATIONS[name](jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(ours, expected(x), rtol=1e-5, atol=1e-6)


def test_swiglu_and_its_names(np_rng):
  options = blocks.Options(mlp_dim=5, num_heads=1, mlp="swiglu")
  model = blocks.Mlp(options)
  x = np_rng.normal(size=(2, 3, 7)).astype(np.float32)
  params = model.init(jax.random.key(0), x)["params"]
  params = jax.tree.map(lambda p: np_rng.normal(size=p.shape), params)
  first, second = params["Dense_0"], params["Dense_1"]
  assert first["kernel"].shape == (7, 10)
  hidden = x @ first["kernel"] + first["bias"]
  gate, value = hidden[..., :5], hidden[..., 5:]
  expected = gate / (1 + np.exp(-gate)) * value
  expected = expected @ second["kernel"] + second["bias"]
  ours = model.apply({"params": jax.tree.map(jnp.float32, params)}, x)
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_layer_scale_by_hand():
  x = np.array([[[1.0, -2.0, 3.0], [4.0, 0.0, -6.0]]], np.float32)
  params = {"scale": np.array([0.5, 2.0, -1.0], np.float32)}
  scaled = blocks.LayerScale().apply({"params": params}, x)
  expected = [[[0.5, -4.0, -3.0], [2.0, 0.0, 6.0]]]
  np.testing.assert_array_equal(scaled, expected)


def test_layer_scale_scales_what_each_half_of_a_block_adds(np_rng):
  """Against the same block whose last maps are multiplied beforehand."""
  options = blocks.Options(mlp_dim=5, num_heads=1, layer_scale=True)
  x = np_rng.normal(size=(2, 3, 7)).astype(np.float32)
  shapes = jax.eval_shape(blocks.Block(options).init, jax.random.key(0), x)
  params = jax.tree.map(
    lambda p: np_rng.normal(size=p.shape).astype(np.float32), shapes["params"]
  )
  scaled = blocks.Block(options).apply({"params": params}, x)
  first = params.pop("LayerScale_0")["scale"]
  second = params.pop("LayerScale_1")["scale"]
  for layer, scale in (
    (params["MultiHeadDotProductAttention_0"]["out"], first),
    (params["MlpBlock_0"]["Dense_1"], second),
  ):
    layer["kernel"], layer["bias"] = (
      layer["kernel"] * scale,
      layer["bias"] * scale,
    )
  plain = blocks.Block(dataclasses.replace(options, layer_scale=False))
  np.testing.assert_allclose(
    plain.apply({"params": params}, x), scaled, rtol=1e-4, atol=1e-4
  )


def test_layer_scale_of_nought_switches_blocks_off(np_rng):
  model, params, image = make(np_rng, **DINOV2)
  flat = weights.flatten(params)
  for name in flat:
    if name.endswith("LayerScale_0/scale") or name.endswith(
      "LayerScale_1/scale"
    ):
      flat[name] = np.zeros_like(flat[name])
  out = run(model, weights.unflatten(flat), image)
  np.testing.assert_array_equal(out["block00"], out["block02"])
  np.testing.assert_array_equal(out["block00"][:, 5:], out["with_posemb"])
  moved = run(model, params, image)
  assert np.max(np.abs(moved["block00"] - moved["block02"])) > 0.1


def test_registers_stand_after_the_class_token_and_outside_the_mean(np_rng):
  model, params, image = make(np_rng, **DINOV2)
  out = run(model, params, image)
  assert out["encoded"].shape == (2, 1 + 4 + 15, 14)
  np.testing.assert_allclose(
    out["patch_mean"],
    np.asarray(out["encoded"])[:, 5:].mean(axis=1),
    rtol=1e-5,
    atol=1e-6,
  )
  np.testing.assert_array_equal(out["pre_logits"], out["encoded"][:, 0])
  params["registers"] = params["registers"][:, ::-1]
  again = run(model, params, image)
  np.testing.assert_allclose(  # Nothing tells registers apart but themselves.
    again["pre_logits"], out["pre_logits"], rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(
    again["encoded"][:, 1:5], out["encoded"][:, 4:0:-1], rtol=1e-4, atol=1e-4
  )


def test_norm_before_the_first_block_and_its_epsilon(np_rng):
  """With blocks switched off, what they would read is the normed input."""
  model, params, image = make(np_rng, layer_scale=True, **CLIP)
  flat = weights.flatten(params)
  assert "embedding/bias" not in flat
  for name in flat:
    if "LayerScale" in name:
      flat[name] = np.zeros_like(flat[name])
  flat["cls"] = 1e-3 * flat["cls"]  # So small that epsilon shows.
  out = run(model, weights.unflatten(flat), image)
  x = np.asarray(out["with_posemb"], np.float64)
  token = np.broadcast_to(flat["cls"], (2, 1, 14)).astype(np.float64)
  x = np.concatenate([token, x], axis=1)
  x = x - x.mean(axis=-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
  x = x * flat["pre_norm/scale"] + flat["pre_norm/bias"]
  np.testing.assert_allclose(out["block02"], x, rtol=1e-4, atol=1e-5)


def test_class_token_and_mean_of_patches_side_by_side(np_rng):
  model, params, image = make(np_rng, pool="cls_patch_mean", num_classes=3)
  out = run(model, params, image)
  assert out["pre_logits"].shape == (2, 28)
  np.testing.assert_array_equal(out["pre_logits"][:, :14], out["cls"])
  np.testing.assert_array_equal(out["pre_logits"][:, 14:], out["patch_mean"])
  assert out["logits"].shape == (2, 3)


@pytest.mark.parametrize("settings", [DINOV2, CLIP, {"pool": "map"}])
@pytest.mark.parametrize("remat", [False, True])
def test_scan_and_remat_change_no_number(np_rng, settings, remat):
  """Outputs and gradients, beside the plain loop over the same blocks."""
  model, params, image = make(np_rng, depth=2, **settings)
  other = model.clone(scan=True, remat=remat)
  stacked = weights.unflatten(names.stack_blocks(weights.flatten(params)))
  shapes = weights.expected_shapes(other, image_size=SHAPE[1:3])
  assert "Transformer/encoderblock/LayerNorm_0/scale" in shapes
  assert {k: x.shape for k, x in weights.flatten(stacked).items()} == shapes
  expected, expected_grads = outputs_and_gradient(params, image, model)
  out, grads = outputs_and_gradient(stacked, image, other)
  assert expected.keys() == out.keys()
  for name in out:
    np.testing.assert_allclose(
      out[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name
    )
  expected = weights.flatten(expected_grads)
  ours = names.split_blocks(weights.flatten(grads))
  assert expected.keys() == ours.keys()
  for name, x in expected.items():
    scale = np.max(np.abs(x)) + 1e-3
    np.testing.assert_allclose(
      ours[name] / scale, x / scale, rtol=0, atol=2e-4, err_msg=name
    )


def test_remat_recomputes_the_blocks(np_rng):
  model, params, image = make(np_rng, pool="gap", remat=True)
  flat = weights.flatten(params)
  assert "Transformer/encoderblock_0/LayerNorm_0/scale" in flat

  def loss_fn(params, model):
    return jnp.sum(model.apply({"params": params}, image)[0])

  def count_remats(model):
    jaxpr = jax.make_jaxpr(jax.grad(lambda p: loss_fn(p, model)))(params)
    return len(re.findall(r"= (?:checkpoint|remat\d?)\[", str(jaxpr)))

  assert count_remats(model) >= 3
  assert count_remats(model.clone(remat=False)) == 0
  np.testing.assert_allclose(
    run(model, params, image)["pre_logits"],
    run(model.clone(remat=False), params, image)["pre_logits"],
    rtol=1e-5,
    atol=1e-6,
  )


def test_stacked_blocks_are_saved_one_by_one(np_rng, tmp_path):
  model, params, _ = make(np_rng, scan=True, **DINOV2)
  note = architecture.describe(model, grid=(3, 5))
  weights.save(tmp_path / "a.npz", params, architecture=note)
  flat = weights.read(tmp_path / "a.npz")
  assert "Transformer/encoderblock_2/LayerScale_0/scale" in flat
  again, _ = weights.load(tmp_path / "a.npz", model, image_size=SHAPE[1:3])
  for name, x in weights.flatten(params).items():
    np.testing.assert_array_equal(weights.flatten(again)[name], x)
  # Also below another name, as in a student; not where it only looks alike.
  student = {"backbone": params, "notTransformer": {"encoderblock": {"a": 1}}}
  found = names.split_blocks(weights.flatten(student))
  assert "backbone/Transformer/encoderblock_0/LayerScale_0/scale" in found
  assert "notTransformer/encoderblock/a" in found


def test_ten_blocks_and_more_are_stacked_in_order():
  flat = {f"Transformer/encoderblock_{i}/a": np.array([i]) for i in range(12)}
  stacked = names.stack_blocks(dict(sorted(flat.items())))
  assert list(stacked) == ["Transformer/encoderblock/a"]
  np.testing.assert_array_equal(
    stacked["Transformer/encoderblock/a"], np.arange(12)[:, None]
  )


@pytest.mark.parametrize(
  "settings, words",
  [
    ({"activation": "relu"}, "'relu'; known are gelu_tanh, gelu, quick_gelu"),
    ({"mlp": "moe"}, "mlp 'moe'; known are mlp, swiglu"),
    ({"pool": "cls", "cls_token": False}, "reads the class token"),
    ({"pool": "tok"}, "cls, gap, map, cls_patch_mean"),
  ],
)
def test_unknown_settings_are_refused(settings, words):
  model = vit.ViT(**{**SIZES, **settings})
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(SHAPE))


def test_fused_attention_is_for_half_precision_on_a_gpu(monkeypatch):
  assert not attention.uses_fused_attention("bfloat16", 64)  # on a CPU
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert attention.uses_fused_attention("bfloat16", 64)
  assert attention.uses_fused_attention(jnp.float16, 72)
  assert not attention.uses_fused_attention("float32", 64)
  assert not attention.uses_fused_attention("bfloat16", 70)
  assert not attention.uses_fused_attention("bfloat16", 256)
  asked = {}

  def fused(q, k, v, **settings):
    asked.update(settings)
    return v

  monkeypatch.setattr(jax.nn, "dot_product_attention", fused)
  x = jnp.ones((1, 3, 2, 8), jnp.bfloat16)
  attention.attend(x, x, x)
  assert asked == {"implementation": "cudnn"}


def test_attention_equals_that_of_jax(np_rng):
  q = np_rng.normal(size=(2, 3, 5, 7)).astype(np.float32)
  k, v = np_rng.normal(size=(2, 2, 11, 5, 7)).astype(np.float32)
  np.testing.assert_allclose(
    attention.attend(*map(jnp.asarray, (q, k, v))),
    jax.nn.dot_product_attention(*map(jnp.asarray, (q, k, v))),
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.gpu
def test_fused_attention_stays_close_on_a_gpu(np_rng):
  """197 tokens, an odd number, forwards and backwards."""
  q, k, v = np_rng.normal(size=(3, 2, 197, 3, 64)).astype(jnp.bfloat16)

  def loss_fn(q, k, v):
    return jnp.sum(jnp.square(attention.attend(q, k, v).astype(jnp.float32)))

  half = jax.jit(jax.value_and_grad(loss_fn))(q, k, v)
  full = jax.jit(jax.value_and_grad(loss_fn))(
    *(x.astype(jnp.float32) for x in (q, k, v))
  )
  for x, y in zip(half, full, strict=True):
    x, y = np.asarray(x, np.float32), np.asarray(y)
    assert np.max(np.abs(x - y)) <= 0.03 * np.max(np.abs(y))
