"""The state of an unfinished k-means, so that a kill costs a minute.

One `.npz` file, replaced in one step: the best start so far, and the centroids
and clusters of the start that was under way. It names the settings and the data
that it belongs to; one of others, or a damaged one, is not gone on from.

Usage:
  saver = kmeans_checkpoint.Checkpoint(path, [k, seed], features, mean, log=log)
  best, start = saver.read()                       # None, {} if there is none
  saver.write(best, restart=0, num_updates=5, centroids=centroids, before=ids)
"""

import hashlib
import json
import pathlib
import time

import numpy as np

from alignet_jax import artifacts

# Seconds between two checkpoints.
INTERVAL = 60.0

_STATE = ("restart", "num_updates", "centroids", "before")
_BEST = ("cluster_ids", "centroids", "inertia", "num_iters")


class Checkpoint:
  """Reads and writes the file; does nothing without a path."""

  def __init__(self, path, settings, features, mean, *, log):
    """Notes where the file is and what it has to belong to.

    Args:
      path: Path of the file, or None.
      settings: Numbers that the result depends on.
      features: [n d] rows. Their shape, mean, and first and last row stand for
        all of them.
      mean: f32[d].
      log: Called with one line.
    """
    self._path = None if path is None else pathlib.Path(path)
    self._log = log
    self._written = time.monotonic()
    digest = hashlib.sha256(json.dumps([settings, features.shape]).encode())
    for row in (mean, features[0], features[-1]):
      digest.update(np.asarray(row, np.float64).tobytes())
    self._key = digest.hexdigest()

  def read(self):
    """What was reached.

    Returns:
      The best finished start, a dict of the fields of `kmeans.KMeans`, or None;
      and the unfinished one, a dict with `restart`, `num_updates`, `centroids`
      f32[k d] about the mean and `before` int32[n], empty if there is none.
    """
    if self._path is None or not self._path.exists():
      return None, {}
    try:
      arrays = artifacts.read_npz(self._path, required=("key", *_STATE))
    except artifacts.InputError as error:
      self._log(f"{error} k-means starts anew.")
      return None, {}
    if str(arrays["key"]) != self._key:
      self._log(
        f"The checkpoint {self._path} belongs to other features or settings;"
        " k-means starts anew."
      )
      return None, {}
    start = {name: _plain(arrays[name]) for name in _STATE}
    self._log(
      f"k-means goes on with start {start['restart'] + 1} after"
      f" {start['num_updates']} updates"
    )
    if f"best_{_BEST[0]}" not in arrays:
      return None, start
    return {name: _plain(arrays[f"best_{name}"]) for name in _BEST}, start

  def is_due(self):
    """Whether the last one was written long enough ago."""
    waited = time.monotonic() - self._written
    return self._path is not None and waited >= INTERVAL

  def write(self, best, **start):
    """Writes the file; arguments are what `read` returns."""
    arrays = {name: np.asarray(start[name]) for name in _STATE}
    if best is not None:
      arrays |= {f"best_{name}": np.asarray(best[name]) for name in _BEST}
    artifacts.write_npz(self._path, key=np.array(self._key), **arrays)
    self._written = time.monotonic()

  def remove(self):
    """Removes the file: the fit is finished."""
    if self._path is not None:
      self._path.unlink(missing_ok=True)


def _plain(array):
  """A number for an array without axes."""
  return array.item() if array.ndim == 0 else array
