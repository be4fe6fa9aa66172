"""Reading and writing weights: every published spelling, every misfit named."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from alignet_jax import artifacts
from alignet_jax.backbones import architecture, posemb, vit, weights

MODEL = vit.ViT(
  patch_size=2, width=6, depth=2, mlp_dim=5, num_heads=3, pool="cls"
)
SIZE = 6  # a grid of 3 x 3
BLOCK = "Transformer/encoderblock_1"


def random_params(np_rng, model=MODEL, image_size=SIZE):
  shapes = weights.expected_shapes(model, image_size=image_size)
  return {
    name: np_rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def write(path, flat):
  """As numpy.savez, which takes names with slashes."""
  np.savez(path, **flat)
  return path


def assert_same(tree, flat):
  loaded = weights.flatten(tree)
  assert loaded.keys() == flat.keys()
  for name, x in flat.items():
    np.testing.assert_array_equal(loaded[name], x, err_msg=name)


def test_save_and_load_give_the_same_tree(np_rng, tmp_path):
  flat = random_params(np_rng)
  weights.save(tmp_path / "a.npz", weights.unflatten(flat))
  params, report = weights.load(tmp_path / "a.npz", MODEL, image_size=SIZE)
  assert_same(params, flat)
  assert report.num_tensors == len(flat)
  assert report.unused == report.resampled == ()
  image = np_rng.normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)
  assert MODEL.apply({"params": params}, image)[0].shape == (1, 6)


def test_flatten_joins_names_in_order():
  tree = {"b": {"d": 1, "c": {"e": 2}}, "a": 3}
  flat = {"a": 3, "b/c/e": 2, "b/d": 1}
  assert list(weights.flatten(tree).items()) == list(flat.items())
  assert weights.unflatten(flat) == tree


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/"])
def test_files_with_and_without_optimiser_state_are_read(
  np_rng, tmp_path, prefix
):
  flat = random_params(np_rng)
  content = {f"{prefix}{name}": x for name, x in flat.items()}
  if prefix:
    content[f"opt/state/{BLOCK}/LayerNorm_0/scale"] = np.ones(6)
  path = write(tmp_path / "a.npz", content)
  params, report = weights.load(path, MODEL, image_size=SIZE)
  assert_same(params, flat)
  assert report.unused == ()


def test_part_of_a_two_tower_file(np_rng, tmp_path):
  flat = random_params(np_rng)
  content = {f"params/img/{name}": x for name, x in flat.items()}
  content["params/txt/Transformer/encoder_norm/scale"] = np.ones(6)
  content["params/t"] = np.ones(1)
  path = write(tmp_path / "siglip.npz", content)
  params, report = weights.load(f"{path}:img", MODEL, image_size=SIZE)
  assert_same(params, flat)
  assert report.path == f"{path}:img"
  with pytest.raises(
    artifacts.InputError, match="no part 'image'.*img, t, txt"
  ):
    weights.load(f"{path}:image", MODEL, image_size=SIZE)
  with pytest.raises(artifacts.InputError, match=":img behind the path"):
    weights.load(path, MODEL, image_size=SIZE)


@pytest.mark.parametrize(
  "name",
  ["Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding"],
)
def test_vit_jax_names(np_rng, tmp_path, name):
  """Submodules counted together; position of the class token its own."""
  flat = random_params(np_rng)
  old = {
    "LayerNorm_1": "LayerNorm_2",
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "MlpBlock_0": "MlpBlock_3",
  }
  content = {}
  for key, x in flat.items():
    parts = key.split("/")
    if parts[1:2] and parts[1].startswith("encoderblock_"):
      parts[2] = old.get(parts[2], parts[2])
    content["/".join(parts)] = x
  assert f"{BLOCK}/MlpBlock_3/Dense_1/bias" in content
  cls_posemb = np_rng.normal(size=(1, 1, 6)).astype(np.float32)
  posemb = content.pop("pos_embedding")
  content[name] = np.concatenate([cls_posemb, posemb], axis=1)
  content["cls"] = flat["cls"] - cls_posemb
  content["head/kernel"] = np.zeros((6, 7))
  content["head/bias"] = np.zeros(7)
  path = write(tmp_path / "a.npz", content)
  params, report = weights.load(path, MODEL, image_size=SIZE)
  np.testing.assert_allclose(
    params.pop("cls"), flat.pop("cls"), rtol=1e-6, atol=1e-6
  )
  assert_same(params, flat)
  assert report.unused == ("head/bias", "head/kernel")
  assert "not used: head/bias, head/kernel" in str(report)


def test_inlined_map_head(np_rng, tmp_path):
  model = MODEL.clone(pool="map")
  flat = random_params(np_rng, model)
  content = {name.removeprefix("MAPHead_0/"): x for name, x in flat.items()}
  assert "probe" in content and "LayerNorm_0/scale" in content
  path = write(tmp_path / "a.npz", content)
  assert_same(weights.load(path, model, image_size=SIZE)[0], flat)


def test_stacked_blocks_are_split(np_rng, tmp_path):
  flat = random_params(np_rng)
  content = {}
  for name, x in flat.items():
    if "/encoderblock_1/" in name:
      first = flat[name.replace("_1/", "_0/", 1)]
      name = name.replace("/encoderblock_1/", "/encoderblock/")
      content[name] = np.stack([first, x])
    elif "/encoderblock_0/" not in name:
      content[name] = x
  path = write(tmp_path / "a.npz", content)
  assert_same(weights.load(path, MODEL, image_size=SIZE)[0], flat)


def test_bfloat16_is_read_from_its_two_bytes(np_rng, tmp_path):
  flat = random_params(np_rng)
  half = {name: np.asarray(x, jnp.bfloat16) for name, x in flat.items()}
  path = write(tmp_path / "a.npz", half)
  params, _ = weights.load(path, MODEL, image_size=SIZE)
  assert_same(params, {name: x.astype(np.float32) for name, x in half.items()})
  weights.save(tmp_path / "b.npz", weights.unflatten(half))
  assert_same(
    weights.load(tmp_path / "b.npz", MODEL, image_size=SIZE)[0],
    {name: x.astype(np.float32) for name, x in half.items()},
  )


def test_check_lists_all_that_does_not_fit_in_one_error(np_rng):
  shapes = weights.expected_shapes(MODEL, image_size=SIZE)
  flat = random_params(np_rng)
  weights.check(flat, shapes)
  flat["extra/kernel"] = np.zeros((2, 3))
  del flat["embedding/bias"], flat[f"{BLOCK}/LayerNorm_0/scale"]
  flat["cls"] = np.zeros((1, 1, 7))
  with pytest.raises(artifacts.InputError) as error:
    weights.check(flat, shapes, path="a.npz")
  assert str(error.value).splitlines() == [
    "a.npz does not fit the model:",
    f"  missing: {BLOCK}/LayerNorm_0/scale [6]",
    "  missing: embedding/bias [6]",
    "  not used: extra/kernel [2, 3]",
    "  shape: cls is [1, 1, 7], the model needs [1, 1, 6]",
  ]


def test_unused_tensors_need_permission_by_whole_names(np_rng, tmp_path):
  content = random_params(np_rng)
  content["pre_logits/bias"] = np.zeros(6)
  path = write(tmp_path / "a.npz", content)
  for unused_ok in ((), ("pre_log",), ("bias",)):
    with pytest.raises(artifacts.InputError, match="not used: pre_logits/bias"):
      weights.load(path, MODEL, image_size=SIZE, unused_ok=unused_ok)
  _, report = weights.load(
    path, MODEL, image_size=SIZE, unused_ok=("pre_logits",)
  )
  assert report.unused == ("pre_logits/bias",)


def test_classifier_is_needed_where_the_model_has_one(np_rng, tmp_path):
  path = write(tmp_path / "a.npz", random_params(np_rng))
  model = MODEL.clone(num_classes=4)
  with pytest.raises(
    artifacts.InputError, match=r"missing: head/kernel \[6, 4\]"
  ):
    weights.load(path, model, image_size=SIZE)


def test_positions_are_resampled_to_the_size_of_the_images(np_rng, tmp_path):
  content = random_params(np_rng)
  path = write(tmp_path / "a.npz", content)
  params, report = weights.load(path, MODEL, image_size=(10, 8))
  assert report.resampled == ("pos_embedding",)
  expected = scipy.ndimage.zoom(
    content["pos_embedding"].reshape(3, 3, 6), (5 / 3, 4 / 3, 1), order=1
  )
  np.testing.assert_allclose(
    params["pos_embedding"].reshape(5, 4, 6), expected, rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize("old, new", [(7, 3), (3, 7), (2, 5), (5, 4), (4, 1)])
def test_resampling_equals_scipy(np_rng, old, new):
  posemb = np_rng.normal(size=(1, old * old, 11)).astype(np.float32)
  x = weights.resample_posemb(posemb, (new, new))
  grid = posemb.reshape(old, old, 11)
  expected = scipy.ndimage.zoom(grid, (new / old, new / old, 1), order=1)
  np.testing.assert_allclose(
    x, expected.reshape(1, new * new, 11), rtol=1e-5, atol=1e-6
  )


def test_resampling_laws(np_rng):
  posemb = np_rng.normal(size=(1, 25, 3)).astype(np.float32)
  assert weights.resample_posemb(posemb, (5, 5)) is posemb
  # From n to 2 n - 1 rows every old row stays, so there and back is exact.
  there = weights.resample_posemb(posemb, (9, 9))
  back = weights.resample_posemb(there, (5, 5))
  np.testing.assert_allclose(back, posemb, rtol=0, atol=1e-6)
  constant = weights.resample_posemb(np.ones((1, 9, 2), np.float32), (4, 7))
  np.testing.assert_allclose(constant, np.ones((1, 28, 2)), rtol=0, atol=1e-6)


def test_positions_of_another_width_are_not_resampled(np_rng, tmp_path):
  content = random_params(np_rng)
  content["pos_embedding"] = np.zeros((1, 16, 7), np.float32)
  path = write(tmp_path / "a.npz", content)
  with pytest.raises(artifacts.InputError, match=r"is \[1, 16, 7\], the model"):
    weights.load(path, MODEL, image_size=SIZE)


def test_pickles_and_other_dtypes_are_refused(tmp_path):
  with pytest.raises(artifacts.InputError, match="PyTorch.*numpy.savez"):
    weights.read(tmp_path / "model.pth")
  np.savez(tmp_path / "o.npz", cls=np.array([{}], dtype=object))
  with pytest.raises(artifacts.InputError, match="o.npz holds Python objects"):
    weights.read(tmp_path / "o.npz")
  np.savez(tmp_path / "s.npz", cls=np.array(["text"]))
  with pytest.raises(artifacts.InputError, match="'cls' has dtype"):
    weights.read(tmp_path / "s.npz")
  with pytest.raises(artifacts.InputError, match="no file"):
    weights.read(tmp_path / "absent.npz:img")


def test_expected_shapes_makes_no_parameters():
  traced = []

  def init(rng, shape):
    traced.append(isinstance(rng, jax.core.Tracer))
    return jnp.zeros(shape)

  class Model(nn.Module):
    @nn.compact
    def __call__(self, image):
      return image * self.param("gain", init, (1, 1, 1, 3))

  shapes = weights.expected_shapes(Model(), image_size=(5, 7))
  assert shapes == {"gain": (1, 1, 1, 3)}
  assert traced and all(traced)


def test_as_many_patches_in_another_shape_are_resampled(np_rng, tmp_path):
  flat = random_params(np_rng, image_size=8)  # A grid of 4 x 4.
  note = architecture.describe(MODEL, grid=(4, 4))
  weights.save(tmp_path / "a.npz", weights.unflatten(flat), architecture=note)
  params, report = weights.load(tmp_path / "a.npz", MODEL, image_size=(4, 16))
  assert report.resampled == ("pos_embedding",)
  expected = weights.resample_posemb(flat["pos_embedding"], (2, 8))
  np.testing.assert_array_equal(params["pos_embedding"], expected)


def test_weights_of_another_activation_are_refused_where_the_model_is_given(
  np_rng, tmp_path
):
  path, flat = tmp_path / "a.npz", random_params(np_rng)
  model = MODEL.clone(activation="gelu")
  note = architecture.describe(model, posemb_rule="bicubic")
  weights.save(path, weights.unflatten(flat), architecture=note)
  with pytest.raises(
    artifacts.InputError, match="activation is gelu, the model has gelu_tanh"
  ):
    weights.load(path, MODEL, image_size=SIZE)
  with pytest.raises(artifacts.InputError, match="num_heads is 3, .* 2"):
    weights.load(path, model.clone(num_heads=2), image_size=SIZE)
  # Another pool of the same tensors is no other model.
  params, _ = weights.load(
    path, model.clone(pool="gap", cls_token=True), image_size=10
  )
  expected = posemb.resample(flat["pos_embedding"], (5, 5), rule="bicubic")
  np.testing.assert_array_equal(params["pos_embedding"], expected)


def test_readers_of_arrays_do_not_see_the_note(np_rng, tmp_path):
  flat = random_params(np_rng)
  note = architecture.describe(MODEL)
  weights.save(tmp_path / "a.npz", weights.unflatten(flat), architecture=note)
  with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
    assert set(loaded.files) == set(flat)
  assert weights.read(tmp_path / "a.npz").keys() == flat.keys()
  assert weights.read_architecture(tmp_path / "a.npz") == note
  np.savez(tmp_path / "b.npz", **flat)
  assert weights.read_architecture(tmp_path / "b.npz") is None


@pytest.mark.parametrize("size", [(8, 18), (8, 12)])  # 36 is square, 24 is not.
def test_a_grid_that_nobody_knows_is_refused_where_it_matters(
  np_rng, tmp_path, size
):
  flat = random_params(np_rng, image_size=size)
  weights.save(tmp_path / "a.npz", weights.unflatten(flat))
  for wanted in (size, size[::-1]):
    with pytest.raises(
      artifacts.InputError, match="does not say of which grid.*Backbone.save"
    ):
      weights.load(tmp_path / "a.npz", MODEL, image_size=wanted)


def test_a_noted_grid_of_another_number_is_refused(np_rng, tmp_path):
  flat = random_params(np_rng)
  note = architecture.describe(MODEL, grid=(2, 4))
  weights.save(tmp_path / "a.npz", weights.unflatten(flat), architecture=note)
  with pytest.raises(artifacts.InputError, match="9 positions, .* says 2 x 4"):
    weights.load(tmp_path / "a.npz", MODEL, image_size=SIZE)
