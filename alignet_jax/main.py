"""Runs AligNet: from human judgments to an aligned vision model.

Usage:
  python -m alignet_jax.main [--config=FILE[:arg]] [--workdir=DIR]
      [--stages=a,b] [--config.FIELD=VALUE ...]

  --config        The experiment. Default: configs/quickstart.py. What follows
                  the colon is its argument, such as :runlocal,seed=1.
  --workdir       Folder for all that the run writes. Default: runs/<name of the
                  config file>[-<argument>].
  --stages        Runs these stages only, separated by commas. What they read
                  must be up to date. Default: all that have to run.
  --config.FIELD  Sets one field of the config, such as
                  --config.teacher.num_steps=100. May be repeated.

On several hosts, start the same command on each, with a workdir that all see:
  --coordinator   HOST:PORT of process 0, or auto where JAX finds the processes
                  by itself (TPU pods, Slurm, Open MPI).
  --num_processes How many there are; not with auto.
  --process_id    Which this is, from 0; not with auto.
  --wait          Seconds to wait for the others. Default: 300.

A stage runs if its part of the config, what it reads, or its input files have
changed; to run one again all the same, delete its folder in the workdir. Stop a
run whenever you like, or kill it: the same command goes on from there.

Exit codes: 0 all is up to date, or SIGTERM stopped the run and what was done is
saved, as the last line then says; 1 failed; 2 something that was given is wrong
or missing; 130 stopped by Ctrl-C.
"""

import contextlib
import errno
import os
import pathlib
import re
import signal
import sys
import threading
import traceback

from absl import flags

from alignet_jax import (
  artifacts,
  distributed,
  manifest,
  pipeline,
  progress,
  validate,
)
from alignet_jax import config as config_lib
from alignet_jax import stages as stages_lib

DEFAULT_CONFIG = "configs/quickstart.py"

# Seconds: a week.
MAX_WAIT = 604_800

HELP = ("-h", "--help", "-help", "--helpfull", "--helpshort")

# Errors of the disk that only the user can mend.
DISK_ERRORS = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
)


def main(argv=None):
  """Runs the command line.

  Args:
    argv: The arguments after the program's name; `sys.argv[1:]` if None.

  Returns:
    The exit code; see the module.
  """
  argv = sys.argv[1:] if argv is None else list(argv)
  try:
    code = _main(argv)
  except Exception:
    if distributed.process_count() == 1:
      raise
    traceback.print_exc()
    distributed.fail(traceback.format_exc().splitlines()[-1])
  if distributed.process_count() > 1:
    if code in (1, 2):
      distributed.fail("its error is in its own output", code)
    distributed.shut_down()
  return code


def _main(argv):
  """`main` without the others: translates errors into exit codes."""
  try:
    if any(argument in HELP for argument in argv):
      print(__doc__.strip(), flush=True)
      return 0
    try:
      with _sigterm_exits():
        _run(argv)
    except _Stopped:
      return 0
  except artifacts.InputError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except artifacts.WriteError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return 130
  except BrokenPipeError:
    # The reader of the output is gone (`| head`); keep Python from saying so
    # when it closes the output at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except OSError as error:
    if error.errno not in DISK_ERRORS:
      raise
    where = f" ({error.filename})" if error.filename else ""
    print(
      f"error: {error.strerror}{where}. What is finished is kept; once there is"
      " room or permission, the same command goes on.",
      file=sys.stderr,
    )
    return 1
  return 0


class _Stopped(SystemExit):
  """SIGTERM; of all that a stage does, nothing catches it as a failure."""


