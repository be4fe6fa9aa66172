"""PyTorch's names and layouts: each tensor to its place, by index."""

import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.backbones import huggingface

HEADS, SIZE, WIDTH, PATCH = 3, 5, 15, 2
BLOCK = "Transformer/encoderblock_7"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_0"


def rename(tensors):
  return huggingface.rename(tensors, num_heads=HEADS, patch_size=PATCH)


def test_attention_of_all_spellings(np_rng):
  q, k, v, out = np_rng.normal(size=(4, WIDTH, WIDTH)).astype(np.float32)
  q_bias = np_rng.normal(size=WIDTH).astype(np.float32)
  layer = "encoder.layer.7.attention"
  spellings = [
    {
      f"{layer}.attention.query.weight": q,
      f"{layer}.attention.query.bias": q_bias,
      f"{layer}.attention.key.weight": k,
      f"{layer}.attention.value.weight": v,
      f"{layer}.output.dense.weight": out,
    },
    {
      "vision_model.encoder.layers.7.self_attn.q_proj.weight": q,
      "vision_model.encoder.layers.7.self_attn.q_proj.bias": q_bias,
      "vision_model.encoder.layers.7.self_attn.k_proj.weight": k,
      "vision_model.encoder.layers.7.self_attn.v_proj.weight": v,
      "vision_model.encoder.layers.7.self_attn.out_proj.weight": out,
    },
    {
      "blocks.7.attn.qkv.weight": np.concatenate([q, k, v]),
      "blocks.7.attn.qkv.bias": np.concatenate([q_bias, q_bias, q_bias]),
      "blocks.7.attn.proj.weight": out,
    },
    # DINOv2's own files of giant models count blocks in chunks as well.
    {"blocks.1.7.attn.qkv.weight": np.concatenate([q, k, v])},
  ]
  for tensors in spellings:
    flat = rename(tensors)
    for part, x in (("query", q), ("key", k), ("value", v)):
      kernel = flat[f"{ATTENTION}/{part}/kernel"]
      assert kernel.shape == (WIDTH, HEADS, SIZE)
      for i, h, e in ((0, 0, 0), (14, 2, 4), (3, 1, 2)):
        assert kernel[i, h, e] == x[h * SIZE + e, i]
    if len(tensors) == 1:
      continue
    bias = flat[f"{ATTENTION}/query/bias"]
    assert bias[2, 1] == q_bias[2 * SIZE + 1]
    kernel = flat[f"{ATTENTION}/out/kernel"]
    assert kernel.shape == (HEADS, SIZE, WIDTH)
    assert kernel[1, 3, 9] == out[9, SIZE + 3]


def test_patches_as_convolution_and_as_matrix(np_rng):
  weight = np_rng.normal(size=(7, 3, PATCH, PATCH)).astype(np.float32)
  kernel = rename({"patch_embed.proj.weight": weight})["embedding/kernel"]
  assert kernel.shape == (PATCH, PATCH, 3, 7)
  assert kernel[1, 0, 2, 5] == weight[5, 2, 1, 0]
  name = "vision_model.embeddings.patch_embedding.weight"
  matrix = weight.transpose(0, 2, 3, 1).reshape(7, -1)
  assert huggingface.has_flat_patches({name: matrix})
  assert not huggingface.has_flat_patches({name: weight})
  np.testing.assert_array_equal(
    rename({name: matrix})["embedding/kernel"], kernel
  )


def test_single_tensors_get_a_batch_axis():
  flat = rename(
    {
      "vision_model.embeddings.class_embedding": np.zeros(6),
      "vision_model.embeddings.position_embedding.weight": np.zeros((10, 6)),
      "reg_token": np.zeros((1, 4, 6)),
    }
  )
  assert {name: x.shape for name, x in flat.items()} == {
    "cls": (1, 1, 6),
    "pos_embedding": (1, 10, 6),
    "registers": (1, 4, 6),
  }


def test_what_is_in_no_table_keeps_its_name():
  flat = rename(
    {
      "text_model.final_layer_norm.weight": np.zeros(3),
      "logit_scale": np.zeros(()),
      "vit.encoder.layer.0.adapter.weight": np.zeros((2, 2)),
      "classifier.weight": np.zeros((2, 2)),
      "norm.running_mean": np.zeros(3),
    }
  )
  assert list(flat) == [
    "classifier.weight",
    "encoder.layer.0.adapter.weight",
    "norm.running_mean",
  ]


def test_heads_that_do_not_divide_are_refused_by_name():
  name = "blocks.0.attn.qkv.weight"
  with pytest.raises(artifacts.InputError, match=f"{name}.*13, 5.*3 heads"):
    rename({name: np.zeros((13, 5)), "x": np.ones(1)})


@pytest.mark.parametrize(
  "names, library",
  [
    (["vit.encoder.layer.0.output.dense.bias"], "transformers"),
    (["vision_model.encoder.layers.0.mlp.fc1.bias"], "transformers"),
    (["blocks.0.norm1.bias", "cls_token"], "timm"),
    (["blocks.0.norm1.bias", "mask_token"], "facebook"),
    (["blocks.0.0.norm1.bias", "register_tokens"], "facebook"),
  ],
)
def test_the_library_shows_in_the_names(names, library):
  assert huggingface.library(names) == library


def test_other_architectures_are_refused():
  with pytest.raises(artifacts.InputError, match="conv1.weight, layer1"):
    huggingface.library(["layer1.0.conv1.weight", "conv1.weight"])
