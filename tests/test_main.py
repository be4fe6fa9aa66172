"""The command line: flags, messages, exit codes, stop and go on."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest

from alignet_jax import artifacts, config, main, pipeline

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

CONFIG = """
import ml_collections
from alignet_jax import config as config_lib

def get_config(arg=""):
  arg = config_lib.parse_arg(arg, runlocal=False, seed=0)
  return ml_collections.ConfigDict({
    "seed": arg.seed,
    "stages": ("first", "second"),
    "first": {"num_steps": 5, "lr": 0.5},
    "second": {"on": False},
  })
"""

# The command line with toy stages. The first keeps a checkpoint in its scratch
# folder and prints its steps. With PAUSE it waits after step 2 to be stopped;
# with FLOOD it prints more than a pipe holds.
PROGRAM = """
import os, sys, time
from alignet_jax import artifacts, main, pipeline, stages

def first(context):
  settings, path = context.config.first, context.scratch / "state.json"
  step, x = artifacts.read_json(path) if path.exists() else (0, 1.0)
  while step < settings.num_steps:
    step, x = step + 1, x * (1 - settings.lr) + 0.1
    artifacts.write_json(path, [step, x])
    context.log(f"step {step}" + "!" * int(os.environ.get("FLOOD", "0")))
    if step == 2:
      time.sleep(float(os.environ.get("PAUSE", "0")))
  artifacts.write_json(context.out / "x.json", x)
  return {"toy/x/base": x}

def second(context):
  x = artifacts.read_json(context.inputs["first"] / "x.json")
  return {"toy/x/aligned": 2 * x}

stages.stages = lambda: (
  pipeline.Stage("first", (), ("first",), first),
  pipeline.Stage("second", ("first",), ("second",), second))
main._show_device = lambda: None
sys.exit(main.main())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A working directory with configs/quickstart.py, the default."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(config, "PACKAGE", tmp_path / "site" / "alignet_jax")
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "quickstart.py").write_text(CONFIG, encoding="utf-8")
  return tmp_path


@pytest.fixture
def calls(monkeypatch):
  """The arguments with which `main` runs the pipeline, which does nothing."""
  calls = []

  def run(stages, config, workdir, **settings):
    del settings["before_first"]
    calls.append((config, str(workdir), settings))

  monkeypatch.setattr(pipeline, "run", run)
  return calls


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """Workdir and output of a run that nobody stopped."""
  folder = tmp_path_factory.mktemp("whole")
  (folder / "configs").mkdir()
  (folder / "configs" / "quickstart.py").write_text(CONFIG, encoding="utf-8")
  code, out, err = _finish(cwd=folder)
  assert (code, err) == (0, "")
  return folder / "runs" / "quickstart", out


def _start(*arguments, cwd=None, **environment):
  return subprocess.Popen(
    [sys.executable, "-c", PROGRAM, *arguments],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**ENVIRONMENT, **environment},
    cwd=cwd,
  )


def _finish(*arguments, cwd=None):
  with _start(*arguments, cwd=cwd) as process:
    out, err = process.communicate()
  return process.returncode, out, err


def test_the_defaults_are_the_quickstart_in_a_folder_of_its_name(
  folder, calls, capsys
):
  assert main.main([]) == 0
  ((settings, workdir, options),) = calls
  assert settings.first.num_steps == 5
  assert workdir == str(folder / "runs" / "quickstart")
  assert options == {"only": None}
  assert capsys.readouterr().out == (
    f"config configs/quickstart.py, workdir {workdir}, seed 0\n"
  )


@pytest.mark.parametrize(
  ("argument", "name"),
  [
    ("configs/quickstart.py:runlocal", "quickstart-runlocal"),
    ("configs/quickstart.py:runlocal,seed=2", "quickstart-runlocal-seed=2"),
    ("configs/quickstart.py:", "quickstart"),
  ],
)
def test_the_argument_of_the_config_is_part_of_the_default_workdir(
  folder, calls, argument, name
):
  assert main.main([f"--config={argument}"]) == 0
  assert calls[0][1] == str(folder / "runs" / name)


def test_a_path_in_the_argument_stays_inside_runs():
  assert str(main._default_workdir("a/b.py:x=../c/d")) == "runs/b-x=..-c-d"


