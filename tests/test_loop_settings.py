"""What the loop does besides its steps: evaluation, files, profile, tables."""

import contextlib
import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax import artifacts, checkpoints, loop, memory, overview, speed

NUM_STEPS = 7


@flax.struct.dataclass
class State:
  params: dict


def make_state():
  return State({"w": jnp.ones([5, 3]), "b": jnp.zeros(3)})


@jax.jit
def step_fn(state, batch):
  loss = jnp.mean(jnp.square(batch @ state.params["w"]))
  params = jax.tree.map(lambda x: 0.9 * x, state.params)
  return State(params), {"loss": loss, "accuracy": 1 / (1 + loss)}


def make_batches(start):
  for step in range(start, NUM_STEPS):
    yield np.random.default_rng([5, step]).normal(size=(2, 5)).astype("f4")


def evaluate(state):
  return {"loss": jnp.sum(state.params["w"])}


def train(directory, *, batches=make_batches, lines=None, **settings):
  return loop.train(
    make_state(),
    step_fn,
    batches,
    num_steps=NUM_STEPS,
    checkpoint_dir=directory,
    checkpoint_every=2,
    label="test",
    settings=loop.Settings(**settings),
    log=[].append if lines is None else lines.append,
  )


def killed_at(at):
  def batches(start):
    for step, batch in enumerate(make_batches(start), start):
      if step == at:
        raise RuntimeError("killed")
      yield batch

  return batches


def test_evaluation_stands_beside_the_update_before_it(tmp_path):
  state, history = train(tmp_path / "a", eval_fn=evaluate, eval_every=3)
  plain_state, plain = train(tmp_path / "b")
  found = {
    step: row.pop("val_loss")
    for step, row in enumerate(history)
    if "val_loss" in row
  }
  expected = {done - 1: 15 * 0.9**done for done in (3, 6, 7)}
  assert found == pytest.approx(expected, rel=1e-5, abs=0)
  assert history == plain
  np.testing.assert_array_equal(state.params["w"], plain_state.params["w"])


def test_the_best_by_evaluation_is_kept(tmp_path):
  evaluate = valued({2: 0.2, 4: 0.7, 6: 0.5, 7: 0.6})
  train(tmp_path, eval_fn=evaluate, eval_every=2, best_metric="val_loss")
  with checkpoints.Checkpoints(tmp_path) as saver:
    assert saver.steps() == [2, 6, 7]


def valued(values):
  """Evaluates a state by the number of its updates."""

  def evaluate(state):
    done = round(float(np.log(state.params["w"][0, 0]) / np.log(0.9)))
    return {"loss": values[done]}

  return evaluate


BEST = {"eval_every": 1, "best_metric": "val_loss", "export": "best"}
# Later ones that are equal do not count, nor does what is no number.
VALUES = dict(enumerate([np.nan, 0.7, 0.4, 0.4, 0.9, 0.9, 0.5], start=1))


@pytest.mark.parametrize(("mode", "best"), [("min", 3), ("max", 5)])
def test_the_best_state_is_returned_if_asked_for(tmp_path, mode, best):
  lines = []
  state, history = train(
    tmp_path, eval_fn=valued(VALUES), best_mode=mode, lines=lines, **BEST
  )
  np.testing.assert_allclose(state.params["w"], 0.9**best, rtol=1e-5, atol=0)
  # The history is that of all steps; there was no checkpoint at an odd one but
  # for being the best.
  assert len(history) == NUM_STEPS
  assert lines[-1] == f"test: of 7 steps, {best} are the best; they count"
  with checkpoints.Checkpoints(tmp_path) as saver:
    assert saver.steps() == [best, 6, 7]


@pytest.mark.parametrize("at", [1, 3, 4, 6])
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_the_best_is_the_same_after_a_stop(tmp_path, at, how):
  """A stop saves where no checkpoint is due, which must not change the best."""
  values = {1: 0.8, 2: 0.9, 3: 0.5, 4: 0.6, 5: 0.55, 6: 0.4, 7: 0.45}
  settings = {"eval_fn": valued(values), **BEST}

  def stopped(start):
    for step, batch in enumerate(make_batches(start), start):
      if step == at:
        raise RuntimeError if how == "killed" else KeyboardInterrupt
      yield batch

  with pytest.raises((RuntimeError, KeyboardInterrupt)):
    train(tmp_path, batches=stopped, **settings)
  for _ in range(2):  # A finished run is only read.
    state, _ = train(tmp_path, **settings)
    np.testing.assert_allclose(state.params["w"], 0.9**6, rtol=1e-5, atol=0)


