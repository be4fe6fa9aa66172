"""Turns the files of THINGS odd-one-out judgments into those that stages read.

Usage:
  files = convert_things.find_files("triplet_dataset/")
  tables = convert_things.convert_files(files, out)
  tables["triplets_train.npy"]["rows"]
"""

import pathlib

import numpy as np

from alignet_jax import artifacts
from alignet_jax.judgments import convert, records
from alignet_jax.judgments import things as things_lib

# Names of files with triplets, by what they are for. Those of THINGS-data call
# the held-out tenth a validation set; testset1 and testset3 are triplets that
# many people answered. Not read is testset2, which asked people twice.
FILES = {
  "answers": ("triplets_large_final_correctednc_correctedorder.csv",),
  "train": (
    "triplets_train.npy",
    "trainset.txt",
    "train_90.npy",
    "train_90.txt",
    "data1854_batch5_train90.txt",
  ),
  "test": (
    "triplets_test.npy",
    "validationset.txt",
    "test_10.npy",
    "test_10.txt",
    "data1854_batch5_test10.txt",
  ),
  "repeats": ("repeats.npz",),
  "repeated_1": ("testset1.txt",),
  "repeated_3": ("testset3.txt",),
}

# The values of noise_ceiling in the table of answers, likewise.
MAIN_SETS, REPEATED_SETS = (0,), (1, 3)

# Rows that the files of THINGS-data have; of the table, those of the main set,
# which are the training and the validation set.
ROWS = {
  "trainset.txt": 4_120_663,
  "validationset.txt": 453_642,
  "testset1.txt": 15_640,
  "triplets_large_final_correctednc_correctedorder.csv": 4_574_305,
}

SPLITS = ("by_triplet", "released")


def find_files(source):
  """Finds the files of THINGS judgments that are read.

  Args:
    source: A folder that holds files of the names in `FILES`, itself or in
      folders of it; or such a file; or one of another name, which is a table of
      answers if it is a .csv, and else the training triplets.

  Returns:
    A dict from role to pathlib.Path: {"answers": ...} alone if there is a table
    of all answers, else "train" and others.

  Raises:
    artifacts.InputError: If there is neither, or two files for one role.
  """
  source = pathlib.Path(source)
  known = [name for names in FILES.values() for name in names]
  if source.is_file() and source.name not in known:
    return {"answers" if source.suffix == ".csv" else "train": source}
  present = [source] if source.is_file() else sorted(source.rglob("*"))
  found = {}
  for role, names in FILES.items():
    paths = [path for path in present if path.name in names and path.is_file()]
    if len(paths) > 1:
      met = " and ".join(str(path) for path in paths)
      raise artifacts.InputError(
        f"{met} are both there for one purpose; give a folder with one of them."
      )
    if paths:
      found[role] = paths[0]
  if "answers" in found:
    return {"answers": found["answers"]}
  if "train" not in found:
    names = ", ".join((*FILES["answers"], *FILES["train"]))
    raise artifacts.InputError(
      f"{source} is or holds none of the files {names}."
    )
  return found


def convert_files(
  files,
  out,
  *,
  base=None,
  split="by_triplet",
  test_fraction=0.1,
  seed=0,
  check_counts=True,
):
  """Writes triplets_train.npy, triplets_test.npy and, if any, repeats.npz.

  Of the table of answers also who gave those of the test, and how fast; see
  `convert.write_parts`.

  Of the table of all answers the main set is split; the repeated triplets are
  those that several people answered, and are left out of the main set. Files
  that are split already are taken as they are.

  Args:
    files: As `find_files` returns.
    out: Folder to write to.
    base: Of files of triplets, as `things.load_triplets`; the table of answers
      counts from 1.
    split: Of the table of answers: "by_triplet" keeps all answers to a triplet
      on one side; "released" draws the rows of THINGS-data's own split.
    test_fraction: Share of the answers for the test, if they are not split
      yet; 0 for no test.
    seed: Of the split by triplet.
    check_counts: Whether the files must be complete releases: all 1,854 objects
      and, under the names of THINGS-data, all rows.

  Returns:
    Dict from file name to `convert.describe`, and the `base` of the source.

  Raises:
    artifacts.InputError: If a file is not what it should be.
  """
  num_objects = things_lib.NUM_OBJECTS
  read, people, rt, repeats = {}, {}, {}, None
  if "answers" in files:
    path = files["answers"]
    judged = things_lib.load_answers(path, sets=MAIN_SETS)
    if check_counts:
      _check_rows(path, len(judged))
    repeats = convert.several(
      things_lib.load_answers(path, sets=REPEATED_SETS).counts()
    )
    if split == "released":
      parts = released_split(len(judged))
    else:
      parts = convert.split(judged, test_fraction, seed)
    base = 1
    fresh = ~convert.is_among(judged.triplets, repeats[0])
    for name, rows in zip(("train", "test"), parts, strict=False):
      part = judged.take(rows[fresh[rows]])
      read[name], people[name] = part.triplets, part.participant
      rt[name] = part.rt
  else:
    for role, path in files.items():
      if role == "repeats":
        repeats = things_lib.load_repeats(
          path, num_objects=num_objects, base=base
        )
        continue
      read[role] = things_lib.load_triplets(
        path, num_objects=num_objects, base=base
      )
      if check_counts:
        _check_rows(path, len(read[role]))
    repeated = [read.pop(name) for name in sorted(read) if "repeated" in name]
    if repeats is None and repeated:
      stimuli = tuple(map(str, range(num_objects)))
      judged = records.Judgments(np.concatenate(repeated), stimuli)
      repeats = convert.several(judged.counts())
    if "test" not in read:
      whole = read["train"]
      parts = convert.split(whole, test_fraction, seed)
      for name, rows in zip(("train", "test"), parts, strict=False):
        read[name] = whole[rows]
  if check_counts:
    _check_objects(files, read["train"], num_objects)
  described = convert.write_parts(out, read, people, repeats, rt=rt)
  return {name: row | {"base": base or 0} for name, row in described.items()}


def released_split(num_rows):
  """Rows of the training and the validation set of THINGS-data.

  The authors' preprocessing takes every tenth answer of the main set, moves it
  by up to five rows at random, and calls that the validation set. It draws by
  MATLAB's rng(1), whose uniform numbers are those of numpy's RandomState(1): of
  4,574,305 rows this gives 453,642 and 4,120,663, which is what the release
  has. Nothing keeps the answers to a triplet on one side.

  Args:
    num_rows: Answers of the main set, at least 15.

  Returns:
    (train, test): int64 ascending rows.
  """
  num = num_rows // 10
  uniform = np.random.RandomState(1).random_sample(num)
  moved = np.arange(1, num + 1) * 10 + np.floor(uniform * 11).astype(int) - 5
  # Counted from 1 so far. What lies after the last row is none.
  is_test = np.zeros(num_rows, bool)
  is_test[moved[moved <= num_rows] - 1] = True
  return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _check_rows(path, num):
  expected = ROWS.get(path.name, num)
  if num != expected:
    raise artifacts.InputError(
      f"{path} has {num:,} rows, and the release has {expected:,}. It is cut "
      "off or another version; --no_check_counts reads it all the same."
    )


def _check_objects(files, triplets, num_objects):
  met = len(np.unique(triplets))
  if met != num_objects:
    names = " and ".join(str(path) for path in files.values())
    raise artifacts.InputError(
      f"The training triplets of {names} are about {met:,} objects, and the "
      f"release is about {num_objects:,}. They are a part of it, or of other "
      "objects; --no_check_counts reads them all the same."
    )
