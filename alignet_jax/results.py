"""The numbers of a run: one flat map, and the table that shows it.

Names are paths, such as `levels/coarse/aligned`: what is measured, and last the
variant. The table has a row for what is measured and a column for the variant.

Usage:
  results.write(workdir / "results.json", metrics)
  print(results.table(metrics))
"""

import math
import numbers

from alignet_jax import artifacts

FILE = "results.json"


def checked(metrics, stage):
  """Turns the metrics that a stage returned into plain finite numbers.

  Args:
    metrics: Map from name to number (of Python, numpy or JAX), or None.
    stage: Name of the stage, for the error message.

  Returns:
    A dict from name to int or float.

  Raises:
    ValueError: If a value is not finite or not a number; names it.
  """
  plain = {}
  for name, value in (metrics or {}).items():
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
      raise ValueError(
        f"The metric {name} of stage {stage} is {value!r}; it must be a number."
      )
    if not math.isfinite(value):
      raise ValueError(
        f"The metric {name} of stage {stage} is {value}; it must be finite."
      )
    plain[name] = value
  return plain


def merge(metrics_of_stages):
  """Joins the metrics of several stages.

  Args:
    metrics_of_stages: Stage -> metrics.

  Returns:
    One dict, in the order of the stages.

  Raises:
    ValueError: If two stages give the same name.
  """
  merged, source = {}, {}
  for stage, metrics in metrics_of_stages.items():
    for name, value in metrics.items():
      if name in merged:
        raise ValueError(
          f"The stages {source[name]} and {stage} both give the metric {name}."
        )
      merged[name], source[name] = value, stage
  return merged


def write(path, metrics):
  """Writes `results.json`: one flat map, sorted by name."""
  artifacts.write_json(path, metrics, sort_keys=True)


def table(metrics):
  """Shows metrics as text.

  `a/b/x` and `a/b/y` become the row `a/b` with the columns x and y, in the
  order of first appearance; so do names of two parts, where their last part
  is a column already (`fewshot5/x`). Rows without a common column get a table
  of their own. Other names get a line each, above.

  Args:
    metrics: Name -> number.

  Returns:
    Lines, aligned; fractions have four decimals.
  """
  variants = {name.split("/")[-1] for name in metrics if name.count("/") >= 2}
  single, rows = {}, {}
  for name, value in metrics.items():
    row, _, column = name.rpartition("/")
    if row and column in variants:
      rows.setdefault(row, {})[column] = value
    else:
      single[name] = value
  blocks = []
  if single:
    blocks.append([[name, _show(value)] for name, value in single.items()])
  for names in _connected(rows):
    columns = list(dict.fromkeys(c for name in names for c in rows[name]))
    blocks.append(
      [["", *columns]]
      + [
        [name, *(_show(rows[name].get(column)) for column in columns)]
        for name in names
      ]
    )
  return "\n\n".join(_align(block) for block in blocks)


def _connected(rows):
  """Groups the names of rows that share columns, directly or by others."""
  groups = []  # of (columns, names)
  for name, row in rows.items():
    columns, names = set(row), [name]
    for group in [g for g in groups if g[0] & columns]:
      groups.remove(group)
      columns |= group[0]
      names = group[1] + names
    groups.append((columns, names))
  order = list(rows)
  groups = [sorted(map(order.index, names)) for _, names in groups]
  return [[order[i] for i in group] for group in sorted(groups)]


def _align(block):
  """Pads cells: names to the left, numbers to the right."""
  widths = [max(map(len, cells)) for cells in zip(*block, strict=True)]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    for cells in block
  )


def _show(value):
  if value is None:
    return "-"
  return str(value) if isinstance(value, int) else f"{value:.4f}"
