"""The loop around a train step: checkpoints, history, progress, interruption.

It knows nothing of triplets: any function from (state, batch) to (state,
metrics) will do. A run that is stopped at any moment and started again goes on
from its newest checkpoint and ends with the same bytes, because the batch of a
step depends on the step alone and the history of metrics is in the checkpoint.

Several processes may train together (see `distributed`): then all call this
alike, and stop together if one of them is told to.

Usage:
  state, history = loop.train(
    state, step_fn, make_batches, num_steps=1_000, checkpoint_dir=scratch,
    checkpoint_every=200, label="student",
    settings=loop.Settings(eval_fn=validate, eval_every=100))
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax

from alignet_jax import (
  artifacts,
  checkpoints,
  distributed,
  guard,
  journal,
  memory,
  overview,
  profiles,
  progress,
  speed,
  work,
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a run does besides its steps; by default nothing.

  Attributes:
    best_metric: Metric of the evaluation whose best checkpoint is kept besides
      the newest, such as "val_loss"; "" for none. Only checkpoints right after
      an evaluation count.
    best_mode: "min" or "max".
    export: Which state is returned: "last", after the last step, or "best",
      after the evaluation with the best `best_metric`, the first of equal ones.
      With "best" there is a checkpoint after every evaluation that is better
      than those before, so that a run that is stopped and goes on finds the
      same one.
    eval_fn: Function from the state to a dict of scalars, which get the prefix
      "val_" in the history, in the row of the update before. Must leave the
      state as it is.
    eval_every: Steps between evaluations; there is one at the end, too. 0 for
      none.
    on_bad_loss: What to do about a loss, or a metric "grad_norm", that is no
      number, or a spike: "stop", or "skip" the update. See `guard`.
    spike_factor: Times the running mean of the loss that make a spike; 0 for no
      limit.
    describe_batch: Function from a step to a dict of what was in its batch,
      written to a file when the loss is bad; or None.
    metrics_dir: Where metrics are written for those who watch; None for
      nowhere. See `metrics_files`.
    profile: (first step, number of steps) that are profiled; number 0 for none.
    units_per_step: Name in the plural -> how many all processes deal with in a
      step, whose rates are shown.
    show_overview: Whether to print the parameters and the memory that a step
      needs, and to refuse one that does not fit.
  """

  best_metric: str = ""
  best_mode: str = "min"
  export: str = "last"
  eval_fn: Callable[[Any], Mapping[str, float]] | None = None
  eval_every: int = 0
  on_bad_loss: str = "stop"
  spike_factor: float = 0.0
  describe_batch: Callable[[int], Mapping[str, Any]] | None = None
  metrics_dir: os.PathLike | None = None
  profile: tuple[int, int] = (0, 0)
  units_per_step: Mapping[str, float] = dataclasses.field(default_factory=dict)
  show_overview: bool = False

  def __post_init__(self):
    if self.on_bad_loss not in ("stop", "skip"):
      raise artifacts.InputError(
        f"on_bad_loss is {self.on_bad_loss!r}; known are stop, skip."
      )
    if self.spike_factor and not self.spike_factor > 1:
      raise artifacts.InputError(
        f"spike_factor is {self.spike_factor}; allowed are numbers more than 1,"
        " or 0 for no limit."
      )
    if self.export not in ("last", "best"):
      raise artifacts.InputError(
        f"export is {self.export!r}; known are last, best."
      )
    is_judged = self.best_metric and self.eval_fn and self.eval_every
    if self.export == "best" and not is_judged:
      raise artifacts.InputError(
        "export is 'best', but there is no evaluation to be best by: set"
        " eval_every to 1 or more, or export to 'last'."
      )

  @property
  def is_guarded(self):
    """Whether the step itself decides if its update is made."""
    return self.on_bad_loss == "skip" or self.spike_factor > 0


