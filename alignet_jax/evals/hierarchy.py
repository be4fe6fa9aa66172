"""How alignment moves pairs of items along a hierarchy of concepts.

The paper's central figure: items of one subordinate or basic concept move
closer, items of different superordinates move apart (paper.md, section E, on
the hierarchy effect). A pair is sorted by the finest level that both items
share. Distances of different models have no common scale, so each is divided by
the model's mean distance over all pairs; the change is in those units.

Usage:
  kinds = hierarchy.pair_kinds(levels)        # i8[n n], index into KINDS
  hierarchy.mean_distances(features, kinds)   # {"same_basic": 0.71, ...}
  hierarchy.changes(before, after, kinds)     # {"same_basic": Change(...)}
"""

import math
import re
from typing import NamedTuple

import numpy as np

from alignet_jax import artifacts
from alignet_jax.evals import rdm_compare, rsa
from alignet_jax.judgments import tables

# From alike to unlike.
KINDS = (
  "same_subordinate",
  "same_basic",
  "same_superordinate",
  "different_superordinate",
)
LEVELS = ("subordinate", "basic", "superordinate")


class _BadId(artifacts.InputError):
  """Of a WordNet id; who read it knows the file."""


class Change(NamedTuple):
  """Of the relative distance of one kind of pairs.

  Attributes:
    value: After minus before; negative where the pairs moved closer.
    low: Lower end of the interval over items.
    high: Upper end.
    num: Pairs.
  """

  value: float
  low: float
  high: float
  num: int


def pair_kinds(levels):
  """The kind of every pair.

  Args:
    levels: Dict from each of `LEVELS`, the first may be missing, to the names
      of n items on that level; "" where an item has none, which it shares with
      nobody.

  Returns:
    i8[n n], index into `KINDS`.
  """
  missing = [name for name in LEVELS[1:] if name not in levels]
  if missing:
    raise ValueError(
      f"The taxonomy has no {missing[0]}; expected {', '.join(LEVELS)}."
    )
  num = len(levels["superordinate"])
  kinds = np.full((num, num), len(KINDS) - 1, np.int8)
  for index in (2, 1, 0):
    if LEVELS[index] in levels:
      names = np.asarray(levels[LEVELS[index]], dtype=np.str_)
      shared = (names[:, None] == names) & (names != "")[:, None]
      kinds[shared] = index
  return kinds


def relative_distances(embedding, metric="cosine"):
  """Distances over their mean over all pairs, f64[n n]; see `rsa.rdm`."""
  rdm = rsa.rdm(embedding, metric)
  mean = rsa.upper_triangle(rdm).mean()
  if not mean > 0:
    raise ValueError("All items are at the same place; there is no scale.")
  return rdm / mean


def mean_distances(embedding, kinds, *, metric="cosine"):
  """Mean relative distance of each kind of pairs that there is.

  Args:
    embedding: f32[n d].
    kinds: As of `pair_kinds`.
    metric: One of `rsa.METRICS`.

  Returns:
    Dict from name of the kind to (mean, low, high, pairs), interval over items.
  """
  distances = relative_distances(embedding, metric)
  return {
    name: Change(*_mean(distances, None, kinds == index))
    for index, name in _present(kinds)
  }


def changes(before, after, kinds, *, metric="cosine"):
  """How far each kind of pairs moved between two models.

  Args:
    before: f32[n d] of one model.
    after: f32[n e] of the other, the same items.
    kinds: As of `pair_kinds`.
    metric: One of `rsa.METRICS`.

  Returns:
    Dict from name of the kind to `Change`.

  Raises:
    ValueError: Other numbers of items.
  """
  if not len(before) == len(after) == len(kinds):
    raise ValueError(
      f"There are {len(before)} and {len(after)} items and kinds of "
      f"{len(kinds)}; expected as many."
    )
  old, new = (relative_distances(x, metric) for x in (before, after))
  return {
    name: Change(*_mean(new, old, kinds == index))
    for index, name in _present(kinds)
  }