def test_a_best_that_cannot_be_is_refused(tmp_path):
  settings = {"eval_fn": valued(VALUES), **BEST}
  for changes, words in (
    ({"export": "bets"}, "'bets'; known are last, best"),
    ({"eval_every": 0}, "no evaluation to be best by: set eval_every to 1"),
    ({"best_metric": ""}, "no evaluation to be best by"),
    ({"eval_fn": None}, "no evaluation to be best by"),
  ):
    with pytest.raises(artifacts.InputError, match=words):
      loop.Settings(**{**settings, **changes})
  with pytest.raises(artifacts.InputError, match="needs checkpoints"):
    train(None, **settings)
  nothing = valued(dict.fromkeys(range(1, 8), np.nan))
  with pytest.raises(artifacts.InputError, match="gave a val_loss that is a"):
    train(tmp_path / "nan", **{**settings, "eval_fn": nothing})
  train(tmp_path / "cut", **settings)
  for path in (tmp_path / "cut" / "3" / "state").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  with pytest.raises(artifacts.InputError, match="step 3 .* the best, is dama"):
    train(tmp_path / "cut", **settings)
  # Where it cannot even be told what it was, no other counts in its place.
  for path in (tmp_path / "cut" / "3" / "record").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  with pytest.raises(artifacts.InputError, match="step 3 .* the best, is dama"):
    train(tmp_path / "cut", **settings)


@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_killed_run_leaves_the_csv_of_a_whole_one(tmp_path, at):
  pytest.importorskip("tensorflow")
  settings = {"eval_fn": evaluate, "eval_every": 3}
  for name in ("whole", "killed"):
    if name == "killed":
      with pytest.raises(RuntimeError, match="killed"):
        train(
          tmp_path / "c",
          batches=killed_at(at),
          metrics_dir=tmp_path / name,
          **settings,
        )
    _, history = train(
      tmp_path / ("w" if name == "whole" else "c"),
      metrics_dir=tmp_path / name,
      **settings,
    )
  whole, killed = (
    (tmp_path / name / "metrics.csv").read_text()
    for name in ("whole", "killed")
  )
  assert killed == whole
  lines = whole.splitlines()
  assert lines[0] == "step,accuracy,loss,val_loss"
  assert len(lines) == 1 + NUM_STEPS
  for step, line in enumerate(lines[1:]):
    cells = line.split(",")
    assert int(cells[0]) == step
    assert float(cells[2]) == history[step]["loss"]
    assert bool(cells[3]) == (step in (2, 5, 6))


def test_event_files_have_the_curves(tmp_path):
  tf = pytest.importorskip("tensorflow")
  _, history = train(tmp_path / "c", metrics_dir=tmp_path / "m")
  found = {}
  for path in (tmp_path / "m").glob("events.out.tfevents.*"):
    for record in tf.data.TFRecordDataset(str(path)):
      event = tf.compat.v1.Event.FromString(record.numpy())
      for value in event.summary.value:
        number = tf.make_ndarray(value.tensor)
        found[value.tag, event.step] = float(number)
  for step, row in enumerate(history):
    assert found["loss", step] == pytest.approx(row["loss"], rel=1e-6, abs=0)


def test_the_profiler_sees_the_window(tmp_path, monkeypatch):
  events, lines = [], []
  monkeypatch.setattr(
    jax.profiler, "start_trace", lambda folder: events.append(folder)
  )
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("end"))
  monkeypatch.setattr("alignet_jax.journal.metrics_files.MetricsFiles", _Files)
  folder = tmp_path / "m"

  def batches(start):
    for step, batch in enumerate(make_batches(start), start):
      events.append(step)
      yield batch

  train(
    tmp_path / "c",
    batches=batches,
    profile=(2, 3),
    metrics_dir=folder,
    lines=lines,
  )
  assert events == [0, 1, 2, folder, 3, 4, "end", 5, 6]
  assert f"profile of steps 2 to 4: {folder}" in lines
  with pytest.raises(artifacts.InputError, match="profile needs metrics_dir"):
    train(tmp_path / "d", profile=(2, 3))


