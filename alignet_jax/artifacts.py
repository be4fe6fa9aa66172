"""Files that are either complete or absent, and that hold no pickle.

Everything a run writes goes through here: first into a temporary file of the
same folder, then onto the disk, then in one step under its own name. So a kill
at any moment leaves the old file or the new one. The same arrays give the same
bytes: the times that a zip archive holds are fixed, and nothing is compressed.

Usage:
  artifacts.write_npz(out / "train.npz", triplets=triplets)
  arrays = artifacts.read_npz(path, required=("triplets",))
  with artifacts.writer(out / "rdm.png") as f:      # binary
    figure.savefig(f)
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import tokenize
import zipfile
import zlib
from collections.abc import Iterable

import numpy as np

# The earliest time that a zip archive can hold.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)

# Kinds of dtype that files of numpy hold without pickle: bool, int, uint,
# float, complex, bytes, str. (bfloat16 is "V": numpy reads back raw bytes.)
PLAIN_KINDS = "biufcSU"

# Ends the names of files that are being written.
PARTIAL_SUFFIX = ".partial"


class InputError(ValueError):
  """Something that the user gave is wrong; printed without a traceback."""


class WriteError(RuntimeError):
  """The disk refused something a run cannot do without; no traceback."""


@dataclasses.dataclass(frozen=True)
class ExternalInput:
  """A file or folder outside the workdir that a stage reads.

  Attributes:
    field: Dotted name of the config field that holds the path, without
      "config.".
    path: Path, or None or "" where the field is not set.
    remedy: The command or page that provides the file, for the error message.
    optional: Whether the field may be unset. Where it is set, the file must
      exist all the same: a misspelt path shall not pass for none.
  """

  field: str
  path: str | os.PathLike | None
  remedy: str
  optional: bool = False


@dataclasses.dataclass(frozen=True)
class Parts:
  """An array for `write_npz` that is made while it is written.

  Attributes:
    shape: Of the whole array.
    dtype: Of the whole array.
    parts: Arrays that make up the whole, along the first axis.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  parts: Iterable[np.ndarray]