def train(
  state,
  step_fn,
  make_batches,
  *,
  num_steps,
  checkpoint_dir,
  checkpoint_every,
  label,
  unit="steps",
  keep=2,
  should_stop=None,
  settings=None,
  log=progress.write,
):
  """Trains up to a number of steps, from the newest checkpoint if there is one.

  Ctrl-C and SIGTERM let the step finish, save, and only then take their usual
  course; a second one is not held back.

  Args:
    state: State before the first step, a tree of arrays. Spent.
    step_fn: Function from (state, batch) to (state, metrics), with metrics a
      dict of scalars that has "loss".
    make_batches: Function from the first step to an iterator over batches.
    num_steps: Number of updates in all.
    checkpoint_dir: Where checkpoints are kept; None to keep none.
    checkpoint_every: Steps between checkpoints, at least 1. There is always
      one at the end. They are written while training goes on.
    label: What the progress is called.
    unit: What a step is called there, in the plural.
    keep: Number of newest checkpoints to keep.
    should_stop: Function from the history to whether that was enough, asked
      after every step, or None. It makes every step wait for its metrics.
    settings: `Settings`; None for the defaults.
    log: Prints one line.

  Returns:
    The state after the last update, or the best one (`Settings.export`), and
    the history of all steps: a list of dicts from
    metric to float, entry s from the batch of step s before its update, with
    "val_..." from after it where there was an evaluation, and "skipped" where
    updates may be left out.

  Raises:
    FloatingPointError: The loss or the norm of the gradient is NaN or infinite,
      or the loss a spike; or parameters that would be saved or returned are not
      finite. Names the step and the file with its batch. Nothing of that step
      is saved.
    artifacts.InputError: The checkpoints belong to another model, or are beyond
      `num_steps`; or the step does not fit into memory; or the best state is
      wanted, and there are no checkpoints, or no evaluation gave a number.
    artifacts.WriteError: A checkpoint could not be written.
    ValueError: The batches end too early.
  """
  settings = settings or Settings()
  exports_best = settings.export == "best"
  if exports_best and checkpoint_dir is None:
    raise artifacts.InputError(
      "export is 'best', which needs checkpoints; give checkpoint_dir."
    )
  if settings.is_guarded:
    state = guard.start(state)
    step_fn = guard.guarded(step_fn, spike_factor=settings.spike_factor)
  inner = lambda s: s.inner if settings.is_guarded else s  # noqa: E731
  params = lambda s: getattr(inner(s), "params", inner(s))  # noqa: E731
  agreement = distributed.StopAgreement()
  with (
    _held_signals() as held,
    _open(checkpoint_dir, keep, settings, log) as saver,
  ):
    number = lambda: held[0] if held else 0  # noqa: E731
    state, history = saver.restore(state)
    first_step = saved_step = step = len(history)
    if step > num_steps:
      raise artifacts.InputError(
        f"The checkpoint in {checkpoint_dir} is of step {step}, beyond "
        f"num_steps={num_steps}."
      )
    if settings.show_overview and step == 0:
      log(overview.table(params(state)))
    rates = speed.Speed(settings.units_per_step)
    pending = None  # Metrics of the last step, perhaps still being computed.
    with (
      journal.Journal(
        history,
        settings,
        label=label,
        unit=unit,
        num_steps=num_steps,
        directory=checkpoint_dir,
        log=log,
      ) as book,
      profiles.Window(settings.profile, settings.metrics_dir, log) as window,
      progress.Progress(
        num_steps,
        unit=unit,
        label=label,
        initial=step,
        quiet=not distributed.is_main(),
      ) as bar,
    ):

      def save():
        nonlocal pending, saved_step
        pending = book.record(pending)
        if saved_step != step:
          # A save waits for the state in any case.
          if not guard.is_finite(params(state)):
            book.refuse_state()
          book.flush()
          saver.save(step, state, history)
          saved_step = step

      done = should_stop is not None and bool(history) and should_stop(history)
      batches = iter(make_batches(step)) if step < num_steps else iter(())
      try:
        while step < num_steps and not done:
          if agreement.is_due(step, number()):
            break
          with rates.waiting():
            batch = next(batches, None)
          if batch is None:
            raise ValueError(
              f"{label}: the batches from step {first_step} on ended before "
              f"step {step}; num_steps={num_steps} are needed."
            )
          if step == first_step:
            _plan(step_fn, state, batch, rates, settings.show_overview, log)
          window.before(step, state)
          state, metrics = step_fn(state, batch)
          saver.check()
          # Those of the step before are read only now: no device waits.
          book.record(pending)
          pending = metrics
          step += 1
          rates.count_step()
          if _is_due(step, num_steps, settings):
            with rates.pausing():
              values = settings.eval_fn(inner(state))
              values = {f"val_{k}": float(v) for k, v in values.items()}
            pending = book.record(pending, values)
            if exports_best and _is_best(history, settings):
              save()
          if should_stop is not None:
            pending = book.record(pending)
            done = should_stop(history)
          window.after(step, state)
          if step % checkpoint_every == 0:
            save()
          book.write_rates(rates.rates())
          bar.update(**_latest(history), **rates.words())
      except (KeyboardInterrupt, SystemExit):
        # Making a batch raised it. Or it is the second signal, which may have
        # hit a step that has spent its state already.
        if not held and distributed.process_count() == 1:
          save()
        raise
      save()
    if exports_best and (done or step == num_steps):
      best_step, state = saver.restore_best(state, history)
      log(f"{label}: of {step} {unit}, {best_step} are the best; they count")
  stopped = agreement.number(number())
  if stopped:
    log(f"{label}: stopped by a signal; {unit[:-1]} {step} is saved")
    signal.raise_signal(stopped)  # The usual handlers are back.
    # A handler that comes back must not make this look like the end.
    raise KeyboardInterrupt(f"stopped by {signal.Signals(stopped).name}")
  return inner(state), history


