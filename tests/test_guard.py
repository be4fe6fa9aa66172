"""Bad losses: what is left out, what stops, and where its batch is."""

import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax import artifacts, checkpoints, guard, loop

NUM_STEPS = 31


@flax.struct.dataclass
class State:
  params: jax.Array
  step: jax.Array


@jax.jit
def step_fn(state, batch):
  """The loss is what the batch says."""
  loss = jnp.sum(batch)
  return State(state.params + batch, state.step + 1), {"loss": loss}


def losses_with(bad):
  """Losses 1.00, 1.01, ... but for those of some steps."""
  losses = 1 + 0.01 * np.arange(NUM_STEPS, dtype=np.float32)
  for step, value in bad.items():
    losses[step] = value
  return losses


def train(
  directory, losses, *, stop_at=None, lines=None, step_fn=step_fn, **settings
):
  def make_batches(start):
    for step in range(start, NUM_STEPS):
      if step == stop_at:
        raise RuntimeError("killed")
      yield jnp.array([losses[step]])

  lines = [] if lines is None else lines
  return loop.train(
    State(jnp.zeros(1), jnp.zeros([], jnp.int32)),
    step_fn,
    make_batches,
    num_steps=NUM_STEPS,
    checkpoint_dir=directory,
    checkpoint_every=4,
    label="test",
    settings=loop.Settings(
      describe_batch=lambda step: {"triplets": np.arange(3) + 10 * step},
      **settings,
    ),
    log=lines.append,
  )


def test_what_is_no_number_is_left_out_and_counted(tmp_path):
  losses = losses_with({3: np.nan, 7: np.inf, 8: -np.inf})
  lines = []
  state, history = train(
    tmp_path / "c", losses, on_bad_loss="skip", lines=lines
  )
  good = np.isfinite(losses)
  np.testing.assert_allclose(state.params, losses[good].sum(), rtol=1e-6)
  assert state.step == NUM_STEPS - 3
  skipped = [row["skipped"] for row in history]
  np.testing.assert_array_equal(skipped, ~good)
  assert (
    "the loss of step 3 is nan; its update is left out (1 so far)" in (lines[0])
  )
  assert "(3 so far)" in lines[2]
  path = tmp_path / "c_bad_batch_7.json"
  assert str(path) in lines[1]
  described = json.loads(path.read_text())
  assert described["step"] == 7 and described["triplets"] == [70, 71, 72]


@pytest.mark.parametrize("stop_at", [5, 26])
def test_a_run_with_bad_losses_resumes_to_the_same_bits(tmp_path, stop_at):
  losses = losses_with({3: np.nan, 25: 50.0, 28: 50.0})
  settings = {"on_bad_loss": "skip", "spike_factor": 5.0}
  whole = train(tmp_path / "whole", losses, **settings)
  assert sum(row["skipped"] for row in whole[1]) == 3
  with pytest.raises(RuntimeError):
    train(tmp_path / "c", losses, stop_at=stop_at, **settings)
  state, history = train(tmp_path / "c", losses, **settings)
  assert repr(history) == repr(whole[1])  # NaN equals NaN here
  for x, y in zip(
    jax.tree.leaves(state), jax.tree.leaves(whole[0]), strict=True
  ):
    np.testing.assert_array_equal(x, y)


def test_a_spike_is_measured_by_the_mean_of_the_good_losses(tmp_path):
  """Twice the mean, about 1.5 by then; before the warm-up all is fine."""
  losses = losses_with({10: 9.0, 24: 1.9, 26: 5.9})
  state, history = train(
    tmp_path / "c", losses, on_bad_loss="skip", spike_factor=2.0
  )
  mean = 0.0
  for count, loss in enumerate(losses):
    unbiased = mean / (1 - 0.98 ** max(count, 1))
    bad = count >= guard.WARMUP and loss > 2 * unbiased
    assert history[count]["skipped"] == bad
    if bad:
      break
    mean = 0.98 * mean + 0.02 * loss
  assert count == 26


@pytest.mark.parametrize(
  ("bad", "left_out"),
  [
    # 500 would have raised the mean to more than 4.
    ({24: 500.0, 26: 4.0}, [24, 26]),
    # By step 21 there were only 18 good ones, so none is a spike yet.
    ({3: np.nan, 4: np.nan, 5: np.nan, 21: 9.0}, [3, 4, 5]),
  ],
)
def test_what_is_left_out_is_no_part_of_the_mean(tmp_path, bad, left_out):
  _, history = train(
    tmp_path / "c", losses_with(bad), on_bad_loss="skip", spike_factor=2.0
  )
  found = [step for step, row in enumerate(history) if row["skipped"]]
  assert found == left_out


def test_a_spike_stops_and_says_where_its_batch_is(tmp_path):
  losses = losses_with({22: 30.0})
  with pytest.raises(FloatingPointError) as error:
    train(tmp_path / "c", losses, spike_factor=4.0)
  text = str(error.value)
  assert "the loss of step 22 is 30, more than 4 times its mean" in text
  assert str(tmp_path / "c_bad_batch_22.json") in text
  with checkpoints.Checkpoints(tmp_path / "c") as saver:
    assert saver.steps() == [16, 20]


