"""Processes that call in, as threads: who is missing, who differs."""

import concurrent.futures
import socket
import time

import pytest

from alignet_jax import artifacts, roll_call

FACTS = {"config": "abc", "code": "123"}


def free_port():
  with socket.create_server(("localhost", 0)) as free:
    return free.getsockname()[1]


def call_all(callers, num_processes=3, timeout=20.0):
  """The errors of all callers, given as dicts of what is special about them."""
  address = f"localhost:{free_port()}"

  def call(special):
    settings = {
      "num_processes": num_processes,
      "facts": FACTS,
      "timeout": timeout,
      "log": lambda line: None,
      **special,
    }
    try:
      roll_call.call(address, **settings)
    except artifacts.InputError as error:
      return str(error)

  with concurrent.futures.ThreadPoolExecutor(len(callers)) as pool:
    return list(pool.map(call, callers))


def test_all_there(tmp_path):
  callers = [{"process_id": i, "workdir": tmp_path / "w"} for i in (2, 0, 1)]
  assert call_all(callers) == [None] * 3
  assert list((tmp_path / "w").iterdir()) == []


def test_who_only_scans_the_port_does_not_count(tmp_path):
  port = free_port()

  def call(process_id):
    roll_call.call(
      f"localhost:{port}",
      num_processes=2,
      process_id=process_id,
      facts=FACTS,
      workdir=tmp_path,
      timeout=20.0,
      log=lambda line: None,
    )

  def scan(said):
    for _ in range(400):
      try:
        with socket.create_connection(("localhost", port)) as connection:
          connection.sendall(said)
        return
      except ConnectionRefusedError:  # It does not listen yet.
        time.sleep(0.01)

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(call, 0)
    for said in (b"", b"GET / HTTP/1.0\r\n\r\n", b"[1]\n"):
      scan(said)
    call(1)
    assert first.result() is None


def test_a_single_process_waits_for_nobody(tmp_path):
  assert call_all([{"process_id": 0, "workdir": tmp_path}], 1) == [None]


def test_the_missing_are_named_to_all_that_are_there(tmp_path):
  callers = [{"process_id": i, "workdir": tmp_path} for i in (0, 3)]
  for error in call_all(callers, num_processes=5, timeout=0.6):
    assert error.startswith("Processes 1, 2, 4 of 5 did not call in within")
    assert f"there are 0 on {socket.gethostname()}, 3 on" in error


def test_without_process_0_the_others_say_so(tmp_path):
  (error,) = call_all([{"process_id": 1, "workdir": tmp_path}], timeout=0.3)
  assert "Process 0 did not answer at localhost:" in error


@pytest.mark.parametrize("name", ["config", "code"])
def test_who_runs_something_else_is_named(tmp_path, name):
  other = {"facts": {**FACTS, name: "xyz"}}
  callers = [
    {"process_id": i, "workdir": tmp_path, **(other if i == 2 else {})}
    for i in range(3)
  ]
  for error in call_all(callers):
    assert f"differ in their {name}: process 0 has {FACTS[name]}, but 2 on" in (
      error
    )
    assert "(xyz)" in error


def test_who_says_less_than_process_0_is_named(tmp_path):
  """As a process of an older version would."""
  callers = [{"process_id": i, "workdir": tmp_path} for i in (0, 1, 2)]
  callers[2]["facts"] = {"config": FACTS["config"]}
  for error in call_all(callers):
    assert "differ in their code: process 0 has 123, but 2 on" in error


def test_who_sees_another_workdir_is_named(tmp_path):
  callers = [
    {"process_id": i, "workdir": tmp_path / ("there" if i == 1 else "here")}
    for i in range(3)
  ]
  for error in call_all(callers):
    assert "do not see what process 0 writes into" in error
    assert f": 1 on {socket.gethostname()}." in error


def test_two_of_one_number(tmp_path):
  callers = [{"process_id": i, "workdir": tmp_path} for i in (0, 1, 1)]
  errors = call_all(callers)
  assert "Two processes call themselves --process_id=1" in errors[0]


def test_another_number_of_processes(tmp_path):
  callers = [
    {"process_id": 0, "workdir": tmp_path},
    {"process_id": 1, "workdir": tmp_path, "num_processes": 2},
  ]
  for error in call_all(callers):
    assert "says --num_processes=2, process 0 says 3" in error


def test_the_fields_by_which_configs_differ_are_named(tmp_path):
  """NaN is what it is; of five other fields three are shown."""
  mine = {"student": {"lr": 0.1, "x": float("nan")}, "seed": 1}
  theirs = {"student": {**mine["student"], "lr": 0.2}, "seed": 1}
  many = {**mine, **{f"a{i}": i for i in range(5)}}
  configs = (mine, theirs, many)
  callers = [
    {"process_id": i, "workdir": tmp_path, "facts": {**FACTS, "config": config}}
    for i, config in enumerate(configs)
  ]
  host = socket.gethostname()
  for error in call_all(callers):
    assert error.startswith(
      f"Processes differ in their config: from process 0 to 1 on {host},"
      f" config.student.lr 0.1 -> 0.2; to 2 on {host}, config.a0 (none) -> 0,"
      " config.a1 (none) -> 1, config.a2 (none) -> 2 and 2 more fields. Start"
    )
  for caller in callers:
    caller["facts"] = {"config": mine, "code": "x"}
  assert call_all(callers) == [None] * 3
  callers[2]["facts"] = {"config": "a hash, as an older version says"}
  for error in call_all(callers):
    assert f"to 2 on {host}, config.seed 1 -> (none)" in error


@pytest.mark.parametrize(
  "address",
  ["", "host", "host:", ":1", "host:x", "host:0", "h:65536", "h:" + "9" * 5000],
)
def test_addresses_that_are_none(address):
  with pytest.raises(artifacts.InputError, match="write HOST:PORT"):
    roll_call.parse_address(address)


def test_addresses():
  assert roll_call.parse_address("10.0.0.2:65535") == ("10.0.0.2", 65_535)
  assert roll_call.parse_address("[::1]:1") == ("::1", 1)


def test_a_number_beyond_the_last(tmp_path):
  (error,) = call_all([{"process_id": 3, "workdir": tmp_path}])
  assert "--process_id is 3; allowed are 0 to 2" in error


def test_a_port_in_use(tmp_path):
  with socket.create_server(("", 0)) as busy:
    port = busy.getsockname()[1]
    with pytest.raises(artifacts.InputError, match=f"at port {port} "):
      roll_call.call(
        f"localhost:{port}",
        num_processes=2,
        process_id=0,
        facts=FACTS,
        workdir=tmp_path,
        timeout=1.0,
      )