def load_taxonomy(path, *, num_items=None):
  """Reads names of items on three levels from a table with a header.

  Args:
    path: csv or tsv with the columns `basic` and `superordinate`, and perhaps
      `subordinate` and `item`, a row per item.
    num_items: Rows expected, or None for any.

  Returns:
    (levels, items): dict as `pair_kinds` takes it, and the names of the column
    `item` or ().

  Raises:
    artifacts.InputError: Missing, damaged, or with another number of rows.
  """
  rows = tables.read_rows(path, keep_blank=True)
  _, header = next(rows)
  columns = tables.find_columns(
    path,
    header,
    {name: (name,) for name in ("item", *LEVELS)},
    optional=("item", "subordinate"),
  )
  found = {name: [] for name, column in columns.items() if column is not None}
  for _, fields in rows:
    if columns["item"] is not None and not any(fields):
      continue  # No item, and its place says nothing.
    for name, values in found.items():
      values.append(fields[columns[name]])
  items = tuple(found.pop("item", ()))
  num = len(found["superordinate"])
  if not num or (num_items is not None and num != num_items):
    raise artifacts.InputError(
      f"{path} has {num} items; expected {num_items or 'at least one'}."
    )
  return found, items


def load_wordnet(path, column, hypernyms, *, basic_depth, superordinate_depth):
  """Reads WordNet ids of items from a table, and takes their ancestors.

  Args:
    path: csv or tsv with a header, a row per item, and perhaps the column
      `item`.
    column: Name of the column of ids such as "n02084071"; an empty field is an
      item without one, which shares no level with any other.
    hypernyms: "nltk" for the WordNet of that package, or a file of "parent
      child" lines, see `load_parents`.
    basic_depth: See `from_wordnet`.
    superordinate_depth: See `from_wordnet`.

  Returns:
    (levels, items), as `load_taxonomy`.

  Raises:
    artifacts.InputError: A file is missing or damaged, an id is not known, or
      nltk or its WordNet is not there.
  """
  rows = tables.read_rows(path, keep_blank=True)
  _, header = next(rows)
  columns = tables.find_columns(
    path, header, {"item": ("item",), "wnid": (column,)}, optional=("item",)
  )
  wnids, items = [], []
  for _, fields in rows:
    if columns["item"] is not None and not any(fields):
      continue  # No item, and its place says nothing.
    wnids.append(fields[columns["wnid"]])
    if columns["item"] is not None:
      items.append(fields[columns["item"]])
  if not any(wnids):
    raise artifacts.InputError(f"{path}: the column {column!r} is empty.")
  try:
    if hypernyms == "nltk":
      parents = nltk_parents(wnids)
    else:
      parents = load_parents(hypernyms)
    levels = from_wordnet(
      wnids,
      parents,
      basic_depth=basic_depth,
      superordinate_depth=superordinate_depth,
    )
  except _BadId as error:
    raise artifacts.InputError(f"{path}, column {column!r}: {error}") from error
  return levels, tuple(items)


def nltk_parents(wnids):
  """The parents of WordNet ids and of all their ancestors, by nltk.

  Args:
    wnids: Such as "n02084071"; "" is skipped.

  Returns:
    Dict from child to parent (of several, the first), as `load_parents`.

  Raises:
    artifacts.InputError: nltk or its data is not there, or an id is not known.
  """
  try:
    from nltk.corpus import wordnet

    wordnet.ensure_loaded()
  except (ImportError, LookupError) as error:
    raise artifacts.InputError(
      "nltk's WordNet cannot be used: pip install nltk, then python -m "
      "nltk.downloader wordnet; or give a file of lines PARENT CHILD, such as "
      f"ImageNet's wordnet.is_a.txt ({str(error).strip().splitlines()[0]})."
    ) from error
  parents = {}
  for wnid in filter(None, wnids):
    if not re.fullmatch(r"[nvars]\d{8}", wnid):
      raise _BadId(f"{wnid!r} is no WordNet id; expected such as 'n02084071'.")
    try:
      synset = wordnet.synset_from_pos_and_offset(wnid[0], int(wnid[1:]))
    except Exception as error:  # nltk has its own, which is no built-in one.
      raise _BadId(
        f"nltk's WordNet {wordnet.get_version()} has no {wnid!r}."
      ) from error
    while _wnid(synset) not in parents:
      above = synset.hypernyms() or synset.instance_hypernyms()
      if not above:
        break
      parents[_wnid(synset)] = _wnid(above[0])
      synset = above[0]
  return parents


def _wnid(synset):
  return f"{synset.pos()}{synset.offset():08d}"


