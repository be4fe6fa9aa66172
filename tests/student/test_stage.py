"""The stage: what of the config reaches the loop, which weights come out."""

import csv
import pathlib
import types

import jax
import ml_collections
import numpy as np
import pytest

from alignet_jax import config as config_lib
from alignet_jax import loop
from alignet_jax.backbones import load, weights
from alignet_jax.images import collections, preprocess
from alignet_jax.student import embedder, losses, settings, stage
from alignet_jax.triplets import files

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
NUM_IMAGES, SIZE, NUM_STEPS = 24, 4, 4
SIZES = {
  "patch_size": 2,
  "width": 6,
  "depth": 1,
  "mlp_dim": 5,
  "num_heads": 3,
}
CHOSEN = {
  "loss": "kl",
  "temperature": 2.0,
  "head_dim": 7,
  "batch_size": 8,
  "num_microbatches": 2,
  "num_steps": NUM_STEPS,
  "lr": 0.03,
  "warmup_steps": 0,
  "decay_to_init": 0.5,
  "clip_norm": 3.0,
  "trainable": "backbone|head",
  "decay_mask": "kernel",
  "checkpoint_every": 50,
  "eval_every": 1,
  "on_bad_loss": "skip",
  "spike_factor": 5.0,
  "profile": (2, 0),
}


@pytest.fixture
def context(tmp_path, monkeypatch):
  """A run up to the triplets; those held out say the opposite of the others."""
  np_rng = np.random.default_rng(4)
  pixels = np_rng.integers(0, 256, (NUM_IMAGES, SIZE, SIZE, 3), np.uint8)
  images = collections.ArrayImages(pixels)
  monkeypatch.setattr(
    stage.sources, "open_images", lambda *args, **kwargs: images
  )
  mesh = settings.sharding.make_mesh(devices=jax.devices()[:1])
  monkeypatch.setattr(stage.settings_lib, "make_mesh", lambda settings: mesh)
  indices = np.argsort(np_rng.random((40, NUM_IMAGES)))[:, :3]
  sims = np.tile(np.array([[4.0, 1.0, 0.0]], np.float32), (40, 1))
  for split, order in (("train", [0, 1, 2]), ("val", [2, 1, 0])):
    path = files.path_of(tmp_path, "aligned", split, "cluster_border")
    files.write(path, indices[:, order], sims)
  config = config_lib.load(str(CONFIGS / "quickstart.py") + ":runlocal")
  config = config.copy_and_resolve_references().unlock()
  config.student.variants = ("aligned",)
  config.student.backbone = ml_collections.ConfigDict(
    {
      **SIZES,
      "source": "random",
      "name": "augreg_b16",
      "pool": "",
      "size": SIZE,
      "preprocessing": "alignet",
    }
  )
  config.student.update(CHOSEN)
  backbone = config.student.backbone.to_dict()
  model = stage.backbone_stage.make_model(backbone)
  shapes = weights.expected_shapes(model, image_size=SIZE)
  params = weights.unflatten(
    {name: np_rng.normal(size=x).astype("f4") for name, x in shapes.items()}
  )
  monkeypatch.setattr(stage, "_base", lambda context: (backbone, params))
  for name in ("out", "scratch"):
    (tmp_path / name).mkdir()
  return types.SimpleNamespace(
    config=config,
    out=tmp_path / "out",
    scratch=tmp_path / "scratch",
    logs=tmp_path / "logs",
    inputs={"features": tmp_path, "triplets": tmp_path},
    images=images,
    log=lambda line: None,
  )


@pytest.fixture
def calls(context, monkeypatch):
  """What the stage gives to the loop, which trains nothing here."""
  found = []
  examples = types.SimpleNamespace(
    batches=object(), describe=object(), units_per_step={"images": 24}
  )

  def train(state, step_fn, batches, **given):
    assert batches is examples.batches
    found[-1] |= {"start": jax.device_get(state.params), **given}
    found[-1]["step"] = step_fn.keywords
    moved = jax.tree.map(lambda x: x + 1, state.params)
    return state.replace(params=moved), [{"loss": 0.5, "accuracy": 0.25}]

  def open_examples(given, transform, images, mesh):
    assert given is context and images is context.images
    found.append({"transform": transform, "examples": examples})
    return examples

  monkeypatch.setattr(stage.loop, "train", train)
  monkeypatch.setattr(stage.data, "open_examples", open_examples)
  return found