@contextlib.contextmanager
def writer(path):
  """Opens a binary file that appears under its name only when it is complete.

  If the body raises, neither a new nor a half file is left.

  Args:
    path: Where the file shall be; its folder must exist.

  Yields:
    The file object, open for binary writing.
  """
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
  try:
    with open(partial, "wb") as f:
      yield f
      f.flush()
      os.fsync(f.fileno())
    os.replace(partial, path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise
  _sync_directory(path.parent)


def write_bytes(path, data):
  """Writes bytes atomically."""
  with writer(path) as f:
    f.write(data)


def write_text(path, text):
  """Writes text atomically, as UTF-8, line ends as they are."""
  write_bytes(path, text.encode("utf-8"))


def write_json(path, obj, *, sort_keys=False):
  """Writes JSON atomically, indented, in the order of the keys or sorted."""
  write_text(path, json.dumps(obj, indent=2, sort_keys=sort_keys) + "\n")


def write_npy(path, array):
  """Writes one array atomically; raises ValueError if it needs pickle."""
  array = _plain_array(array, path)
  with writer(path) as f:
    np.lib.format.write_array(f, array, allow_pickle=False)


def write_npz(path, /, **arrays):
  """Writes named arrays atomically, the same bytes for the same arrays.

  Args:
    path: Where to write.
    **arrays: Arrays, or `Parts` of such as are too large for the memory; names
      may contain "/" (`**{"encoder/kernel": kernel}`).

  Raises:
    ValueError: If an array would need pickle; names it.
  """
  write_archive(path, arrays)


def write_archive(path, arrays, *, comment=""):
  """`write_npz` of a dict, with a text beside the arrays.

  Args:
    path: Where to write.
    arrays: Dict from name to array or `Parts`.
    comment: Of the archive, which readers of arrays do not see; at most 65,535
      bytes.

  Raises:
    ValueError: If an array would need pickle; names it.
  """
  plain = {
    name: array if isinstance(array, Parts) else _plain_array(array, path, name)
    for name, array in sorted(arrays.items())
  }
  with (
    writer(path) as f,
    zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as archive,
  ):
    archive.comment = comment.encode()
    for name, array in plain.items():
      info = zipfile.ZipInfo(f"{name}.npy", date_time=ZIP_TIME)
      info.create_system = 3  # Unix, so that systems agree on the bytes.
      info.external_attr = 0o644 << 16
      with archive.open(info, "w", force_zip64=True) as member:
        if isinstance(array, Parts):
          _write_parts(member, array)
        else:
          np.lib.format.write_array(member, array, allow_pickle=False)


def read_json(path):
  """Reads JSON; raises InputError naming the file if it is not JSON."""
  with _explained(path, "JSON"):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def read_npy(path, *, mmap=False):
  """Reads one array.

  Args:
    path: A `.npy` file.
    mmap: Whether to leave the array on the disk and map it, read-only.

  Returns:
    The array.

  Raises:
    InputError: If the file is missing, damaged, something else, or holds
      Python objects; names it.
  """
  with _explained(path, "a .npy file"):
    array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    if isinstance(array, np.lib.npyio.NpzFile):
      array.close()
      raise ValueError("it is a .npz archive of several arrays")
    return array


def read_npz(path, *, required=()):
  """Reads all arrays of an archive.

  Args:
    path: A `.npz` file.
    required: Names that must be among the arrays.

  Returns:
    A dict from name to array.

  Raises:
    InputError: If the file is missing, damaged, something else, holds Python
      objects, or lacks a required array; names it.
  """
  with _explained(path, "a .npz file"), open(path, "rb") as f:
    loaded = np.load(f, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
      raise ValueError("it is a .npy file of one array")
    with loaded:
      arrays = {name: loaded[name] for name in loaded.files}
  for name in required:
    if name not in arrays:
      raise InputError(
        f"{path} has no array {name!r}; it has {', '.join(arrays) or 'none'}."
      )
  return arrays


def read_comment(path):
  """The text beside the arrays of an archive, "" if there is none.

  Args:
    path: A `.npz` file.

  Raises:
    InputError: As `read_npz`.
  """
  with _explained(path, "a .npz file"), zipfile.ZipFile(path) as archive:
    return archive.comment.decode(errors="replace")


def map_npz(path, names):
  """Maps arrays of an archive, read-only, without loading any of them.

  An array that is compressed is loaded after all: it cannot be mapped. What is
  mapped is not compared with the checksums of the archive.

  Args:
    path: A `.npz` file.
    names: Names of the arrays.

  Returns:
    A dict from name to array, and the names of all arrays in the file.

  Raises:
    InputError: As `read_npz`.
  """
  with (
    _explained(path, "a .npz file"),
    open(path, "rb") as f,
    zipfile.ZipFile(f) as archive,
  ):
    members = {
      info.filename.removesuffix(".npy"): info for info in archive.infolist()
    }
    for name in names:
      if name not in members:
        raise InputError(
          f"{path} has no array {name!r}; it has"
          f" {', '.join(sorted(members)) or 'none'}."
        )
    arrays = {
      name: _map_member(path, f, archive, members[name]) for name in names
    }
  return arrays, list(members)


def _map_member(path, f, archive, info):
  """One array of an archive, mapped if its bytes are there as they are."""
  if info.compress_type != zipfile.ZIP_STORED or not info.file_size:
    with archive.open(info) as member:
      return np.lib.format.read_array(member, allow_pickle=False)
  # The names in the local header may be of another length than in the table.
  f.seek(info.header_offset + 26)
  name_and_extra = f.read(4)
  f.seek(
    int.from_bytes(name_and_extra[:2], "little")
    + int.from_bytes(name_and_extra[2:], "little"),
    os.SEEK_CUR,
  )
  version = np.lib.format.read_magic(f)
  read_header = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }.get(version)
  if read_header is None:
    raise ValueError(f"its arrays have the version {version}")
  shape, is_fortran, dtype = read_header(f)
  if dtype.hasobject:
    raise ValueError("it needs pickle")
  size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
  if f.tell() + size > os.fstat(f.fileno()).st_size:
    raise ValueError("an array is cut off")
  if not size:
    return np.zeros(shape, dtype)
  order = "F" if is_fortran else "C"
  return np.memmap(path, dtype, "r", f.tell(), shape, order)


def sha256_file(path):
  """The SHA-256 of a file's content, as 64 hexadecimal digits."""
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def digest_path(path):
  """A digest of a file's content, or of a folder's file names and sizes.

  A folder of a million images is not read through: an image that is replaced
  by another one of the same size goes unnoticed.

  Args:
    path: File or folder.

  Returns:
    64 hexadecimal digits.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    return sha256_file(path)
  entries = [
    [str(entry.relative_to(path).as_posix()), entry.stat().st_size]
    for entry in path.rglob("*")
    if entry.is_file()
  ]
  return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()


def commit_directory(partial, final):
  """Moves a complete folder to its place, in place of what was there.

  A kill leaves the old folder, none, or the new one, and never a mixture.

  Args:
    partial: The complete folder, on the same file system as `final`.
    final: Its place; its parent must exist.
  """
  partial, final = pathlib.Path(partial), pathlib.Path(final)
  for entry in [partial, *partial.rglob("*")]:
    if entry.is_dir():
      _sync_directory(entry)
    else:
      with open(entry, "rb") as f:
        os.fsync(f.fileno())
  old = partial.with_name(f"{partial.name}.old")
  shutil.rmtree(old, ignore_errors=True)
  if final.exists():
    os.rename(final, old)
  os.rename(partial, final)
  _sync_directory(final.parent)
  shutil.rmtree(old, ignore_errors=True)


def _write_parts(member, array):
  """Writes what `np.lib.format.write_array` would write of the whole."""
  dtype = np.dtype(array.dtype)
  header = {
    "descr": np.lib.format.dtype_to_descr(dtype),
    "fortran_order": False,
    "shape": tuple(array.shape),
  }
  np.lib.format.write_array_header_1_0(member, header)
  missing = array.shape[0]
  for part in array.parts:
    member.write(np.ascontiguousarray(part, dtype).tobytes())
    missing -= len(part)
  if missing:
    raise ValueError(f"The parts of an array of {array.shape} lack {missing}.")


def _plain_array(array, path, name=None):
  array = np.asarray(array, order="C")
  if array.dtype.kind not in PLAIN_KINDS:
    which = "the array" if name is None else f"the array {name!r}"
    raise ValueError(
      f"{path}: {which} has dtype {array.dtype}, which a file without pickle"
      " cannot hold. Convert it to a number or string dtype of numpy, such as"
      " float32."
    )
  return array


@contextlib.contextmanager
def _explained(path, kind):
  """Turns whatever reading a bad file raises into a sentence that names it."""
  try:
    yield
  except FileNotFoundError:
    raise InputError(f"There is no file {path}.") from None
  except IsADirectoryError:
    raise InputError(f"{path} is a folder; {kind} is needed.") from None
  # numpy reads a .npy header as Python source: hence the last two.
  except (
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    SyntaxError,
    tokenize.TokenError,
  ) as error:
    text = str(error)
    if "pickle" in text:
      # numpy says this of object arrays, of pickles, and of any other bytes.
      raise InputError(
        f"{path} holds Python objects, or is not {kind}. Reading objects could"
        " run foreign code, so it is refused: save the arrays with a number or"
        " string dtype."
      ) from error
    raise InputError(f"{path} is damaged or not {kind}: {text}.") from error
  except (zipfile.BadZipFile, zlib.error) as error:
    raise InputError(f"{path} is damaged or cut off: {error}.") from error
  except OSError as error:
    raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _sync_directory(path):
  """Makes the names in a folder last through a power failure."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
