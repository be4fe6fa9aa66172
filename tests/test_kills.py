"""Processes that are killed, and two that train together, on the real stage."""

import json
import random
import signal
import socket

import numpy as np
import pytest

from benchmarks import kills, tiny_student


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def server():
  with tiny_student.Server() as server:
    yield server


@pytest.fixture(scope="module")
def whole(server, folder):
  """Workdir of a run that nobody stopped."""
  return kills.whole_run(server, folder)


def test_a_run_that_is_killed_in_three_ways_ends_as_the_whole_one(
  server, folder, whole
):
  stops = [
    (8, signal.SIGTERM),  # The second epoch has begun.
    ("save", signal.SIGKILL),
    (2, signal.SIGKILL),
  ]
  happened = kills.disturbed_run(server, folder, "run", stops)
  assert len(happened) == 3
  assert kills.differences(folder, "run") == []
  said = (folder / "run.out").read_text()
  assert "stopped in stage student; the same command goes on from" in said
  assert "Going on from the checkpoint of step" in said


@pytest.mark.slow
def test_20_runs_killed_at_random(server, folder, whole):
  rng = random.Random(1)
  for index in range(20):
    name = f"random{index}"
    happened = kills.disturbed_run(
      server, folder, name, kills.random_stops(rng)
    )
    assert kills.differences(folder, name) == [], happened


def start_two(server, folder, name, **settings):
  """Two processes of two devices each."""
  with socket.create_server(("localhost", 0)) as free:
    port = free.getsockname()[1]
  return [
    server.start(
      folder / name,
      f"--coordinator=localhost:{port}",
      "--num_processes=2",
      f"--process_id={index}",
      devices=2,
      log=folder / f"{name}{index}.log",
      **settings,
    )
    for index in range(2)
  ]


def read_losses(workdir):
  path = workdir / "logs" / "student" / "aligned" / "metrics.csv"
  rows = np.genfromtxt(path, delimiter=",", names=True)
  np.testing.assert_array_equal(rows["step"], np.arange(20))
  return rows["loss"]


def test_two_processes_train_as_one_and_stop_together(server, folder, whole):
  """Stopped by SIGTERM to one, gone on by both, and by a single one at last."""
  first = start_two(server, folder, "two", pause=0.02)
  while first[1].num_batches() < 7 and not first[1].is_over():
    pass
  first[1].kill(signal.SIGTERM)
  codes = [run.wait() for run in first]
  assert codes == [0, 0], first[0].output() + first[1].output()
  # The latter half of each batch is the share of process 1.
  steps = [run.num_batches() for run in first]
  assert steps[0] == steps[1] < 20
  second = start_two(server, folder, "two", pause=0.02)
  while second[0].num_batches() < 14 and not second[0].is_over():
    pass
  second[0].kill(signal.SIGTERM)
  assert [run.wait() for run in second] == [0, 0], second[0].output()
  said = second[0].output()
  assert f"Going on from the checkpoint of step {steps[0]}." in said
  last = server.start(folder / "two", log=folder / "two_last.log")
  assert last.wait() == 0, last.output()
  expected = tiny_student.read_log(folder / "whole.log")
  shares = [tiny_student.read_log(folder / f"two{i}.log") for i in range(2)]
  assert len(shares[0]) >= 14
  for step in shares[0]:
    assert shares[0][step] + shares[1][step] == expected[step]
  assert tiny_student.read_log(folder / "two_last.log").items() <= (
    expected.items()
  )
  np.testing.assert_allclose(
    read_losses(folder / "two"), read_losses(whole), rtol=1e-5, atol=0
  )
  results = [
    json.loads((folder / name / "results.json").read_text())
    for name in ("two", "whole")
  ]
  assert results[0] == pytest.approx(results[1], rel=1e-4, abs=0)
