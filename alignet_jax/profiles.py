"""A window of steps that the profiler of JAX looks at.

Usage:
  with Window((10, 5), folder, log) as window:
    window.before(step, state)
    state = step_fn(state)
    window.after(step + 1, state)
"""

import pathlib

import jax

from alignet_jax import artifacts, distributed


class Window:
  """Traces steps first, first + 1, ...; a context manager."""

  def __init__(self, window, directory, log):
    """Prepares; nothing is traced yet.

    Args:
      window: (first step, number of steps); number 0 for none. A run that goes
        on from a later step traces nothing.
      directory: Where the trace shall be.
      log: Prints one line.

    Raises:
      artifacts.InputError: There is a window and no folder.
    """
    self._first, number = window
    self._end = self._first + number
    self._is_on = False
    self._log = log
    wanted = number > 0 and distributed.is_main()
    if wanted and directory is None:
      raise artifacts.InputError(
        "profile needs metrics_dir: the folder that the trace is written to."
      )
    self._directory = pathlib.Path(directory) if wanted else None

  def __enter__(self):
    return self

  def __exit__(self, *error):
    """Ends a trace that is not complete."""
    if self._is_on:
      jax.profiler.stop_trace()

  def before(self, step, state):
    """Begins the trace if this is its first step."""
    if self._directory is not None and step == self._first:
      jax.block_until_ready(state)  # What came before is not in it.
      jax.profiler.start_trace(self._directory)
      self._is_on = True

  def after(self, num_done, state):
    """Ends the trace after its last step."""
    if self._is_on and num_done == self._end:
      jax.block_until_ready(state)
      jax.profiler.stop_trace()
      self._is_on = False
      self._log(
        f"profile of steps {self._first} to {self._end - 1}: {self._directory}"
      )
