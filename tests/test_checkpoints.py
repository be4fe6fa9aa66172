"""Checkpoints beyond those of the loop: places, the best one, a bad disk."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax import artifacts, checkpoints, checksums

HISTORY = [{"loss": 0.1}, {"loss": float("nan")}]


def make_state(factor=1.0):
  return {
    "w": factor * jnp.arange(8 * 3, dtype=jnp.float32).reshape(8, 3),
    "count": jnp.array(7, jnp.int32),
    "half": jnp.linspace(0, 1, 16).astype(jnp.bfloat16),
    "flag": jnp.array([True, False]),
  }


def place(state, num_devices):
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:num_devices]), ("fsdp",))
  spec = jax.sharding.PartitionSpec

  def put(x):
    parts = spec("fsdp") if x.ndim and len(x) % 8 == 0 else spec()
    return jax.device_put(x, jax.sharding.NamedSharding(mesh, parts))

  return jax.tree.map(put, state)


def assert_same(state, expected):
  for x, y in zip(
    jax.tree.leaves(state), jax.tree.leaves(expected), strict=True
  ):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("before", "after"), [(8, 1), (1, 8)])
def test_state_goes_from_any_number_of_devices_to_any(tmp_path, before, after):
  with checkpoints.Checkpoints(tmp_path, log=lambda line: None) as saver:
    saver.save(2, place(make_state(), before), HISTORY)
  with checkpoints.Checkpoints(tmp_path, log=lambda line: None) as saver:
    template = place(make_state(0), after)
    restored, history = saver.restore(template)
  assert repr(history) == repr(HISTORY)  # NaN equals NaN here
  assert_same(restored, make_state())
  for x, y in zip(
    jax.tree.leaves(restored), jax.tree.leaves(template), strict=True
  ):
    assert x.sharding == y.sharding
  assert len(restored["w"].addressable_shards) == after


def test_a_checksum_is_the_same_on_any_devices_and_sees_any_bit():
  state = make_state()
  sums = {k: int(x) for k, x in checksums.of_state(state).items()}
  spread = checksums.of_state(place(state, 8))
  assert {k: int(x) for k, x in spread.items()} == sums
  # By hand: entry i counts (i * 0x9E3779B1 | 1) times its bits.
  bits = np.asarray(state["w"]).view(np.uint32).reshape(-1).astype(object)
  weights = [(i * 0x9E3779B1 % 2**32) | 1 for i in range(len(bits))]
  assert sums["w"] == int(bits @ np.array(weights, object)) % 2**32
  for bit in (0, 13, 31):
    words = np.asarray(state["w"]).view(np.uint32).copy()
    words[5, 2] ^= np.uint32(1 << bit)
    changed = checksums.of_state({"w": jnp.asarray(words.view(np.float32))})
    assert int(changed["w"]) != sums["w"]


def test_checksums_of_many_cut_arrays_do_not_wait_for_each_other():
  """Hundreds at once, cut in different ways, waited for each other for ever."""
  devices = np.array(jax.devices()[:8]).reshape(2, 2, 2)
  mesh = jax.sharding.Mesh(devices, ("data", "fsdp", "tensor"))
  spec = jax.sharding.PartitionSpec
  cuts = (
    spec("fsdp", "tensor"),
    spec("tensor", "fsdp"),
    spec("fsdp"),
    spec(None, "tensor"),
  )
  x = np.arange(32 * 64, dtype=np.float32).reshape(32, 64)
  placed = [
    jax.device_put(x, jax.sharding.NamedSharding(mesh, cut)) for cut in cuts
  ]
  state = {str(i): placed[i % len(cuts)] for i in range(240)}
  assert len({int(s) for s in checksums.of_state(state).values()}) == 1


@pytest.mark.parametrize(
  ("old", "new"), [('"loss": 0.25', '"loss": 0.75'), ("float32", "float16")]
)
def test_a_record_that_was_changed_gives_way_to_the_one_before(
  tmp_path, old, new
):
  lines = []
  with checkpoints.Checkpoints(tmp_path, log=lines.append) as saver:
    for step in (1, 2):
      saver.save(step, make_state(step), [{"loss": 0.25}] * step)
  (path,) = (tmp_path / "2" / "record").glob("metadata*")
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))
  with checkpoints.Checkpoints(tmp_path, log=lines.append) as saver:
    restored, history = saver.restore(make_state(0))
  assert "step 2" in lines[0] and "checksum of the record" in lines[0]
  assert history == [{"loss": 0.25}]
  assert_same(restored, make_state(1))


def test_a_record_of_an_earlier_version_has_no_checksum(tmp_path):
  with checkpoints.Checkpoints(tmp_path, log=lambda line: None) as saver:
    saver.save(1, make_state(), [{"loss": 0.25}])
  (path,) = (tmp_path / "1" / "record").glob("metadata*")
  record = json.loads(path.read_text())
  del record["checksum"]
  path.write_text(json.dumps(record))
  with checkpoints.Checkpoints(tmp_path, log=lambda line: None) as saver:
    restored, history = saver.restore(make_state(0))
  assert history == [{"loss": 0.25}]
  assert_same(restored, make_state())


def test_what_is_spent_after_a_save_is_saved_as_it_was(tmp_path):
  spend = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
  x = jnp.arange(1 << 18, dtype=jnp.float32)
  expected = np.array(x)
  with checkpoints.Checkpoints(tmp_path, log=lambda line: None) as saver:
    for step in range(1, 4):
      saver.save(step, {"x": x}, [])
      spent = spend(x)
      jax.block_until_ready(spent)
      x = jnp.array(expected)
  with checkpoints.Checkpoints(tmp_path, log=lambda line: None) as saver:
    restored, _ = saver.restore({"x": jnp.zeros(1 << 18)})
  np.testing.assert_array_equal(restored["x"], expected)


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 1)])
def test_the_best_is_kept_besides_the_newest(tmp_path, mode, best):
  values = {1: 0.9, 2: 0.1, 3: 0.5, 4: None, 5: 0.4, 6: 0.3}
  settings = {
    "best_metric": "val_loss",
    "best_mode": mode,
    "log": lambda line: None,
  }
  with checkpoints.Checkpoints(tmp_path, keep=2, **settings) as saver:
    for step, value in values.items():
      row = {} if value is None else {"val_loss": value}
      saver.save(step, make_state(step), [{}] * (step - 1) + [row])
  with checkpoints.Checkpoints(tmp_path, keep=2, **settings) as saver:
    assert saver.steps() == [best, 5, 6]
    assert saver.best_step() == best
    _, history = saver.restore(make_state(0))
  assert len(history) == 6


def test_a_disk_that_is_full_stops_the_run(tmp_path, monkeypatch):
  """The write in the background fails; the next use of the saver says so."""
  from orbax.checkpoint import JsonCheckpointHandler

  async def refuse(*args, **settings):
    raise OSError(28, os.strerror(28), "record")

  with pytest.raises(artifacts.WriteError) as error:
    with checkpoints.Checkpoints(tmp_path, log=lambda line: None) as saver:
      saver.save(1, make_state(), [])
      saver.wait()
      monkeypatch.setattr(JsonCheckpointHandler, "_save_fn", refuse)
      saver.save(2, make_state(), [])
      saver.save(3, make_state(), [])
  text = str(error.value)
  assert f"A checkpoint in {tmp_path} could not be written: " in text
  assert "No space left on device" in text
  assert "the same command goes on from the newest" in text
  monkeypatch.undo()
  with checkpoints.Checkpoints(tmp_path, log=lambda line: None) as saver:
    assert saver.steps() == [1]


def test_a_save_that_fails_in_the_background_is_noticed(tmp_path, monkeypatch):
  def refuse(*args, **settings):
    raise OSError(28, os.strerror(28), "disk")

  with pytest.raises(artifacts.WriteError, match="No space left on device"):
    with checkpoints.Checkpoints(tmp_path, log=lambda line: None) as saver:
      monkeypatch.setattr(saver._manager, "check_for_errors", refuse)
      saver.check()


def test_another_error_on_its_way_is_not_hidden(tmp_path, monkeypatch):
  def refuse():
    raise OSError(28, os.strerror(28))

  with pytest.raises(ZeroDivisionError):
    with checkpoints.Checkpoints(tmp_path, log=lambda line: None) as saver:
      monkeypatch.setattr(saver._manager, "wait_until_finished", refuse)
      raise ZeroDivisionError


def test_modes_that_are_none(tmp_path):
  with pytest.raises(artifacts.InputError, match="'best'; known are min, max"):
    checkpoints.Checkpoints(tmp_path, best_metric="loss", best_mode="best")
