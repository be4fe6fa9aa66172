"""One entry: name and weights in, model, parameters and preprocessing out."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from alignet_jax import artifacts
from alignet_jax.backbones import (
  architecture,
  families,
  load,
  posemb,
  safetensors_file,
  vit,
  weights,
)
from alignet_jax.images import preprocess

SIZES = {"width": 6, "depth": 2, "mlp_dim": 10, "num_heads": 2}
D, EDGE, PATCH = 6, 5, 14


def dinov2_tensors(np_rng):
  """A small DINOv2 as transformers names it."""
  shapes = {
    "embeddings.cls_token": (1, 1, D),
    "embeddings.mask_token": (1, D),
    "embeddings.position_embeddings": (1, EDGE**2 + 1, D),
    "embeddings.patch_embeddings.projection.weight": (D, 3, PATCH, PATCH),
    "embeddings.patch_embeddings.projection.bias": (D,),
    "layernorm.weight": (D,),
    "layernorm.bias": (D,),
  }
  for i in range(2):
    block = f"encoder.layer.{i}"
    for part in ("query", "key", "value"):
      shapes[f"{block}.attention.attention.{part}.weight"] = (D, D)
      shapes[f"{block}.attention.attention.{part}.bias"] = (D,)
    shapes.update(
      {
        f"{block}.attention.output.dense.weight": (D, D),
        f"{block}.attention.output.dense.bias": (D,),
        f"{block}.layer_scale1.lambda1": (D,),
        f"{block}.layer_scale2.lambda1": (D,),
        f"{block}.mlp.fc1.weight": (10, D),
        f"{block}.mlp.fc1.bias": (10,),
        f"{block}.mlp.fc2.weight": (D, 10),
        f"{block}.mlp.fc2.bias": (D,),
      }
    )
    for norm in ("norm1", "norm2"):
      shapes[f"{block}.{norm}.weight"] = shapes[f"{block}.{norm}.bias"] = (D,)
  return {
    name: np_rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def write(folder, tensors, config=None):
  safetensors.numpy.save_file(tensors, folder / "model.safetensors")
  if config:
    (folder / "config.json").write_text(json.dumps(config))
  return folder


def test_a_folder_of_transformers(np_rng, tmp_path):
  tensors = dinov2_tensors(np_rng)
  write(tmp_path, tensors, {"layer_norm_eps": 1e-3, "hidden_act": "gelu_new"})
  backbone = load.load("dinov2_s14", tmp_path, image_size=70, **SIZES)
  flat = weights.flatten(backbone.params)
  token = tensors["embeddings.cls_token"]
  positions = tensors["embeddings.position_embeddings"]
  np.testing.assert_array_equal(flat["cls"], token + positions[:, :1])
  np.testing.assert_array_equal(flat["pos_embedding"], positions[:, 1:])
  # What no tensor shows is what config.json says.
  assert backbone.model.norm_epsilon == 1e-3
  assert backbone.model.activation == "gelu_tanh"
  assert "norm_epsilon = 0.001" in str(backbone.report)
  assert backbone.report.unused == ("embeddings.mask_token",)
  assert backbone.preprocessing.mean == preprocess.IMAGENET_MEAN
  assert (backbone.preprocessing.size, backbone.output) == (70, "pre_logits")
  # Used at 224 pixels unless told otherwise, resampled as transformers does.
  backbone = load.load("dinov2_s14", tmp_path, norm_epsilon=1e-6, **SIZES)
  assert backbone.model.norm_epsilon == 1e-6
  assert backbone.preprocessing.size == 224
  assert backbone.report.resampled == ("pos_embedding",)
  expected = posemb.resample(positions[:, 1:], (16, 16), rule="bicubic")
  np.testing.assert_array_equal(backbone.params["pos_embedding"], expected)


def test_scan_and_pool_of_the_same_file(np_rng, tmp_path):
  write(tmp_path, dinov2_tensors(np_rng))
  settings = {"image_size": 28, **SIZES}
  image = np_rng.normal(size=(2, 28, 28, 3)).astype(np.float32)

  def run(**more):
    backbone = load.load("dinov2_s14", tmp_path, **settings, **more)
    apply = jax.jit(backbone.model.apply)
    return apply({"params": backbone.params}, image)[1]

  plain = run()
  both = run(pool="cls_patch_mean", scan=True)
  assert both["pre_logits"].shape == (2, 2 * D)
  mean = np.asarray(plain["encoded"])[:, 1:].mean(axis=1)
  np.testing.assert_allclose(
    both["pre_logits"],
    np.concatenate([plain["pre_logits"], mean], axis=1),
    rtol=1e-5,
    atol=1e-5,
  )
  assert run(pool="gap")["encoded"].shape == (2, 5, D)  # The token stays.


def test_all_that_does_not_fit_is_listed(np_rng, tmp_path):
  tensors = dinov2_tensors(np_rng)
  del tensors["layernorm.bias"]
  tensors["encoder.layer.0.adapter.weight"] = np.ones((2, 2), np.float32)
  tensors["encoder.layer.1.mlp.fc1.bias"] = np.ones(11, np.float32)
  write(tmp_path, tensors)
  with pytest.raises(artifacts.InputError) as error:
    load.load("dinov2_s14", tmp_path, **SIZES)
  block = "Transformer/encoderblock_1/MlpBlock_0/Dense_0/bias"
  assert str(error.value).splitlines() == [
    f"{tmp_path} (as dinov2_s14) does not fit the model:",
    "  missing: Transformer/encoder_norm/bias [6]",
    "  not used: encoder.layer.0.adapter.weight [2, 2]",
    f"  shape: {block} is [11], the model needs [10]",
  ]


def test_config_json_of_another_architecture(np_rng, tmp_path):
  config = {"num_attention_heads": 3, "patch_size": 16}
  write(tmp_path, dinov2_tensors(np_rng), config)
  with pytest.raises(artifacts.InputError) as error:
    load.load("dinov2_s14", tmp_path, **SIZES)
  assert "num_attention_heads is 3, the name says 2" in str(error.value)
  assert "patch_size is 16, the name says 14" in str(error.value)
  write(tmp_path, dinov2_tensors(np_rng), {"hidden_act": "relu"})
  with pytest.raises(artifacts.InputError, match="'relu'; known are gelu"):
    load.load("dinov2_s14", tmp_path, **SIZES)


def test_a_library_without_the_family(np_rng, tmp_path):
  write(tmp_path, dinov2_tensors(np_rng))
  with pytest.raises(
    artifacts.InputError, match="names of transformers, which has no big_visi"
  ):
    load.load("big_vision_b16", tmp_path)


@pytest.mark.parametrize("part", ["", ":img"])
def test_npz_runs_at_the_size_it_was_trained_at(np_rng, tmp_path, part):
  family, fields = families.get("siglip_b16")
  model = vit.ViT(**{**fields, **SIZES})
  shapes = weights.expected_shapes(model, image_size=48)
  flat = {name: np_rng.normal(size=shape) for name, shape in shapes.items()}
  tree = weights.unflatten(flat)
  weights.save(tmp_path / "a.npz", {"img": tree} if part else tree)
  backbone = load.load("siglip_b16", f"{tmp_path / 'a.npz'}{part}", **SIZES)
  assert backbone.preprocessing.size == 48
  assert backbone.preprocessing.mean == (0.5, 0.5, 0.5)
  assert backbone.report.num_tensors == len(flat)
  larger = load.load(
    "siglip_b16", f"{tmp_path / 'a.npz'}{part}", image_size=80, **SIZES
  )
  np.testing.assert_array_equal(
    larger.params["pos_embedding"],
    posemb.resample(
      np.float32(flat["pos_embedding"]), (5, 5), rule="bilinear_corners"
    ),
  )
  gap = load.load(
    "siglip_b16", f"{tmp_path / 'a.npz'}{part}", pool="gap", **SIZES
  )
  assert all(name.startswith("MAPHead_0/") for name in gap.report.unused)
  assert len(gap.report.unused) == 15


def test_without_weights_the_report_says_random():
  backbone = load.load("dino_s16", image_size=32, seed=3, **SIZES)
  assert "random parameters of seed 3" in str(backbone.report)
  assert backbone.report.num_tensors == 0
  other = load.load("dino_s16", image_size=32, seed=4, **SIZES)
  first = backbone.params["pos_embedding"]
  assert np.any(first != other.params["pos_embedding"])
  assert backbone.preprocessing.short_side == round(256 * 32 / 224)


def test_pickles_are_refused(tmp_path):
  with pytest.raises(artifacts.InputError, match="save_file"):
    load.load("dinov2_s14", tmp_path / "dinov2_vits14_pretrain.pth")


def test_the_size_at_which_so400m_is_published_keeps_its_last_pixels():
  family, _ = families.get("siglip_so400m14")
  model = vit.ViT(patch_size=14, width=6, depth=1, mlp_dim=5, num_heads=2)
  for edge, size in ((27, 384), (16, 224)):
    flat = {"pos_embedding": np.zeros((1, edge**2, 6))}
    assert load._default_size(family, flat, model) == size
  flat = {"pos_embedding": np.zeros((1, 36, 6))}
  assert load._default_size(family, flat, model, [4, 9]) == (56, 126)


@pytest.fixture
def saved(np_rng, tmp_path):
  """A backbone whose config.json is unlike its family, and its npz."""
  config = {"layer_norm_eps": 1e-3, "hidden_act": "quick_gelu"}
  write(tmp_path, dinov2_tensors(np_rng), config)
  backbone = load.load(
    "dinov2_s14", tmp_path, image_size=70, pool="gap", **SIZES
  )
  # As if the file had been that of DINOv2's authors.
  backbone = dataclasses.replace(backbone, posemb_rule="bicubic_offset")
  backbone.save(tmp_path / "a.npz")
  return backbone, tmp_path / "a.npz"


def test_saved_weights_keep_what_their_tensors_do_not_show(saved):
  first, path = saved
  again = load.load("dinov2_s14", path, image_size=98, **SIZES)
  assert again.model == first.model.clone(pool="gap")
  assert (again.model.activation, again.model.norm_epsilon) == (
    "quick_gelu",
    1e-3,
  )
  assert again.preprocessing.mean == first.preprocessing.mean
  for name in ("activation = quick_gelu", "norm_epsilon = 0.001", "pool = gap"):
    assert name in str(again.report)
  positions = first.params["pos_embedding"]
  expected = posemb.resample(positions, (7, 7), rule="bicubic_offset")
  np.testing.assert_array_equal(again.params["pos_embedding"], expected)
  # And so on: it is what comes out again.
  again.save(path)
  assert load.load("dinov2_s14", path, **SIZES).model == first.model
  # What is asked for wins.
  asked = load.load("dinov2_s14", path, activation="gelu", pool="cls", **SIZES)
  assert (asked.model.activation, asked.model.pool) == ("gelu", "cls")
  assert asked.model.norm_epsilon == 1e-3


def test_without_a_note_the_name_decides(saved):
  first, path = saved
  weights.save(path, first.params)
  again = load.load("dinov2_s14", path, image_size=98, **SIZES)
  assert (again.model.activation, again.model.pool) == ("gelu", "cls")
  assert again.model.norm_epsilon == 1e-6
  expected = posemb.resample(
    first.params["pos_embedding"], (7, 7), rule="bicubic"
  )
  np.testing.assert_array_equal(again.params["pos_embedding"], expected)


@pytest.mark.parametrize(
  ("name", "fields", "message"),
  [
    ("dino_s16", {}, "family is dinov2, the name says dino; patch_size is 14"),
    ("dinov2_reg_s14", {}, "num_registers is 0, the name says 4"),
    ("dinov2_s14", {"num_heads": 3}, "num_heads is 2, the name says 3"),
    ("dinov2_s14", {"layer_scale": False}, "layer_scale is True"),
  ],
)
def test_weights_saved_from_another_architecture(saved, name, fields, message):
  _, path = saved
  with pytest.raises(artifacts.InputError, match=message):
    load.load(name, path, **{**SIZES, **fields})


def test_grids_that_are_not_square_come_back_as_they_were(tmp_path):
  fields = {"patch_size": 8, "width": 4, "depth": 1, "mlp_dim": 3}
  fields["num_heads"] = 2
  path = tmp_path / "a.npz"
  # As many as 6 x 6; as many as 5 x 5 and the class token's.
  for old in ((4, 9), (2, 13)):
    size = tuple(8 * n for n in old)
    first = load.load("dinov2_s14", image_size=size, seed=1, **fields)
    first.save(path)
    x = first.params["pos_embedding"]
    again = load.load("dinov2_s14", path, image_size=size, **fields)
    assert again.report.resampled == () and again.grid == old
    np.testing.assert_array_equal(again.params["pos_embedding"], x)
    np.testing.assert_array_equal(again.params["cls"], first.params["cls"])
    turned = load.load("dinov2_s14", path, image_size=size[::-1], **fields)
    assert turned.report.resampled == ("pos_embedding",)
    expected = posemb.resample(x, old[::-1], rule="bicubic", old_grid=old)
    np.testing.assert_array_equal(turned.params["pos_embedding"], expected)
    assert np.abs(expected - x).max() > 1e-3


def clip_tensors():
  """A small CLIP as transformers names it, of ones."""
  model = "vision_model"
  shapes = {
    "embeddings.class_embedding": (D,),
    "embeddings.patch_embedding.weight": (D, 3, 16, 16),
    "embeddings.position_embedding.weight": (5, D),
  }
  norms = ["pre_layrnorm", "post_layernorm"]
  for i in range(2):
    block = f"encoder.layers.{i}"
    norms += [f"{block}.layer_norm1", f"{block}.layer_norm2"]
    for part in ("q", "k", "v", "out"):
      shapes[f"{block}.self_attn.{part}_proj.weight"] = (D, D)
      shapes[f"{block}.self_attn.{part}_proj.bias"] = (D,)
    shapes[f"{block}.mlp.fc1.weight"] = (10, D)
    shapes[f"{block}.mlp.fc1.bias"] = (10,)
    shapes[f"{block}.mlp.fc2.weight"] = (D, 10)
    shapes[f"{block}.mlp.fc2.bias"] = (D,)
  for norm in norms:
    shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (D,)
  return {
    f"{model}.{name}": np.ones(shape, np.float32)
    for name, shape in shapes.items()
  }


@pytest.mark.parametrize(
  ("config", "activation"),
  [
    ({"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}, "gelu"),
    ({"hidden_act": "quick_gelu"}, "quick_gelu"),
    # transformers writes down only what is not its default.
    ({"model_type": "clip_vision_model"}, "quick_gelu"),
    ({"model_type": "clip", "vision_config": {}}, "quick_gelu"),
  ],
)
def test_activation_of_clip_is_that_of_config_json(
  tmp_path, config, activation
):
  write(tmp_path, clip_tensors(), config)
  assert load.load("clip_b16", tmp_path, **SIZES).model.activation == activation


def test_activation_of_clip_without_config_json_must_be_told(tmp_path):
  write(tmp_path, clip_tensors())
  with pytest.raises(
    artifacts.InputError, match="--activation=quick_gelu.*--activation=gelu"
  ):
    load.load("clip_b16", tmp_path, **SIZES)
  for activation in ("gelu", "quick_gelu"):
    told = load.load("clip_b16", tmp_path, activation=activation, **SIZES)
    assert told.model.activation == activation
  told.save(tmp_path / "a.npz")
  again = load.load("clip_b16", tmp_path / "a.npz", **SIZES)
  assert again.model.activation == "quick_gelu"
  # Without a note nothing says it, so the report says what was taken.
  weights.save(tmp_path / "a.npz", told.params)
  taken = load.load("clip_b16", tmp_path / "a.npz", **SIZES).report
  assert "activation = quick_gelu, as the file does not say" in str(taken)


def test_activation_of_clip_in_the_config_of_timm():
  for name, activation in (
    ("vit_base_patch16_clip_quickgelu_224", "quick_gelu"),
    ("vit_base_patch16_clip_224", "gelu"),
  ):
    source = safetensors_file.Source("x", {}, {"architecture": name})
    assert load._clip_activation(source, "timm") == activation
  with pytest.raises(artifacts.InputError, match="config.json"):
    load._clip_activation(safetensors_file.Source("x", {}, {}), "timm")


def test_notes_that_cannot_be_believed_are_refused(saved):
  first, path = saved
  note = architecture.describe(first.model, family="dinov2")
  lacking = {**note["model"]}
  del lacking["mlp"]
  for wrong, message in (
    ({**note, "posemb_rule": "spline"}, "posemb_rule 'spline'; known are"),
    ({**note, "model": lacking}, "lacks mlp"),
    ({"model": {}}, "damaged"),
    (["no", "dict"], "damaged"),
    ({**note, "grid": [5, "5"]}, "grid .*; expected rows and columns"),
    ({**note, "family": 3}, "family 3; expected a text"),
    (
      {**note, "preprocessing": {"size": 0}},
      "preprocessing that .* has size 0",
    ),
    (
      {**note, "preprocessing": {"crop": 1}},
      "preprocessing .* no field 'crop'",
    ),
    ({**note, "preprocessing": [5]}, "has a preprocessing that cannot be"),
    *(
      ({**note, "model": {**note["model"], field: value}}, message)
      for field, value, message in (
        ("norm_epsilon", "1e-6", "norm_epsilon '1e-6'; expected a number more"),
        ("norm_epsilon", 0, "norm_epsilon 0; expected a number more than 0"),
        ("depth", True, "depth True; expected a whole number from 1"),
        ("cls_token", 1, "cls_token 1; expected true or false"),
        ("activation", ["gelu"], "expected a text"),
      )
    ),
  ):
    weights.save(path, first.params, architecture=wrong)
    with pytest.raises(artifacts.InputError, match=message):
      load.load("dinov2_s14", path, **SIZES)
  assert architecture.from_comment("made by hand", "x.npz") is None