def from_wordnet(wnids, parents, *, basic_depth, superordinate_depth):
  """Levels of WordNet ids, by their ancestors at two depths.

  WordNet does not say which level is basic. The depths count from the root, so
  a small one is general; an item above a depth is its own group there.

  Args:
    wnids: WordNet ids of n items, such as "n02084071"; "" for an item without
      one, which shares no level with any other.
    parents: Dict from a child's id to its parent's (of several, the first), as
      `load_parents` reads it.
    basic_depth: Steps below the root, more than the next.
    superordinate_depth: Steps below the root.

  Returns:
    Dict as `pair_kinds` takes it; the subordinate level is the id itself.

  Raises:
    artifacts.InputError: An id without a way to a root.
  """
  if not 0 <= superordinate_depth < basic_depth:
    raise ValueError(
      f"The depths are {superordinate_depth} and {basic_depth}; expected the "
      "superordinate one smaller, and none negative."
    )
  found = {name: [] for name in LEVELS}
  above = set(parents.values())
  for wnid in wnids:
    way = _way_from_root(wnid, parents, above) if wnid else [""]
    found["subordinate"].append(wnid)
    found["basic"].append(way[min(basic_depth, len(way) - 1)])
    found["superordinate"].append(way[min(superordinate_depth, len(way) - 1)])
  return found


def load_parents(path):
  """Reads "parent child" lines, such as ImageNet's wordnet.is_a.txt.

  Args:
    path: Text file with two ids a line; of several parents the first counts.

  Returns:
    Dict from child to parent.

  Raises:
    artifacts.InputError: If the file is missing or a line is not of two ids.
  """
  parents = {}
  try:
    with open(path, encoding="utf-8") as f:
      for number, line in enumerate(f, start=1):
        words = line.split()
        if words and len(words) != 2:
          raise artifacts.InputError(
            f"{path}, line {number}: {tables.shown(line.strip())}; expected a "
            "parent and a child."
          )
        if words:
          parents.setdefault(words[1], words[0])
  except (OSError, UnicodeDecodeError) as error:
    raise artifacts.InputError(f"{path} cannot be read: {error}.") from error
  return parents


def _way_from_root(wnid, parents, above):
  if wnid not in parents and wnid not in above:
    raise _BadId(
      f"{wnid!r} is not among the ids of the hierarchy; expected such as "
      f"{next(iter(parents), 'n02084071')!r}."
    )
  way = [wnid]
  while way[-1] in parents:
    way.append(parents[way[-1]])
    if len(way) > 100:
      raise _BadId(f"The ancestors of {wnid!r} form a ring.")
  return way[::-1]


def _present(kinds):
  """Index and name of the kinds that any pair is of."""
  rows, columns = np.triu_indices(len(kinds), 1)
  met = set(np.unique(kinds[rows, columns]).tolist())
  return [(index, name) for index, name in enumerate(KINDS) if index in met]


def _mean(distances, before, chosen):
  """Mean over chosen pairs, its interval over items, and their number.

  Each distance is over the mean of all pairs, which the items drawn decide too:
  most pairs are of different superordinates, and their mean and that of all
  pairs move together. So the interval is of the ratio: by the jackknife, which
  leaves out one item at a time, from both means; with Student's t.

  Args:
    distances: f64[n n] of `relative_distances`.
    before: Those that are taken away, or None for none.
    chosen: bool[n n], symmetric.

  Returns:
    (mean, low, high, pairs). Without an interval (NaN) where every pair is of
    one item.
  """
  other = ~np.eye(len(distances), dtype=bool)
  kept = chosen & other
  value, without = 0.0, 0.0
  for sign, matrix in ((1, distances), (-1, before)):
    if matrix is not None:
      whole, part = _means_without(matrix, other)
      mean, left = _means_without(matrix, kept)
      value += sign * mean / whole
      without = without + sign * left / part
  num = int(kept.sum()) // 2
  if not np.isfinite(without).all():
    return float(value), math.nan, math.nan, num
  num_kept = int(kept.any(axis=1).sum())
  reach = rdm_compare.jackknife_reach(without, num_kept)
  return float(value), value - reach, value + reach, num


def _means_without(matrix, kept):
  """Mean over kept pairs, and f64[n] those without each item; NaN for none."""
  sums, num = (matrix * kept).sum(axis=1), kept.sum(axis=1)
  left = num.sum() - 2 * num
  without = np.full(len(num), np.nan)
  np.divide(sums.sum() - 2 * sums, left, out=without, where=left > 0)
  return sums.sum() / num.sum(), without
