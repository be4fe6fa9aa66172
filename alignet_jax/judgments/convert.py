"""Turns released files of human judgments into those that the stages read.

Each function reads what it is given, writes plain arrays into a folder, and
returns a description of them, a table by its file name. The command that calls
them is `prepare`. THINGS has a module of its own, `convert_things`.

Usage:
  tables = convert.levels("pruned_dataset.pkl", out)
  tables["levels.npz"]["rows"]                               # 123043
"""

import pathlib

import numpy as np

from alignet_jax import artifacts
from alignet_jax.judgments import (
  experiment,
  levels_file,
  records,
  similarity,
  splits,
)


def levels(path, out, *, rt_field=None, check_counts=True):
  """Writes levels.npz and stimuli.json.

  Args:
    path: The released pickle; see `levels_file.load_levels`.
    out: Folder to write to.
    rt_field: As `levels_file.load_levels`.
    check_counts: As `levels_file.load_levels`.

  Returns:
    Dict from level, and "levels.npz" for all, to `describe`.
  """
  judged = levels_file.load_levels(
    path, rt_field=rt_field, check_counts=check_counts
  )
  arrays = {
    "triplets": judged.triplets,
    "level": judged.level,
    "participant": judged.participant,
  }
  if judged.rt is not None:
    arrays["rt"] = judged.rt
  artifacts.write_npz(out / "levels.npz", **arrays)
  artifacts.write_json(
    out / "stimuli.json",
    {"levels": list(judged.levels), "stimuli": list(judged.stimuli)},
  )
  described = {"levels.npz": describe(judged.triplets, judged.participant)}
  for row, name in enumerate(judged.levels):
    part = judged.take(judged.level == row)
    described[f"  {name}"] = describe(part.triplets, part.participant)
  return described


def lab_experiment(
  path,
  out,
  *,
  test_fraction=0.1,
  seed=0,
  odd_is=None,
  rt_unit=None,
  where=None,
):
  """Writes a lab's own answers as those of THINGS are, and stimuli.json.

  Who answered and how fast stands in answers_test.npz; see `write_parts`.

  Args:
    path: A csv as `experiment.load_csv` reads it, or a json or a folder of them
      as `experiment.load_jspsych` does.
    out: Folder to write to.
    test_fraction: Share of the answers for the test, or 0 for none. All answers
      to a triplet are on one side.
    seed: Of the split.
    odd_is: As `experiment.load_csv`.
    rt_unit: Likewise; None for the usual one, "s" in a csv and "ms" in a json.
    where: Pairs of field and text that a trial of a json must have, or None for
      all trials.

  Returns:
    Dict from file name to `describe`. The triplets of repeats.npz are those of
    the test that several answers are about.
  """
  path = pathlib.Path(path)
  if path.is_dir() or path.suffix.lower() == ".json":
    judged = experiment.load_jspsych(
      path, odd_is=odd_is, rt_unit=rt_unit or "ms", where=dict(where or ())
    )
  elif where:
    raise artifacts.InputError(
      f"{path} is a csv; trials are chosen by a field (where) in a json only."
    )
  else:
    judged = experiment.load_csv(path, odd_is=odd_is, rt_unit=rt_unit or "s")
  rows = split(judged, test_fraction, seed)
  parts = {
    name: judged.take(part)
    for name, part in zip(("train", "test"), rows, strict=False)
  }
  artifacts.write_json(out / "stimuli.json", {"stimuli": list(judged.stimuli)})
  return write_parts(
    out,
    {name: part.triplets for name, part in parts.items()},
    {name: part.participant for name, part in parts.items()},
    several(parts["test"].counts()) if "test" in parts else None,
    rt={name: part.rt for name, part in parts.items()},
  )


