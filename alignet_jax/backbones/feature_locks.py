"""Locks of an extraction that several processes share.

`.state.lock` is held while parts are begun, joined or removed, and
`process-N.lock` among the parts by whoever makes some: so of two processes that
end together one joins the parts, the other sees what came out, and the parts
are removed when nobody is at them. A killed process holds none.

Usage:
  with feature_locks.state(out):
    feature_locks.remove_parts(out / "parts")
"""

import contextlib
import fcntl
import os
import shutil

_STATE = ".state.lock"


@contextlib.contextmanager
def lock(path):
  """Whether this process is the only one that has the file locked."""
  with open(path, "ab") as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      is_locked = False
    else:
      is_locked = True
    yield is_locked


@contextlib.contextmanager
def state(out):
  """Waits until no other process begins, joins or removes parts."""
  path = out / _STATE
  while True:
    with open(path, "ab") as f:
      fcntl.flock(f, fcntl.LOCK_EX)
      # Whoever had it removed the file: this one is nobody else's lock.
      try:
        is_lock = os.path.samestat(os.fstat(f.fileno()), os.stat(path))
      except FileNotFoundError:
        is_lock = False
      if not is_lock:
        continue
      try:
        yield
      finally:
        path.unlink(missing_ok=True)
      return


def in_use(folder, own=None):
  """Whether another process makes parts; the state is locked."""
  for path in folder.glob("process-*.lock"):
    if path.name != own:
      with lock(path) as is_locked:
        if not is_locked:
          return True
  return False


def remove_parts(folder, own=None):
  """Removes the parts, unless another process is at them: then it does."""
  if not in_use(folder, own):
    shutil.rmtree(folder, ignore_errors=True)
