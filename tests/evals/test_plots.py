import functools
import math
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
import scipy.stats

from alignet_jax.evals import drawing, plots

STEPS = np.arange(100)
DRAWINGS = {
  "bars": lambda name: plots.draw_bars(
    plots.Bars((name, "b"), {"base": (0.2, math.nan), name: (0.4, 0.5)})
  ),
  "rdm": lambda name: plots.draw_rdm(
    plots.Rdms({name: np.zeros((5, 5))}, [name] * 3 + ["b"] * 2), name
  ),
  "curves": lambda name: plots.draw_curves(
    [plots.Curve(name, STEPS, STEPS / 7.0, STEPS / 99)]
  ),
  "selection": lambda name: plots.draw_selection(
    plots.Selection(name, [0, 0.1, 1], [0.9, 0.8, 0.95], 1)
  ),
  "trade_off": lambda name: plots.draw_trade_off(
    [
      plots.Selection(name, [0, 1], [0.9, 0.8], 1, [0.5, 0.6], [0.4, 0.7]),
      plots.Selection("hard", [0, 1], [0.9, 0.8], 0, [0.4, 0.5], [0.3, 0.8]),
    ]
  ),
  "scatter": lambda name: plots.draw_scatter(
    plots.Scatter(name, [0.1, 1.0], [0.3, 0.7], 0.5)
  ),
  "reliability": lambda name: plots.draw_reliability(
    plots.Reliability(name, [0.4, 0.8, 0.9], [0.3, 0.9, 0.0], [5, 7, 0], 0.1)
  ),
}


def paths_of(svg, colour):
  """Corners of the clipped shapes of one colour: left, top, right, bottom."""
  found = []
  for path in re.findall(r"<path [^>]*?/>", svg):
    if "clip-path" in path and f"fill: {colour}" in path:
      numbers = re.search(r'd="(.*?)"', path, re.DOTALL).group(1)
      points = np.array(re.findall(r"[-\d.]+", numbers), float).reshape(-1, 2)
      found.append((*points.min(axis=0), *points.max(axis=0)))
  return found


def line_height(svg):
  """Vertical position of the dashed line across a bar chart."""
  [path] = [
    path
    for path in re.findall(r"<path [^>]*?/>", svg)
    if "stroke-dasharray" in path and "clip-path" in path
  ]
  return float(re.search(r'd="M [-\d.]+ ([-\d.]+)', path).group(1))


@functools.cache
def drawn(kind):
  return DRAWINGS[kind]("aligned")


@pytest.mark.parametrize("kind", DRAWINGS)
def test_figures_are_repeatable_and_leak_no_setting(kind):
  first = drawn(kind)
  with matplotlib.rc_context({"font.size": 7.5}):
    assert DRAWINGS[kind]("aligned") == first
    assert matplotlib.rcParams["font.size"] == 7.5


@pytest.mark.parametrize("kind", DRAWINGS)
def test_figures_load_nothing(kind):
  tree = ElementTree.fromstring(drawn(kind))
  assert tree.tag.endswith("svg")
  for element in tree.iter():
    assert "script" not in element.tag
    for key, value in element.attrib.items():
      assert not key.endswith("href") or value.startswith(("#", "data:"))
      # Inside `style` and `clip-path` only what the file itself defines.
      assert not re.search(r"url\((?!#)", value)
  assert "DOCTYPE" not in drawn(kind) and "purl.org" not in drawn(kind)


@pytest.mark.parametrize("kind", DRAWINGS)
@pytest.mark.parametrize("name", ["</g><script>&$_^{$樹木", "x" * 40])
def test_any_name_can_be_drawn(kind, name):
  tree = ElementTree.fromstring(DRAWINGS[kind](name))
  assert not any("script" in element.tag for element in tree.iter())


def test_the_noise_ceiling_is_seen_on_white():
  linear = [
    (
      channel / 12.92
      if channel <= 0.04045
      else ((channel + 0.055) / 1.055) ** 2.4
    )
    for channel in matplotlib.colors.to_rgb(drawing.CEILING)
  ]
  luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
  assert 1.05 / (luminance + 0.05) > 4.5  # WCAG's contrast, that of text.


