"""Tests of the configs: each as its user would start it, made small."""

import json
import os
import pathlib
import subprocess
import sys
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from alignet_jax import config as config_lib
from alignet_jax import stages, validate
from alignet_jax.backbones import families, vit, weights
from alignet_jax.backbones import stage as backbone_stage
from alignet_jax.images import opening, pack, preprocess
from alignet_jax.student import model as student_model

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.name for path in (REPOSITORY / "configs").glob("*.py"))

# Configs that distil an aligned teacher, to the width of what triplets compare.
STUDENTS = {
  "cappa_b16": 768,
  "clip_b16": 768,
  "dino_b16": 768,
  "dinov2_b14": 1536,
  "scratch_b16": 768,
  "siglip2_b16": 768,
  "siglip_b16": 768,
  "so400m": 1152,
  "vit_b16": 768,
}

# Width, depth, mlp_dim, num_heads of a "Ti" that compiles in seconds.
SMALL = (32, 2, 64, 2)


def run(*args, program=("-m", "alignet_jax.main"), xla_flags=""):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags}
  return subprocess.run(
    [sys.executable, *program, *args],
    cwd=REPOSITORY,
    env=environment,
    capture_output=True,
    text=True,
    timeout=500,
  )


@pytest.mark.parametrize("name", CONFIGS)
def test_config_loads_and_names_known_stages(name):
  config = config_lib.load(str(REPOSITORY / "configs" / name))
  known = [stage.name for stage in stages.stages()]
  assert set(config.stages) <= set(known)
  assert config.is_locked