@pytest.mark.parametrize("form", ["=", " "])
def test_flags_and_fields_in_both_forms(folder, calls, form):
  arguments = [
    f"--workdir{form}out",
    f"--config{form}configs/quickstart.py:seed=4",
    f"--stages{form}second,first",
    f"--config.first.lr{form}-1e-3",
    f"--config.first.num_steps{form}7",
    f"--config.first.num_steps{form}8",
    f"--config.second.on{form}true",
  ]
  split = [part for item in arguments for part in item.split(" ")]
  assert main.main(split) == 0
  ((settings, workdir, options),) = calls
  assert workdir == str(folder / "out")
  assert options == {"only": ["second", "first"]}
  assert settings.seed == 4
  assert settings.first.lr == -1e-3
  assert settings.first.num_steps == 8
  assert settings.second.on is True


def test_a_value_may_be_empty_or_hold_equal_signs():
  rest, overrides = main._split_overrides(
    ["--config.a=", "--config.b=x=y", "-config.c=--d", "--config=e", "f"]
  )
  assert overrides == {"a": "", "b": "x=y", "c": "--d"}
  assert rest == ["--config=e", "f"]


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (["--confg=x"], r"'confg'. Did you mean: config"),
    (["--config=configs/quikstart.py"], r"nearest one is configs/quickstart"),
    (["--config=configs/quickstart.py:run"], r"Did you mean 'runlocal'"),
    (["--config.frst.lr=1"], r"Did you mean config.first\?"),
    (["--config.first.lr=fast"], r"config.first.lr is a float"),
    (["--config.first.lr"], r"--config.first.lr has no value; write"),
    (["--config.second.on", "--stages=first"], r"on has no value; write"),
    (["--workdir"], r"Missing value for flag --workdir"),
    (["quickstart"], r"unexpected argument 'quickstart'"),
    (["--stages=frist"], r"no stage 'frist'"),
    (["--stages="], r"--stages is empty.* There are: first, second\."),
    (["--stages=,"], r"--stages is empty"),
    (["--config="], r"No config file is named.* There are: configs/quick"),
    (["--config=:runlocal"], r"No config file is named"),
    (["--config.seed=-1"], r"config.seed is -1; allowed are"),
    (["--workdir=configs/quickstart.py"], r"workdir .* cannot be made"),
  ],
)
def test_what_is_given_wrong_is_told_in_one_message(
  folder, monkeypatch, capsys, arguments, sentence
):
  toys = tuple(pipeline.Stage(n, (), (), None) for n in ("first", "second"))
  monkeypatch.setattr(main.stages_lib, "stages", lambda: toys)
  assert main.main(arguments) == 2
  captured = capsys.readouterr()
  assert captured.err.startswith("error: ")
  assert re.search(sentence, captured.err)
  assert "Traceback" not in captured.err


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_names_all_flags(capsys, flag):
  assert main.main(["--workdir=x", flag]) == 0
  out = capsys.readouterr().out
  for name in ("--config=FILE", "--workdir", "--stages", "--config.FIELD"):
    assert name in out


def test_the_help_works_as_a_module(tmp_path):
  run = subprocess.run(
    [sys.executable, "-m", "alignet_jax.main", "--help"],
    capture_output=True,
    text=True,
    check=True,
    env=ENVIRONMENT,
    cwd=tmp_path,
  )
  assert run.stdout.startswith("Runs AligNet")


def test_a_reader_that_leaves_the_help_sees_no_traceback(tmp_path):
  reading, writing = os.pipe()
  os.close(reading)
  run = subprocess.run(
    [sys.executable, "-m", "alignet_jax.main", "--help"],
    stdout=writing,
    stderr=subprocess.PIPE,
    text=True,
    env=ENVIRONMENT,
    cwd=tmp_path,
    check=False,
  )
  os.close(writing)
  assert run.stderr == ""


def test_missing_inputs_are_told_quickly_and_without_traceback(
  folder, capsys, monkeypatch
):
  missing = artifacts.ExternalInput("first.path", None, "see page P")
  stage = pipeline.Stage("first", (), (), None, lambda config: [missing])
  monkeypatch.setattr(main.stages_lib, "stages", lambda: (stage,))
  assert main.main(["--config.stages=first"]) == 2
  captured = capsys.readouterr()
  assert captured.err == (
    "error: 1 input is missing:\n"
    "  config.first.path is not set\n    see page P\n"
  )


def test_an_error_of_the_program_keeps_its_traceback(folder, monkeypatch):
  def fail(context):
    raise FileNotFoundError("a bug")

  stage = pipeline.Stage("first", (), (), fail)
  monkeypatch.setattr(main.stages_lib, "stages", lambda: (stage,))
  monkeypatch.setattr(main, "_show_device", lambda: None)
  with pytest.raises(FileNotFoundError, match="a bug"):
    main.main(["--config.stages=first"])


