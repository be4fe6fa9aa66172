"""launch/gpu.sh with an imaginary nvidia-smi and environment."""

import os
import pathlib
import shlex
import shutil
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent

FOUR_GPUS = 'for i in 0 1 2 3; do echo "GPU $i: Imaginary (UUID: GPU-$i)"; done'

# Stands for Python: writes down what it was started with, and ends as asked.
PYTHON = r"""#!/bin/bash
name=$(printf '%s\n' "$@" | sed -n 's/^--process_id=//p')
{ echo "$CUDA_VISIBLE_DEVICES $XLA_PYTHON_CLIENT_MEM_FRACTION $JAX_PLATFORMS"
  printf '%s\n' "$@"
} >"$OUT/started-${name:-only}"
trap 'echo "$name" >"$OUT/ended-$name"; exit 143' TERM
if [ "$name" = "$FAILS" ]; then exit 7; fi
for i in $(seq "${STAYS:-0}"); do sleep 0.1; done
"""


@pytest.fixture
def gpu(tmp_path):
  """Runs the script in a copy whose set-up installs nothing."""
  launch = tmp_path / "repository" / "launch"
  shutil.copytree(REPOSITORY / "launch", launch)
  python = tmp_path / "python"
  with open(launch / "setup_env.sh", "a") as f:
    f.write(f"\nsetup_environment() {{ VENV_PYTHON={python}; }}\n")
  (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{FOUR_GPUS}\n")
  python.write_text(PYTHON)
  for name in ("nvidia-smi", "python"):
    (tmp_path / name).chmod(0o755)

  def start(*arguments, **settings):
    env = {
      name: value
      for name, value in os.environ.items()
      if not name.startswith(("ALIGNET_", "CUDA_", "DRY_RUN", "JAX_"))
    }
    env |= {
      "PATH": f"{tmp_path}{os.pathsep}{env['PATH']}",
      "OUT": str(tmp_path),
      "FAILS": "none",
      **settings,
    }
    return subprocess.run(
      ["/bin/bash", str(launch / "gpu.sh"), *arguments],
      cwd=tmp_path,
      env=env,
      capture_output=True,
      text=True,
      check=False,
      timeout=60,
    )

  start.folder = tmp_path
  return start


def commands(done):
  assert done.returncode == 0, done.stderr
  return [shlex.split(line) for line in done.stdout.splitlines()]


def test_one_process_takes_all_gpus(gpu):
  (words,) = commands(gpu("--config=a b.py", DRY_RUN="1"))
  assert words == [
    "env",
    "JAX_PLATFORMS=cuda",
    "XLA_PYTHON_CLIENT_MEM_FRACTION=0.9",
    "CUDA_VISIBLE_DEVICES=0,1,2,3",
    str(gpu.folder / "python"),
    *("-m", "alignet_jax.main", "--config=a b.py"),
  ]
  done = gpu("--gpus=2", "--memory=0.5", "--", "--config=a b.py")
  assert done.returncode == 0, done.stderr
  started = (gpu.folder / "started-only").read_text().splitlines()
  assert started == ["2 0.5 cuda", "-m", "alignet_jax.main", "--config=a b.py"]


def test_the_gpus_of_the_environment_are_the_default(gpu):
  (words,) = commands(gpu(DRY_RUN="1", CUDA_VISIBLE_DEVICES="3,1"))
  assert "CUDA_VISIBLE_DEVICES=3,1" in words


def test_flags_may_have_a_space_and_stand_anywhere(gpu):
  (words,) = commands(
    gpu("--gpus", "0", "--config=a.py", "--memory", "0.5", "-x", DRY_RUN="1")
  )
  assert "CUDA_VISIBLE_DEVICES=0" in words
  assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.5" in words
  assert words[-2:] == ["--config=a.py", "-x"]
  (words,) = commands(gpu("--gpus=GPU-3,1", "--", "--gpus", "0", DRY_RUN="1"))
  assert "CUDA_VISIBLE_DEVICES=GPU-3,1" in words
  assert words[-2:] == ["--gpus", "0"]


def test_an_environment_that_hides_all_gpus_is_obeyed(gpu):
  done = gpu(DRY_RUN="1", CUDA_VISIBLE_DEVICES="")
  assert done.returncode == 1 and "CUDA_VISIBLE_DEVICES" in done.stderr
  assert "no GPU may be used" in done.stderr
  (words,) = commands(gpu("--gpus=1", DRY_RUN="1", CUDA_VISIBLE_DEVICES=""))
  assert "CUDA_VISIBLE_DEVICES=1" in words


def test_processes_share_the_gpus_and_know_of_each_other(gpu):
  arguments = ("--processes=2", "--gpus=3,0,2,1", "--port=99", "--stages=a")
  first, second = commands(gpu(*arguments, DRY_RUN="1"))
  assert "CUDA_VISIBLE_DEVICES=3,0" in first
  assert "CUDA_VISIBLE_DEVICES=2,1" in second
  assert first[-4:] == [
    "--stages=a",
    "--coordinator=localhost:99",
    "--num_processes=2",
    "--process_id=0",
  ]
  assert second[-1] == "--process_id=1"
  assert gpu(*arguments).returncode == 0
  assert (gpu.folder / "started-0").exists()
  assert (gpu.folder / "logs" / "gpu-1.log").exists()


def test_when_one_process_fails_the_others_are_ended(gpu):
  done = gpu("--processes=2", FAILS="1", STAYS="400")
  assert done.returncode == 7
  assert "process 1 ended with code 7; see logs/gpu-1.log" in done.stderr
  assert (gpu.folder / "ended-0").exists()


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (["--gpus=4"], "--gpus names GPU 4; this machine has 0 to 3"),
    (["--gpus=0,x"], "write numbers, such as 0,1"),
    (["--processes=3"], "a divisor of the number of GPUs, which is 4"),
    (["--processes=0"], "--processes is '0'"),
    (["--gpus=1,0,1"], "--gpus names GPU 1 twice"),
    (["--gpus=0,00"], "without zeros before them"),
    (["--gpus="], "no GPU may be used"),
    (["--gpus=1,GPU-1"], "--gpus names GPU 1 twice"),
    (["--gpus=GPU-2,GPU-2"], "--gpus names GPU 2 twice"),
    (["--gpus=GPU-7"], "--gpus names GPU-7; `nvidia-smi -L` must list one"),
    (["--gpus=GPU-"], "--gpus names GPU-; `nvidia-smi -L` must list one"),
    (["--gpus", "4"], "--gpus names GPU 4; this machine has 0 to 3"),
    (["--config=a.py", "--gpus=4"], "--gpus names GPU 4; this machine"),
    (["--config=a.py", "--gpus"], "--gpus has no value; write --gpus=VALUE"),
    (["--port=65536"], "--port is '65536'; allowed are 1 to 65535"),
    (["--port=x"], "--port is 'x'; a whole number from 1 is needed"),
    (["--memory=2"], "--memory is '2'; allowed are 0.01 to 1"),
    (["--memory=0.x"], "--memory is '0.x'"),
  ],
)
def test_what_is_wrong_is_said(gpu, arguments, sentence):
  done = gpu(*arguments, DRY_RUN="1")
  assert done.returncode == 1
  assert sentence in done.stderr


def test_without_a_gpu_it_names_the_script_that_needs_none(gpu):
  (gpu.folder / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
  done = gpu("--config=x.py")
  assert done.returncode == 1
  assert "no NVIDIA GPU was found" in done.stderr
  assert "bash launch/local.sh" in done.stderr


def test_help_does_nothing(gpu):
  done = gpu("--help")
  assert done.stdout.startswith("Usage: bash launch/gpu.sh")
  assert not (gpu.folder / "started-only").exists()