def load(name, arg=""):
  return config_lib.load(str(REPOSITORY / "configs" / f"{name}.py") + arg)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_s_config_says_how_it_is_run(name):
  text = (REPOSITORY / "configs" / f"{name}.py").read_text()
  text = text.split('"""')[1]
  command = f"python -m alignet_jax.main --config=configs/{name}.py"
  assert f"  {command} \\\n" in text
  assert f"  {command}:runlocal\n" in text and f"  {command}:control" in text
  for word in ("Hardware: ", "Time", "not measured"):
    assert word in text
  needs_weights = load(name).student.backbone.source == "weights"
  assert ("config.student.backbone.weights=" in text) is needs_weights


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_s_config_is_valid_with_all_arguments(name):
  for arg in ("", ":control", ":runlocal", ":runlocal,control"):
    config = load(name, arg)
    validate.check(config)
    is_control = "control" in arg
    variants = ("control",) if is_control else ("aligned",)
    assert config.student.variants == variants
  recipe, released = load("siglip_b16"), load(name)
  for config in (recipe, released):
    with config.unlocked():
      del config.student.backbone
      del config.report.title
  assert released == recipe


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_is_what_its_config_says(name):
  """At full width, by shapes alone, which is all the same to the depth."""
  settings = load(name).student.backbone.to_dict()
  assert backbone_stage.preprocessing(settings) == preprocess.ALIGNET
  backbone = backbone_stage.make_model(settings).clone(depth=1)
  student = student_model.Student(backbone=backbone, head_dim=1_024)
  shapes = weights.expected_shapes(student, image_size=settings["size"])
  assert shapes["triplet_head/kernel"] == (STUDENTS[name], 1_024)
  patch = shapes["backbone/embedding/kernel"][0]
  num_patches = shapes["backbone/pos_embedding"][1]
  assert num_patches == (224 // patch) ** 2
  own = {"map": "MAPHead_0", "cls": "cls", "gap": None}
  assert (own.get(settings["pool"]) or "embedding") in {
    part for shape in shapes for part in shape.split("/")
  }
  # Small, in the generated world, it keeps what its family is.
  small = load(name, ":runlocal")
  small = small.features.backbone.to_dict()
  full, tiny = (backbone_stage.make_model(x) for x in (settings, small))
  _, fields = families.get(settings["name"])
  kept = {*fields, "pool"} - {"width", "depth", "mlp_dim", "num_heads"}
  for field in kept:
    assert getattr(tiny, field) == getattr(full, field), field
  assert (tiny.width, tiny.depth) == (32, 2)


@pytest.mark.parametrize(
  "name",
  [
    "quickstart.py",
    # Named backbones are run by the full-size path below, too.
    pytest.param("dinov2_b14.py", marks=pytest.mark.slow),
  ],
)
def test_runlocal_runs_the_whole_road(name, tmp_path):
  args = (
    f"--config=configs/{name}:runlocal",
    f"--workdir={tmp_path}",
    "--config.student.variants=aligned,control",
  )
  # Little is computed here, and much compiled.
  done = run(*args, xla_flags="--xla_backend_optimization_level=0")
  assert done.returncode == 0, done.stdout + done.stderr
  results = json.loads((tmp_path / "results.json").read_text())
  for model in ("base", "aligned", "control"):
    for level in ("coarse", "fine", "boundary"):
      assert 0 <= results[f"levels/{level}/{model}"] <= 1
    assert 0 <= results[f"fewshot5/{model}"] <= 1
  page = (tmp_path / "report" / "report.html").read_text()
  assert f"{results['levels/coarse/aligned']:.3f}" in page
  again = run(*args)
  assert again.stdout.count("up to date") == 8, again.stdout
  assert json.loads((tmp_path / "results.json").read_text()) == results


def test_full_size_run_names_every_missing_input(tmp_path):
  done = run("--config=configs/vit_b16.py", f"--workdir={tmp_path / 'w'}")
  assert done.returncode == 2
  for field in (
    "things.triplets_train",
    "things.triplets_test",
    "features.backbone.weights",
    "student.backbone.weights",
    "images.stimuli",
    "images.collection",
  ):
    assert f"config.{field}" in done.stderr
  assert "https://osf.io/f5rn6" in done.stderr
  assert "Traceback" not in done.stderr


def write_images(folder, num_classes, num_per_class, np_rng):
  """Noise in the colour of its class, in a folder per class."""
  for label in range(num_classes):
    (folder / f"n{label:02}").mkdir(parents=True)
    colour = np_rng.integers(256, size=3)
    for index in range(num_per_class):
      noise = np_rng.integers(-40, 40, size=(37, 41, 3))
      pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
      path = folder / f"n{label:02}" / f"{index}.png"
      PIL.Image.fromarray(pixels).save(path)


def pack_images(images, out):
  """Packs a tar of the images below a folder for the student; returns it."""
  path = images.with_suffix(".tar")
  with tarfile.open(path, "w") as tar:
    for file in sorted(images.rglob("*.png")):
      tar.add(file, file.relative_to(images))
  opened = opening.open_collection(path, preprocess.Preprocessing(32))
  pack.pack(out, opened)
  return path


def write_weights(path, pool, subtree=""):
  """Random weights of "Ti/16" for 32 pixels, as big_vision names them."""
  model = vit.from_variant("Ti/16", pool=pool)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  params = params["params"]
  weights.save(path, {subtree: params} if subtree else params)


def test_full_size_path_runs_when_its_inputs_are_given(
  tmp_path, np_rng, monkeypatch
):
  """All eight stages of vit_b16, from files to the report.

  The collection is a tar for the teacher, and packed for the student.
  """
  monkeypatch.setitem(vit.VARIANTS, "Ti", SMALL)
  program = (
    "import sys; from alignet_jax import main;"
    "from alignet_jax.backbones import vit;"
    f"vit.VARIANTS['Ti'] = {SMALL}; sys.exit(main.main())"
  )
  write_images(tmp_path / "images", 3, 7, np_rng)
  collection = pack_images(tmp_path / "images", tmp_path / "packed")
  write_images(tmp_path / "stimuli", 40, 1, np_rng)
  write_weights(tmp_path / "teacher.npz", "map", "img")
  write_weights(tmp_path / "student.npz", "cls")
  write_judgments(tmp_path, np_rng)
  done = run(
    "--config=configs/vit_b16.py",
    f"--workdir={tmp_path / 'w'}",
    f"--config.images.collection={collection}",
    f"--config.student.collection={tmp_path / 'packed'}",
    f"--config.images.stimuli={tmp_path / 'stimuli'}",
    f"--config.features.backbone.weights={tmp_path / 'teacher.npz'}:img",
    "--config.features.backbone.name=big_vision_ti16",
    "--config.features.backbone.pool=map",
    "--config.features.backbone.size=32",
    f"--config.student.backbone.weights={tmp_path / 'student.npz'}",
    "--config.student.backbone.name=augreg_ti16",
    "--config.student.variants=aligned,control",
    "--config.student.backbone.size=32",
    f"--config.things.triplets_train={tmp_path / 'train.txt'}",
    f"--config.things.triplets_test={tmp_path / 'test.npy'}",
    f"--config.things.repeats={tmp_path / 'repeats.npz'}",
    "--config.things.num_objects=40",
    "--config.vice.num_dims=7",
    "--config.vice.batch_size=100",
    "--config.vice.refit_epochs=0",
    "--config.teacher.variants=soft",
    "--config.teacher.strengths=0.01,0.1",
    "--config.teacher.num_folds=2",
    "--config.teacher.batch_size=1000",
    "--config.teacher.num_epochs=2",
    "--config.clusters.num_clusters=3",
    "--config.triplets.num_train=100",
    "--config.triplets.num_val=10",
    "--config.student.head_dim=11",
    "--config.student.batch_size=2",
    "--config.student.num_steps=2",
    "--config.student.warmup_steps=1",
    "--config.report.num_examples=3",
    program=("-c", program),
    # Little is computed here, and much compiled.
    xla_flags="--xla_backend_optimization_level=0",
  )
  assert done.returncode == 0, done.stdout + done.stderr
  results = json.loads((tmp_path / "w" / "results.json").read_text())
  for model in ("zero_shot", "soft", "base", "aligned", "control"):
    assert 0 <= results[f"things/accuracy/{model}"] <= 1
  student = tmp_path / "w" / "student"
  base, aligned = (
    weights.read(student / f"{name}.npz") for name in ("base", "aligned")
  )
  given = weights.read(tmp_path / "student.npz")
  assert base.keys() == aligned.keys() == given.keys()
  kernel = "embedding/kernel"
  np.testing.assert_array_equal(base[kernel], given[kernel])
  assert (aligned[kernel] != given[kernel]).any()
  assert (tmp_path / "w" / "report" / "report.html").exists()


def write_judgments(folder, np_rng):
  """Choices by a hidden embedding of 40 objects, which is returned."""
  hidden = np.abs(np_rng.standard_normal((40, 5))).astype(np.float32)
  triplets = np.array([np_rng.permutation(40)[:3] for _ in range(2_000)])
  sims = hidden @ hidden.T
  i, j, k = triplets.T
  odd = np.argmax([sims[j, k], sims[i, k], sims[i, j]], axis=0)
  orders = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])[odd]
  triplets = np.take_along_axis(triplets, orders, axis=1)
  np.savetxt(folder / "train.txt", triplets[:1_600], fmt="%d")
  np.save(folder / "test.npy", triplets[1_600:])
  np.savez(
    folder / "repeats.npz",
    triplets=triplets[1_600:1_620],
    odd_counts=np_rng.multinomial(30, [0.2, 0.2, 0.6], 20),
  )
  return hidden


