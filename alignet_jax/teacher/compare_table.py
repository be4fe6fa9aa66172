"""The table of models by variants: as text, csv, json and a figure.

Pure functions of rows; `compare` makes them.

Usage:
  print(compare_table.format_text(rows, ceiling=(0.60, 0.67)))
  compare_table.write(out, rows, about={"seed": 0}, ceiling=(0.60, 0.67))
"""

import csv
import io
import math

import matplotlib
import matplotlib.figure
import numpy as np

from alignet_jax import artifacts, odd_one_out
from alignet_jax.evals import drawing

# Fields of a row, in the order of the csv. All but the first two are floats,
# NaN where there is nothing to say.
COLUMNS = (
  "model",
  "variant",
  "accuracy",
  "accuracy_low",
  "accuracy_high",
  "gain",  # over zero_shot of the same model, on the same triplets
  "gain_low",
  "gain_high",
  "nll",
  "entropy_r",
  "kl",
  "object_heldout_accuracy",
  "neighbours_kept",  # of the 10 nearest, among local_features or the objects
  "temperature",
  "strength",
)

_SETTINGS = {
  "axes.spines.right": False,
  "axes.spines.top": False,
  "font.family": "DejaVu Sans",  # The one that matplotlib ships.
  "font.size": 10,
  "svg.fonttype": "path",
  "svg.hashsalt": "alignet_jax",
  "text.parse_math": False,  # A "$" in a name is a dollar.
}


def format_text(rows, *, ceiling=None):
  """The table for a terminal.

  Args:
    rows: Dicts with `COLUMNS`.
    ceiling: (lower, upper) noise ceiling, or None.

  Returns:
    str of several lines.
  """
  head = (
    "model",
    "variant",
    "accuracy",
    "gain over zero_shot",
    "nll",
    "entropy r",
    "kl",
    "new objects",
    "neighbours kept",
    "strength",
  )
  lines = [head]
  for row in rows:
    lines.append(
      (
        row["model"],
        row["variant"],
        _with_interval(row, "accuracy", ".4f"),
        _with_interval(row, "gain", "+.4f"),
        _number(row["nll"], ".4f"),
        _number(row["entropy_r"], ".3f"),
        _number(row["kl"], ".4f"),
        _number(row["object_heldout_accuracy"], ".4f"),
        _number(row["neighbours_kept"], ".3f"),
        _number(row["strength"], "g"),
      )
    )
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = [
    "  ".join(
      cell.ljust(width) for cell, width in zip(line, widths, strict=True)
    ).rstrip()
    for line in lines
  ]
  foot = f"chance {odd_one_out.CHANCE:.4f}"
  if ceiling is not None:
    foot += (
      f"; noise ceiling {ceiling[0]:.4f} to {ceiling[1]:.4f} (of the repeated "
      "triplets)"
    )
  return "\n".join([*text, foot])


def write(out, rows, *, about, ceiling=None):
  """Writes `table.csv`, `table.json`, `table.svg` and `table.png`.

  The same rows give the same bytes.

  Args:
    out: `pathlib.Path` of an existing folder.
    rows: Dicts with `COLUMNS`.
    about: What the json says besides the rows.
    ceiling: (lower, upper) noise ceiling, or None.
  """
  text = io.StringIO()
  writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
  writer.writeheader()
  for row in rows:
    writer.writerow(
      {name: "" if _is_nan(row[name]) else row[name] for name in COLUMNS}
    )
  artifacts.write_text(out / "table.csv", text.getvalue())
  artifacts.write_json(
    out / "table.json",
    {
      "rows": [without_nan(row) for row in rows],
      "chance": odd_one_out.CHANCE,
      "noise_ceiling": None if ceiling is None else list(ceiling),
      **about,
    },
  )
  with matplotlib.rc_context(_SETTINGS):
    figure = draw(rows, ceiling=ceiling)
    with artifacts.writer(out / "table.svg") as f:
      figure.savefig(f, format="svg", metadata={"Date": None, "Creator": None})
    with artifacts.writer(out / "table.png") as f:
      figure.savefig(f, format="png", dpi=150, metadata={"Software": None})


def draw(rows, *, ceiling=None):
  """Draws accuracies with intervals: a band per model, a symbol per variant.

  Args:
    rows: Dicts with `COLUMNS`.
    ceiling: (lower, upper) noise ceiling, or None.

  Returns:
    `matplotlib.figure.Figure`.
  """
  models = list(dict.fromkeys(row["model"] for row in rows))
  variants = list(dict.fromkeys(row["variant"] for row in rows))
  band = 0.16 * len(variants) + 0.16  # Inches.
  figure = matplotlib.figure.Figure(
    figsize=(6.4, 1.2 + band * len(models)), layout="constrained"
  )
  axes = figure.subplots()
  if ceiling is not None:
    axes.axvspan(
      *ceiling, color=drawing.CEILING, alpha=0.75, lw=0, label="noise ceiling"
    )
  axes.axvline(
    odd_one_out.CHANCE,
    color=drawing.INK,
    lw=1.2,
    ls=(0, (4, 3)),
    label="chance",
  )
  for rank, variant in enumerate(variants):
    style = drawing.style_of(variant, variants)
    chosen = [row for row in rows if row["variant"] == variant]
    value = np.array([row["accuracy"] for row in chosen])
    ends = np.array(
      [[row["accuracy_low"], row["accuracy_high"]] for row in chosen]
    ).T
    offset = (rank - (len(variants) - 1) / 2) * 0.8 / len(variants)
    axes.errorbar(
      value,
      [models.index(row["model"]) + offset for row in chosen],
      xerr=np.abs(ends - value),
      color=style.colour,
      marker=style.marker,
      linestyle="none",
      markersize=5.5,
      elinewidth=1.2,
      label=variant,
    )
  axes.set_yticks(range(len(models)), models)
  axes.set_ylim(len(models) - 0.5, -0.5)  # The first model on top.
  axes.tick_params(axis="y", length=0)
  axes.set_xlabel("odd-one-out accuracy")
  axes.grid(axis="x", color=drawing.GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  figure.legend(
    *axes.get_legend_handles_labels(),
    loc="outside upper left",
    ncols=4,
    fontsize=9,
    frameon=False,
  )
  return figure


def without_nan(row):
  """The row with None for NaN, which JSON does not have."""
  return {
    name: None if _is_nan(value) else value for name, value in row.items()
  }


def _is_nan(value):
  return isinstance(value, float) and math.isnan(value)


def _number(value, spec):
  return "-" if math.isnan(value) else format(value, spec)


def _with_interval(row, name, spec):
  if math.isnan(row[name]):
    return "-"
  low, high = row[f"{name}_low"], row[f"{name}_high"]
  return f"{row[name]:{spec}} [{low:{spec}}, {high:{spec}}]"
