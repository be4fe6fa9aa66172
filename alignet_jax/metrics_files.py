"""Files of metrics that one watches while a model trains.

`metrics.csv` has a row per step and holds exactly the history that is in the
checkpoints: it is written anew from it when a run goes on, so that a run which
was killed leaves the file of one which was not. The event files of TensorBoard
hold at most about 1,000 points per curve, and rates besides; a few steps before
a kill may be in them twice, with the same values.

Usage:
  with MetricsFiles(folder, history, num_steps=1_000) as files:
    files.write(step, row)
    files.write_rates(step, {"images/s": 100.0})
"""

import os
import pathlib

from alignet_jax import artifacts

CSV = "metrics.csv"

# Points per curve of TensorBoard.
NUM_POINTS = 1_000


class MetricsFiles:
  """The files in one folder; a context manager."""

  def __init__(self, directory, history, *, num_steps):
    """Prepares the folder.

    Args:
      directory: Where the files shall be; made.
      history: The rows that there are already, from step 0 on. If there are
        none, event files of an earlier run are removed.
      num_steps: How many rows there will be.
    """
    self._directory = pathlib.Path(directory)
    self._directory.mkdir(parents=True, exist_ok=True)
    if not history:
      for path in self._directory.glob("events.out.tfevents.*"):
        path.unlink()
    self._every = max(1, num_steps // NUM_POINTS)
    self._columns = []
    self._rows = [dict(row) for row in history]
    self._file = None

  def __enter__(self):
    """Writes what there is already, and opens the event file."""
    from clu import metric_writers  # 5 s: it imports TensorFlow.

    self._writer = metric_writers.SummaryWriter(str(self._directory))
    self._rewrite(self._rows)
    return self

  def __exit__(self, kind, error, trace):
    """Closes the files."""
    self._file.close()
    self._writer.close()

  def write(self, step, row):
    """Appends a row.

    Args:
      step: int, the number of rows before it.
      row: Dict from name to float.
    """
    self._rows.append(dict(row))
    if set(row) - set(self._columns):
      self._rewrite(self._rows)
    else:
      self._file.write(self._line(step, row))
      self._file.flush()
    rare = {k: v for k, v in row.items() if k.startswith("val_")}
    if step % self._every == 0 or rare:
      self._writer.write_scalars(step, row)

  def write_rates(self, step, rates):
    """Writes numbers that differ from run to run, to TensorBoard only."""
    if rates and step % self._every == 0:
      self._writer.write_scalars(
        step, {f"speed/{name}": value for name, value in rates.items()}
      )

  def flush(self):
    """Brings all to the disk, as when a checkpoint is saved."""
    self._writer.flush()
    os.fsync(self._file.fileno())

  def _rewrite(self, rows):
    """Writes the whole csv, as there are new columns."""
    if self._file is not None:
      self._file.close()
    names = dict.fromkeys(name for row in rows for name in row)
    self._columns = list(names)
    lines = [",".join(["step", *self._columns]) + "\n"]
    lines += [self._line(step, row) for step, row in enumerate(rows)]
    path = self._directory / CSV
    artifacts.write_text(path, "".join(lines))
    self._file = open(path, "a", encoding="utf-8")

  def _line(self, step, row):
    cells = [str(row.get(name, "")) for name in self._columns]
    return ",".join([str(step), *cells]) + "\n"
