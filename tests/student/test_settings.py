"""Settings: what is made of a config, and every bad one before a step."""

import pathlib
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from alignet_jax import artifacts
from alignet_jax import config as config_lib
from alignet_jax.backbones import vit, weights
from alignet_jax.evals import models
from alignet_jax.images import collections
from alignet_jax.student import optimizer, settings, stage
from alignet_jax.triplets import dense_files, files

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
SIZE, NUM_IMAGES = 4, 24
SIZES = {
  "patch_size": 2,
  "width": 6,
  "depth": 1,
  "mlp_dim": 5,
  "num_heads": 3,
  "pool": "cls",
}
CLUSTERS = np.arange(NUM_IMAGES) % 4

needs_devices = pytest.mark.skipif(
  len(jax.devices()) < 8, reason="needs 8 devices"
)


def make_config(**changes):
  config = config_lib.load(str(CONFIGS / "quickstart.py") + ":runlocal")
  config = config.copy_and_resolve_references().unlock()
  config.student.num_steps, config.student.warmup_steps = 2, 1
  config.student.head_dim = 7
  config.student.variants = ("control",)
  config.student.eval_every = 0
  config.student.backbone = ml_collections.ConfigDict(
    {
      **SIZES,
      "source": "weights",
      "name": "augreg_b16",
      "size": SIZE,
      "preprocessing": "alignet",
      "url": "",
    }
  )
  for name, value in changes.items():
    group, _, leaf = name.rpartition("__")
    node = config.student[group] if group else config.student
    node[leaf] = value
  return config


def make_weights(path, **fields):
  model = vit.ViT(**{**SIZES, **fields})
  shapes = weights.expected_shapes(model, image_size=SIZE)
  np_rng = np.random.default_rng(0)
  flat = {
    name: np_rng.normal(size=shape, scale=0.3).astype(np.float32)
    for name, shape in shapes.items()
  }
  weights.save(path, weights.unflatten(flat))


@pytest.fixture(name="context")
def _context(tmp_path, monkeypatch, np_rng):
  """A finished run up to the triplets, of random pixels and features."""
  pixels = np_rng.integers(0, 256, (NUM_IMAGES, SIZE, SIZE, 3), np.uint8)
  monkeypatch.setattr(
    stage.sources,
    "open_images",
    lambda *args, **kwargs: collections.ArrayImages(pixels),
  )
  for name in ("features", "triplets/untransformed", "out", "scratch"):
    (tmp_path / name).mkdir(parents=True)
  features = np_rng.normal(size=(NUM_IMAGES, 3)).astype(np.float32)
  artifacts.write_npy(tmp_path / "features" / "collection.npy", features)
  dense_files.write(
    tmp_path / "triplets" / "untransformed", cluster_ids=CLUSTERS
  )
  path = files.path_of(
    tmp_path / "triplets", "untransformed", "train", "cluster_border"
  )
  indices = np.stack([np.arange(20), np.arange(20) + 1, np.arange(20) + 2], 1)
  sims = -np.sort(-np_rng.normal(size=(20, 3)), axis=1).astype(np.float32)
  files.write(path, indices, sims)

  def make(**changes):
    config = make_config(**changes)
    config.student.backbone.weights = str(tmp_path / "given.npz")
    if not (tmp_path / "given.npz").exists():
      make_weights(tmp_path / "given.npz")
    return types.SimpleNamespace(
      config=config,
      out=tmp_path / "out",
      scratch=tmp_path / "scratch",
      logs=None,
      inputs={name: tmp_path / name for name in ("features", "triplets")},
      log=lambda line: None,
    )

  return make


@pytest.fixture(name="no_step")
def _no_step(monkeypatch):
  """No batch of a test may come to a step."""

  def refuse(*args, **kwargs):
    raise AssertionError("a step was taken")

  monkeypatch.setattr(settings.train, "train_step", refuse)