def test_labels_are_on_white_where_the_ceiling_is(monkeypatch):
  boxes, original = [], matplotlib.axes.Axes.annotate

  def seeing(axes, text, *args, bbox=None, **kwargs):
    boxes.append((text, bbox and bbox["facecolor"]))
    return original(axes, text, *args, bbox=bbox, **kwargs)

  monkeypatch.setattr(matplotlib.axes.Axes, "annotate", seeing)
  plots.draw_bars(
    plots.Bars(("a", "b"), {"base": (0.6, 0.4)}, ceilings=((0.55, 0.7), None))
  )
  assert boxes == [("0.60", "white"), ("0.40", None)]


def test_the_chosen_strength_has_no_ring_beside_the_points():
  assert "legend" not in drawn("selection")


def test_bars_are_as_high_as_their_scores():
  svg = plots.draw_bars(
    plots.Bars(
      ("coarse", "fine", "boundary"),
      {"base": (0.2, 0.3, 0.5), "aligned": (0.4, math.nan, 0.7)},
      chance=0.25,
      ceilings=((0.6, 0.8), None, (0.5, math.nan)),
    )
  )
  base = paths_of(svg, drawing.style_of("base").colour)
  heights = [bottom - top for _, top, _, bottom in base]
  unit = heights[0] / 0.2
  np.testing.assert_allclose(
    heights, [0.2 * unit, 0.3 * unit, 0.5 * unit], rtol=1e-4, atol=0
  )
  aligned = paths_of(svg, drawing.style_of("aligned").colour)
  heights = [bottom - top for _, top, _, bottom in aligned]
  # What is not a number has no bar.
  np.testing.assert_allclose(
    heights, [0.4 * unit, 0.7 * unit], rtol=1e-4, atol=0
  )
  ground = base[0][3]
  [(_, top, _, bottom)] = paths_of(svg, drawing.CEILING)
  np.testing.assert_allclose(
    [ground - bottom, ground - top], [0.6 * unit, 0.8 * unit], rtol=1e-4, atol=0
  )
  assert ground - line_height(svg) == pytest.approx(0.25 * unit, rel=1e-4)
  # Side by side, in the order of the series.
  assert base[0][2] <= aligned[0][0] < aligned[0][2] < base[1][0]


def test_intervals_and_labels_are_drawn_only_where_known():
  def count(**kwargs):
    # Chance fixes the axes, so that only the interval can differ.
    series = {"base": (plots.Estimate(0.5, **kwargs),)}
    bars = plots.Bars(("a",), series, chance=0.9)
    return plots.draw_bars(bars).count("<path")

  assert count(low=0.4, high=0.6) == count() + 2  # The line and its edge.
  assert count(low=math.nan, high=0.6) == count()


def test_rdm_is_sorted_by_category_in_order_of_appearance(monkeypatch):
  np_rng = np.random.default_rng(0)
  matrix = np_rng.normal(size=(7, 7))
  matrix = matrix + matrix.T
  categories = ["b", "b", "b", "a", "a", "c", "c"]
  sorted_svg = plots.draw_rdm(plots.Rdms({"m": matrix}, categories), "m")
  # The same items mixed, but b still first met before a, and a before c; within
  # a category the order stays.
  order = [0, 3, 5, 1, 4, 2, 6]
  mixed = plots.Rdms(
    {"m": matrix[np.ix_(order, order)]}, [categories[i] for i in order]
  )
  assert plots.draw_rdm(mixed, "m") == sorted_svg
  # Both show the first matrix as it is: b before a.
  shown = []
  monkeypatch.setattr(plots, "_shrink", lambda m: shown.append(m) or m)
  plots.draw_rdm(mixed, "m")
  np.testing.assert_array_equal(shown[0], plots._ranks(matrix))


