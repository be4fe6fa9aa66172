"""The set-up of launch/*.sh: what it detects, refuses, installs and repeats.

Nothing is installed: either ALIGNET_DRY_RUN=1 prints the commands, or the
function that would install is replaced.
"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
LOCAL = str(REPOSITORY / "launch" / "local.sh")
TEST = str(REPOSITORY / "launch" / "test.sh")
SETUP = str(REPOSITORY / "launch" / "setup_env.sh")

NO_GPU = "exit 9"  # what nvidia-smi does where the driver is not loaded
ONE_GPU = 'echo "GPU 0: Imaginary (UUID: GPU-0)"'


@pytest.fixture
def programs(tmp_path):
  """Folder that comes first on the PATH; its nvidia-smi finds nothing."""
  folder = tmp_path / "bin"
  folder.mkdir()
  write_program(folder / "nvidia-smi", NO_GPU)
  return folder


def write_program(path, script):
  path.write_text(f"#!/bin/sh\n{script}\n")
  path.chmod(0o755)


def bash(programs, *arguments, cwd=None, only_programs=False, **settings):
  """Runs bash without the caller's settings; returns the finished process."""
  env = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("ALIGNET_", "TPU_", "JAX_"))
  }
  rest = "" if only_programs else os.pathsep + env["PATH"]
  env |= {
    "PATH": f"{programs}{rest}",
    "ALIGNET_VENV": str(programs.parent / "venv"),
    "ALIGNET_PYTHON": sys.executable,
    **settings,
  }
  env = {name: value for name, value in env.items() if value is not None}
  return subprocess.run(
    ["/bin/bash", *arguments],
    cwd=cwd,
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )


def dry_run(programs, script, *arguments, **settings):
  """The commands that a launch script would run, each as a list of words."""
  done = bash(programs, script, *arguments, ALIGNET_DRY_RUN="1", **settings)
  assert done.returncode == 0, done.stderr
  return [shlex.split(line) for line in done.stdout.splitlines()]


def installed_target(commands):
  (install,) = [words for words in commands if "install" in words]
  return install[install.index("-e") + 1]


@pytest.mark.parametrize("script", [LOCAL, TEST])
def test_help_names_the_settings_and_does_nothing(programs, script):
  done = bash(programs, script, "--help", ALIGNET_DRY_RUN="1")
  assert done.returncode == 0
  assert done.stdout.startswith(
    f"Usage: bash launch/{pathlib.Path(script).name}"
  )
  for name in ["ACCELERATOR", "VENV", "PYTHON", "USE_UV", "DRY_RUN"]:
    assert f"ALIGNET_{name}" in done.stdout
  assert not (programs.parent / "venv").exists()


def test_without_arguments_the_quickstart_runs_after_the_setup(
  programs, tmp_path
):
  commands = dry_run(programs, LOCAL, cwd=tmp_path)
  venv = str(tmp_path / "venv")
  python = f"{venv}/bin/python"
  assert commands[0] == [sys.executable, "-m", "venv", venv]
  assert commands[1][2:5] == [python, "-m", "pip"]
  assert installed_target(commands) == "."
  assert commands[2] == [
    python,
    "-m",
    "alignet_jax.main",
    "--config=configs/quickstart.py",
    "--workdir=runs/quickstart",
  ]
  assert len(commands) == 3
  assert not (tmp_path / "venv").exists()


def test_arguments_reach_main_unchanged(programs):
  given = ["--workdir=two words", "--config=a.py:b,c=1", "$HOME", ""]
  commands = dry_run(programs, LOCAL, *given)
  assert commands[-1][1:] == ["-m", "alignet_jax.main", *given]


def test_tests_install_their_extra_and_pass_arguments_on(programs):
  commands = dry_run(programs, TEST, "-k", "two words")
  assert installed_target(commands) == ".[test]"
  assert [words[2:] for words in commands if "ruff" in words] == [
    ["ruff", "check"],
    ["ruff", "format", "--check"],
  ]
  assert commands[-1][2] == "pytest"
  assert commands[-1][-2:] == ["-k", "two words"]


@pytest.mark.parametrize("script", [LOCAL, TEST])
def test_unknown_accelerator_is_refused_with_the_known_ones(programs, script):
  done = bash(programs, script, ALIGNET_ACCELERATOR="cuda")
  assert done.returncode == 1
  assert "'cuda'; allowed are cpu, gpu and tpu." in done.stderr
  assert not done.stdout


@pytest.mark.parametrize(
  ("nvidia_smi", "setting", "target"),
  [
    (NO_GPU, None, "."),
    (ONE_GPU, None, ".[gpu]"),
    ("echo No devices found", None, "."),
    (ONE_GPU, "cpu", "."),
    (NO_GPU, "gpu", ".[gpu]"),
    (ONE_GPU, "tpu", ".[tpu]"),
  ],
)
def test_accelerator_is_detected_unless_given(
  programs, nvidia_smi, setting, target
):
  write_program(programs / "nvidia-smi", nvidia_smi)
  commands = dry_run(programs, LOCAL, ALIGNET_ACCELERATOR=setting)
  assert installed_target(commands) == target


