"""The last blocks compute what the whole model does, and go back into it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax.backbones import vit
from alignet_jax.photos import tail

SIZES = {
  "patch_size": 2,
  "width": 12,
  "depth": 3,
  "mlp_dim": 17,
  "num_heads": 3,
}


@pytest.fixture(scope="module")
def whole():
  model = vit.ViT(**SIZES, pool="cls", num_registers=2, layer_scale=True)
  image = jax.random.normal(jax.random.key(1), (5, 6, 8, 3))
  params = jax.jit(model.init)(jax.random.key(0), image)["params"]
  # The scales start so small that no block would show.
  params = jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape),
    params,
  )
  _, out = jax.jit(model.apply)({"params": params}, image)
  return model, params, out


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("pool", ["cls", "gap", vit.CLS_PATCH_MEAN])
def test_tail_ends_as_the_whole_model(whole, first, pool):
  model, params, out = whole
  top = tail.make(model.clone(pool=pool, cls_token=True), first=first)
  tokens = out[tail.input_name(first)]
  z = top.apply({"params": tail.select(params, first=first)}, tokens)
  cls, mean = out["cls"], out["patch_mean"]
  expected = {"cls": cls, "gap": mean}.get(
    pool, jnp.concatenate([cls, mean], axis=1)
  )
  np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-5)


def test_join_puts_the_blocks_back_and_keeps_the_rest(whole):
  _, params, _ = whole
  part = tail.select(params, first=2)
  assert sorted(part["Transformer"]) == ["encoder_norm", "encoderblock_2"]
  joined = tail.join(params, jax.tree.map(lambda x: x + 1, part))
  same = jax.tree.map(lambda a, b: bool((a == b).all()), joined, params)
  changed = {
    name
    for name, values in same["Transformer"].items()
    if not all(jax.tree.leaves(values))
  }
  assert changed == {"encoder_norm", "encoderblock_2"}
  rest = {k: v for k, v in same.items() if k != "Transformer"}
  assert all(jax.tree.leaves(rest))


@pytest.mark.parametrize(
  ("settings", "first", "sentence"),
  [
    ({"pool": "cls"}, 3, "block is 3; of 3 blocks it may be 1 to 2"),
    ({"pool": "cls"}, 0, "block is 0"),
    ({"pool": "map"}, 1, "pool 'map'"),
    ({"pool": "cls", "rep_size": 5}, 1, "rep_size 5"),
  ],
)
def test_models_without_such_a_tail_are_refused(settings, first, sentence):
  with pytest.raises(ValueError, match=sentence):
    tail.make(vit.ViT(**SIZES, **settings), first=first)
