"""The loop around a train step: batches, checkpoints, progress, metrics.

Knows nothing of what is trained; pre-training and distillation share it. Step s
always sees batch s, so a run that goes on from a checkpoint takes the very
steps that it would have taken.

Usage:
  state, history = train(state, step_fn, make_batches, num_steps=1_000,
                         checkpoint_dir=path, checkpoint_every=100,
                         label="student")
"""

import math

import jax

from alignet_jax import progress
from alignet_jax.student import checkpoints as checkpoints_lib

# Steps whose metrics are fetched together; more hides the latency of a device.
FETCH_EVERY = 10


def train(
  state,
  step_fn,
  make_batches,
  *,
  num_steps,
  checkpoint_dir,
  checkpoint_every,
  label,
  log=print,
):
  """Trains to the end, from the newest checkpoint if there is one.

  Args:
    state: train state; its leaves say where restored arrays go.
    step_fn: (state, batch) to (state, dict of scalars, with "loss").
    make_batches: start step to an iterator of the batches from there on.
    num_steps: steps in all.
    checkpoint_dir: where checkpoints are kept.
    checkpoint_every: steps between two of them.
    label: name in the progress display.
    log: prints a line.

  Returns:
    The final state, and the history: one dict of floats per step.

  Raises:
    FloatingPointError: A loss that is not finite; names the step. Nothing of
      it is saved.
  """
  with checkpoints_lib.Checkpoints(checkpoint_dir, log=log) as checkpoints:
    state, history = checkpoints.restore(state)
    start = len(history)
    if start:
      log(f"{label}: going on from step {start}")
    if start >= num_steps:
      return state, history
    pending = []
    batches = make_batches(start)
    with progress.Progress(
      num_steps, unit="steps", label=label, initial=start
    ) as bar:
      for step in range(start, num_steps):
        state, metrics = step_fn(state, next(batches))
        pending.append(metrics)
        done = step + 1
        save = done % checkpoint_every == 0 or done == num_steps
        if save or len(pending) == FETCH_EVERY:
          history += _fetch(pending, done, label)
          bar.update(len(pending), loss=history[-1]["loss"])
          pending = []
        if save:
          checkpoints.save(done, state, history)
  return state, history


def _fetch(pending, done, label):
  """Brings metrics from the device and refuses a loss that is not finite."""
  rows = [
    {name: float(value) for name, value in metrics.items()}
    for metrics in jax.device_get(pending)
  ]
  for offset, row in enumerate(rows):
    if not math.isfinite(row["loss"]):
      step = done - len(rows) + offset
      raise FloatingPointError(
        f"{label}: the loss of step {step} is {row['loss']}. A smaller learning "
        "rate or a larger temperature may help."
      )
  return rows
