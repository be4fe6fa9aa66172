"""Which row of a model or table shows which item, by the names of the files.

The same picture has another folder with everybody: "cat/0.jpg" is
"/data/pets/cat/0.png" elsewhere, and plain "0" in an old table. So names are
compared from their end, with as many folders as agree for all items; never by
less than it takes to tell two items or two rows apart.

Usage:
  rows = item_names.match(["cat/0", "dog/0"], ["p/dog/0.jpg", "p/cat/0.jpg"])
"""

import numpy as np

from alignet_jax.judgments import levels_file


class Unmatched(ValueError):
  """Items that names do not tell apart or do not hold; the text says which."""


def match(items, names):
  """The row of each item among names.

  Whole paths count first, then as many of the last folders as all items have in
  common with a name, at last the names of the files alone; each time first with
  the ending and then without one of an image.

  Args:
    items: Names of n items, with or without folder and ending.
    names: Names of the rows, likewise.

  Returns:
    int[n], each row at most once.

  Raises:
    Unmatched: An item has no row; or two items would have the same one, or one
      item two; or the folders of some items fit and those of others do not.
  """
  items, names = list(map(str, items)), list(map(str, names))
  wanted = [_parts(item) for item in items]
  bases = {_stem(parts)[-1] for parts in wanted}
  # Most of many pictures are not asked about.
  known = {
    row: parts
    for row, parts in enumerate(map(_parts, names))
    if _stem(parts)[-1] in bases
  }
  lengths = [len(parts) for parts in (*wanted, *known.values())]
  for depth in range(max(lengths, default=1), 0, -1):
    for trim in (tuple, _stem):
      held = {}
      for row, parts in known.items():
        held.setdefault(trim(parts[-depth:]), []).append(row)
      keys = [trim(parts[-depth:]) for parts in wanted]
      if all(key in held for key in keys):
        return _unique(items, names, keys, held, wanted, depth)
  absent = [
    item
    for item, parts in zip(items, wanted, strict=True)
    if _stem(parts)[-1:] not in held
  ]
  raise Unmatched(
    f"{len(absent)} of {len(items)} items are not among the {len(names)} "
    f"names, the first is {absent[0]}."
  )


def _unique(items, names, keys, held, wanted, depth):
  """The rows of the keys, if every key is one item's and one row's."""
  first = {}
  for item, key in zip(items, keys, strict=True):
    if key in first:
      raise Unmatched(
        f"the items {first[key]} and {item} both fit the name "
        f"{names[held[key][0]]}; give items and names with their folders."
      )
    first[key] = item
    if len(held[key]) > 1:
      one, other = (names[row] for row in held[key][:2])
      raise Unmatched(
        f"the names {one} and {other} both fit the item {item}; give items and "
        "names with their folders."
      )
  rows = [held[key][0] for key in keys]
  # By the names of the files alone dog/1 fits cat/1: where the folders of the
  # other items are the same, this one's file is not there.
  other = None
  agreed = False
  for parts, item, row in zip(wanted, items, rows, strict=True):
    folders = parts[:-depth], _parts(names[row])[:-depth]
    if not all(folders):
      continue
    if folders[0][-1] == folders[1][-1]:
      agreed = True
    else:
      other = other or (item, names[row])
  if agreed and other:
    raise Unmatched(
      f"the item {other[0]} is not among the {len(names)} names; {other[1]} "
      "lies in another folder, and files of other items in their own."
    )
  return np.array(rows, np.int64)


def _parts(name):
  """Folders and file of a path, with slashes or backslashes."""
  parts = name.replace("\\", "/").split("/")
  return tuple(part for part in parts if part not in ("", ".")) or (name,)


def _stem(parts):
  """The same without the ending of an image."""
  return (*parts[:-1], levels_file.base_name(parts[-1]))