def similarities(name, path, out, *, stimulus_set="set1", variable=None):
  """Writes rdm.npz: `rdm` f64[n n] and, where known, `per_person` f64[p n n].

  Args:
    name: One of the data sets rdm48, mur92, king, cichy, peterson.
    path: Its file.
    out: Folder to write to.
    stimulus_set: Of king, "set1" or "set2".
    variable: Of peterson, which matrix of the .mat file; None for the only one,
      or, in the published file of animals, for that of all answers.

  Returns:
    {"rdm.npz": numbers of items, pairs and people}.
  """
  if name == "king":
    data = similarity.load_king2019(path, stimulus_set=stimulus_set)
  elif name == "peterson":
    if variable is None and pathlib.Path(path).stem == "turkResults_CogSci2016":
      variable = "simMatrix"
    if variable is None:
      data = similarity.load_peterson(path)
    else:
      data = similarity.load_matrix(path, kind="similarity", variable=variable)
  else:
    data = {
      "rdm48": similarity.load_things48,
      "mur92": similarity.load_mur92,
      "cichy": similarity.load_cichy2019,
    }[name](path)
  arrays = {"rdm": data.rdm}
  if data.per_person is not None:
    arrays["per_person"] = data.per_person
  artifacts.write_npz(out / "rdm.npz", **arrays)
  num = len(data.rdm)
  people = None if data.per_person is None else len(data.per_person)
  return {
    "rdm.npz": {
      "items": num,
      "pairs": num * (num - 1) // 2,
      "participants": people,
    }
  }


def describe(triplets, participant=None):
  """Numbers that tell whether triplets are those that were meant.

  Args:
    triplets: int[n 3], odd item last.
    participant: int[n], or None if not known.

  Returns:
    A dict: rows; objects that occur; participants that occur, or None; triplets
    that differ as sets; answers_per_triplet, their mean; repeated, the share of
    rows about a triplet that an earlier row is about.
  """
  num = len(triplets)
  different = len(records.group_triplets(triplets)[0])
  return {
    "rows": num,
    "objects": len(np.unique(triplets)),
    "participants": None
    if participant is None
    else len(np.unique(participant)),
    "triplets": different,
    "answers_per_triplet": num / max(different, 1),
    "repeated": 1 - different / max(num, 1),
  }


def write_parts(out, parts, people, repeats, *, rt=None):
  """Writes triplets and repeats, and describes them.

  Who gave the answers that an evaluation is about, those of the test or else
  all, is written beside them: answers_test.npz or answers_train.npz, with
  `participant` i32[n] and `rt` f32[n] seconds, whichever is known.

  Args:
    out: Folder to write to.
    parts: Dict from "train" and perhaps "test" to int[n 3].
    people: Dict from part to int[n], or None if not known.
    repeats: (triplets, odd_counts), or None.
    rt: Dict from part to f[n], or None; None for no part.

  Returns:
    Dict from file name to `describe`.
  """
  described = {}
  held_out = "test" if "test" in parts else "train"
  known = {
    key: np.asarray(of_parts[held_out], dtype)
    for key, of_parts, dtype in (
      ("participant", people, np.int32),
      ("rt", rt or {}, np.float32),
    )
    if of_parts.get(held_out) is not None
  }
  if known:
    artifacts.write_npz(out / f"answers_{held_out}.npz", **known)
  for name, triplets in parts.items():
    file = f"triplets_{name}.npy"
    artifacts.write_npy(out / file, triplets.astype(np.int32))
    described[file] = describe(triplets, people.get(name))
  if "test" in parts:
    shared = is_among(parts["train"], parts["test"])
    described["triplets_train.npy"]["rows_about_test_triplets"] = int(
      shared.sum()
    )
  if repeats is not None and len(repeats[0]):
    triplets, odd_counts = repeats
    artifacts.write_npz(
      out / "repeats.npz", triplets=triplets, odd_counts=odd_counts
    )
    answers = int(odd_counts.sum())
    described["repeats.npz"] = describe(triplets) | {
      "rows": answers,
      "answers_per_triplet": answers / len(triplets),
      "repeated": 1 - len(triplets) / answers,
    }
  return described


def split(judged, test_fraction, seed):
  """(train, test) rows with all answers to a triplet in one; or (train,)."""
  if not test_fraction:
    return (np.arange(len(judged)),)
  try:
    return splits.by_triplet(
      judged, (1 - test_fraction, test_fraction), seed=seed
    )
  except ValueError as error:
    raise artifacts.InputError(f"test_fraction {test_fraction}: {error}") from (
      error
    )


def several(counted):
  """The triplets with more than one answer, and their counts."""
  triplets, odd_counts = counted
  rows = odd_counts.sum(axis=1) > 1
  return triplets[rows], odd_counts[rows]


def is_among(triplets, others):
  """bool[n], whether a triplet is one of the others, whatever its order."""
  both = np.concatenate([triplets, others])
  _, group, _ = records.group_triplets(both)
  return np.isin(group[: len(triplets)], group[len(triplets) :])