def test_the_loop_gets_what_the_config_says(context, calls):
  context.config.student.variants = ("control", "aligned")
  context.config.student.export = "best"
  metrics = stage.run_student(context)
  assert metrics["student/accuracy/control"] == 0.25
  assert [call["transform"] for call in calls] == ["untransformed", "aligned"]
  for call, name in zip(calls, ("control", "aligned"), strict=True):
    assert call["checkpoint_dir"] == context.scratch / name
    assert (call["num_steps"], call["checkpoint_every"]) == (NUM_STEPS, 50)
    found = call["settings"]
    assert found == loop.Settings(
      best_metric="val_loss",
      export="best",
      eval_fn=found.eval_fn,
      eval_every=1,
      on_bad_loss="skip",
      spike_factor=5.0,
      describe_batch=call["examples"].describe,
      metrics_dir=context.logs / name,
      profile=(2, 0),
      units_per_step={"images": 24},
      show_overview=name == "control",
    )
  # Both start from the same weights, and neither from the other's.
  first, second = (call["start"] for call in calls)
  jax.tree.map(np.testing.assert_array_equal, first, second)
  base = weights.read(context.out / "base.npz")
  flat = weights.flatten(first["backbone"])
  for name, x in weights.read(context.out / "aligned.npz").items():
    np.testing.assert_array_equal(base[name], flat[name])
    np.testing.assert_allclose(x, base[name] + 1, rtol=1e-6, atol=1e-6)


def test_the_step_gets_what_the_config_says(context, calls, monkeypatch):
  asked = {}
  real = settings.optimizer.make_optimizer

  def make_optimizer(**given):
    asked.update(given)
    return real(**given)

  monkeypatch.setattr(settings.optimizer, "make_optimizer", make_optimizer)
  stage.run_student(context)
  fields = ("lr", "warmup_steps", "num_steps", "decay_to_init", "clip_norm")
  for name in (*fields, "trainable", "decay_mask"):
    assert asked.pop(name) == CHOSEN[name], name
  assert not asked
  step = calls[0]["step"]
  assert step["loss_fn"] is losses.kl
  for name in ("temperature", "trainable", "num_microbatches"):
    assert step[name] == CHOSEN[name], name
  assert step["images_per_cluster"] == 0
  assert step["mesh"].shape == {"data": 1, "fsdp": 1, "tensor": 1}
  assert step["value_range"] == preprocess.Preprocessing(SIZE)
  assert step["model"].head_dim == 7


def test_the_best_weights_are_exported_and_say_what_they_are(
  context, monkeypatch
):
  """Held-out losses as if the second of four steps had been the best."""
  context.config.student.export = "best"
  lines, seen, values = [], [], [0.7, 0.3, 0.6, 0.5]
  context.log, context.logs = lines.append, None

  def evaluate(params, batches, **given):
    assert next(iter(batches))["mask"].all()
    assert given["temperature"] == 2.0 and given["loss_fn"] is losses.kl
    seen.append(jax.device_get(params))
    return {"loss": values[len(seen) - 1]}

  def step(state, batch, **given):
    """Stands for `train.train_step`, which takes seconds to compile."""
    moved = jax.tree.map(lambda x: x + 1, state.params)
    loss = batch["target_logprobs"].mean() + 9
    return state.replace(params=moved), {"loss": loss, "accuracy": loss}

  monkeypatch.setattr(settings.train, "train_step", step)
  monkeypatch.setattr(stage.heldout, "evaluate", evaluate)
  stage.run_student(context)
  assert len(seen) == NUM_STEPS
  assert "student aligned: of 4 steps, 2 are the best" in lines[-1]
  rows = (context.out / "losses.csv").read_text().splitlines()
  found = [float(row["val_loss"]) for row in csv.DictReader(rows)]
  assert found == values
  for part, name in (("backbone", "aligned"), ("triplet_head", "aligned_head")):
    written = weights.read(context.out / f"{name}.npz")
    for step, params in enumerate(seen, start=1):
      flat = weights.flatten(params[part])
      same = [np.array_equal(written[name], flat[name]) for name in written]
      assert all(same) == (step == 2)
  # The name is enough, but that these sizes are none that were published.
  backbone = load.load("augreg_b16", context.out / "aligned.npz", **SIZES)
  assert backbone.preprocessing == preprocess.Preprocessing(SIZE)
  assert load.load("noted", context.out / "base.npz").model == backbone.model


def test_evaluations_embed_by_the_student_that_they_name(
  context, calls, monkeypatch
):
  stage.run_student(context)
  monkeypatch.setattr(
    embedder.backbone_stage,
    "extract",
    lambda model, params, images, **given: (params, images, given),
  )
  embed = stage.Embedder(context.out)
  assert embed.has("aligned") and not embed.has("control")
  assert embed.size == SIZE
  for name in ("base", "aligned"):
    params, images, given = embed(name, context.images, batch_size=5)
    expected = weights.read(context.out / f"{name}.npz")
    jax.tree.map(
      np.testing.assert_array_equal, weights.flatten(params), expected
    )
    assert images is context.images and given["batch_size"] == 5
