"""A table of a model's parameters.

Usage:
  print(overview.table(params))
"""

import math
import re

import jax


def table(params):
  """Name, shape, type and count of all arrays, repeated blocks in one row.

  Args:
    params: Tree of arrays.

  Returns:
    Text of several lines; the last holds the sum. The "*" in a name stands for
    the numbers of blocks of which each has such an array.
  """
  rows = {}
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    key = (
      re.sub(r"(block)_\d+(?=/)", r"\1_*", name),
      tuple(x.shape),
      str(x.dtype),
    )
    rows[key] = rows.get(key, 0) + 1
  cells = [("parameter", "shape", "type", "arrays", "count")]
  for (name, shape, dtype), number in rows.items():
    count = number * math.prod(shape)
    text = " x ".join(map(str, shape)) or "scalar"
    cells.append((name, text, dtype, str(number), f"{count:,}"))
  leaves = jax.tree.leaves(params)
  total = sum(math.prod(x.shape) for x in leaves)
  cells.append(("sum", "", "", str(len(leaves)), f"{total:,}"))
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return "\n".join(
    "  ".join(
      cell.rjust(width) if column > 2 else cell.ljust(width)
      for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    for row in cells
  )
