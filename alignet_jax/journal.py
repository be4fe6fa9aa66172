"""The history of a run while it grows: metrics, their files, and bad losses.

Usage:
  with Journal(history, settings, label="student", unit="steps",
               num_steps=1_000, directory=scratch, log=print) as book:
    book.record(metrics)
"""

import contextlib
import math
import pathlib

import numpy as np

from alignet_jax import artifacts, distributed, metrics_files

# Updates left out in a row before a run is beyond help.
MAX_SKIPPED = 50


class Journal:
  """Appends to a history; a context manager for the files."""

  def __init__(
    self, history, settings, *, label, unit, num_steps, directory, log
  ):
    """Starts with what there is already.

    Args:
      history: List of rows, which grows.
      settings: `loop.Settings`.
      label: What is trained.
      unit: What a step is called, in the plural.
      num_steps: Number of steps in all.
      directory: Folder of the checkpoints; what is in bad batches goes beside
        it. Or None.
      log: Prints one line.
    """
    self._history = history
    self._settings = settings
    self._label, self._unit, self._log = label, unit, log
    self._num_skipped = sum(_is_skipped(row) for row in history)
    self._in_a_row = 0
    for row in reversed(history):
      if not _is_skipped(row):
        break
      self._in_a_row += 1
    self._directory = directory
    self._files = None
    if settings.metrics_dir is not None and distributed.is_main():
      self._files = metrics_files.MetricsFiles(
        settings.metrics_dir, history, num_steps=num_steps
      )

  def __enter__(self):
    """Opens the files."""
    with contextlib.ExitStack() as stack:
      if self._files is not None:
        stack.enter_context(self._files)
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *error):
    """Closes the files."""
    return self._stack.__exit__(*error)

  def record(self, metrics, values=None):
    """Waits for the metrics of a step, if any, and appends them; gives None.

    Args:
      metrics: Dict of scalars, or None.
      values: Dict of float to put into the same row, or None.
    """
    if metrics is None:
      return
    row = {name: float(value) for name, value in metrics.items()}
    self._judge(row)
    row |= values or {}
    self._history.append(row)
    if self._files is not None:
      self._files.write(len(self._history) - 1, row)

  def write_rates(self, rates):
    """Writes rates beside the last row."""
    if self._files is not None and self._history:
      self._files.write_rates(len(self._history) - 1, rates)

  def flush(self):
    """Brings the files to the disk."""
    if self._files is not None:
      self._files.flush()

  def _judge(self, row):
    """Stops at a bad loss or gradient, or counts it."""
    is_bad = _is_skipped(row) or not all(
      math.isfinite(row.get(name, 0.0)) for name in ("loss", "grad_norm")
    )
    if self._settings.on_bad_loss == "stop":
      row.pop("skipped", None)
    if not is_bad:
      self._in_a_row = 0
      return
    step = len(self._history)
    what = self._what(step, row)
    if math.isfinite(row["loss"]):
      is_norm = not math.isfinite(row.get("grad_norm", 0.0))
      what += (
        ", and its gradient is not finite"
        if is_norm
        else f", more than {self._settings.spike_factor:g} times its mean"
      )
    where = self._dump(step, row)
    if self._settings.on_bad_loss == "stop":
      raise FloatingPointError(
        f"{what}. Nothing of it was saved; a lower learning rate or clip_norm"
        f" may help, or on_bad_loss='skip'.{where}"
      )
    self._num_skipped += 1
    self._in_a_row += 1
    if self._in_a_row > MAX_SKIPPED:
      raise FloatingPointError(
        f"{what}, the {self._in_a_row}th in a row whose update would be left"
        f" out. A lower learning rate or clip_norm may help.{where}"
      )
    self._log(
      f"{what}; its update is left out ({self._num_skipped} so far).{where}"
    )

  def refuse_state(self):
    """Raises because there is something not finite in the state."""
    step, row = len(self._history) - 1, self._history[-1]
    raise FloatingPointError(
      f"{self._what(step, row)}, but after its update there are parameters that"
      " are not finite. They are not saved; a lower learning rate or clip_norm"
      f" may help.{self._dump(step, row)}"
    )

  def _what(self, step, row):
    """Such as "student: the loss of step 5 is 0.3"."""
    return (
      f"{self._label}: the loss of {self._unit[:-1]} {step} is "
      f"{row['loss']:.6g}"
    )

  def _dump(self, step, row):
    """Writes what was in the batch of a step; a sentence that says where."""
    describe = self._settings.describe_batch
    if describe is None or self._directory is None:
      return ""
    directory = pathlib.Path(self._directory)
    path = directory.with_name(f"{directory.name}_bad_batch_{step}.json")
    if distributed.is_main():
      batch = {k: np.asarray(v).tolist() for k, v in describe(step).items()}
      metrics = {k: str(v) for k, v in row.items()}  # JSON has no NaN.
      artifacts.write_json(path, {"step": step, "metrics": metrics, **batch})
    return f" What was in its batch is in {path}."


def _is_skipped(row):
  return row.get("skipped", 0.0) > 0
