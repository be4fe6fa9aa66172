"""Checkpoints of training that survive kills, cut files and flipped bits.

orbax writes each under a temporary name and renames it when it is complete, so
a kill leaves no half one. It does so in the background: a save returns when the
state has been copied off the devices. Beside the state stand a table of its
tensors with a checksum of each, the history of the metrics, and a checksum of
both. A newest checkpoint that does not read back as it was written is dropped,
with a message, and the one before is taken.

Usage:
  with checkpoints.Checkpoints(scratch / "checkpoints", keep=2) as saver:
    state, history = saver.restore(state)
    saver.save(step, state, history)     # returns before it is on the disk
    saver.check()                        # raises if the disk refused
"""

import contextlib
import errno
import logging
import os
import pathlib
import re

import jax

from alignet_jax import artifacts, checksums, distributed, progress


class Checkpoints:
  """The checkpoints in one folder; a context manager.

  All processes of a run open it and make the same calls.
  """

  def __init__(
    self,
    directory,
    *,
    keep=2,
    best_metric="",
    best_mode="min",
    log=progress.write,
  ):
    """Opens the folder, makes it if needed, and drops unfinished saves.

    Args:
      directory: Where the checkpoints are; a folder that all processes see.
      keep: How many of the newest to keep, at least 1. With 1 there is nothing
        to fall back to.
      best_metric: Name of the metric whose best checkpoint is kept besides, or
        "" for none.
      best_mode: "min" or "max": which value of it is the best.
      log: Prints one line.
    """
    import orbax.checkpoint as ocp  # 1.1 s, so only where it is used.

    if best_mode not in ("min", "max"):
      raise artifacts.InputError(
        f"best_mode is {best_mode!r}; known are min, max."
      )
    self._ocp = ocp
    self._log = log
    self._best_metric = best_metric
    # orbax takes absolute paths only.
    self._directory = pathlib.Path(directory).absolute()
    # orbax warns where a save waits for the one before for over a second.
    logging.getLogger("absl").addFilter(_is_no_wait)
    self._kept = _Kept(keep, best_mode)
    with self._explained("opened"):
      self._manager = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=self._kept,
          cleanup_tmp_directories=True,
          enable_async_checkpointing=True,
        ),
      )
    for step in self.steps() if best_metric else ():
      with contextlib.suppress(Exception):  # Damaged; `restore_best` says so.
        self._kept.note(step, self._value(self._read_record(step)["history"]))

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    """Waits for what is being written, and closes the files.

    Raises:
      artifacts.WriteError: It could not be written. Only where nothing else is
        on its way up.
    """
    try:
      self.wait()
    except artifacts.WriteError:
      if kind is None:
        raise
    finally:
      # It waits once more, and would raise the same again.
      with contextlib.suppress(Exception):
        self._manager.close()

  def steps(self):
    """Steps that there are checkpoints of, ascending."""
    return sorted(self._manager.all_steps())

  def best_step(self):
    """The step of the best one that is kept, or None."""
    return self._kept.best(self.steps())

  def save(self, step, state, history):
    """Starts to write a checkpoint, after the one before is on the disk.

    Args:
      step: int; saved steps are replaced.
      state: Tree of arrays. They are copied before this returns, so that the
        next step may spend them.
      history: List of dicts from name to float, one per step. May be appended
        to afterwards. Where the last lacks `best_metric`, this checkpoint is
        not the best.

    Raises:
      artifacts.WriteError: This one or the one before could not be written.
    """
    args = self._ocp.args
    sums = checksums.of_state(state)
    self.wait()
    with self._explained("written", step):
      if step in self._manager.all_steps():
        self._manager.delete(step)
      record = {
        "tensors": _tensors(state, sums),
        "history": list(history),
      }
      record["checksum"] = checksums.of_record(record)
      self._kept.note(step, self._value(history))
      self._manager.save(
        step,
        args=args.Composite(
          state=args.StandardSave(state), record=args.JsonSave(record)
        ),
        force=True,
      )

  def check(self):
    """Raises `artifacts.WriteError` if a save has failed by now; quick."""
    with self._explained("written"):
      self._manager.check_for_errors()

  def wait(self):
    """Waits until all is on the disk.

    Raises:
      artifacts.WriteError: It could not be written.
    """
    with self._explained("written"):
      self._manager.wait_until_finished()

  def restore(self, state):
    """Reads the newest checkpoint that is whole.

    Args:
      state: Tree of arrays like the saved one; gives shapes, types and places.
        The places may be others than those of the saved one: any number of
        devices, any mesh.

    Returns:
      The state and the history; the argument and [] if there is none. The
      length of the history is the number of steps done.

    Raises:
      artifacts.InputError: The checkpoint belongs to another model or
        optimiser.
    """
    broken = []
    for step in reversed(distributed.broadcast(self.steps())):
      reason, result = None, None
      try:
        result = self._read(step, state)
      except artifacts.InputError:
        raise
      except Exception as error:  # orbax raises bare Exception for a cut file.
        reason = str(error).strip().split("\n")[0][:200] or repr(error)
      if not distributed.all_true(reason is None):
        broken.append(step)
        self._log(
          f"The checkpoint of step {step} in {self._directory} is damaged "
          f"({reason or 'another process says so'}); trying the one before."
        )
        continue
      self._drop(broken)
      self._log(f"Going on from the checkpoint of step {step}.")
      record, restored = result
      return restored, record["history"]
    if broken:
      self._log(f"No checkpoint in {self._directory} is whole; starting anew.")
      self._drop(broken)
    return state, []

  def restore_best(self, state, history):
    """Reads the best of the checkpoints that are kept.

    Args:
      state: As of `restore`.
      history: Of the training. It says which step is the best.

    Returns:
      The step that it is of, and its state.

    Raises:
      artifacts.InputError: There is none, or it is damaged.
    """
    self.wait()
    values = _Kept(1, self._kept.mode)
    for number, row in enumerate(history, 1):
      values.note(number, row.get(self._best_metric))
    step = values.best(range(1, len(history) + 1))
    if step is None:
      raise artifacts.InputError(
        f"No checkpoint in {self._directory} is the best: no evaluation gave a"
        f" {self._best_metric} that is a number. Set export to 'last'."
      )
    reason, result = None, None
    try:
      _, result = self._read(step, state)
    except Exception as error:
      reason = str(error).strip().split("\n")[0][:200] or repr(error)
    if not distributed.all_true(reason is None):
      raise artifacts.InputError(
        f"The checkpoint of step {step} in {self._directory}, the best, is"
        f" damaged ({reason or 'another process says so'}). Set export to"
        " 'last', or remove that folder to train anew."
      )
    return step, result

  def _drop(self, steps):
    for step in steps:
      self._manager.delete(step)

  def _read(self, step, state):
    args = self._ocp.args
    record = self._read_record(step)
    wanted, saved = _tensors(state), record["tensors"]
    differing = [
      f"{name}: {_describe(saved.get(name))} saved, "
      f"{_describe(wanted.get(name))} needed"
      for name in sorted(wanted.keys() | saved.keys())
      if _describe(saved.get(name)) != _describe(wanted.get(name))
    ]
    if differing:
      raise artifacts.InputError(
        f"The checkpoint of step {step} in {self._directory} belongs to "
        f"another model or optimiser. {len(differing)} tensors differ, first "
        f"{differing[0]}. Use another workdir, or remove that folder."
      )
    template = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state,
    )
    restored = self._manager.restore(
      step, args=args.Composite(state=args.StandardRestore(template))
    ).state
    for name, checksum in checksums.of_state(restored).items():
      if int(checksum) != saved[name]["checksum"]:
        raise ValueError(f"checksum of {name} is not that of the record")
    return record, restored

  def _read_record(self, step):
    args = self._ocp.args
    record = self._manager.restore(
      step, args=args.Composite(record=args.JsonRestore())
    ).record
    # Also before it can tell that the checkpoint is another model's. Records
    # of earlier versions have none.
    if record.get("checksum", checksums.of_record(record)) != (
      checksums.of_record(record)
    ):
      raise ValueError("checksum of the record is not that of its contents")
    return record

  def _value(self, history):
    """What decides whether a checkpoint is the best, or None."""
    return history[-1].get(self._best_metric) if history else None

  def _explained(self, done, step=None):
    return _Explained(self._directory, done, step)


