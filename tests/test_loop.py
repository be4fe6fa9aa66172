"""The loop and its checkpoints: resume bit for bit, whatever stops a run."""

import signal
import threading

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax import artifacts, checkpoints, loop
from alignet_jax.student import optimizer

NUM_STEPS = 7
TX = optimizer.make_optimizer(lr=0.1, warmup_steps=2, num_steps=20)


@flax.struct.dataclass
class State:
  params: dict
  opt_state: tuple


def make_state():
  params = {"w": jnp.linspace(-1, 1, 11), "b": jnp.array([0.3])}
  return State(params, TX.init(params))


@jax.jit
def step_fn(state, batch):
  def loss_fn(params):
    return jnp.mean(jnp.square(batch @ params["w"] - params["b"]))

  loss, grads = jax.value_and_grad(loss_fn)(state.params)
  updates, opt_state = TX.update(grads, state.opt_state, state.params)
  params = jax.tree.map(jnp.add, state.params, updates)
  return State(params, opt_state), {"loss": loss, "accuracy": 1 / (1 + loss)}


def make_batches(start):
  for step in range(start, NUM_STEPS):
    np_rng = np.random.default_rng([5, step])
    yield np_rng.normal(size=(3, 11)).astype(np.float32)


def train(directory, *, batches=make_batches, step=step_fn, **settings):
  defaults = {
    "num_steps": NUM_STEPS,
    "checkpoint_every": 2,
    "label": "test",
    "log": lambda line: None,
  }
  return loop.train(
    make_state(),
    step,
    batches,
    checkpoint_dir=directory,
    **{**defaults, **settings},
  )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """State and history of a run that nothing stopped."""
  return train(tmp_path_factory.mktemp("whole"))


def assert_same_run(run, whole):
  state, history = run
  assert history == whole[1]
  leaves, expected = jax.tree.leaves(state), jax.tree.leaves(whole[0])
  for x, y in zip(leaves, expected, strict=True):
    np.testing.assert_array_equal(x, y)


def saved_steps(directory):
  with checkpoints.Checkpoints(directory) as saver:
    return saver.steps()


def broken_off(error, at):
  """Batches that raise when step `at` asks for its own."""

  def make(start):
    for step, batch in enumerate(make_batches(start), start):
      if step == at:
        raise error
      yield batch

  return make


def test_history_has_the_metrics_of_every_step(whole):
  _, history = whole
  state = make_state()
  expected = []
  for batch in make_batches(0):
    state, metrics = step_fn(state, batch)
    expected.append({name: float(x) for name, x in metrics.items()})
  assert history == expected
  assert len(history) == NUM_STEPS


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 6])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, whole, at):
  """A failure that saves nothing, as SIGKILL: the last checkpoint counts."""
  with pytest.raises(RuntimeError, match="killed"):
    train(tmp_path, batches=broken_off(RuntimeError("killed"), at))
  assert max(saved_steps(tmp_path), default=0) == at - at % 2
  assert_same_run(train(tmp_path), whole)


def test_two_and_two_steps_equal_four(tmp_path):
  """`num_steps` may grow: the schedule does not depend on it here."""
  train(tmp_path / "a", num_steps=2)
  two_and_two = train(tmp_path / "a", num_steps=4)
  four = train(tmp_path / "b", num_steps=4)
  assert_same_run(two_and_two, four)
  anchor = optimizer.anchor(two_and_two[0].opt_state)
  np.testing.assert_array_equal(anchor["w"], make_state().params["w"])
  assert np.max(np.abs(anchor["w"] - two_and_two[0].params["w"])) > 1e-3


def test_a_finished_run_is_only_read(tmp_path, whole):
  train(tmp_path)

  def no_batches(start):
    raise AssertionError("no batch is needed")

  assert_same_run(train(tmp_path, batches=no_batches), whole)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit(143)])
def test_interrupting_a_batch_saves_and_propagates(tmp_path, whole, error):
  kind = error if isinstance(error, type) else type(error)
  with pytest.raises(kind):
    train(tmp_path, batches=broken_off(error, 5))
  assert saved_steps(tmp_path)[-1] == 5
  assert_same_run(train(tmp_path), whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_step_lets_it_finish_and_saves(tmp_path, whole, number):
  received = []
  previous = signal.signal(number, lambda *args: received.append(args[0]))
  try:

    def step(state, batch):
      state, metrics = step_fn(state, batch)
      if state.opt_state[1].count == 4:
        signal.raise_signal(number)
        assert not received  # held back
      return state, metrics

    # Also where the handler comes back: a part must not pass for the whole.
    with pytest.raises(KeyboardInterrupt, match=signal.Signals(number).name):
      train(tmp_path, step=step, checkpoint_every=100)
    assert received == [number]
    assert signal.getsignal(number) is not signal.default_int_handler
  finally:
    signal.signal(number, previous)
  assert saved_steps(tmp_path) == [4]
  assert_same_run(train(tmp_path), whole)


def test_a_signal_that_is_ignored_stays_so(tmp_path, whole):
  """As Ctrl-C is by what a script starts in the background."""
  previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:

    def step(state, batch):
      signal.raise_signal(signal.SIGINT)
      return step_fn(state, batch)

    assert_same_run(train(tmp_path, step=step), whole)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, previous)


def test_a_second_signal_acts_at_once(tmp_path):
  """And saves nothing: the step may have spent the state already."""

  def step(state, batch):
    if state.opt_state[1].count == 3:
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)
      raise AssertionError("not reached")
    return step_fn(state, batch)

  with pytest.raises(KeyboardInterrupt):
    train(tmp_path, step=step, checkpoint_every=100)
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  assert saved_steps(tmp_path) == []


