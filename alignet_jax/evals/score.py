"""The one form in which every measure reports, and the tables made of it.

A score is a number with its interval, the score of a guess, what people reach,
and what it is over. A measure that could not be taken is a row too, without a
number and with the reason: nothing is left out in silence.

Usage:
  rows = [score.Score("alignment", "things", "accuracy", "cosine", 0.486)]
  score.write(out / "scores", [row.of("clip") for row in rows])
  print(score.format_text(rows))
"""

import csv
import dataclasses
import io
import math

from alignet_jax import artifacts

SUITES = ("alignment", "usefulness")

# All that is measured, for the check of --rows before anything is.
MEASURES = (
  "accuracy",
  "accuracy_by_category",
  "accuracy_majority",
  "accuracy_repeats",
  "anomaly_auc",
  "calibration_error",
  "corruption",
  "distance_change",
  "entropy_r",
  "few_shot",
  "kendall_tau_a",
  "kl",
  "linear_probe",
  "nearest_neighbours",
  "nll",
  "pearson",
  "reaction_time",
  "relative_distance",
  "shift",
  "spearman",
)

# What a row without a number says first.
SKIPPED = "skipped: "


@dataclasses.dataclass(frozen=True)
class Score:
  """One number about one model.

  Attributes:
    suite: One of `SUITES`.
    dataset: What it is measured on, such as "things".
    measure: What is measured, such as "accuracy" or "spearman".
    variant: Which kind of it, such as "cosine", "dot", a level or a category.
    value: The number; NaN where it could not be measured.
    low: Lower end of its 95% interval; NaN without one.
    high: Upper end.
    chance: What a guess has; NaN where there is no such thing.
    ceiling_low: What one person reaches; NaN if not known.
    ceiling_high: What the best fixed answer reaches; NaN if not known.
    num: Triplets, pairs or images that it is over; 0 where it was skipped.
    note: What the interval is over, ties, or why it was skipped.
    model: Name of the model.
  """

  suite: str
  dataset: str
  measure: str
  variant: str = ""
  value: float = math.nan
  low: float = math.nan
  high: float = math.nan
  chance: float = math.nan
  ceiling_low: float = math.nan
  ceiling_high: float = math.nan
  num: int = 0
  note: str = ""
  model: str = ""

  def __post_init__(self):
    if self.suite not in SUITES:
      raise ValueError(
        f"suite is {self.suite!r}; expected one of {', '.join(SUITES)}."
      )
    for name in FLOATS:
      object.__setattr__(self, name, float(getattr(self, name)))
    object.__setattr__(self, "num", int(self.num))

  @property
  def is_skipped(self):
    """Whether it could not be measured."""
    return self.note.startswith(SKIPPED)

  def of(self, model):
    """The same score as one of a named model."""
    return dataclasses.replace(self, model=model)


FLOATS = ("value", "low", "high", "chance", "ceiling_low", "ceiling_high")

# Columns of the files: the model first.
COLUMNS = (
  "model",
  *(f.name for f in dataclasses.fields(Score) if f.name != "model"),
)


def skipped(suite, dataset, measure, reason, variant=""):
  """The row of what could not be measured; `reason` is a sentence."""
  return Score(suite, dataset, measure, variant, note=f"{SKIPPED}{reason}")


def as_dict(row):
  """The row as a dict in the order of `COLUMNS`, None for NaN."""
  values = {name: getattr(row, name) for name in COLUMNS}
  for name in FLOATS:
    if not math.isfinite(values[name]):
      # JSON has no infinity either: a KL can be infinite.
      values[name] = None if math.isnan(values[name]) else str(values[name])
  return values


def with_common_ceilings(rows):
  """Rows without the ceilings that differ between models.

  Models that lack different items are scored on different triplets, each with a
  ceiling of its own, or with none that is known. A table with models side by
  side has one place for it, and a ceiling of other triplets would stand beside
  some of them.

  Args:
    rows: Of `Score`.

  Returns:
    List of `Score`, in the same order.
  """
  met = {}
  for row in rows:
    if not row.is_skipped:
      key = row.dataset, row.measure, row.variant
      met.setdefault(key, set()).add((row.ceiling_low, row.ceiling_high))
  differ = {key for key, ceilings in met.items() if _differ(ceilings)}
  return [
    dataclasses.replace(row, ceiling_low=math.nan, ceiling_high=math.nan)
    if (row.dataset, row.measure, row.variant) in differ
    else row
    for row in rows
  ]


def _differ(ceilings):
  # By its text, as NaN is no number that equals itself.
  return len({str(ceiling) for ceiling in ceilings}) > 1