@needs_devices
def test_a_dense_student_is_trained_from_what_the_stages_left(context):
  """Only the head, on the mean patch, on four of the eight by fsdp."""
  given = context(
    batches="dense",
    clusters_per_batch=4,
    images_per_cluster=4,
    num_microbatches=2,
    representation="patch_mean",
    trainable="triplet_head",
    mesh__fsdp=4,
  )
  lines = []
  given.log = lines.append
  metrics = stage.run_student(given)
  assert 0 < metrics["student/loss/control"] < 1
  assert any("mesh data 2 x fsdp 4 x tensor 1" in line for line in lines)
  before = weights.read(given.out / "base.npz")
  after = weights.read(given.out / "control.npz")
  for name, x in before.items():
    np.testing.assert_array_equal(after[name], x, err_msg=name)
  head, representation = models.load_head(given.out / "control_head.npz")
  assert head.weights.shape == (6, 7)
  assert representation == given.config.student.representation
  rows = (given.out / "losses.csv").read_text().splitlines()
  assert len(rows) == 3 and "distance" in rows[0]


@needs_devices
@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"batch_size": 12}, r"batch_size, a batch of 12 cannot be spread over 8"),
    (
      {"batch_size": 16, "num_microbatches": 3},
      r"num_microbatches, 3, equal parts: allowed are the divisors of 16",
    ),
    (
      {"batches": "dense", "clusters_per_batch": 3},
      r"clusters_per_batch x images_per_cluster, .* of 12 ",
    ),
    ({"mesh__fsdp": 3}, "config.student.mesh: 8 devices cannot be arranged"),
    ({"loss": "jds"}, "config.student.loss: Unknown loss 'jds'; known are jsd"),
    (
      {"representation": "pooled"},
      "representation is 'pooled'.*none of this name.*can be compared are"
      " patch_mean, cls, head_input, pre_logits, cls_patch_mean",
    ),
    (
      {"representation": "encoded"},
      r"'encoded'.*has shape \[1, 5, 6\].*one vector per image",
    ),
    ({"trainable": "hed"}, "trainable is 'hed', which is found in the name of"),
    ({"decay_mask": "hed"}, "decay_mask is 'hed', which is found"),
    (
      {"trainable": "encoderblock_1"},
      "config.student.trainable is 'encoderblock_1', which is found in",
    ),
    (
      {"trainable": "backbone", "decay_mask": "triplet_head"},
      "config.student.decay_mask is 'triplet_head', which is found in",
    ),
    (
      {"stop_grad": True, "trainable": "backbone"},
      "trainable is 'backbone', which leaves it out: there is nothing to",
    ),
    (
      {"stop_grad": True, "head_dim": 0},
      "stop_grad is True and config.student.head_dim 0: there is nothing",
    ),
    (
      {
        "batches": "dense",
        "clusters_per_batch": 5,
        "images_per_cluster": 8,
        "num_microbatches": 1,
      },
      "need 5 clusters with 8 images or more; there are 0. Lower one",
    ),
  ],
)
def test_bad_configs_fail_before_the_first_step(
  context, no_step, changes, message
):
  changes = {"num_microbatches": 1, "batch_size": 16, **changes}
  with pytest.raises(artifacts.InputError, match=message):
    stage.run_student(context(**changes))


def test_weights_of_another_model_fail_before_the_first_step(
  context, no_step, tmp_path
):
  make_weights(tmp_path / "given.npz", width=9)
  with pytest.raises(
    artifacts.InputError, match="(?s)given.npz .*does not fit.*embedding"
  ):
    stage.run_student(context())


@needs_devices
def test_a_checkpoint_of_another_student_fails_before_the_first_step(context):
  stage.run_student(context())
  with pytest.raises(artifacts.InputError, match="belongs to another model"):
    stage.run_student(context(head_dim=5))


def test_a_state_without_its_anchor_fails_before_the_first_step():
  params = {"w": jnp.ones(2)}
  mesh = settings.make_mesh(make_config().student, jax.devices()[:1])
  with pytest.raises(artifacts.InputError, match="decay_to_init is 10.0, but"):
    settings.make_state(params, optax.adam(0.1), make_config().student, mesh)
  config = make_config(decay_to_init=0.0).student
  settings.make_state(params, optax.adam(0.1), config, mesh)


