"""The student: what it is made of, what it computes, what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.backbones import vit, weights
from alignet_jax.student import model

SIZES = {
  "patch_size": 2,
  "width": 6,
  "depth": 1,
  "mlp_dim": 5,
  "num_heads": 3,
  "pool": "gap",
}
BACKBONE = vit.ViT(**SIZES)
STUDENT = model.Student(backbone=BACKBONE, head_dim=7)


def random_backbone(np_rng, backbone=BACKBONE):
  shapes = weights.expected_shapes(backbone, image_size=4)
  return weights.unflatten(
    {
      name: np_rng.normal(size=shape).astype(np.float32)
      for name, shape in shapes.items()
    }
  )


def test_parameters_are_the_backbones_and_a_head_with_bias(np_rng):
  given = random_backbone(np_rng)
  params = model.init_params(jax.random.key(0), STUDENT, given, image_size=4)
  shapes = {name: x.shape for name, x in weights.flatten(params).items()}
  assert shapes == weights.expected_shapes(STUDENT, image_size=4)
  assert params["triplet_head"]["kernel"].shape == (6, 7)
  np.testing.assert_array_equal(params["triplet_head"]["bias"], np.zeros(7))
  flat = weights.flatten(given)
  for name, x in weights.flatten(params["backbone"]).items():
    np.testing.assert_array_equal(x, flat[name], err_msg=name)


def test_embedding_is_the_head_on_the_backbones_output(np_rng):
  given = random_backbone(np_rng)
  params = model.init_params(jax.random.key(0), STUDENT, given, image_size=4)
  params["triplet_head"]["bias"] += 0.5
  image = np_rng.normal(size=(5, 4, 4, 3)).astype(np.float32)
  z, out = jax.jit(STUDENT.apply)({"params": params}, image)
  x, _ = jax.jit(BACKBONE.apply)({"params": given}, image)
  head = jax.tree.map(np.asarray, params["triplet_head"])
  np.testing.assert_allclose(
    z, np.asarray(x) @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(out["pre_logits"], x, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(out["triplet_logits"], z)


def test_head_is_drawn_with_variance_one_over_d_from_the_key(np_rng):
  backbone = vit.ViT(**{**SIZES, "width": 30})
  student = model.Student(backbone=backbone, head_dim=211)
  given = random_backbone(np_rng, backbone)
  kernels = [
    model.init_params(jax.random.key(seed), student, given, image_size=4)[
      "triplet_head"
    ]["kernel"]
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(kernels[0], kernels[1])
  assert np.max(np.abs(kernels[0] - kernels[2])) > 0.1
  np.testing.assert_allclose(np.std(kernels[0]), 30**-0.5, rtol=0.03, atol=0)


def test_other_representations_can_feed_the_head(np_rng):
  student = model.Student(
    backbone=vit.ViT(**{**SIZES, "pool": "cls"}),
    head_dim=7,
    representation="patch_mean",
  )
  given = random_backbone(np_rng, student.backbone)
  params = model.init_params(jax.random.key(0), student, given, image_size=4)
  image = np_rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
  z, out = jax.jit(student.apply)({"params": params}, image)
  np.testing.assert_allclose(
    z,
    np.asarray(out["patch_mean"]) @ params["triplet_head"]["kernel"],
    rtol=1e-4,
    atol=1e-5,
  )


def test_without_a_head_the_representation_is_the_embedding(np_rng):
  student = model.Student(backbone=BACKBONE, head_dim=0)
  given = random_backbone(np_rng)
  params = model.init_params(jax.random.key(0), student, given, image_size=4)
  assert params.keys() == {"backbone"}
  image = np_rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
  z, out = jax.jit(student.apply)({"params": params}, image)
  np.testing.assert_array_equal(z, out["pre_logits"])
  np.testing.assert_array_equal(z, out["triplet_logits"])


@pytest.mark.parametrize(
  "representation, words",
  [
    ("pooled", "no output 'pooled'.*pre_logits"),
    ("encoded", r"shape \[1, 4, 6\].*one vector per image"),
  ],
)
def test_unfit_representations_are_refused(representation, words):
  student = model.Student(
    backbone=BACKBONE, head_dim=7, representation=representation
  )
  with pytest.raises(artifacts.InputError, match=words):
    jax.eval_shape(student.init, jax.random.key(0), jnp.zeros([1, 4, 4, 3]))


def test_weights_of_another_backbone_are_refused(np_rng):
  given = random_backbone(np_rng)
  del given["embedding"]["bias"]
  given["pos_embedding"] = given["pos_embedding"][:, :3]
  with pytest.raises(artifacts.InputError) as error:
    model.init_params(jax.random.key(0), STUDENT, given, image_size=4)
  assert "missing: backbone/embedding/bias [6]" in str(error.value)
  assert "pos_embedding is [1, 3, 6], the model needs [1, 4, 6]" in str(
    error.value
  )
