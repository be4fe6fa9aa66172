"""What processes tell each other, over a store that is a dict."""

import signal

import pytest

from alignet_jax import artifacts, distributed


class Store:
  """The part of JAX's client that is used; shared by all processes."""

  def __init__(self):
    self.values = {}

  def key_value_set(self, key, value):
    if key in self.values:
      raise RuntimeError("ALREADY_EXISTS")
    self.values[key] = value

  def key_value_dir_get(self, key):
    return [
      (name, value)
      for name, value in self.values.items()
      if name.startswith(f"{key}/")
    ]

  def blocking_key_value_get(self, key, timeout):
    if key not in self.values:
      raise RuntimeError("DEADLINE_EXCEEDED")
    return self.values[key]


@pytest.fixture
def processes(monkeypatch):
  """Function that makes the module speak as one of two processes."""
  store, calls = Store(), [0, 0]
  state = distributed._State()
  state.client, state.num_processes = store, 2
  monkeypatch.setattr(distributed, "_state", state)

  def become(index):
    calls[state.process_id] = state.calls
    state.process_id, state.calls = index, calls[index]
    return store

  return become


def test_alone_everything_returns_at_once():
  assert distributed.is_main()
  assert (distributed.process_index(), distributed.process_count()) == (0, 1)
  assert distributed.broadcast({"a": 1}) == {"a": 1}
  assert distributed.gather(3) == [3]
  assert distributed.all_true(True) and not distributed.all_true(False)
  distributed.stop_others()
  distributed.shut_down()
  agreement = distributed.StopAgreement()
  assert not agreement.is_due(5, 0)
  assert agreement.is_due(5, signal.SIGTERM)
  assert agreement.number(signal.SIGTERM) == signal.SIGTERM


def test_the_others_get_what_process_0_gave(processes):
  processes(0)
  assert distributed.broadcast("first") == "first"
  assert distributed.broadcast([2]) == [2]
  processes(1)
  assert distributed.broadcast("not heeded") == "first"
  assert distributed.broadcast() == [2]


def test_gathered_values_stand_in_the_order_of_the_processes(processes):
  store = processes(0)
  store.key_value_set("alignet/1/gather/1", '"second"')
  assert distributed.gather("first") == ["first", "second"]
  store.key_value_set("alignet/2/gather/1", "false")
  assert not distributed.all_true(True)


def test_all_stop_at_one_step_whoever_is_ahead(processes):
  """Process 1 gets a signal at step 5, while process 0 is two steps ahead."""
  agreements = []
  for index in (0, 1):
    processes(index)
    agreements.append(distributed.StopAgreement())
  processes(0)
  assert not any(agreements[0].is_due(step, 0) for step in range(8))
  processes(1)
  stopped = [agreements[1].is_due(step, step >= 5) for step in range(12)]
  processes(0)
  stopped_0 = [agreements[0].is_due(step, 0) for step in range(8, 12)]
  assert stopped.index(True) == 9
  assert stopped_0.index(True) == 9 - 8


def test_two_signals_stop_at_the_earlier_step(processes):
  agreements = []
  for index in (0, 1):
    processes(index)
    agreements.append(distributed.StopAgreement())
  processes(0)
  assert not agreements[0].is_due(6, signal.SIGTERM)
  processes(1)
  assert not agreements[1].is_due(5, signal.SIGTERM)
  for index in (0, 1):
    processes(index)
    assert not agreements[index].is_due(8, signal.SIGTERM)
    assert agreements[index].is_due(9, signal.SIGTERM)


def test_a_coordinator_needs_the_numbers(tmp_path):
  with pytest.raises(artifacts.InputError, match="needs --num_processes and"):
    distributed.initialize("a:1", facts={}, workdir=tmp_path)


def test_all_processes_need_equally_many_devices():
  distributed._check_devices([2, 2, 2])
  with pytest.raises(
    artifacts.InputError, match="Process 1 has 3 devices and process 0 has 1"
  ):
    distributed._check_devices([1, 3, 1])


def test_the_code_has_one_version():
  version = distributed.code_version()
  assert version == distributed.code_version()
  assert len(version) == 16