def _run(argv):
  """`main` without the translation of errors into exit codes."""
  argv, overrides = _split_overrides(argv)
  values = _parse_flags(argv)
  spec, workdir, stages = values.config, values.workdir, values.stages
  config = config_lib.load(spec)
  config = config_lib.apply_overrides(config, overrides)
  validate.check(config)
  if stages == []:
    raise artifacts.InputError(
      "--stages is empty; it names stages to run, separated by commas. There"
      f" are: {', '.join(config.get('stages', ()))}. Without --stages all run"
      " that have to."
    )
  workdir = pathlib.Path(workdir or _default_workdir(spec)).absolute()
  if not values.process_id:
    progress.write(
      f"config {spec}, workdir {workdir}, seed {config.get('seed', 'missing')}"
    )
  if values.coordinator:
    distributed.initialize(
      values.coordinator,
      num_processes=values.num_processes,
      process_id=values.process_id,
      facts={
        "config": manifest.plain(config),
        "stages": ",".join(stages or ("all",)),
        "code": distributed.code_version(),
        "versions": str(manifest.versions()),
      },
      workdir=workdir,
      timeout=values.wait,
    )
  elif values.num_processes is not None or values.process_id is not None:
    raise artifacts.InputError(
      "--num_processes and --process_id need --coordinator=HOST:PORT."
    )
  pipeline.run(
    stages_lib.stages(),
    config,
    workdir,
    only=stages,
    before_first=_show_device,
  )


def _split_overrides(argv):
  """Takes `--config.x=v` and `--config.x v` out of the arguments."""
  rest, overrides = [], {}
  arguments = iter(argv)
  for argument in arguments:
    match = re.match(r"--?config\.([^=]*)(=?)(.*)", argument, re.DOTALL)
    if match is None:
      rest.append(argument)
      continue
    field, has_value, text = match.groups()
    if not has_value:
      text = next(arguments, "--")
      if text.startswith("--"):
        raise artifacts.InputError(
          f"{argument} has no value; write {argument}=VALUE."
        )
    overrides[field] = text
  return rest, overrides


def _parse_flags(argv):
  """Returns the values of the flags, each of which may be None."""
  # Flags of its own, not absl's global ones: importing this module, under
  # whatever name and however often, then leaves no trace.
  values = flags.FlagValues()
  flags.DEFINE_string("config", DEFAULT_CONFIG, "", flag_values=values)
  flags.DEFINE_string("workdir", None, "", flag_values=values)
  flags.DEFINE_list("stages", None, "", flag_values=values)
  flags.DEFINE_string("coordinator", None, "", flag_values=values)
  flags.DEFINE_integer("num_processes", None, "", 1, flag_values=values)
  flags.DEFINE_integer("process_id", None, "", 0, flag_values=values)
  flags.DEFINE_float("wait", 300.0, "", flag_values=values)
  try:
    positional = values(["main", *argv])[1:]
  except flags.Error as error:
    raise artifacts.InputError(f"{error} (--help lists all flags)") from None
  # The bounds of absl let NaN pass; sockets and JAX take no more than this.
  if not 0 <= values.wait <= MAX_WAIT:
    raise artifacts.InputError(
      f"--wait is {values.wait}; allowed are 0 to {MAX_WAIT} seconds."
    )
  if positional:
    raise artifacts.InputError(
      f"unexpected argument {positional[0]!r} (--help lists all flags)"
    )
  if values.stages is not None:
    values.stages = [name.strip() for name in values.stages if name.strip()]
  return values


def _default_workdir(spec):
  """Such as runs/vit_b16-runlocal-seed=1."""
  path, arg = config_lib.split(spec)
  arg = re.sub(r"[^\w.=]+", "-", arg).strip("-")
  return pathlib.Path("runs", pathlib.Path(path).stem + (arg and f"-{arg}"))


def _show_device():
  """Prints what JAX computes on; imports JAX."""
  import jax

  devices = jax.devices()
  if distributed.is_main():
    number = distributed.process_count()
    where = f" of {number} processes" if number > 1 else ""
    progress.write(f"device {len(devices)} x {devices[0].device_kind}{where}")


@contextlib.contextmanager
def _sigterm_exits():
  """Lets SIGTERM unwind the stack, as Ctrl-C does."""

  def stop(signum, frame):
    raise _Stopped(0)

  if threading.current_thread() is not threading.main_thread():
    yield
    return
  previous = signal.signal(signal.SIGTERM, stop)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
  sys.exit(main())