def test_without_an_end_to_bad_losses_it_stops(tmp_path, monkeypatch):
  monkeypatch.setattr("alignet_jax.journal.MAX_SKIPPED", 3)
  losses = losses_with(dict.fromkeys((2, 5, 6, 7, 8), np.nan))
  with pytest.raises(FloatingPointError, match="step 8 is nan, the 4th in a"):
    train(tmp_path / "c", losses, on_bad_loss="skip")


def test_what_was_left_out_before_a_stop_counts_after_it(tmp_path, monkeypatch):
  """The checkpoint of step 8 lies between the second and the third bad one."""
  monkeypatch.setattr("alignet_jax.journal.MAX_SKIPPED", 3)
  losses = losses_with(dict.fromkeys((6, 7, 8, 9), np.nan))
  settings = {"on_bad_loss": "skip"}
  with pytest.raises(RuntimeError):
    train(tmp_path / "c", losses, stop_at=9, **settings)
  lines = []
  with pytest.raises(FloatingPointError, match="step 9 is nan, the 4th in a"):
    train(tmp_path / "c", losses, lines=lines, **settings)
  assert "step 8 is nan; its update is left out (3 so far)" in lines[-1]


def test_a_gradient_that_is_no_number_counts_too():
  @jax.jit
  def step(state, batch):
    return state + 1, {"loss": jnp.ones([]), "grad_norm": batch}

  step = guard.guarded(step, spike_factor=0.0)
  state = guard.start(jnp.zeros(2))
  state, metrics = step(state, jnp.array(np.nan))
  assert metrics["skipped"] == 1
  state, metrics = step(state, jnp.array(1.0))
  assert metrics["skipped"] == 0
  np.testing.assert_array_equal(state.inner, np.ones(2))


@jax.jit
def unseen_step_fn(state, batch):
  """Loss 1 whatever happens; the batch is the norm of the gradient."""
  norm = jnp.sum(batch)
  params = state.params + jnp.where(jnp.isfinite(norm), 0.1, norm)
  metrics = {"loss": jnp.ones([]), "grad_norm": norm}
  return State(params, state.step + 1), metrics


# The first, the last before a checkpoint, the first after it, the very last.
@pytest.mark.parametrize("step", [0, 3, 4, NUM_STEPS - 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_stops_before_it_is_saved(
  tmp_path, step, bad
):
  with pytest.raises(FloatingPointError) as error:
    train(tmp_path / "c", losses_with({step: bad}), step_fn=unseen_step_fn)
  text = str(error.value)
  assert f"loss of step {step} is 1, and its gradient is not finite" in text
  path = tmp_path / f"c_bad_batch_{step}.json"
  assert str(path) in text and json.loads(path.read_text())["step"] == step
  with checkpoints.Checkpoints(tmp_path / "c") as saver:
    assert saver.steps() == list(range(4, step + 1, 4))[-2:]
  # What made it bad is gone: the same command goes on to its end.
  state, _ = train(tmp_path / "c", losses_with({}), step_fn=unseen_step_fn)
  np.testing.assert_allclose(state.params, 0.1 * NUM_STEPS, rtol=1e-5, atol=0)


@pytest.mark.parametrize("step", [3, NUM_STEPS - 1])
@pytest.mark.parametrize("on_bad_loss", ["stop", "skip"])
@pytest.mark.parametrize("keeps", [True, False])
def test_parameters_that_are_not_finite_are_neither_saved_nor_returned(
  tmp_path, step, on_bad_loss, keeps
):
  """Neither loss nor gradient tells, such as with a learning rate of 1e39."""

  @jax.jit
  def step_fn(state, batch):
    params = state.params + jnp.where(batch > 2, jnp.inf, 0.1)
    return State(params, state.step + 1), {"loss": jnp.ones([])}

  with pytest.raises(FloatingPointError) as error:
    train(
      tmp_path / "c" if keeps else None,
      losses_with({step: 3.0}),
      step_fn=step_fn,
      on_bad_loss=on_bad_loss,
    )
  text = str(error.value)
  assert f"step {step} is 1, but after its update there are param" in text
  path = tmp_path / f"c_bad_batch_{step}.json"
  assert path.exists() == (str(path) in text) == keeps
  if keeps:
    with checkpoints.Checkpoints(tmp_path / "c") as saver:
      assert max(saver.steps(), default=0) == step - step % 4


def test_what_is_finite():
  tree = {"a": jnp.ones(2), "b": jnp.arange(3), "c": jax.random.key(0)}
  assert guard.is_finite(tree)
  for bad in (np.nan, np.inf, -np.inf):
    assert not guard.is_finite({**tree, "d": jnp.array([0.0, bad])})
  assert guard.is_finite({"b": jnp.arange(3)})


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"on_bad_loss": "skp"}, "'skp'; known are stop, skip"),
    ({"spike_factor": 0.5}, "0.5; allowed are numbers more than 1"),
  ],
)
def test_settings_that_are_refused(settings, words):
  with pytest.raises(artifacts.InputError, match=words):
    loop.Settings(**settings)