def test_a_full_disk_is_told_without_traceback(folder, monkeypatch, capsys):
  if not os.path.exists("/dev/full"):
    pytest.skip("needs /dev/full")

  def fill(context):
    with open("/dev/full", "wb") as f:
      f.write(b"x" * 10)

  stage = pipeline.Stage("first", (), (), fill)
  monkeypatch.setattr(main.stages_lib, "stages", lambda: (stage,))
  monkeypatch.setattr(main, "_show_device", lambda: None)
  assert main.main(["--config.stages=first"]) == 1
  captured = capsys.readouterr()
  assert captured.out.endswith("first: failed\n")
  assert captured.err.startswith("error: No space left on device.")


def test_the_device_is_shown(capsys):
  main._show_device()
  assert re.fullmatch(r"device \d+ x \w+.*\n", capsys.readouterr().out)


def test_a_run_ends_with_the_table_and_the_next_one_skips_all(whole):
  workdir, first = whole
  # x / 2 + 0.1, five times from 1: 0.6, 0.4, 0.3, 0.25, 0.225.
  path = workdir / "results.json"
  end = f"         base  aligned\ntoy/x  0.2250   0.4500\n\nresults: {path}\n"
  assert first.endswith(end)
  assert json.loads(path.read_text()) == pytest.approx(
    {"toy/x/base": 0.225, "toy/x/aligned": 0.45}, rel=1e-12, abs=0
  )
  code, second, _ = _finish(cwd=workdir.parent.parent)
  assert code == 0
  assert "first: up to date\nsecond: up to date\n" in second
  assert second.endswith(end)


@pytest.mark.parametrize(
  ("number", "code"),
  [
    (signal.SIGINT, 130),
    (signal.SIGTERM, 0),
    (signal.SIGKILL, -signal.SIGKILL),
  ],
)
def test_a_stopped_run_goes_on_and_ends_as_an_undisturbed_one(
  folder, whole, number, code
):
  with _start("--workdir=run", PAUSE="600") as process:
    for line in process.stdout:
      if line == "step 2\n":
        break
    process.send_signal(number)
    rest, err = process.communicate()
  assert process.returncode == code
  assert err == ""
  if number != signal.SIGKILL:
    assert rest.endswith(
      "stopped in stage first; the same command goes on from there\n"
    )
  assert not (folder / "run" / "results.json").exists()
  code, resumed, _ = _finish("--workdir=run")
  assert code == 0
  assert "step 1\n" not in resumed
  assert "step 2\n" not in resumed
  assert "step 5\n" in resumed
  table = slice(-5, -1)
  assert resumed.splitlines()[table] == whole[1].splitlines()[table]
  for name in ("results.json", "first/x.json"):
    expected = (whole[0] / name).read_bytes()
    assert (folder / "run" / name).read_bytes() == expected


def test_a_second_run_in_the_same_workdir_is_refused(folder):
  with _start("--workdir=run", PAUSE="600") as process:
    try:
      for line in process.stdout:
        if line == "step 2\n":
          break
      code, _, err = _finish("--workdir=run")
      assert code == 2
      assert f"in use by process {process.pid} " in err
    finally:
      process.kill()


def test_a_reader_that_leaves_ends_the_run_quietly(folder):
  with _start(FLOOD="1000000") as process:
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
  assert process.returncode == 1
  assert err == ""


@pytest.mark.parametrize("wait", ["nan", "inf", "-1", "604801"])
def test_a_time_to_wait_that_is_none(folder, calls, capsys, wait):
  flags = ["--coordinator=localhost:1", "--num_processes=2", "--process_id=1"]
  assert main.main([*flags, f"--wait={wait}"]) == 2
  assert "allowed are 0 to 604800 seconds" in capsys.readouterr().err
  assert calls == []


def test_a_port_that_is_none(folder, calls, capsys):
  flags = ["--num_processes=2", "--process_id=0"]
  assert main.main(["--coordinator=localhost:99999", *flags]) == 2
  assert "with a port from 1 to 65535" in capsys.readouterr().err


def test_numbers_of_processes_need_a_coordinator(folder, calls, capsys):
  assert main.main(["--process_id=1"]) == 2
  assert "need --coordinator=HOST:PORT" in capsys.readouterr().err
  assert calls == []


def test_a_missing_process_is_named_before_anything_runs(folder, calls, capsys):
  with socket.create_server(("localhost", 0)) as free:
    port = free.getsockname()[1]
  flags = [f"--coordinator=localhost:{port}", "--num_processes=2"]
  assert main.main([*flags, "--process_id=0", "--wait=0.2"]) == 2
  assert "Process 1 of 2 did not call in within 0.2 s" in (
    capsys.readouterr().err
  )
  assert calls == []