class _Files:
  """Files of metrics that are none."""

  def __init__(self, *args, **settings):
    pass

  def __enter__(self):
    return self

  def __exit__(self, *error):
    pass

  def write(self, step, row):
    pass

  write_rates = write

  def flush(self):
    pass


def test_parameters_and_memory_are_said_before_the_first_step(tmp_path):
  lines = []
  train(tmp_path, show_overview=True, lines=lines)
  rows = [line.split() for line in lines[0].splitlines()]
  assert ["b", "3", "float32", "1", "3"] in rows
  assert ["w", "5", "x", "3", "float32", "1", "15"] in rows
  assert rows[-1] == ["sum", "2", "18"]
  assert lines[1].startswith("memory per device: parameters 0.00 MB, batch ")
  assert "peak FLOP/s of the device" in lines[2]


def test_repeated_layers_are_one_row():
  params = {f"block_{i}": {"w": jnp.zeros([2, 3])} for i in range(11)}
  rows = overview.table(params).splitlines()
  assert rows[1].split() == ["block_*/w", "2", "x", "3", "float32", "11", "66"]
  assert len(rows) == 3


def test_the_parts_of_a_state_by_hand(monkeypatch):
  """w 60 bytes, b 12; a batch of 40."""
  batch = next(make_batches(0))
  plan = memory.plan(step_fn, make_state(), batch)
  assert plan.state["parameters"] == 72
  assert plan.batch == 40
  assert plan.total >= 112
  memory.check(plan)
  fits_not = dataclasses.replace(plan, limit=100)
  with pytest.raises(artifacts.InputError, match="Raise num_microbatches"):
    memory.check(fits_not)
  assert memory.plan(lambda state, batch: None, make_state(), batch) is None


def test_rates_leave_out_the_first_step_and_evaluations(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(speed.time, "monotonic", lambda: now[0])
  rates = speed.Speed({"images": 12}, flops=50.0, peak=1000.0)
  with rates.waiting():
    now[0] += 3  # Compiles.
  rates.count_step()
  assert rates.rates() == {}
  for _ in range(2):
    with rates.waiting():
      now[0] += 0.25
    now[0] += 0.75
    rates.count_step()
    with rates.pausing():
      now[0] += 100
  # Two steps in two seconds, half a second of waiting.
  expected = {"images/s": 12.0, "waiting": 0.25, "MFU": 0.05}
  assert rates.rates() == pytest.approx(expected, rel=1e-9, abs=0)
  assert rates.words() == {"images/s": "12", "waiting": "25%", "MFU": "5%"}


def test_the_loop_counts_no_evaluation_as_a_step(tmp_path, monkeypatch):
  inside = []

  @contextlib.contextmanager
  def pausing(rates):
    inside.append(True)
    yield
    inside.pop()

  def evaluate(state):
    assert inside
    return {"loss": 0.0}

  monkeypatch.setattr(speed.Speed, "pausing", pausing)
  _, history = train(tmp_path, eval_fn=evaluate, eval_every=3)
  assert sum("val_loss" in row for row in history) == 3


@pytest.mark.parametrize("shows", [True, False])
def test_the_mfu_is_known_also_where_no_table_is_shown(monkeypatch, shows):
  """As for the second of two variants. The step is 2 x 5 by 5 x 3."""
  found = []
  monkeypatch.setattr(speed, "peak_flops", lambda kind: 1e9)
  monkeypatch.setattr(
    speed.Speed, "rates", lambda rates: found.append((rates.flops, rates.peak))
  )
  monkeypatch.setattr(speed.Speed, "words", lambda rates: {})
  train(None, show_overview=shows)
  assert found == [(2.0 * 2 * 5 * 3, 1e9)] * NUM_STEPS


@pytest.mark.parametrize(
  ("kind", "flops"),
  [
    ("NVIDIA H100 80GB HBM3", 989e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5", 459e12),
    ("cpu", None),
  ],
)
def test_peaks_by_the_name_of_the_device(kind, flops):
  assert speed.peak_flops(kind) == flops
