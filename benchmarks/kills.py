"""Runs that are killed at random moments end as one that nobody stopped.

The student stage trains a tiny model (benchmarks/tiny_student.py). Each of the
runs is stopped up to three times: after a random batch or a random time, by
SIGKILL or SIGTERM, or by SIGKILL while a checkpoint is being written; then the
same command goes on.
At the end parameters, optimiser state, metrics, the csv file and the triplets
of every batch are compared with those of an undisturbed run, bit by bit.

  PYTHONPATH=. python benchmarks/kills.py --runs=20
"""

import argparse
import pathlib
import random
import signal
import sys
import tempfile
import time

import numpy as np

from benchmarks import tiny_student

# Seconds to wait before a step, so that there is something to hit.
PAUSE = 0.02


def whole_run(server, folder):
  """Makes the run that all others are compared with; returns its workdir."""
  run = server.start(folder / "whole", log=folder / "whole.log")
  code = run.wait()
  if code != 0:
    raise RuntimeError(f"the undisturbed run failed:\n{run.output()}")
  return folder / "whole"


def disturbed_run(server, folder, name, stops):
  """Makes a run that is stopped several times.

  Args:
    server: `tiny_student.Server`.
    folder: Where its workdir shall be.
    name: That of the workdir.
    stops: List of (number of batches of this process, or "save" for the next
      checkpoint being written, or seconds, a float, after its first batch;
      signal number).

  Returns:
    What happened, a list of words.
  """
  workdir, log = folder / name, folder / f"{name}.log"
  happened = []
  for target, number in stops:
    run = server.start(workdir, log=log, pause=PAUSE)
    first, old = run.num_batches(), _being_written(workdir)
    while not run.is_over() and not _is_time(run, workdir, target, first, old):
      time.sleep(0.001)
    if isinstance(target, float):
      time.sleep(target)
    run.kill(number)
    code = run.wait()
    done = run.num_batches()
    happened.append(
      f"{signal.Signals(number).name} at {target} after batch {done}: {code}"
    )
    expected = 0 if number == signal.SIGTERM else -number
    if code not in (0, expected):
      raise AssertionError(f"exit code {code}:\n{run.output()}")
  run = server.start(workdir, log=log)
  if run.wait() != 0:
    raise AssertionError(run.output())
  return happened


def _being_written(workdir):
  """Folders of unfinished checkpoints, also what a kill has left of some."""
  return set(workdir.glob(".partial/*/aligned/*orbax-checkpoint-tmp*"))


def _is_time(run, workdir, target, first, old):
  """Whether the time has come, or that from which the seconds count."""
  if target == "save":
    return bool(_being_written(workdir) - old)
  count = 1 if isinstance(target, float) else target
  return run.num_batches() - first >= count


def differences(folder, name):
  """What differs from the undisturbed run; an empty list if nothing does."""
  found = []
  for path in (
    "student/aligned.npz",
    "student/losses.csv",
    "logs/student/aligned/metrics.csv",
    "results.json",
  ):
    if (folder / "whole" / path).read_bytes() != (
      folder / name / path
    ).read_bytes():
      found.append(path)
  states = [np.load(folder / f"{run}.npz") for run in ("whole", name)]
  if set(states[0].files) != set(states[1].files):
    found.append("names of the state")
  else:
    found += [
      key
      for key in states[0].files
      if states[0][key].tobytes() != states[1][key].tobytes()
    ]
  logs = [
    tiny_student.read_log(folder / f"{run}.log") for run in ("whole", name)
  ]
  if logs[0] != logs[1]:
    found.append("batches")
  return found


def random_stops(rng):
  """One to three stops of a run."""
  stops = []
  for _ in range(rng.randint(1, 3)):
    number = rng.choice([signal.SIGKILL, signal.SIGTERM])
    kind = rng.choice(["save", "batch", "time"])
    if kind == "save":
      stops.append(("save", signal.SIGKILL))
    else:
      # Its first batch to its end take about a second.
      target = rng.randint(1, 12) if kind == "batch" else rng.uniform(0, 1.5)
      stops.append((target, number))
  return stops


def main():
  """Makes the runs and prints what happened."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--runs", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--folder", default=None)
  args = parser.parse_args()
  rng = random.Random(args.seed)
  failed = 0
  with (
    tempfile.TemporaryDirectory(dir=args.folder) as folder,
    tiny_student.Server() as server,
  ):
    folder = pathlib.Path(folder)
    whole_run(server, folder)
    for index in range(args.runs):
      happened = disturbed_run(server, folder, f"run{index}", random_stops(rng))
      found = differences(folder, f"run{index}")
      failed += bool(found)
      verdict = f"DIFFERS in {found}" if found else "identical"
      print(f"run {index}: {verdict}; {'; '.join(happened)}", flush=True)
  print(f"{args.runs - failed} of {args.runs} runs are identical")
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