def test_models_of_others_compute_in_float32_only():
  class Other(nn.Module):
    def __call__(self, image):
      return image, {"pre_logits": image[:, 0, 0]}

  config = make_config(compute_dtype="bfloat16").student
  with pytest.raises(artifacts.InputError, match="Other, which is no model of"):
    settings.make_student(Other(), config, image_size=SIZE)
  student = settings.make_student(Other(), make_config().student, image_size=4)
  assert student.head_dim == 7


@pytest.mark.slow  # The parts: tests/backbones/test_{blocks,vit}.py.
def test_bfloat16_and_remat_change_the_computation_not_the_parameters():
  """Gradients by both, against those of float32 without remat."""
  image = jax.random.normal(jax.random.key(0), (3, SIZE, SIZE, 3))
  grads = {}
  for dtype, remat in (("float32", False), ("float32", True), ("bfloat16", 0)):
    config = make_config(compute_dtype=dtype, remat=bool(remat)).student
    student = settings.make_student(vit.ViT(**SIZES), config, image_size=SIZE)
    params = jax.jit(student.init)(jax.random.key(1), image)["params"]
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}

    def loss(params, student=student):
      return jnp.sum(jnp.sin(student.apply({"params": params}, image)[0]))

    grads[dtype, bool(remat)] = jax.jit(jax.grad(loss))(params)
  want = grads["float32", False]
  scale = norm(want)
  remat = jax.tree.map(jnp.subtract, grads["float32", True], want)
  assert norm(remat) < 1e-5 * scale
  half = jax.tree.map(jnp.subtract, grads["bfloat16", False], want)
  assert 1e-4 * scale < norm(half) < 0.1 * scale


def norm(tree):
  return float(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)) ** 0.5)


@pytest.mark.parametrize("stop_grad", [False, True])
@pytest.mark.parametrize("trainable", [".*", "triplet_head/kernel"])
def test_what_is_not_trained_stays_bit_for_bit(np_rng, stop_grad, trainable):
  config = make_config(stop_grad=stop_grad, trainable=trainable).student
  config.warmup_steps, config.num_microbatches = 0, 1
  student = settings.make_student(vit.ViT(**SIZES), config, image_size=SIZE)
  image = np_rng.integers(0, 256, (8, 3, SIZE, SIZE, 3), np.uint8)
  params = jax.jit(student.init)(jax.random.key(0), jnp.zeros([1, 4, 4, 3]))
  tx = settings.make_optimizer(config)
  mesh = settings.make_mesh(config, jax.devices()[:1])
  step = settings.make_step(config, student, tx, value_range=(0, 1), mesh=mesh)
  batch = {
    "image": image,
    "target_logprobs": np.log([[0.2, 0.3, 0.5]]).repeat(8, 0).astype("f4"),
  }
  state = settings.make_state(params["params"], tx, config, mesh)
  before = weights.flatten(jax.device_get(state.params))
  for _ in range(2):
    state, metrics = step(state, batch)
  moved = {
    name
    for name, x in weights.flatten(jax.device_get(state.params)).items()
    if np.any(x != before[name])
  }
  if trainable != ".*":
    assert moved == {"triplet_head/kernel"}
    num_moments = len(jax.tree.leaves(state.opt_state))
    assert num_moments < 10
  elif stop_grad:
    assert moved == {"triplet_head/kernel", "triplet_head/bias"}
  else:
    assert "backbone/embedding/kernel" in moved
  assert metrics["distance"] > 0


def test_decay_mask_keeps_the_others_from_their_anchor():
  """A gradient of 0 and a pull: who decays moves, who does not stays."""
  tx = optimizer.make_optimizer(
    lr=0.1, warmup_steps=0, num_steps=9, decay_to_init=0.5, decay_mask="kernel"
  )
  anchor = {"kernel": jnp.array([2.0]), "bias": jnp.array([2.0])}
  state = tx.init(anchor)
  params = {"kernel": jnp.array([4.0]), "bias": jnp.array([4.0])}
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = jax.jit(tx.update)(zeros, state, params)
  np.testing.assert_allclose(updates["kernel"], [-0.1], rtol=1e-6, atol=0)
  np.testing.assert_array_equal(updates["bias"], [0.0])
  # The distance is that of who has an anchor.
  np.testing.assert_allclose(
    optimizer.distance(params, state), 2.0, rtol=1e-6, atol=0
  )
