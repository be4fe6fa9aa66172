"""What people said, read for the evaluation from folders or single files.

A folder is one that `python -m alignet_jax.judgments.prepare` made; what it
holds is known by its `prepared.json`. Matrices may also be given alone.

Usage:
  data = human_data.read_folder("data/things")      # [Choices]
  data = human_data.read_folder("data/mur92")       # [RdmSet]
"""

import dataclasses
import pathlib

import numpy as np

from alignet_jax import artifacts
from alignet_jax.evals import (
  choice_scores,
  item_names,
  level_scores,
  rsa_scores,
)
from alignet_jax.judgments import (
  prepared,
  similarity,
  tables,
  things,
)
from alignet_jax.teacher import concepts

_RDM_SETS = ("rdm48", "mur92", "king", "cichy", "peterson")


@dataclasses.dataclass(frozen=True, eq=False)
class Taxonomy:
  """Names of items on three levels; see `hierarchy.load_taxonomy`."""

  levels: dict
  items: tuple = ()
  name: str = "taxonomy"

  @property
  def num_items(self):
    """How many items there are."""
    return len(self.levels["superordinate"])


def check_names(named):
  """Refuses data sets of the same name, whose rows could not be told apart.

  Args:
    named: Pairs of a name and of where it comes from.

  Raises:
    artifacts.InputError: A name comes twice; says from where.
  """
  first = {}
  for name, source in named:
    if name in first:
      raise artifacts.InputError(
        f"Two data sets are called {name!r}: {first[name]} and {source}. Each "
        "needs a name of its own (--data NAME=DIR, --rdm and --sims NAME=PATH)."
      )
    first[name] = source


def read_folder(path, name=None):
  """Reads a folder of `judgments.prepare`.

  Args:
    path: The folder. With `items.txt` in it (a name per line) its items are
      matched by name.
    name: Of the data set, in the table and for features; by default the one it
      was prepared as.

  Returns:
    List of `choice_scores.Choices`, `level_scores.LevelAnswers` or
    `rsa_scores.RdmSet`.

  Raises:
    artifacts.InputError: It is no such folder, or lacks a file.
  """
  path = pathlib.Path(path)
  if not (path / prepared.NAME).is_file():
    raise artifacts.InputError(
      f"--data={path}: there is no {prepared.NAME}; expected a folder that "
      "python -m alignet_jax.judgments.prepare has made."
    )
  kind = artifacts.read_json(path / prepared.NAME).get("data_set")
  name = name or str(kind or path.name)
  if kind == "levels":
    return [dataclasses.replace(read_levels(path), name=name)]
  if kind in _RDM_SETS:
    arrays = artifacts.read_npz(path / "rdm.npz", required=("rdm",))
    return [
      rsa_scores.RdmSet(
        name, arrays["rdm"], arrays.get("per_person"), _items(path)
      )
    ]
  part = "test" if (path / "triplets_test.npy").is_file() else "train"
  repeats = path / "repeats.npz"
  people = read_choices(
    path / f"triplets_{part}.npy",
    repeats if repeats.is_file() else None,
    name=name,
    items=_stimuli(path) or _items(path),
  )
  return [_with_answers(people, path / f"answers_{part}.npz")]


def _with_answers(people, path):
  """The choices with who made them and how fast, if a file says so."""
  if not path.is_file():
    return people
  arrays = artifacts.read_npz(path)
  known = {key: arrays[key] for key in ("participant", "rt") if key in arrays}
  for key, values in known.items():
    if values.shape != (len(people.triplets),):
      raise artifacts.InputError(
        f"{path}: {key} is {list(values.shape)}; expected one per answer, of "
        f"which there are {len(people.triplets)}."
      )
  return dataclasses.replace(people, **known)


def read_choices(
  triplets,
  repeats=None,
  *,
  name="things",
  categories=None,
  column=None,
  items=(),
  num_items=None,
):
  """Reads single answers, repeated triplets and categories.

  Args:
    triplets: File of triplets, odd item last.
    repeats: `.npz` of triplets and odd_counts, or None.
    name: Of the data set.
    categories: Table with a row per item, or None.
    column: Of that table.
    items: Names of the items.
    num_items: How many there are; where that is not known, as many as
      `categories` has rows.

  Returns:
    `choice_scores.Choices`.

  Raises:
    artifacts.InputError: A file is missing or damaged, or `categories` has
      another number of rows than there are items.
  """
  num_items = num_items or len(items) or None
  arrays = things.load_triplets(triplets, num_objects=num_items)
  answers = None
  if repeats is not None:
    answers = things.load_repeats(repeats, num_objects=num_items)
  members = {}
  if categories is not None:
    members = concepts.load_categories(
      categories, column, num_objects=num_items
    )
    met = 1 + max(
      int(arrays.max()), -1 if answers is None else answers[0].max()
    )
    num_items = num_items or count_rows(categories)
    if num_items < met:
      raise artifacts.InputError(
        f"{categories} has {num_items} rows; {triplets} holds {met} items, and "
        "there must be a row per item."
      )
  return choice_scores.Choices(
    name,
    arrays,
    answers,
    categories=members,
    items=tuple(items),
    num_items=num_items or 0,
  )


