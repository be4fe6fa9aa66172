"""Backbones as configs describe them, and the stage that extracts features."""

import json
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import safetensors.numpy

from alignet_jax import artifacts
from alignet_jax.backbones import families, load, stage, vit, weights
from alignet_jax.images import collections, packed, preprocess

# Sizes that replace those of a published family.
TINY = {"width": 6, "depth": 1, "mlp_dim": 10, "num_heads": 2}


def named(name="augreg_b16", **fields):
  """A description by name."""
  return {
    "name": name,
    "pool": "",
    "size": 48,
    "preprocessing": "own",
    "weights": "",
    **TINY,
    **fields,
  }


@pytest.fixture(scope="module")
def transformers_file(tmp_path_factory):
  """A tiny DINO of 3 x 3 patches as transformers writes it."""
  np_rng = np.random.default_rng(0)
  d, block = TINY["width"], "encoder.layer.0"
  shapes = {
    "embeddings.cls_token": (1, 1, d),
    "embeddings.position_embeddings": (1, 10, d),
    "embeddings.patch_embeddings.projection.weight": (d, 3, 16, 16),
    "embeddings.patch_embeddings.projection.bias": (d,),
    f"{block}.intermediate.dense.weight": (10, d),
    f"{block}.intermediate.dense.bias": (10,),
    f"{block}.output.dense.weight": (d, 10),
    f"{block}.output.dense.bias": (d,),
  }
  for part in ("query", "key", "value"):
    shapes[f"{block}.attention.attention.{part}.weight"] = (d, d)
    shapes[f"{block}.attention.attention.{part}.bias"] = (d,)
  shapes[f"{block}.attention.output.dense.weight"] = (d, d)
  shapes[f"{block}.attention.output.dense.bias"] = (d,)
  for norm in ("layernorm", f"{block}.layernorm_before"):
    shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (d,)
  norm = f"{block}.layernorm_after"
  shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (d,)
  tensors = {
    name: np_rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }
  path = tmp_path_factory.mktemp("weights") / "dino.safetensors"
  safetensors.numpy.save_file(tensors, path)
  return path


def test_a_name_gives_the_fields_of_its_family():
  model = stage.make_model(
    {"name": "dinov2_b14", "pool": "", "size": 224, "preprocessing": "own"}
  )
  _, fields = families.get("dinov2_b14")
  assert model == vit.ViT(**fields)
  assert (model.patch_size, model.width, model.layer_scale) == (14, 768, True)


def test_single_sizes_and_the_pool_win_over_the_family():
  model = stage.make_model(named("dinov2_b14", pool="cls_patch_mean"))
  assert (model.width, model.depth, model.mlp_dim, model.num_heads) == (
    *(6, 1, 10, 2),
  )
  assert model.pool == "cls_patch_mean"
  assert model.patch_size == 14 and model.layer_scale


def test_sizes_without_a_name_are_a_model_of_our_own():
  model = stage.make_model({**TINY, "patch_size": 8, "pool": "gap"})
  assert model == vit.ViT(**TINY, patch_size=8, pool="gap")


