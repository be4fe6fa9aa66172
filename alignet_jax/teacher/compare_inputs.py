"""What `compare` reads: features, triplets and soft targets, all checked.

Usage:
  inputs = compare_inputs.read(
    {"clip": "clip.npy"}, triplets_train="train_90.txt",
    triplets_test="test_10.txt")
"""

import contextlib
import dataclasses
import os
import pathlib

import jax.numpy as jnp
import numpy as np

from alignet_jax import artifacts, odd_one_out
from alignet_jax.judgments import records, tables, things
from alignet_jax.teacher import checks

# Triplets whose rows are gathered at a time.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
  """What is compared, read and checked.

  Attributes:
    features: Name of a model -> f32[n d].
    local_features: Name of a model -> f32[m d], for those that have them.
    train: int32[t 3] objects, odd item last.
    test: int32[s 3].
    repeats: (int32[m 3] triplets, int32[m 3] odd_counts), or None.
    targets: f32[t 3] log probabilities of the training triplets, or None.
    vice_embedding: f32[n k] that they are of, or None.
    digests: What was read -> SHA-256 of the file, None for no file.
  """

  features: dict
  local_features: dict
  train: np.ndarray
  test: np.ndarray
  repeats: tuple | None
  targets: np.ndarray | None
  vice_embedding: np.ndarray | None
  digests: dict


def read(
  features,
  *,
  triplets_train,
  triplets_test,
  repeats=None,
  vice_embedding=None,
  local_features=None,
):
  """Reads all files before anything is fitted.

  Args:
    features: Dict from name of a model to a `.npy` or text file [n d].
    triplets_train: `.npy` or text file of objects [t 3], odd item last.
    triplets_test: The same.
    repeats: `.npz` with triplets and odd_counts, or None.
    vice_embedding: `.npy` or text file [n k] for soft targets, or None.
    local_features: Dict from name of a model to a file [m d], or None.

  Returns:
    `Inputs`.

  Raises:
    artifacts.InputError: A file that is missing or cannot be used; names it.
  """
  local_features = local_features or {}
  for name in local_features:
    if name not in features:
      raise artifacts.InputError(
        f"--local_features names {name!r}; --features has "
        f"{', '.join(features)}."
      )
  arrays = {name: read_features(path) for name, path in features.items()}
  first = next(iter(arrays))
  num_objects = len(arrays[first])
  for name, array in arrays.items():
    if len(array) != num_objects:
      raise artifacts.InputError(
        f"{features[name]} has {len(array)} rows and {features[first]} has "
        f"{num_objects}; all models need a row for each of the same objects."
      )
  local = {name: read_features(path) for name, path in local_features.items()}
  for name, array in local.items():
    if array.shape[1] != arrays[name].shape[1]:
      raise artifacts.InputError(
        f"{local_features[name]} has {array.shape[1]} columns and "
        f"{features[name]} has {arrays[name].shape[1]}; both must be features "
        "of the same model."
      )
  train = things.load_triplets(triplets_train, num_objects=num_objects)
  test = things.load_triplets(triplets_test, num_objects=num_objects)
  answers = targets = embedding = None
  if repeats:
    answers = things.load_repeats(repeats, num_objects=num_objects)
  if vice_embedding:
    embedding = things.load_embedding(vice_embedding, num_objects=num_objects)
    targets = np.asarray(odd_one_out.log_probs(logits(embedding, train)))
  paths = {
    "triplets_train": triplets_train,
    "triplets_test": triplets_test,
    "repeats": repeats,
    "vice_embedding": vice_embedding,
    **{f"features {name}": path for name, path in features.items()},
    **{f"local_features {name}": path for name, path in local_features.items()},
  }
  digests = {
    what: artifacts.sha256_file(path) if path else None
    for what, path in paths.items()
  }
  return Inputs(
    arrays, local, train, test, answers, targets, embedding, digests
  )


def num_shared(train, test):
  """Counts test triplets whose objects are those of a training triplet."""
  known = {row.tobytes() for row in records.group_triplets(train)[0]}
  unordered, group, _ = records.group_triplets(test)
  is_known = np.array([row.tobytes() in known for row in unordered], bool)
  return int(is_known[group].sum())


def logits(embedding, triplets, *, cosine=False):
  """`odd_one_out.logits_of_rows` in blocks, f32[t 3]."""
  embedding = jnp.asarray(embedding)
  return np.concatenate(
    [
      np.asarray(
        odd_one_out.logits_of_rows(
          embedding, triplets[start : start + _BLOCK], cosine=cosine
        )
      )
      for start in range(0, len(triplets), _BLOCK)
    ]
  )


@contextlib.contextmanager
def naming(what):
  """Says of what a complaint is, as an `artifacts.InputError`."""
  try:
    yield
  except artifacts.InputError:
    raise
  except (ValueError, FloatingPointError) as error:
    raise artifacts.InputError(f"{what}: {error}") from error


def read_features(path):
  """Features of a file, f32[n d], or an error that names rows and remedy."""
  table = tables.read_table(path)
  if table.dtype.kind not in "iuf":
    return tables.check_table(path, table)  # Raises, and says why.
  with np.errstate(over="ignore"):
    features = table.astype(np.float32)
  with naming(path):
    checks.standardise(features)
  return features


def make_folder(path):
  """The folder of --out, or an error that names it."""
  path = pathlib.Path(path)
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise artifacts.InputError(
      f"--out is {path}, which cannot be made a folder: {error.strerror}."
    ) from error
  if not os.access(path, os.W_OK):
    raise artifacts.InputError(f"--out is {path}, which cannot be written to.")
  return path