def count_rows(path):
  """How many items a table with a row per item has."""
  return sum(1 for _ in tables.read_rows(path, keep_blank=True)) - 1


def read_levels(folder):
  """Reads levels.npz and stimuli.json of a prepared folder."""
  folder = pathlib.Path(folder)
  arrays = artifacts.read_npz(
    folder / "levels.npz", required=("triplets", "level")
  )
  about = artifacts.read_json(folder / "stimuli.json")
  names, level = list(about["levels"]), arrays["level"]
  # A file of a part of the answers may lack a level altogether.
  met = [index for index in range(len(names)) if (level == index).any()]
  return level_scores.LevelAnswers(
    arrays["triplets"],
    np.searchsorted(met, level).astype(np.int32),
    tuple(names[index] for index in met),
    arrays.get("participant"),
    arrays.get("rt"),
    tuple(about["stimuli"]),
  )


def read_rdm(path, name, *, kind="dissimilarity"):
  """A user's own matrix; see `similarity.load_matrix`, or a prepared .npz."""
  path = pathlib.Path(path)
  if path.suffix == ".npz":
    arrays = artifacts.read_npz(path, required=("rdm",))
    return rsa_scores.RdmSet(name, arrays["rdm"], arrays.get("per_person"))
  data = similarity.load_matrix(path, kind=kind)
  return rsa_scores.RdmSet(name, data.rdm, data.per_person, data.names)


def read_groups(path, column, people):
  """The category of each item of a data set, from a table with a header.

  Args:
    path: csv or tsv. With a column `file`, `item` or `image`, rows are matched
      by these names with the items of the data set, if it has names; else the
      table has a row per item, in their order.
    column: Of the categories; of several in a field, the first counts.
    people: `rsa_scores.RdmSet`.

  Returns:
    Tuple of n str, "" for an item without category.

  Raises:
    artifacts.InputError: No such column, another number of rows, an item that
      the table lacks, or items that its names do not tell apart.
  """
  rows = tables.read_rows(path, keep_blank=True)
  _, header = next(rows)
  columns = tables.find_columns(
    path,
    header,
    {"item": ("file", "item", "image"), "category": (column,)},
    optional=("item",),
  )
  names, found = [], []
  for _, fields in rows:
    found.append(fields[columns["category"]].partition(",")[0].strip())
    if columns["item"] is not None:
      names.append(fields[columns["item"]])
  if names and people.items:
    try:
      picked = item_names.match(people.items, names)
    except item_names.Unmatched as error:
      raise artifacts.InputError(
        f"{path} does not fit the items of {people.name}: {error}"
      ) from error
    return tuple(found[row] for row in picked)
  if len(found) != people.num_items:
    raise artifacts.InputError(
      f"{path} has {len(found)} rows; {people.name} has {people.num_items} "
      "items."
    )
  return tuple(found)


def read_dense(
  embedding,
  name,
  index=None,
  column="things_index",
  *,
  categories=None,
  category_column=None,
):
  """The similarities of VICE or SPoSE, of all objects or of photographs.

  Args:
    embedding: File [n k].
    name: Of the data set.
    index: Table of images with a column `file` and one that says which row of
      the embedding shows the same concept (empty: none); or None.
    column: Name of that column.
    categories: Table with a row per row of the embedding, or None.
    category_column: Of that table; of several categories the first counts.

  Returns:
    `rsa_scores.RdmSet`.
  """
  x = things.load_embedding(embedding)
  people = rsa_scores.dense(name, x)
  if categories is not None:
    found = read_groups(categories, category_column, people)
    people = dataclasses.replace(people, categories=found)
  if index is None:
    return people
  rows = tables.read_rows(index)
  _, header = next(rows)
  columns = tables.find_columns(
    index, header, {"file": ("file", "path", "image"), "row": (column,)}
  )
  files, concept = [], []
  for line, fields in rows:
    if fields[columns["row"]]:
      number = tables.number(
        f"{index}, line {line}", column, fields[columns["row"]]
      )
      if number != int(number) or not 0 <= number < len(x):
        raise artifacts.InputError(
          f"{index}, line {line}: {column} is {number:g}; expected a row of "
          f"the embedding, 0 to {len(x) - 1}."
        )
      files.append(fields[columns["file"]])
      concept.append(int(number))
  shown = rsa_scores.dense(name, x[concept], files)
  if categories is not None:
    kept = tuple(people.categories[row] for row in concept)
    shown = dataclasses.replace(shown, categories=kept)
  return shown


def _stimuli(folder):
  file = folder / "stimuli.json"
  return tuple(artifacts.read_json(file)["stimuli"]) if file.is_file() else ()


def _items(folder):
  file = folder / "items.txt"
  if not file.is_file():
    return ()
  return tuple(file.read_text(encoding="utf-8").split("\n")[:-1]) or ()