def test_rdm_shows_ranks():
  np_rng = np.random.default_rng(1)
  matrix = np.round(3 * np_rng.uniform(size=(7, 7)))
  matrix = np.triu(matrix, 1) + np.triu(matrix, 1).T
  ranks = plots._ranks(matrix)
  rows, columns = np.triu_indices(7, 1)
  expected = (scipy.stats.rankdata(matrix[rows, columns]) - 1) / 20
  np.testing.assert_allclose(ranks[rows, columns], expected, rtol=1e-12, atol=0)
  np.testing.assert_array_equal(ranks, ranks.T)
  np.testing.assert_array_equal(np.diag(ranks), 0)

  def draw(m):
    return plots.draw_rdm(plots.Rdms({"m": m}, "aaabbcc"), "m")

  assert draw(matrix) == draw(np.exp(matrix))


def test_large_matrices_are_averaged(monkeypatch):
  monkeypatch.setattr(plots, "_MAX_CELLS", 3)
  matrix = np.arange(49.0).reshape(7, 7)
  starts, stops = [0, 2, 4], [2, 4, 7]
  expected = [
    [matrix[a:b, c:d].mean() for c, d in zip(starts, stops, strict=True)]
    for a, b in zip(starts, stops, strict=True)
  ]
  np.testing.assert_allclose(
    plots._shrink(matrix), expected, rtol=1e-12, atol=0
  )
  small = matrix[:3, :3]
  assert plots._shrink(small) is small


def test_a_model_looks_the_same_everywhere():
  assert drawing.style_of("aligned") == drawing.style_of(
    "aligned", ["x", "aligned"]
  )
  names = ["x", "base", "y", "z"]
  looks = [drawing.style_of(name, names) for name in names]
  assert len({look.colour for look in looks}) == 4
  assert len({look.symbol for look in looks}) == 4
  assert len({look.hatch for look in looks}) == 4


@pytest.mark.parametrize(
  "labels, expected",
  [
    (["base", "aligned", "control", "chance", "noise ceiling"], 5),
    # Four columns of 2 1 1 1 labels: 9 + 9 + 21 + 13 letters and 4 samples
    # make 5.12 inches; three of 2 2 1: 9 + 21 + 13, 4.12.
    (
      [
        "base",
        "aligned_1",
        "control_1",
        "a_long_name_of_21_let",
        "noise ceiling",
      ],
      3,
    ),
    (["x" * 60, "y"], 1),
    (["x"], 1),
  ],
)
def test_legends_fit(labels, expected):
  assert drawing._legend_columns(labels) == expected


def test_empty_bins_are_not_drawn():
  def draw(confidence, accuracy, count):
    return plots.draw_reliability(
      plots.Reliability("base", confidence, accuracy, count)
    )

  assert draw([0.4, math.nan, 0.9], [0.3, math.nan, 0.8], [5, 0, 7]) == draw(
    [0.4, 0.9], [0.3, 0.8], [5, 7]
  )


def test_running_mean_of_a_long_curve():
  axes = matplotlib.figure.Figure().subplots()
  values = np.random.default_rng(2).normal(size=120)
  plots._draw_noisy(axes, np.arange(120), values, drawing.style_of("base"), "a")
  pale, strong = axes.get_lines()
  np.testing.assert_array_equal(pale.get_ydata(), values)
  # 120 // 40 = 3 steps, each mean at the last of its three.
  assert strong.get_xdata()[0] == 2
  assert strong.get_ydata()[0] == pytest.approx(values[:3].mean())
  assert strong.get_ydata()[-1] == pytest.approx(values[-3:].mean())


def test_lengths_are_checked():
  with pytest.raises(ValueError, match="2 scores of base for 1 groups"):
    plots.Bars(("a",), {"base": (0.1, 0.2)})
  with pytest.raises(ValueError, match="2 noise ceilings for 1 groups"):
    plots.Bars(("a",), {"base": (0.1,)}, ceilings=(None, None))
  with pytest.raises(ValueError, match=r"RDM of m has shape \(5, 5\)"):
    plots.Rdms({"m": np.zeros((5, 5))}, ["a"] * 3)