class _NoCheckpoints(contextlib.nullcontext):
  """Stands in for `checkpoints.Checkpoints` where nothing is kept."""

  def __enter__(self):
    return self

  def restore(self, state):
    return state, []

  def save(self, step, state, history):
    pass

  def check(self):
    pass


def _open(directory, keep, settings, log):
  if directory is None:
    return _NoCheckpoints()
  return checkpoints.Checkpoints(
    pathlib.Path(directory),
    keep=keep,
    best_metric=settings.best_metric,
    best_mode=settings.best_mode,
    log=log,
  )


def _is_due(step, num_steps, settings):
  """Whether to evaluate after so many steps."""
  if settings.eval_fn is None or not settings.eval_every:
    return False
  return step % settings.eval_every == 0 or step == num_steps


def _is_best(history, settings):
  """Whether the evaluation in the last row is better than all before it."""
  name, sign = settings.best_metric, 1 if settings.best_mode == "min" else -1
  *before, last = [sign * row[name] for row in history if name in row]
  # Nothing is less than or equal to NaN.
  return last == last and not any(value <= last for value in before)


def _plan(step_fn, state, batch, rates, shows, log):
  """Has the MFU shown; if asked to, prints and checks what a step needs."""
  if shows:
    plan = memory.plan(step_fn, state, batch)
    if plan is not None:
      log(memory.line(plan))
      memory.check(plan)
  kind = jax.local_devices()[0].device_kind
  rates.peak = speed.peak_flops(kind)
  if rates.peak is not None:
    rates.flops = work.flops_per_device(step_fn, state, batch)
  elif shows:
    log(f"peak FLOP/s of the device {kind!r} unknown, so no MFU is shown")


def _latest(history):
  """Loss and accuracy to show, if there are any yet."""
  row = history[-1] if history else {}
  return {name: row[name] for name in ("loss", "accuracy") if name in row}


@contextlib.contextmanager
def _held_signals():
  """Collects the first SIGINT or SIGTERM in a list instead of acting on it.

  Not one that is ignored, as Ctrl-C is by what a script starts with `&`.
  """
  held = []
  if threading.current_thread() is not threading.main_thread():
    yield held  # Only the main thread can set handlers.
    return
  previous = {}

  def hold(number, frame):
    held.append(number)
    _set_handlers(previous)  # The next one acts at once.

  for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) != signal.SIG_IGN:
      previous[number] = signal.signal(number, hold)
  try:
    yield held
  finally:
    _set_handlers(previous)


def _set_handlers(handlers):
  for number, handler in handlers.items():
    signal.signal(number, handler)