class _Kept:
  """Which checkpoints are kept; orbax asks after each save."""

  def __init__(self, keep, best_mode):
    self._keep = keep
    self.mode = best_mode
    self._sign = 1 if best_mode == "min" else -1
    self._values = {}  # Step -> value of the metric.

  def note(self, step, value):
    """Learns the value at a step; None and NaN are never the best."""
    self._values.pop(step, None)
    if value is not None and value == value:
      self._values[step] = self._sign * value

  def best(self, steps):
    """The best of some steps, the earlier of equal ones; None without any."""
    known = [step for step in sorted(steps) if step in self._values]
    return min(known, key=self._values.get, default=None)

  def should_preserve(self, checkpoints, *, context):
    """Whether each stays: the newest, and the best."""
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = {*sorted(steps)[-self._keep :], self.best(steps)}
    return [step in kept for step in steps]


class _Explained:
  """Turns what orbax raises for a disk that refuses into one sentence."""

  def __init__(self, directory, done, step):
    self._directory, self._done, self._step = directory, done, step

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    if not isinstance(error, Exception) or isinstance(
      error, (artifacts.InputError, artifacts.WriteError)
    ):
      return False
    which = "A checkpoint" if self._step is None else f"Checkpoint {self._step}"
    reason = _reason(error)
    raise artifacts.WriteError(
      f"{which} in {self._directory} could not be {self._done}: {reason}. "
      "The run stops, since it could not go on after a kill. Earlier "
      "checkpoints are kept: once there is room and permission, the same "
      "command goes on from the newest."
    ) from error


def _tensors(state, sums=None):
  """Describes the leaves of a tree by name, for the record."""
  table = {}
  for name, x in checksums.named(state):
    table[name] = {"shape": list(x.shape), "dtype": str(x.dtype)}
    if sums is not None:
      table[name]["checksum"] = int(sums[name])
  return table


def _is_no_wait(record):
  """Filter of log records: not those of a save that waited."""
  return "Waiting for previous save to complete" not in str(record.msg)


def _describe(entry):
  """Such as "float32[2, 3]", or "nothing"."""
  return f"{entry['dtype']}{entry['shape']}" if entry else "nothing"


def _reason(error):
  """Why a disk refused, in a few words."""
  if isinstance(error, OSError) and error.errno:
    where = f" ({error.filename})" if error.filename else ""
    return f"{os.strerror(error.errno)}{where}"
  text = str(error).strip().split("\n")[0]
  for code in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
    if os.strerror(code) in str(error):  # tensorstore has it in the middle
      return os.strerror(code)
  return re.sub(r"\.$", "", text[:200]) or repr(error)