@pytest.mark.parametrize(
  ("node", "vendor", "device_class", "settings", "found"),
  [
    ("accel0", "0x1ae0", "0xff0000", {}, "tpu"),
    ("vfio/0", "0x1ae0", "0x120000", {}, "tpu"),
    ("vfio/0", "0x1ae0", "0x020000", {}, "cpu"),  # Google's network card
    ("accel0", "0x8086", "0x120000", {}, "cpu"),  # another maker's
    ("accel0", "0x8086", "0x120000", {"TPU_NAME": "me"}, "tpu"),
    ("null", "0x1ae0", "0xff0000", {"TPU_NAME": "me"}, "cpu"),
  ],
)
def test_tpu_needs_a_device_node_and_a_sign_of_google(
  programs, tmp_path, node, vendor, device_class, settings, found
):
  path = tmp_path / "root" / "dev" / node
  path.parent.mkdir(parents=True)
  path.touch()
  device = (
    tmp_path / "root" / "sys" / "bus" / "pci" / "devices" / "0000:00:05.0"
  )
  device.mkdir(parents=True)
  (device / "vendor").write_text(vendor + "\n")
  (device / "class").write_text(device_class + "\n")
  done = bash(
    programs,
    "-c",
    f'. "{SETUP}"; detect_accelerator "{tmp_path}/root"',
    **settings,
  )
  assert done.stdout == f"{found}\n"


@pytest.mark.parametrize(
  ("version", "pinned"),
  [("3.11.7", True), ("3.12.1", False), ("3.13.0", False)],
)
def test_constraints_hold_for_the_tested_python_only(programs, version, pinned):
  # Any Python that calls itself by that version and else runs the real one.
  write_program(
    programs / "python",
    f'case "$2" in *version_info*) echo {version} ;;\n'
    f'*) exec "{sys.executable}" "$@" ;; esac',
  )
  commands = dry_run(programs, LOCAL, ALIGNET_PYTHON=str(programs / "python"))
  (install,) = [words for words in commands if "install" in words]
  assert ("launch/constraints.txt" in install) is pinned


def test_no_suitable_python_is_an_error_that_lists_what_was_found(programs):
  for name in ["dirname", "cat", "grep", "ls"]:
    (programs / name).symlink_to(shutil.which(name))
  write_program(programs / "python3.11", "exit 127")  # a stand-in
  write_program(programs / "python3", "echo 3.9.2")
  write_program(
    programs / "python3.13", 'case "$2" in *ens*) exit 1; esac; echo 3.13.5'
  )
  done = bash(programs, LOCAL, only_programs=True, ALIGNET_PYTHON=None)
  assert done.returncode == 1
  assert "needs Python 3.11, 3.12 or 3.13" in done.stderr
  assert "python3.11: does not run" in done.stderr
  assert "python3: version 3.9.2" in done.stderr
  assert "apt-get install python3.13-venv" in done.stderr
  assert "To install it:" in done.stderr


def test_a_foreign_folder_is_not_made_an_environment(programs, tmp_path):
  (tmp_path / "venv").mkdir()
  (tmp_path / "venv" / "thesis.tex").touch()
  done = bash(programs, LOCAL, ALIGNET_DRY_RUN="1")
  assert done.returncode == 1
  assert "is not empty and not a Python environment" in done.stderr
  assert (tmp_path / "venv" / "thesis.tex").exists()


@pytest.fixture
def setup_run(programs, tmp_path):
  """Runs the set-up in an empty environment; `how` replaces the installer."""
  subprocess.run(
    [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")],
    check=True,
  )

  def run(purpose="run", how='echo "installs $1" >&2', **settings):
    code = (
      f'set -euo pipefail; . "{SETUP}"; install_package() {{ {how}; }}; '
      f"setup_environment {purpose}"
    )
    return bash(programs, "-c", code, **settings)

  return run


def test_installation_is_skipped_until_something_changes(setup_run):
  assert "installs \n" in setup_run().stderr
  assert "installs" not in setup_run().stderr
  assert "installs test\n" in setup_run("test").stderr
  assert "installs" not in setup_run("test").stderr
  assert "installs" not in setup_run().stderr  # the tests need more
  assert "installs gpu\n" in setup_run(ALIGNET_ACCELERATOR="gpu").stderr
  done = setup_run("test", ALIGNET_ACCELERATOR="gpu")
  assert "installs gpu,test\n" in done.stderr
  assert "warning: JAX does not see the GPU" in done.stderr


@pytest.mark.parametrize("how", ["kill -KILL $$", "exit 1", "return 1"])
def test_installation_is_repeated_after_one_that_did_not_end(setup_run, how):
  assert setup_run("test").returncode == 0
  done = setup_run("run", how, ALIGNET_ACCELERATOR="gpu")
  assert done.returncode != 0
  assert "alignet: installed" not in done.stderr
  assert "installs test\n" in setup_run("test").stderr
