"""What all figures of the report have in common: frame, colours, legend.

A figure is drawn without pyplot, a display or a global setting, and the same
data gives the same bytes. A model keeps its colour (Okabe and Ito's palette,
safe for colour-blind readers), its symbol and its hatching or dashes.

Usage:
  with drawing.settings():
    figure, axes = drawing.figure(drawing.SQUARE, 2.7)
    svg = drawing.svg(figure)
"""

import contextlib
import dataclasses
import io
import re
import warnings

import matplotlib
import matplotlib.figure
import numpy as np

INK = "#222222"
QUIET = "#666666"
GRID = "#dddddd"
# Wine of Tol's muted palette: dark on white (9:1), and told from the bars'
# colours by lightness where not by hue.
CEILING = "#882255"

# Inches. The page holds two wide figures side by side, or three square ones. A
# phone shows the wide one at 80%, so that 10 points of text remain legible.
WIDE = 5.0
SQUARE = 3.2

_SETTINGS = {
  "axes.axisbelow": True,
  "axes.edgecolor": QUIET,
  "axes.grid": False,
  "axes.labelcolor": INK,
  "axes.labelsize": 10,
  "axes.linewidth": 0.8,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 10.5,
  "axes.titleweight": "bold",
  "figure.facecolor": "white",
  "font.family": "DejaVu Sans",  # The one that matplotlib ships.
  "font.size": 10,
  "hatch.linewidth": 1.0,
  "legend.borderpad": 0.0,
  "legend.fontsize": 9,
  "legend.frameon": False,
  "svg.fonttype": "path",
  "svg.hashsalt": "alignet_jax",
  "text.color": INK,
  "text.parse_math": False,  # A "$" in a name is a dollar.
  "xtick.color": QUIET,
  "xtick.labelcolor": INK,
  "xtick.labelsize": 9.5,
  "ytick.color": QUIET,
  "ytick.labelcolor": INK,
  "ytick.labelsize": 9.5,
}


@dataclasses.dataclass(frozen=True)
class Style:
  """How one model looks everywhere."""

  colour: str
  symbol: str  # In text.
  marker: str  # In figures: matplotlib's name of the same shape.
  dashes: str | tuple
  hatch: str


_KNOWN = {
  "people": Style("#000000", "●", "o", "solid", ""),
  "base": Style("#999999", "■", "s", "dotted", ""),
  "aligned": Style("#0072b2", "▲", "^", "solid", ""),
  "control": Style("#e69f00", "◆", "D", "dashed", "///"),
}
_KNOWN |= {
  "zero_shot": _KNOWN["base"],
  "hard": _KNOWN["control"],
  "soft": _KNOWN["aligned"],
}
_OTHERS = (
  Style("#009e73", "▼", "v", "dashdot", "..."),
  Style("#cc79a7", "★", "*", (0, (5, 1)), "xxx"),
  Style("#d55e00", "✚", "P", (0, (3, 1, 1, 1)), "\\\\\\"),
  Style("#56b4e9", "✖", "X", (0, (1, 1)), "---"),
  # Of a fifth model and more; those that stages name have them too.
  Style("#0072b2", "▲", "^", "solid", ""),
  Style("#e69f00", "◆", "D", "dashed", "///"),
)


def style_of(name, names=()):
  """Looks up how a model is drawn; unknown ones by their place in `names`."""
  if name in _KNOWN:
    return _KNOWN[name]
  unknown = [other for other in names if other not in _KNOWN]
  index = unknown.index(name) if name in unknown else 0
  return _OTHERS[index % len(_OTHERS)]


@contextlib.contextmanager
def settings():
  """The settings of all figures, restored afterwards."""
  with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
    # A name in a script that the font lacks is drawn as boxes; the alternative
    # text has it in full.
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    yield


def figure(width, height):
  """A figure with one pair of axes, in inches."""
  made = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
  return made, made.subplots()


def svg(figure, **kwargs):
  """Writes a figure as SVG without date, version or outside address."""
  buffer = io.StringIO()
  figure.savefig(
    buffer,
    format="svg",
    dpi=200,  # Of what is drawn as pixels inside.
    metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    **kwargs,
  )
  text = buffer.getvalue()
  text = re.sub(r"<!DOCTYPE.*?>\s*", "", text, flags=re.DOTALL)
  return re.sub(r"<\?xml.*?\?>\s*", "", text, flags=re.DOTALL)


def legend(axes, handles, labels):
  """Puts the legend above the axes, where it covers nothing."""
  # A longer one would squeeze the axes; the alternative text has it in full.
  labels = [label if len(label) <= 32 else f"{label[:31]}…" for label in labels]
  num_columns = _legend_columns(labels)
  axes.legend(
    handles,
    labels,
    loc="lower left",
    bbox_to_anchor=(0, 1.0),
    ncols=num_columns,
    columnspacing=1.1,
    handlelength=1.4,
    handletextpad=0.4,
  )


def _legend_columns(labels):
  """Most columns whose estimated width fits."""
  for num_columns in range(len(labels), 1, -1):
    # As matplotlib divides the labels: the first columns are the longer ones.
    columns = np.array_split([len(label) for label in labels], num_columns)
    # Inches at 9 points: 0.07 a letter, 0.37 for the sample and the gaps.
    width = sum(0.07 * max(column) + 0.37 for column in columns)
    if width <= WIDE - 0.5:
      return num_columns
  return 1
