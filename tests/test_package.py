"""Importing is light, versions agree, and nothing reads pickle."""

import pathlib
import re
import runpy
import subprocess
import sys
import types

import pytest
from packaging import requirements, utils

import alignet_jax

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def modules_added_by(statement):
  """Top-level names of the modules that a fresh Python imports for it."""
  code = (
    "import sys; before = set(sys.modules)\n"
    f"{statement}\n"
    "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
  )
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c", code],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return set(done.stdout.split())


def run_setup(monkeypatch):
  """Runs setup.py without setuptools; returns the arguments of its setup()."""
  received = {}
  fake = types.SimpleNamespace(
    setup=received.update, find_namespace_packages=lambda include: include
  )
  monkeypatch.setitem(sys.modules, "setuptools", fake)
  runpy.run_path(str(REPOSITORY / "setup.py"))
  return received


def test_importing_the_package_imports_nothing_else():
  assert modules_added_by("import alignet_jax") == {"alignet_jax"}


def test_train_step_batches_and_backbones_need_no_optional_library():
  # In one process: importing JAX takes most of its time.
  added = modules_added_by(
    "from alignet_jax.student import train; "
    "from alignet_jax.triplets import dataset, stage; "
    "from alignet_jax.backbones import load"
  )
  assert "jax" in added
  optional = {
    "tensorflow",
    "safetensors",
    "huggingface_hub",
    "torch",
    "big_vision",
  }
  assert not optional & added


def test_setup_has_the_version_of_the_package(monkeypatch):
  assert run_setup(monkeypatch)["version"] == alignet_jax.__version__


def test_configs_are_installed_inside_the_package(monkeypatch):
  arguments = run_setup(monkeypatch)
  assert "alignet_jax.configs" in arguments["packages"]
  folder = arguments["package_dir"]["alignet_jax.configs"]
  assert (REPOSITORY / folder / "quickstart.py").is_file()


def test_constraints_pin_every_dependency_within_its_bound(monkeypatch):
  arguments = run_setup(monkeypatch)
  lines = (REPOSITORY / "launch" / "constraints.txt").read_text().splitlines()
  pins = {}
  for line in lines:
    if not line.startswith("#"):
      name, version = line.split("==")
      pins[utils.canonicalize_name(name)] = version
  needed = arguments["install_requires"] + arguments["extras_require"]["test"]
  for text in needed:
    requirement = requirements.Requirement(text)
    pin = pins[utils.canonicalize_name(requirement.name)]
    assert pin in requirement.specifier, f"{text}, but {pin} is tested"


def python_files():
  files = sorted((REPOSITORY / "alignet_jax").rglob("*.py"))
  assert len(files) > 1
  return files


@pytest.mark.parametrize(
  "pattern",
  [
    r"allow_pickle\s*=\s*(?!False)",
    r"^\s*(import|from)\s+(pickle|dill|cloudpickle|joblib|shelve)\b",
    # But for the command that a message gives, which reads tensors only.
    r"torch\.load\((?!'\{file\}', map_location='cpu', weights_only=True)"
    r"|read_pickle",
  ],
)
def test_nothing_reads_pickle(pattern):
  found = [
    f"{path.relative_to(REPOSITORY)}: {match[0].strip()}"
    for path in python_files()
    for match in re.finditer(pattern, path.read_text(), re.MULTILINE)
  ]
  assert not found