def test_things_teacher_on_small_files(tmp_path, np_rng):
  """The teacher's road, on made-up judgments of a hidden embedding."""
  hidden = write_judgments(tmp_path, np_rng)
  features = hidden @ np_rng.standard_normal((5, 12))
  np.save(tmp_path / "features.npy", features.astype(np.float32))
  np.save(tmp_path / "vice.npy", hidden)
  done = run(
    "--config=configs/things_teacher.py",
    f"--workdir={tmp_path / 'w'}",
    f"--config.things.features={tmp_path / 'features.npy'}",
    f"--config.things.triplets_train={tmp_path / 'train.txt'}",
    f"--config.things.triplets_test={tmp_path / 'test.npy'}",
    f"--config.things.vice_embedding={tmp_path / 'vice.npy'}",
    "--config.teacher.batch_size=100",
  )
  assert done.returncode == 0, done.stdout + done.stderr
  results = json.loads((tmp_path / "w" / "results.json").read_text())
  zero_shot = results["things/accuracy/zero_shot"]
  assert results["things/accuracy/soft"] > zero_shot + 0.05
  assert results["things/nll/hard"] < np.log(3)


def test_things_vice_on_small_files(tmp_path, np_rng):
  write_judgments(tmp_path, np_rng)
  args = (
    "--config=configs/things_vice.py",
    f"--workdir={tmp_path / 'w'}",
    f"--config.things.triplets_train={tmp_path / 'train.txt'}",
    f"--config.things.triplets_test={tmp_path / 'test.npy'}",
    f"--config.things.repeats={tmp_path / 'repeats.npz'}",
    "--config.things.num_objects=40",
    "--config.vice.num_dims=7",
    "--config.vice.batch_size=100",
    "--config.vice.search_epochs=10",
    "--config.vice.num_epochs=30",
    "--config.vice.lr=0.03",
    "--config.vice.num_seeds=2",
    "--config.vice.refit_epochs=2",
  )
  done = run(*args)
  assert done.returncode == 0, done.stdout + done.stderr
  results = json.loads((tmp_path / "w" / "results.json").read_text())
  assert results["vice/accuracy"] > 0.7
  assert results["vice/nll"] < 0.8
  assert 1 <= results["vice/num_dimensions"] <= 7
  assert 0 <= results["vice/reproducibility"] <= 1
  assert {"vice/entropy_r", "vice/kl"} <= results.keys()
  # Drawn with .6 for the odd one.
  assert 0.5 < results["noise_ceiling/lower"] < 0.7
  assert results["noise_ceiling/lower"] <= results["noise_ceiling/upper"]
  table = json.loads(
    (tmp_path / "w" / "judgments" / "vice" / "search.json").read_text()
  )
  assert len(table) == 6
  assert sum(row["selected"] for row in table) == 1
  assert run(*args).stdout.count("up to date") == 3