@pytest.mark.parametrize("size", [48, 80])
def test_weights_of_transformers_are_loaded_as_the_loader_does(
  transformers_file, size
):
  """At 80 pixels the positions are resampled as the family does."""
  lines = []
  given = named("dino_b16", size=size, weights=str(transformers_file))
  backbone, params = stage.load(given, lines.append)
  expected = load.load(
    "dino_b16", str(transformers_file), image_size=size, **TINY
  )
  jax.tree.map(np.testing.assert_array_equal, params, expected.params)
  assert params["pos_embedding"].shape == (1, (size // 16) ** 2, 6)
  (line,) = lines
  assert "names of transformers" in line
  assert ("resampled: pos_embedding" in line) is (size == 80)
  # What the file decided survives JSON, so a saved student computes the same.
  again = json.loads(json.dumps(backbone))
  assert stage.make_model(again) == expected.model
  assert stage.make_model(again).norm_epsilon == 1e-12
  assert stage.make_model(given).norm_epsilon == 1e-6


@pytest.fixture(scope="module")
def random_backbone():
  """A description and its random parameters of seed 5."""
  return stage.load(named(weights="is not read"), lambda line: None, seed=5)


def test_random_parameters_follow_the_seed(random_backbone):
  backbone, params = random_backbone
  _, other = stage.load(named(), lambda line: None, seed=0)
  kernel = params["embedding"]["kernel"]
  assert kernel.shape == (16, 16, 3, 6)
  assert (kernel != other["embedding"]["kernel"]).any()
  assert stage.make_model(backbone) == stage.make_model(named())


def test_preprocessing_is_the_family_s_or_that_of_the_released_students():
  own = stage.preprocessing(named("dinov2_b14", size=98))
  assert (own.size, own.resize, own.short_side) == (98, "short_side", 112)
  assert own.mean == preprocess.IMAGENET_MEAN
  released = stage.preprocessing(named(preprocessing="alignet"))
  assert released == preprocess.Preprocessing(48)
  assert (released.mean, released.std) == ((0, 0, 0), (1, 1, 1))
  with pytest.raises(artifacts.InputError, match="'alignt'; known are own, "):
    stage.preprocessing(named(preprocessing="alignt"))


def test_pixels_are_scaled_by_the_preprocessing_or_the_value_range(np_rng):
  image = np_rng.integers(256, size=(2, 5, 5, 3)).astype(np.uint8)
  own = stage.scaling(named("dinov2_b14"))
  expected = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  got = stage.features_lib.scale_pixels(image, own)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
  small = {**TINY, "value_range": [-1.0, 1.0]}
  assert stage.scaling(small) == (-1.0, 1.0)
  got = stage.features_lib.scale_pixels(image, stage.scaling(small))
  np.testing.assert_allclose(got, image / 127.5 - 1, rtol=1e-5, atol=1e-6)


def test_features_are_those_of_images_under_the_model_s_preprocessing(np_rng):
  """Whatever other one they were opened with, as evaluation does."""
  backbone = named("dino_b16", size=32)
  model = stage.make_model(backbone)
  image = np_rng.integers(256, size=(3, 41, 41, 3)).astype(np.uint8)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros([1, 32, 32, 3]))
  opened = collections.ArrayImages(image).with_preprocessing(
    preprocess.Preprocessing(32)
  )
  got = stage.extract(
    model,
    params["params"],
    opened,
    backbone=backbone,
    batch_size=2,
    label="features",
  )
  own = families.preprocessing(families.get("dino_b16")[0], 32)
  pixels = np.stack([own.apply(x) for x in image])
  _, out = model.apply(params, own.normalise(pixels))
  np.testing.assert_allclose(got, out["cls"], rtol=1e-4, atol=1e-5)


def features_context(tmp_path, images, **backbone):
  config = ml_collections.ConfigDict(
    {
      "seed": 0,
      "features": {
        "source": "backbone",
        "batch_size": 2,
        "backbone": named("dino_b16", **backbone),
      },
      "images": {"source": "files", **images},
    }
  )
  (tmp_path / "out").mkdir()
  return types.SimpleNamespace(
    config=config, out=tmp_path / "out", log=lambda line: None
  )


def test_the_stage_writes_features_and_what_they_are_of(
  tmp_path, np_rng, transformers_file
):
  pixels = np_rng.integers(256, size=(5, 48, 48, 3)).astype(np.uint8)
  np.save(tmp_path / "stimuli.npy", pixels[:2])
  np.save(tmp_path / "collection.npy", pixels)
  context = features_context(
    tmp_path,
    {name: str(tmp_path / f"{name}.npy") for name in ("stimuli", "collection")},
    weights=str(transformers_file),
  )
  assert stage.run_features(context) == {}
  features = np.load(context.out / "collection.npy")
  assert features.shape == (5, 6)
  np.testing.assert_allclose(
    np.load(context.out / "stimuli.npy"), features[:2], rtol=1e-4, atol=1e-5
  )
  described = json.loads((context.out / "images.json").read_text())
  assert described["collection"]["num_images"] == 5
  assert described["stimuli"] != described["collection"]


def test_images_packed_for_another_model_are_refused_by_field(
  tmp_path, transformers_file, monkeypatch
):
  def refuse(self, folder, preprocessing=None):
    raise artifacts.InputError("packed with size 24, not 48")

  monkeypatch.setattr(packed, "is_packed", lambda path: True)
  monkeypatch.setattr(packed.PackedImages, "__init__", refuse)
  context = features_context(
    tmp_path,
    {"stimuli": str(tmp_path), "collection": ""},
    weights=str(transformers_file),
  )
  with pytest.raises(
    artifacts.InputError, match="config.images.stimuli: packed with size 24"
  ):
    stage.run_features(context)


def test_a_saved_description_reads_its_own_weights(tmp_path, random_backbone):
  backbone, params = random_backbone
  weights.save(tmp_path / "base.npz", params)
  read, _ = weights.load(
    str(tmp_path / "base.npz"), stage.make_model(backbone), image_size=48
  )
  jax.tree.map(np.testing.assert_array_equal, read, params)


@pytest.fixture
def aligned(tmp_path):
  """A student of DINOv2 on 70 pixels of the released students' kind."""
  description = named("dinov2_b14", size=70, preprocessing="alignet")
  backbone, params = stage.load(description, lambda line: None, seed=5)
  backbone = json.loads(json.dumps(backbone))  # As a stage finds it.
  stage.save(tmp_path / "aligned.npz", params, backbone)
  return tmp_path / "aligned.npz", backbone, params


@pytest.mark.parametrize("name", ["dinov2_b14", "noted"])
def test_a_saved_student_says_what_pixels_it_wants(aligned, name):
  path, backbone, params = aligned
  fields = TINY if name == "dinov2_b14" else {}
  read = load.load(name, path, **fields)
  assert read.model == stage.make_model(backbone)
  assert read.preprocessing == preprocess.Preprocessing(70)
  assert (read.family, read.posemb_rule, read.grid) == (
    "dinov2",
    "bicubic",
    (5, 5),
  )
  assert "preprocessing = squash" in str(read.report)
  jax.tree.map(np.testing.assert_array_equal, read.params, params)
  # What is asked for wins; and all of it goes on with the next file.
  other = load.load(name, path, image_size=42, **fields)
  assert other.preprocessing == preprocess.Preprocessing(42)
  other.save(path)
  assert load.load(name, path, **fields).preprocessing.size == 42


def test_weights_that_are_a_student_s_own_keep_their_pixels(aligned):
  """Not those of the family, though that is what "own" is of public weights."""
  path, _, _ = aligned
  given = named("dinov2_b14", size=28, weights=str(path))
  backbone, _ = stage.load(given, lambda line: None)
  assert stage.preprocessing(given).resize == "short_side"
  assert stage.preprocessing(backbone) == preprocess.Preprocessing(28)
  assert stage.scaling(backbone) == preprocess.Preprocessing(28)
  asked = stage.preprocessing({**backbone, "preprocessing": "alignet"})
  assert asked == preprocess.Preprocessing(28)


def test_a_student_of_no_family_is_read_by_its_note(tmp_path, np_rng):
  backbone = {**TINY, "patch_size": 16, "pool": "gap", "size": 48}
  backbone["value_range"] = [-1.0, 3.0]
  model = stage.make_model(backbone)
  shapes = weights.expected_shapes(model, image_size=48)
  params = weights.unflatten(
    {name: np_rng.normal(size=x).astype("f4") for name, x in shapes.items()}
  )
  stage.save(tmp_path / "a.npz", params, backbone)
  read = load.load("noted", tmp_path / "a.npz")
  assert read.model == model.clone(cls_token=False)
  assert read.family == ""
  image = np_rng.integers(256, size=(2, 48, 48, 3)).astype(np.uint8)
  np.testing.assert_allclose(
    read.preprocessing.normalise(image),
    stage.features_lib.scale_pixels(image, stage.scaling(backbone)),
    rtol=1e-5,
    atol=1e-5,
  )
  with pytest.raises(artifacts.InputError, match="patch_size is 16, the name"):
    load.load("dinov2_b14", tmp_path / "a.npz", **TINY)
  weights.save(tmp_path / "b.npz", params)
  with pytest.raises(artifacts.InputError, match="b.npz has none. Give the na"):
    load.load("noted", tmp_path / "b.npz")
