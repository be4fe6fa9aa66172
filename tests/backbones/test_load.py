"""One entry: name and weights in, model, parameters and preprocessing out."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from alignet_jax import artifacts
from alignet_jax.backbones import families, load, posemb, vit, weights
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


def test_optional_libraries_are_imported_when_needed_only():
  program = (
    "import sys; from alignet_jax.backbones import load; "
    "print([m for m in ('tensorflow', 'safetensors', 'huggingface_hub', "
    "'torch', 'big_vision') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "[]"


def test_the_size_at_which_so400m_is_published_keeps_its_last_pixels():
  family, _ = families.get("siglip_so400m14")
  model = vit.ViT(patch_size=14, width=6, depth=1, mlp_dim=5, num_heads=2)
  for edge, size in ((27, 384), (16, 224)):
    flat = {"pos_embedding": np.zeros((1, edge**2, 6))}
    assert load._default_size(family, flat, model) == size
