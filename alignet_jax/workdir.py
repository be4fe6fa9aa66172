"""The folder of a run: one process at a time, tidied up after a kill.

  workdir/
    <stage>/                          a finished artefact with its manifest.json
    results.json                      the metrics of all stages
    .partial/<stage>/                 an artefact that is being made
    .partial/<stage>.scratch-<hash>/  its checkpoints, which survive a kill
    .hashes.json                      digests of input files, by size and time
    .lock                             number of the process that uses the folder

Usage:
  with workdir.opened(path, log=print) as folder:
    folder.digest("features.npy")
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil

from alignet_jax import artifacts

# Files larger than this are announced before they are hashed, in bytes: at
# about 1 GB/s it is when the wait begins to be felt.
LARGE_FILE = 1 << 28

# A file system without locks: a second run is then the user's own care.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def opened(path, *, log):
  """Makes the folder if need be, locks it, and removes what a kill left.

  Args:
    path: The folder.
    log: Called with one line of text.

  Yields:
    A `Workdir`.

  Raises:
    artifacts.InputError: If the folder cannot be made or written to, or
      another process uses it; names that process.
  """
  path = pathlib.Path(path).absolute()
  try:
    path.mkdir(parents=True, exist_ok=True)
    (path / ".partial").mkdir(exist_ok=True)
    # Not inherited, and no flock: an orphaned child would keep the lock.
    lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
  except (FileExistsError, NotADirectoryError):
    raise artifacts.InputError(
      f"The workdir {path} cannot be made: there is a file of that name, or in"
      " place of one of the folders above it."
    ) from None
  except OSError as error:
    raise artifacts.InputError(
      f"The workdir {path} cannot be written to: {error.strerror}."
    ) from error
  try:
    _lock(lock, path, log)
    _remove_leftovers(path)
    yield Workdir(path, log)
  finally:
    os.close(lock)


class Workdir:
  """An open workdir.

  Attributes:
    path: Its absolute path.
    partial: The folder for what is not finished.
  """

  def __init__(self, path, log):
    """Wraps a folder that exists and is locked."""
    self.path = path
    self.partial = path / ".partial"
    self._log = log
    self._seen = {}
    self._hashes_path = path / ".hashes.json"
    self._hashes = {}
    # Only a cache: what is missing or damaged is computed again.
    with contextlib.suppress(ValueError, TypeError):
      self._hashes.update(artifacts.read_json(self._hashes_path))

  def digest(self, path):
    """Digest of an input outside the workdir, as it was when first asked for.

    Args:
      path: File or folder; see `artifacts.digest_path`.

    Returns:
      64 hexadecimal digits. A file of the same size and modification time as
      in an earlier run is not read again.

    Raises:
      artifacts.InputError: If it cannot be read.
    """
    path = pathlib.Path(path).absolute()
    if path not in self._seen:
      self._seen[path] = self._digest(path)
    return self._seen[path]

  def _digest(self, path):
    try:
      if path.is_dir():
        return artifacts.digest_path(path)
      status = path.stat()
      key = f"{status.st_size} {status.st_mtime_ns} {path}"
      if key in self._hashes:
        return self._hashes[key]
      if status.st_size > LARGE_FILE:
        self._log(f"reading {path} ({status.st_size / 1e9:.1f} GB) for changes")
      digest = artifacts.digest_path(path)
    except OSError as error:
      raise artifacts.InputError(
        f"{path} cannot be read: {error.strerror}."
      ) from error
    self._hashes[key] = digest
    artifacts.write_json(self._hashes_path, self._hashes, sort_keys=True)
    return digest

  def remove_scratch(self, stage, key):
    """Removes the scratch folder of a stage that is complete."""
    scratch = self.partial / f"{stage}.scratch-{key}"
    if scratch.exists():
      shutil.rmtree(scratch)

  def scratch(self, stage, key):
    """The scratch folder of a stage; those of other keys are removed.

    Args:
      stage: Name of the stage.
      key: What the content depends on, as a short text.

    Returns:
      The path of a folder that exists.
    """
    scratch = self.partial / f"{stage}.scratch-{key}"
    for other in self.partial.glob(f"{stage}.scratch-*"):
      if other != scratch:
        shutil.rmtree(other)
    scratch.mkdir(exist_ok=True)
    return scratch


def _lock(lock, path, log):
  """Locks the file `lock` or says who holds it."""
  try:
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (BlockingIOError, PermissionError):
    holder = os.read(lock, 100).decode(errors="replace").strip()
    raise artifacts.InputError(
      f"The workdir {path} is in use by process {holder or '(unknown)'}. Wait"
      " until it ends, stop it, or give another --workdir."
    ) from None
  except OSError as error:
    if error.errno not in NO_LOCKS:
      raise
    log(
      f"{path} cannot be locked ({error.strerror}): start no second run in it"
    )
    return
  os.ftruncate(lock, 0)
  os.write(lock, f"{os.getpid()} on {os.uname().nodename}\n".encode())


def _remove_leftovers(path):
  """Removes what a killed run left, except what it can go on from."""
  for entry in (path / ".partial").iterdir():
    if ".scratch-" not in entry.name:
      shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
  for entry in path.glob(f".*{artifacts.PARTIAL_SUFFIX}"):
    if entry.is_file():
      entry.unlink()
