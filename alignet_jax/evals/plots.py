"""Figures of the report, each drawn to one SVG string.

Every function is pure: the same data gives the same bytes (ids are salted, no
date is written, text is drawn as outlines so that no font is looked up).
Nothing touches pyplot, a display or a global setting. A model keeps its colour
(Okabe and Ito's palette, safe for colour-blind readers), its symbol and its
hatching or dashes in all figures; see `drawing.style_of`.

Usage:
  bars = plots.Bars(
    groups=("coarse", "fine"),
    series={"base": (0.41, 0.62), "aligned": (0.61, 0.63)},
    chance=1 / 3)
  svg = plots.draw_bars(bars)
"""

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.figure
import numpy as np
import scipy.stats

from alignet_jax.evals import drawing

# Larger matrices are averaged down: more than this cannot be seen.
_MAX_CELLS = 300
_MAX_LABELLED_BARS = 15
_MAX_CATEGORIES = 20
_MAX_VECTOR_POINTS = 500


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number and, if known, its 95% interval from `low` to `high`."""

  value: float
  low: float | None = None
  high: float | None = None


@dataclasses.dataclass(frozen=True)
class Range:
  """Two bounds, such as of a noise ceiling; no interval of a number."""

  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Bars:
  """Scores of several models on several tasks.

  Attributes:
    groups: Names of the tasks, such as levels.
    series: Model name -> one `Estimate` or float per group.
    title: Heading of the figure.
    ylabel: What the score is.
    chance: Score of a guess, drawn as a line, or None.
    ceilings: (lower, upper) per group or None; drawn as bands.
    note: Sentence put below the figure.
    line: What the line at `chance` is called.
  """

  groups: Sequence[str]
  series: Mapping[str, Sequence["Estimate | float"]]
  title: str = ""
  ylabel: str = "accuracy"
  chance: float | None = None
  ceilings: Sequence[tuple[float, float] | None] | None = None
  note: str = ""
  line: str = "chance"

  def __post_init__(self):
    for name, values in self.series.items():
      if len(values) != len(self.groups):
        raise ValueError(
          f"{len(values)} scores of {name} for {len(self.groups)} groups."
        )
    if self.ceilings is not None and len(self.ceilings) != len(self.groups):
      raise ValueError(
        f"{len(self.ceilings)} noise ceilings for {len(self.groups)} groups."
      )


@dataclasses.dataclass(frozen=True)
class Rdms:
  """Dissimilarity matrices of the same items.

  Attributes:
    matrices: Name -> f[n n]; the first is the first to be shown.
    categories: Category of each item. Items are shown category by category,
      in the order in which the categories first occur here.
    spearman: Name -> rank correlation with `reference`, where there is one.
    reference: What `spearman` compares with.
    note: Sentence put below the figures.
  """

  matrices: Mapping[str, np.ndarray]
  categories: Sequence[str]
  spearman: Mapping[str, "Estimate | float"] = dataclasses.field(
    default_factory=dict
  )
  reference: str = "people"
  note: str = ""

  def __post_init__(self):
    expected = (len(self.categories),) * 2
    for name, matrix in self.matrices.items():
      if np.shape(matrix) != expected:
        raise ValueError(
          f"RDM of {name} has shape {np.shape(matrix)}; there are "
          f"{expected[0]} categories."
        )


@dataclasses.dataclass(frozen=True)
class Curve:
  """Training curve of one student.

  Attributes:
    name: Name of the student.
    step: int[s].
    loss: f[s].
    accuracy: f[s] agreement with the teacher, or None.
  """

  name: str
  step: Sequence[int]
  loss: Sequence[float]
  accuracy: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True)
class Selection:
  """How the strength of a teacher's regulariser was chosen.

  Attributes:
    name: Variant of the teacher, such as "soft".
    strength: Strengths tried, in the order shown.
    cross_entropy: Held-out cross-entropy of each, in nats.
    selected: Index of the one chosen.
    accuracy: Held-out accuracy of each, or None.
    neighbours_kept: Share of nearest neighbours that each leaves, or None.
  """

  name: str
  strength: Sequence[float]
  cross_entropy: Sequence[float]
  selected: int
  accuracy: Sequence[float] | None = None
  neighbours_kept: Sequence[float] | None = None

  @classmethod
  def from_table(cls, name, table):
    """Reads the rows of a `teacher.selection.Selection`."""
    return cls(
      name=name,
      strength=[row["strength"] for row in table],
      cross_entropy=[row["val_nll"] for row in table],
      selected=next(i for i, row in enumerate(table) if row["selected"]),
      accuracy=[row["val_accuracy"] for row in table],
      neighbours_kept=[row["neighbours_kept"] for row in table],
    )


@dataclasses.dataclass(frozen=True)
class Scatter:
  """Entropy of people's answers against the model's, one point per triplet.

  Attributes:
    name: Name of the model.
    people: f[m] nats.
    model: f[m] nats.
    correlation: Pearson's r, or None.
  """

  name: str
  people: Sequence[float]
  model: Sequence[float]
  correlation: "Estimate | float | None" = None


@dataclasses.dataclass(frozen=True)
class Reliability:
  """Whether a model that is 70% sure is right 70% of the time.

  Attributes:
    name: Name of the model.
    confidence: f[bins] mean probability of the model's choice in each bin.
    accuracy: f[bins] share of people's answers equal to it.
    count: int[bins] triplets (or answers) in each bin.
    error: Expected calibration error, or None.
  """

  name: str
  confidence: Sequence[float]
  accuracy: Sequence[float]
  count: Sequence[int]
  error: float | None = None


def as_estimate(number):
  """Wraps a plain number; leaves an `Estimate` as it is."""
  return number if isinstance(number, Estimate) else Estimate(float(number))


def has_interval(estimate):
  """Whether both ends of the interval are known."""
  return (
    estimate.low is not None
    and estimate.high is not None
    and math.isfinite(estimate.low)
    and math.isfinite(estimate.high)
  )


def draw_bars(bars):
  """Draws grouped bars with intervals, chance and noise ceilings."""
  names = list(bars.series)
  width = 0.8 / max(len(names), 1)
  num_bars = len(names) * len(bars.groups)
  with drawing.settings():
    figure, axes = drawing.figure(drawing.WIDE, 3.3)
    tops = [bars.chance or 0.0]
    positions = np.arange(len(bars.groups))
    banded = set()
    for index, (lower, upper) in _finite_ceilings(bars):
      banded.add(index)
      axes.bar(
        index,
        # A band without height would not be seen.
        max(upper - lower, 0.008),
        bottom=lower,
        width=0.92,
        color=drawing.CEILING,
        alpha=0.75,
        linewidth=0,
        zorder=0.5,
      )
      tops.append(upper)
    for rank, name in enumerate(names):
      style = drawing.style_of(name, names)
      for position, number in zip(positions, bars.series[name], strict=True):
        estimate = as_estimate(number)
        if not math.isfinite(estimate.value):
          continue
        x = position + (rank - (len(names) - 1) / 2) * width
        axes.bar(
          x,
          estimate.value,
          width=0.9 * width,
          color=style.colour,
          hatch=style.hatch,
          edgecolor="white",
          linewidth=0,
        )
        top = estimate.value
        if has_interval(estimate):
          ends = [estimate.low, estimate.high]
          # The white edge keeps the line visible on a dark bar.
          axes.plot([x, x], ends, color="white", linewidth=2.8)
          axes.plot([x, x], ends, color=drawing.INK, linewidth=1.2)
          top = max(top, estimate.high)
        if num_bars <= _MAX_LABELLED_BARS:
          boxed = position in banded
          _label(axes, x, top, f"{estimate.value:.2f}", boxed=boxed)
        tops.append(top)
    if bars.chance is not None:
      axes.axhline(bars.chance, color=drawing.INK, lw=1.2, ls=(0, (4, 3)))
    axes.set_xticks(positions, bars.groups)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(bars.groups) - 0.5)
    # Equal axes for figures side by side, unless the bars would be too low.
    axes.set_ylim(0, 1.09 if max(tops) > 0.8 else 1.13 * max(tops))
    axes.set_ylabel(bars.ylabel)
    axes.grid(axis="y", color=drawing.GRID, linewidth=0.8)
    _legend_of_bars(axes, bars, names)
    return drawing.svg(figure)


def draw_rdm(rdms, name):
  """Draws one matrix, items sorted by category, as ranks of the pairs.

  Ranks because rank correlation is what is reported, and because distances of
  different models have no common scale. Tied pairs share a rank.
  """
  categories = list(rdms.categories)
  labels = list(dict.fromkeys(categories))
  order = sorted(
    range(len(categories)), key=lambda item: labels.index(categories[item])
  )
  ranks = _ranks(np.asarray(rdms.matrices[name])[np.ix_(order, order)])
  num = len(ranks)
  edges = np.cumsum([0, *(categories.count(label) for label in labels)])
  with drawing.settings():
    figure = matplotlib.figure.Figure()
    # Placed by hand in inches: all matrices have one size, whatever the labels.
    side, below, thick = 2.1, 0.08, 0.09
    figure.set_size_inches(1, 1)
    axes = figure.add_axes((0, below + thick, side, side))
    image = axes.imshow(
      _shrink(ranks),
      cmap="cividis",
      vmin=0,
      vmax=1,
      extent=(0, num, num, 0),
      interpolation="nearest",
    )
    few = len(labels) <= _MAX_CATEGORIES
    # More lines or names would hide what they separate.
    for edge in edges[1:-1] if few else ():
      axes.axhline(edge, color="white", linewidth=0.8)
      axes.axvline(edge, color="white", linewidth=0.8)
    axes.set_xticks([])
    if few:
      wrapped = [textwrap.fill(str(label), 14) for label in labels]
      axes.set_yticks((edges[:-1] + edges[1:]) / 2, wrapped)
    else:
      axes.set_yticks([])
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    title = name
    if name in rdms.spearman:
      title += f": ρ = {as_estimate(rdms.spearman[name]).value:.2f}"
    axes.set_title(title)
    bar = figure.colorbar(
      image,
      cax=figure.add_axes((0, 0, side, thick)),
      orientation="horizontal",
    )
    bar.set_ticks([0.0, 1.0], labels=["most alike", "least alike"])
    bar.ax.tick_params(length=0, labelsize=9)
    bar.outline.set_visible(False)
    left, right = bar.ax.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")
    return drawing.svg(figure, bbox_inches="tight", pad_inches=0.05)


def draw_curves(curves):
  """Draws the loss of every student and, below it, the accuracy if given."""
  names = [curve.name for curve in curves]
  with_accuracy = any(curve.accuracy is not None for curve in curves)
  rows = 2 if with_accuracy else 1
  with drawing.settings():
    figure = matplotlib.figure.Figure(
      figsize=(drawing.WIDE, 0.7 + 1.9 * rows), layout="constrained"
    )
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for curve in curves:
      style = drawing.style_of(curve.name, names)
      _draw_noisy(panels[0], curve.step, curve.loss, style, curve.name)
      if curve.accuracy is not None:
        _draw_noisy(panels[1], curve.step, curve.accuracy, style, curve.name)
    panels[0].set_ylabel("loss")
    if with_accuracy:
      panels[1].set_ylabel("agrees with teacher")
    panels[-1].set_xlabel("step")
    for axes in panels:
      axes.grid(axis="y", color=drawing.GRID, linewidth=0.8)
      axes.margins(x=0.01)
    drawing.legend(panels[0], *panels[0].get_legend_handles_labels())
    return drawing.svg(figure)


def draw_selection(selection, names=()):
  """Draws held-out cross-entropy against the strength of the regulariser."""
  style = drawing.style_of(selection.name, names)
  # Evenly spaced: strengths span orders of magnitude and may include zero.
  positions = np.arange(len(selection.strength))
  with drawing.settings():
    figure, axes = drawing.figure(drawing.SQUARE, 2.7)
    axes.plot(
      positions,
      selection.cross_entropy,
      color=style.colour,
      marker=style.marker,
      linestyle="solid",
      linewidth=1.6,
    )
    chosen = selection.selected
    axes.plot(
      [positions[chosen]],
      [selection.cross_entropy[chosen]],
      marker="o",
      markersize=15,
      markerfacecolor="none",
      markeredgecolor=drawing.INK,
      markeredgewidth=1.4,
      linestyle="none",
      clip_on=False,
    )
    axes.set_xticks(positions, [f"{value:g}" for value in selection.strength])
    # More than six numbers of the form 0.0001 would touch.
    if len(positions) > 6:
      axes.tick_params(axis="x", labelrotation=45)
    axes.margins(x=0.08, y=0.2)
    strength = selection.strength[chosen]
    # No legend: its ring would look like one more point.
    axes.set_title(f"{selection.name}: {strength:g} chosen")
    axes.set_xlabel("strength")
    axes.set_ylabel("cross-entropy (nats)")
    axes.grid(axis="y", color=drawing.GRID, linewidth=0.8)
    return drawing.svg(figure)


def draw_trade_off(selections):
  """Draws accuracy against the neighbours that each strength leaves.

  One line per teacher that says both, along its strengths; the ring marks the
  chosen one. Up is more human-like, right is nearer to the backbone.
  """
  names = [selection.name for selection in selections]
  with drawing.settings():
    figure, axes = drawing.figure(drawing.WIDE, 3.6)
    for selection in selections:
      style = drawing.style_of(selection.name, names)
      axes.plot(
        selection.neighbours_kept,
        selection.accuracy,
        color=style.colour,
        marker=style.marker,
        linestyle=style.dashes,
        linewidth=1.6,
        label=selection.name,
      )
      axes.plot(
        [selection.neighbours_kept[selection.selected]],
        [selection.accuracy[selection.selected]],
        marker="o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor=drawing.INK,
        markeredgewidth=1.2,
        linestyle="none",
      )
    axes.margins(x=0.08, y=0.1)
    axes.set_xlabel("share of the 10 nearest neighbours kept")
    axes.set_ylabel("held-out accuracy")
    axes.grid(color=drawing.GRID, linewidth=0.8)
    drawing.legend(axes, *axes.get_legend_handles_labels())
    return drawing.svg(figure)


def draw_scatter(scatter, names=()):
  """Draws entropy of the model against entropy of people, in nats."""
  style = drawing.style_of(scatter.name, names)
  highest = math.log(3.0)
  with drawing.settings():
    figure, axes = drawing.figure(drawing.SQUARE, 3.2)
    axes.plot(
      [0, highest], [0, highest], color=drawing.QUIET, lw=1, ls=(0, (4, 3))
    )
    axes.plot(
      scatter.people,
      scatter.model,
      linestyle="none",
      marker=style.marker,
      markersize=4,
      markeredgewidth=0,
      color=style.colour,
      alpha=0.35 if len(scatter.people) > 200 else 0.7,
      rasterized=len(scatter.people) > _MAX_VECTOR_POINTS,
      clip_on=False,
    )
    title = scatter.name
    if scatter.correlation is not None:
      title += f": r = {as_estimate(scatter.correlation).value:.2f}"
    axes.set_title(title)
    axes.set_xlabel("entropy of people (nats)")
    axes.set_ylabel("entropy of the model (nats)")
    _square(axes, highest)
    return drawing.svg(figure)


def draw_reliability(reliability, names=()):
  """Draws how often people agree with a model of a given confidence."""
  style = drawing.style_of(reliability.name, names)
  count = np.asarray(reliability.count, np.float64)
  filled = count > 0
  with drawing.settings():
    figure, axes = drawing.figure(drawing.SQUARE, 3.2)
    axes.plot([0, 1], [0, 1], color=drawing.QUIET, lw=1, ls=(0, (4, 3)))
    confidence = np.asarray(reliability.confidence, np.float64)[filled]
    accuracy = np.asarray(reliability.accuracy, np.float64)[filled]
    axes.plot(confidence, accuracy, color=style.colour, lw=1.4)
    axes.scatter(
      confidence,
      accuracy,
      s=20 + 180 * count[filled] / max(count.max(initial=0), 1),
      marker=style.marker,
      color=style.colour,
      edgecolors="white",
      linewidths=0.8,
      zorder=3,
      clip_on=False,
    )
    title = reliability.name
    if reliability.error is not None:
      title += f": error {reliability.error:.3f}"
    axes.set_title(title)
    axes.set_xlabel("probability of the model's choice")
    axes.set_ylabel("share of people who agree")
    _square(axes, 1.0)
    return drawing.svg(figure)


def _finite_ceilings(bars):
  """Index and (lower, upper) of the groups that have a noise ceiling."""
  for index, ceiling in enumerate(bars.ceilings or ()):
    if ceiling is not None and all(math.isfinite(end) for end in ceiling):
      yield index, ceiling


def _label(axes, x, y, text, *, boxed=False):
  """Writes a value above its bar; on white where a dark band may lie there."""
  box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
  axes.annotate(
    text,
    (x, y),
    xytext=(0, 2),
    textcoords="offset points",
    ha="center",
    va="bottom",
    fontsize=9,
    bbox=box if boxed else None,
  )


def _legend_of_bars(axes, bars, names):
  handles = [
    matplotlib.patches.Patch(
      facecolor=drawing.style_of(name, names).colour,
      hatch=drawing.style_of(name, names).hatch,
      edgecolor="white",
      linewidth=0,
    )
    for name in names
  ]
  labels = list(names)
  if bars.chance is not None:
    handles.append(
      matplotlib.lines.Line2D([], [], color=drawing.INK, lw=1.2, ls=(0, (4, 3)))
    )
    labels.append(bars.line)
  if list(_finite_ceilings(bars)):
    handles.append(matplotlib.patches.Patch(color=drawing.CEILING, alpha=0.75))
    labels.append("noise ceiling")
  drawing.legend(axes, handles, labels)


def _draw_noisy(axes, step, values, style, name):
  """Draws a curve; a long one as a pale line with its running mean."""
  step, values = np.asarray(step), np.asarray(values, np.float64)
  window = max(len(values) // 40, 1)
  if window > 1:
    axes.plot(step, values, color=style.colour, alpha=0.25, linewidth=0.8)
    # Only windows that are whole: the ends would be means of fewer values.
    values = np.convolve(values, np.full(window, 1 / window), mode="valid")
    step = step[window - 1 :]
  axes.plot(
    step,
    values,
    color=style.colour,
    linestyle=style.dashes,
    linewidth=1.8,
    label=name,
  )


def _square(axes, highest):
  axes.set_xlim(0, highest)
  axes.set_ylim(0, highest)
  axes.set_aspect("equal")
  axes.grid(color=drawing.GRID, linewidth=0.8)


def _ranks(matrix):
  """Mid-ranks of the pairs, scaled to [0, 1]; the diagonal is 0."""
  rows, columns = np.triu_indices(len(matrix), k=1)
  ranks = scipy.stats.rankdata(matrix[rows, columns])
  scaled = np.zeros(np.shape(matrix))
  scaled[rows, columns] = (ranks - 1) / max(len(ranks) - 1, 1)
  return scaled + scaled.T


def _shrink(matrix):
  """Averages blocks of a matrix that has more cells than can be seen."""
  if len(matrix) <= _MAX_CELLS:
    return matrix
  starts = np.linspace(0, len(matrix), _MAX_CELLS, endpoint=False).astype(int)
  sizes = np.diff(np.append(starts, len(matrix)))
  sums = np.add.reduceat(np.add.reduceat(matrix, starts, 0), starts, 1)
  return sums / sizes[:, None] / sizes[None, :]