def test_it_runs_outside_the_main_thread(tmp_path, whole):
  runs = []
  thread = threading.Thread(target=lambda: runs.append(train(tmp_path)))
  thread.start()
  thread.join()
  assert_same_run(runs[0], whole)


@pytest.mark.parametrize("bad_value", [np.nan, np.inf])
@pytest.mark.parametrize("bad_step", [0, 3, NUM_STEPS - 1])
def test_a_loss_that_is_not_finite_stops_and_is_not_saved(
  tmp_path, bad_value, bad_step
):
  def batches(start):
    for step, batch in enumerate(make_batches(start), start):
      yield np.full_like(batch, bad_value) if step == bad_step else batch

  with pytest.raises(
    FloatingPointError, match=f"test: the loss of step {bad_step} "
  ):
    train(tmp_path, batches=batches)
  assert max(saved_steps(tmp_path), default=0) <= bad_step


def test_a_save_that_failed_stops_the_run_at_the_next_step(
  tmp_path, monkeypatch
):
  def check(saver):
    raise artifacts.WriteError("no room")

  monkeypatch.setattr(checkpoints.Checkpoints, "check", check)
  asked = []

  def batches(start):
    for step, batch in enumerate(make_batches(start), start):
      asked.append(step)
      yield batch

  with pytest.raises(artifacts.WriteError, match="no room"):
    train(tmp_path, batches=batches)
  assert asked == [0]


def test_batches_that_end_too_early_are_an_error(tmp_path):
  with pytest.raises(ValueError, match="from step 0 on ended before step 7"):
    train(tmp_path, num_steps=9)


def test_a_checkpoint_beyond_the_end_is_refused(tmp_path):
  train(tmp_path)
  with pytest.raises(artifacts.InputError, match="step 7, beyond num_steps=5"):
    train(tmp_path, num_steps=5)


def test_only_the_newest_are_kept(tmp_path):
  train(tmp_path, keep=3)
  assert saved_steps(tmp_path) == [4, 6, 7]


def largest_file(directory):
  files = [path for path in directory.rglob("*") if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path):
  path.unlink()


@pytest.mark.parametrize("damage", [cut, remove])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
  tmp_path, whole, damage
):
  train(tmp_path)
  assert saved_steps(tmp_path) == [6, 7]
  damage(largest_file(tmp_path / "7" / "state"))
  lines = []
  assert_same_run(train(tmp_path, log=lines.append), whole)
  assert "checkpoint of step 7" in lines[0] and "is damaged" in lines[0]
  assert "Going on from the checkpoint of step 6." in lines[1]
  assert saved_steps(tmp_path) == [6, 7]
  assert_same_run(train(tmp_path), whole)


def test_numbers_that_changed_on_the_disk_are_noticed(tmp_path, whole):
  """orbax reads them without complaint; the checksum of the record differs."""
  train(tmp_path)
  with checkpoints.Checkpoints(tmp_path) as saver:
    state, history = saver.restore(make_state())
    real = checkpoints._tensors

    def stale(tree, sums=None):
      table = real(tree, sums)
      if sums is not None:
        table["params/w"]["checksum"] ^= 1
      return table

    checkpoints._tensors = stale
    try:
      saver.save(7, state, history)
    finally:
      checkpoints._tensors = real
  lines = []
  assert_same_run(train(tmp_path, log=lines.append), whole)
  assert "checksum of params/w" in lines[0]


def test_reading_drops_damaged_checkpoints_once_an_older_one_is_read(tmp_path):
  train(tmp_path)
  cut(largest_file(tmp_path / "7" / "state"))
  with checkpoints.Checkpoints(tmp_path, log=lambda line: None) as saver:
    _, history = saver.restore(make_state())
    assert len(history) == 6
    assert saver.steps() == [6]


def test_without_a_whole_checkpoint_it_starts_anew(tmp_path, whole):
  train(tmp_path, keep=1)
  assert saved_steps(tmp_path) == [7]
  cut(largest_file(tmp_path / "7" / "state"))
  lines = []
  assert_same_run(train(tmp_path, log=lines.append), whole)
  assert "No checkpoint" in lines[1] and "starting anew" in lines[1]


def test_a_half_written_checkpoint_is_ignored(tmp_path, whole):
  with pytest.raises(RuntimeError):
    train(tmp_path, batches=broken_off(RuntimeError("killed"), 5))
  partial = tmp_path / "5.orbax-checkpoint-tmp"
  (partial / "state").mkdir(parents=True)
  assert_same_run(train(tmp_path), whole)


def test_a_checkpoint_of_another_model_is_refused_and_kept(tmp_path):
  train(tmp_path)
  params = {"w": jnp.zeros(13), "b": jnp.zeros(1)}
  other = State(params, TX.init(params))
  with checkpoints.Checkpoints(tmp_path) as saver:
    with pytest.raises(artifacts.InputError) as error:
      saver.restore(other)
    assert saver.steps() == [6, 7]
  assert "float32[11] saved, float32[13] needed" in str(error.value)
  assert "another workdir" in str(error.value)


def test_restored_arrays_lie_where_the_state_lies(tmp_path):
  if len(jax.devices()) < 2:
    pytest.skip("needs 2 devices")
  train(tmp_path)
  device = jax.devices()[1]
  state = jax.device_put(make_state(), device)
  with checkpoints.Checkpoints(tmp_path) as saver:
    restored, history = saver.restore(state)
  assert len(history) == 7
  for x in jax.tree.leaves(restored):
    assert x.devices() == {device}


def test_relative_folders_work(tmp_path, monkeypatch, whole):
  monkeypatch.chdir(tmp_path)
  train("checkpoints")
  assert_same_run(train("checkpoints"), whole)
