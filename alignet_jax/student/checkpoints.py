"""Checkpoints of a training loop: atomic, the newest readable one wins.

A thin layer over orbax. What is saved is the train state and the metrics of all
steps so far, so that a resumed run ends with the same files as one that was
never stopped.

Usage:
  with Checkpoints(directory) as checkpoints:
    state, history = checkpoints.restore(state)
    checkpoints.save(step, state, history)
"""

import pathlib

import jax
import orbax.checkpoint as ocp


class Checkpoints:
  """The checkpoints in one directory; a context manager."""

  def __init__(self, directory, *, max_to_keep=2, log=print):
    """Opens the directory, which is made if need be.

    Args:
      directory: path; made absolute, as orbax needs it.
      max_to_keep: how many of the newest are kept.
      log: prints a line.
    """
    self._log = log
    self._manager = ocp.CheckpointManager(
      pathlib.Path(directory).resolve(),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep,
        enable_async_checkpointing=False,
        create=True,
      ),
    )

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self._manager.close()

  def save(self, step, state, history):
    """Saves after `step` steps.

    Args:
      step: steps done.
      state: tree of arrays.
      history: list of dicts from name to float, one per step.
    """
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        history=ocp.args.JsonSave({"steps": history}),
      ),
    )

  def restore(self, state):
    """Restores the newest checkpoint that can be read.

    A checkpoint that cannot be read is named and deleted, and the one before it
    is tried.

    Args:
      state: tree of arrays of the shapes and shardings that are wanted.

    Returns:
      (state, history) of the checkpoint; the argument and [] if there is none.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract),
            history=ocp.args.JsonRestore(),
          ),
        )
      # Whatever orbax and tensorstore raise for a damaged file.
      except Exception as error:
        self._log(
          f"The checkpoint of step {step} cannot be read and is dropped "
          f"({type(error).__name__}); trying the one before."
        )
        self._manager.delete(step)
        continue
      return restored["state"], restored["history"]["steps"]
    return state, []