def write(stem, rows, *, about=None):
  """Writes `<stem>.json`, `<stem>.csv` and, with pyarrow, `<stem>.parquet`.

  Args:
    stem: `pathlib.Path` without ending, in an existing folder. Without pyarrow,
      a parquet file that is there is removed.
    rows: Of `Score`.
    about: Dict that the json holds besides.

  Returns:
    (names of files written, sentence on what was not written or "").
  """
  dicts = [as_dict(row) for row in rows]
  names = [f"{stem.name}.json", f"{stem.name}.csv"]
  artifacts.write_json(
    stem.with_name(names[0]), {**(about or {}), "scores": dicts}
  )
  text = io.StringIO()
  writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
  writer.writeheader()
  writer.writerows(dicts)  # None becomes an empty field.
  artifacts.write_text(stem.with_name(names[1]), text.getvalue())
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError:
    # One of an earlier run would say what the other two files do not.
    stem.with_name(f"{stem.name}.parquet").unlink(missing_ok=True)
    return names, (
      f"{stem.name}.parquet is not written: it needs pyarrow (pip install "
      "pyarrow)."
    )
  columns = {
    name: [getattr(row, name) for row in rows]
    for name in COLUMNS  # NaN stays NaN: parquet has it.
  }
  names.append(f"{stem.name}.parquet")
  with artifacts.writer(stem.with_name(names[-1])) as f:
    pyarrow.parquet.write_table(pyarrow.table(columns), f)
  return names, ""


def format_text(rows):
  """The table for a terminal: what was measured, then what was skipped."""
  head = (
    "model",
    "dataset",
    "measure",
    "variant",
    "value",
    "interval",
    "ceiling",
    "chance",
    "num",
    "note",
  )
  lines = [head]
  for row in rows:
    if not row.is_skipped:
      lines.append(
        (
          row.model,
          row.dataset,
          row.measure,
          row.variant,
          shown(row.value),
          _range(row.low, row.high),
          _range(row.ceiling_low, row.ceiling_high),
          shown(row.chance),
          f"{row.num:,}",
          row.note,
        )
      )
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = [
    "  ".join(
      cell.ljust(width) for cell, width in zip(line, widths, strict=True)
    ).rstrip()
    for line in lines
  ]
  missing = {
    f"{row.dataset}, {row.measure}: {row.note}": []
    for row in rows
    if row.is_skipped
  }
  for row in rows:
    if row.is_skipped:
      missing[f"{row.dataset}, {row.measure}: {row.note}"].append(row.model)
  for what, models in missing.items():
    named = f" ({', '.join(dict.fromkeys(models))})" if any(models) else ""
    text.append(f"{what}{named}")
  return "\n".join(text)


def format_markdown(rows, *, with_interval=True):
  """The table of a README: a row per measure, a column per model.

  Args:
    rows: Of `Score`; those that were skipped for all models are left out.
    with_interval: Whether intervals stand behind the numbers.

  Returns:
    str of several lines.
  """
  models = list(dict.fromkeys(row.model for row in rows))
  cells = {}
  for row in with_common_ceilings(rows):
    key = (row.dataset, row.measure, row.variant)
    if row.is_skipped:
      continue
    text = shown(row.value)
    if with_interval and math.isfinite(row.low):
      text += f" [{shown(row.low)}, {shown(row.high)}]"
    cells.setdefault(key, {})[row.model] = text
    if math.isfinite(row.ceiling_low):
      cells[key]["noise ceiling"] = _range(row.ceiling_low, row.ceiling_high)
    elif math.isfinite(row.ceiling_high):
      cells[key]["noise ceiling"] = shown(row.ceiling_high)
  columns = [*models]
  if any("noise ceiling" in line for line in cells.values()):
    columns.append("noise ceiling")
  lines = [
    "| data | measure | " + " | ".join(map(_escaped, columns)) + " |",
    "|---" * (2 + len(columns)) + "|",
  ]
  for (dataset, measure, variant), values in cells.items():
    name = f"{measure}, {variant}" if variant else measure
    numbers = " | ".join(values.get(column, "") for column in columns)
    lines.append(f"| {_escaped(dataset)} | {_escaped(name)} | {numbers} |")
  return "\n".join(lines)


def shown(value):
  """Four digits after the point; nothing for NaN."""
  return "" if math.isnan(value) else f"{value:.4f}"


def _range(low, high):
  if math.isnan(low) and math.isnan(high):
    return ""
  return f"[{shown(low)}, {shown(high)}]"


def _escaped(text):
  return text.replace("|", "\\|")
