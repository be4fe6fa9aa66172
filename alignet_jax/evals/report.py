"""One self-contained HTML page with everything a run has shown.

The page loads nothing: styles are inside, figures and pictures are data URIs,
there is no script. It is drawn on white for screen, phone and paper. Sections
without content do not appear, so that any run can be reported, with or without
images. The same content gives the same bytes.

Usage:
  content = report.ReportContent(
    title="Quickstart",
    tables=(report.Table(("model", "coarse"), (("base", 0.41),)),))
  report.write_report(workdir / "report.html", content)
"""

import base64
import csv
import dataclasses
import html
import io
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import PIL.Image

from alignet_jax import odd_one_out
from alignet_jax.evals import drawing, plots

# Pictures are shown at most this wide; larger ones are reduced to it twice
# over, for dense screens.
_THUMBNAIL = 112

# Below this a picture is enlarged by repeating pixels, not by blurring.
_PIXELATED = 64


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of numbers; the first column names the row.

  Attributes:
    columns: Headings, the first of them for the names.
    rows: Rows of cells: str, int, float, `plots.Estimate`, `plots.Range` or
      None (a dash).
    title: Heading of the table.
    note: Sentence put below it.
    digits: Digits after the point. What would be 0 by that has two significant
      digits.
  """

  columns: Sequence[str]
  rows: Sequence[Sequence[object]]
  title: str = ""
  note: str = ""
  digits: int = 3

  def __post_init__(self):
    for row in self.rows:
      if len(row) != len(self.columns):
        raise ValueError(
          f"Row {list(row)!r} has {len(row)} cells; there are "
          f"{len(self.columns)} columns."
        )


@dataclasses.dataclass(frozen=True)
class TripletExample:
  """A triplet as pictures, with who called which the odd one.

  Attributes:
    images: u8[3 h w 3].
    odd_counts: int[3], how many people called each item odd.
    choices: Model name -> 0, 1, 2 or -1 (`odd_one_out.TIE`).
    level: Name of the level, or empty.
    names: Names of the three items, or empty.
  """

  images: np.ndarray
  odd_counts: Sequence[int]
  choices: Mapping[str, int]
  level: str = ""
  names: Sequence[str] = ()

  def __post_init__(self):
    if len(self.images) != 3 or len(self.odd_counts) != 3:
      raise ValueError(
        f"A triplet has 3 images and 3 counts, not {len(self.images)} and "
        f"{len(self.odd_counts)}."
      )


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Some pictures of one cluster.

  Attributes:
    name: Heading.
    images: u8[n h w 3], or a sequence of u8[h w 3].
    note: Words put below the heading, such as the cluster's size.
  """

  name: str
  images: Sequence[np.ndarray]
  note: str = ""


@dataclasses.dataclass(frozen=True)
class ReportContent:
  """What a report shows; every section is optional.

  Attributes:
    title: Heading of the page.
    intro: Paragraphs below it.
    tables: The main numbers.
    levels: Odd-one-out accuracy, one figure per way of scoring.
    few_shot: k-shot accuracy.
    hierarchy: Distances of pairs by the level of concept that they share.
    rdms: Dissimilarity matrices before and after.
    maps: Name of a model -> SVG of its items in two dimensions.
    scatters: Entropy of people against entropy of each model.
    reliability: Confidence against agreement with people.
    uncertainty_note: What the probabilities of both are of.
    examples: Triplets as pictures.
    examples_note: How they were picked.
    clusters: Clusters as pictures.
    selections: How each teacher's strength was chosen.
    selected_by: What it was chosen by, such as "held-out choices".
    trade_offs: Of each teacher, accuracy against neighbours kept.
    trade_offs_note: What the accuracy and the neighbours are of.
    curves: Training curves of the students.
    provenance: Heading -> text (kept line by line) or mapping (two columns).
  """

  title: str = "Alignment report"
  intro: Sequence[str] = ()
  tables: Sequence[Table] = ()
  levels: Sequence[plots.Bars] = ()
  few_shot: plots.Bars | None = None
  hierarchy: plots.Bars | None = None
  rdms: plots.Rdms | None = None
  maps: Mapping[str, str] = dataclasses.field(default_factory=dict)
  scatters: Sequence[plots.Scatter] = ()
  reliability: Sequence[plots.Reliability] = ()
  uncertainty_note: str = ""
  examples: Sequence[TripletExample] = ()
  examples_note: str = ""
  clusters: Sequence[Cluster] = ()
  selections: Sequence[plots.Selection] = ()
  selected_by: str = "held-out choices"
  trade_offs: Sequence[plots.Selection] = ()
  trade_offs_note: str = ""
  curves: Sequence[plots.Curve] = ()
  provenance: Mapping[str, "str | Mapping[str, object]"] = dataclasses.field(
    default_factory=dict
  )


def write_report(path, content):
  """Writes the page; see `render_report`."""
  pathlib.Path(path).write_bytes(render_report(content).encode("utf-8"))


def render_report(content):
  """Renders the page.

  Args:
    content: `ReportContent`. All its text is escaped.

  Returns:
    str, a whole HTML document.
  """
  sections = [
    (title, body) for title, render in _SECTIONS if (body := render(content))
  ]
  links = "".join(
    f'<li><a href="#{_anchor(title)}">{_text(title)}</a></li>'
    for title, _ in sections
  )
  # A list of contents is of use only where there is something to skip.
  contents = f"<nav><ul>{links}</ul></nav>" if len(sections) > 2 else ""
  intro = "".join(f"<p>{_text(paragraph)}</p>" for paragraph in content.intro)
  main = "\n".join(
    f'<section id="{_anchor(title)}"><h2>{_text(title)}</h2>\n{body}</section>'
    for title, body in sections
  )
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light">\n'
    f"<title>{_text(content.title)}</title>\n<style>{_CSS}</style>\n</head>\n"
    f"<body>\n<header><h1>{_text(content.title)}</h1>\n{intro}{contents}"
    f"</header>\n<main>\n{main}\n</main>\n</body>\n</html>\n"
  )


def write_csv(path, rows):
  """Writes rows as comma-separated values, floats in full precision.

  Args:
    path: File to write.
    rows: Mappings from column name to value, all with the same columns.
  """
  buffer = io.StringIO()
  columns = list(rows[0]) if rows else []
  writer = csv.writer(buffer, lineterminator="\n")
  writer.writerow(columns)
  for row in rows:
    if list(row) != columns:
      raise ValueError(f"A row has columns {list(row)}; the first, {columns}.")
    writer.writerow(row.values())
  pathlib.Path(path).write_bytes(buffer.getvalue().encode("utf-8"))


def _text(value):
  return html.escape(str(value), quote=True)


def _anchor(title):
  return title.lower().replace(" ", "-")


def _number(value, digits):
  """Formats a cell that is not text; what is missing is a dash."""
  if isinstance(value, (int, np.integer)):
    return f"{value:,}"
  if value is None or math.isnan(value):
    return "–"
  is_small = 0 < abs(value) < 10**-digits
  # A true minus is as wide as a plus, so columns stay aligned.
  return f"{value:.{'2g' if is_small else f'{digits}f'}}".replace("-", "−")


def _cell(value, digits):
  if isinstance(value, str):
    return f'<td class="words">{_text(value)}</td>'
  if isinstance(value, plots.Range):
    ends = (_number(end, digits) for end in (value.low, value.high))
    return f'<td class="range">{" to ".join(ends)}</td>'
  if not isinstance(value, plots.Estimate):
    return f"<td>{_number(value, digits)}</td>"
  interval = ""
  if plots.has_interval(value):
    interval = (
      f'<span class="interval">[{_number(value.low, digits)}, '
      f"{_number(value.high, digits)}]</span>"
    )
  return f"<td>{_number(value.value, digits)}{interval}</td>"


def _table(table):
  is_words = [
    all(isinstance(row[column], str) for row in table.rows)
    for column in range(len(table.columns))
  ]
  head = "".join(
    f'<th scope="col"{" class=words" if words else ""}>{_text(name)}</th>'
    if name
    else "<td></td>"
    for name, words in zip(table.columns, is_words, strict=True)
  )
  body = "".join(
    f'<tr><th scope="row">{_text(row[0])}</th>'
    + "".join(_cell(cell, table.digits) for cell in row[1:])
    + "</tr>\n"
    for row in table.rows
  )
  caption = f"<caption>{_text(table.title)}</caption>" if table.title else ""
  return (
    f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>\n'
    f"<tbody>{body}</tbody></table></div>\n{_note(table.note)}"
  )


def _note(note):
  return f'<p class="note">{_text(note)}</p>\n' if note else ""


def _guide(text):
  """A sentence on how to read a section."""
  return f'<p class="guide">{text}</p>\n'


def _figure(svg, alt, *, title=""):
  data = base64.b64encode(svg.encode("utf-8")).decode("ascii")
  heading = f"<h3>{_text(title)}</h3>" if title else ""
  return (
    f'<figure>{heading}<img alt="{_text(alt)}" '
    f'src="data:image/svg+xml;base64,{data}"></figure>\n'
  )


def _picture(image, alt):
  """A small picture as a PNG data URI."""
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(
      f"A picture is uint8[h w 3]; this one is {image.dtype}"
      f"{list(image.shape)}."
    )
  picture = PIL.Image.fromarray(image)
  picture.thumbnail((2 * _THUMBNAIL, 2 * _THUMBNAIL))
  buffer = io.BytesIO()
  picture.save(buffer, format="png")
  data = base64.b64encode(buffer.getvalue()).decode("ascii")
  pixelated = " class=pixelated" if max(image.shape[:2]) <= _PIXELATED else ""
  return (
    f'<img{pixelated} alt="{_text(alt)}" width="{_THUMBNAIL}" '
    f'src="data:image/png;base64,{data}">'
  )


def _tables_section(content):
  return "".join(_table(table) for table in content.tables)


def _describe_bars(bars):
  """The numbers of a bar chart in words."""
  sentences = []
  for index, group in enumerate(bars.groups):
    scores = ", ".join(
      f"{name} {plots.as_estimate(values[index]).value:.3f}"
      for name, values in bars.series.items()
    )
    ceiling = bars.ceilings[index] if bars.ceilings else None
    if ceiling is not None:
      scores += f", noise ceiling {ceiling[0]:.3f} to {ceiling[1]:.3f}"
    sentences.append(f"{group}: {scores}.")
  if bars.chance is not None:
    sentences.append(f"{bars.line.capitalize()}: {bars.chance:.3f}.")
  return " ".join(sentences)


def _bars(bars):
  return _figure(
    plots.draw_bars(bars), _describe_bars(bars), title=bars.title
  ) + _note(bars.note)


def _levels_section(content):
  if not content.levels:
    return ""
  guide = (
    "People and models see three pictures and name the odd one. Thin lines "
    "are 95% intervals."
  )
  if any(bars.ceilings for bars in content.levels):
    guide += (
      " The noise ceiling runs from how well one person&rsquo;s answer is "
      "predicted by the others to the best that any fixed answer per triplet "
      "can reach."
    )
  figures = "".join(f"<div>{_bars(bars)}</div>" for bars in content.levels)
  return _guide(guide) + f'<div class="panels">{figures}</div>\n'


def _few_shot_section(content):
  if content.few_shot is None:
    return ""
  return _guide(
    "Classification from the frozen features with a few labelled pictures "
    "per class: what alignment cost, or gained, in ordinary use."
  ) + _bars(content.few_shot)


def _hierarchy_section(content):
  if content.hierarchy is None:
    return ""
  return _guide(
    "Mean distance of pairs of items by the finest level of concept that both "
    "share, over the mean distance of all pairs (the dashed line): the lower "
    "the bar, the closer such pairs are."
  ) + _bars(content.hierarchy)


def _rdms_section(content):
  rdms = content.rdms
  if rdms is None:
    return ""
  is_sorted = len(set(rdms.categories)) > 1
  figures = []
  for name in rdms.matrices:
    alt = f"Dissimilarity of all pairs of items for {name}"
    alt += ", by category." if is_sorted else "."
    if name in rdms.spearman:
      value = plots.as_estimate(rdms.spearman[name]).value
      alt += f" Spearman {value:.3f} with {rdms.reference}."
    figures.append(_figure(plots.draw_rdm(rdms, name), alt))
  correlation = (
    f" &rho; is Spearman&rsquo;s rank correlation with "
    f"{_text(rdms.reference)}, over all pairs."
    if rdms.spearman
    else ""
  )
  return (
    _guide(
      f"Each cell is a pair of items{', sorted by category' * is_sorted}: dark "
      "pairs are the most alike. Colours are ranks within a matrix, since "
      f"distances of different models have no common scale.{correlation}"
    )
    + f'<div class="panels">{"".join(figures)}</div>\n'
    + _note(rdms.note)
  )


def _maps_section(content):
  if not content.maps:
    return ""
  figures = "".join(
    _figure(svg, f"Map of the items of {name} in two dimensions.")
    for name, svg in content.maps.items()
  )
  return (
    _guide(
      "Items by the two directions in which a model&rsquo;s features spread "
      "most. What is close on the map may be far apart in the other directions."
    )
    + f'<div class="panels">{figures}</div>\n'
  )


def _uncertainty_section(content):
  names = [item.name for item in (*content.scatters, *content.reliability)]
  body = ""
  if content.scatters:
    figures = []
    for scatter in content.scatters:
      alt = (
        f"Entropy of {scatter.name} against entropy of people for "
        f"{len(scatter.people)} triplets."
      )
      if scatter.correlation is not None:
        value = plots.as_estimate(scatter.correlation).value
        alt += f" Correlation {value:.3f}."
      figures.append(_figure(plots.draw_scatter(scatter, names), alt))
    body += _guide(
      "One point per triplet that many people answered: is the model unsure "
      "where people disagree? Entropy 0 is unanimous, ln 3 = 1.10 a coin of "
      "three sides."
    )
    body += f'<div class="panels">{"".join(figures)}</div>\n'
  if content.reliability:
    figures = []
    for item in content.reliability:
      bins = ", ".join(
        f"{confidence:.2f}: {accuracy:.2f}"
        for confidence, accuracy, count in zip(
          item.confidence, item.accuracy, item.count, strict=True
        )
        if count
      )
      alt = f"Agreement with people by confidence of {item.name}: {bins}."
      figures.append(_figure(plots.draw_reliability(item, names), alt))
    body += _guide(
      "How often people agree with a model that is so sure. On the dashed "
      "line confidence is right; below it the model is too sure. Larger "
      "symbols stand for more triplets."
    )
    body += f'<div class="panels">{"".join(figures)}</div>\n'
  return body + (_note(content.uncertainty_note) if body else "")


def _mark(name, names):
  style = drawing.style_of(name, names)
  return (
    f'<li style="border-color:{style.colour}"><span aria-hidden="true">'
    f"{style.symbol}</span> {_text(name)}</li>"
  )


def _example(number, example):
  names = list(example.choices)
  total = sum(int(count) for count in example.odd_counts)
  items = []
  for place in range(3):
    count = int(example.odd_counts[place])
    marks = [] if count < max(example.odd_counts) or not count else ["people"]
    marks += [name for name in names if example.choices[name] == place]
    name = example.names[place] if len(example.names) else ""
    share = 100 * count / max(total, 1)
    items.append(
      f'<div class="item">'
      f"{_picture(example.images[place], name or f'item {place + 1}')}"
      f'<div class="name">{_text(name)}</div>'
      f'<div class="votes" aria-hidden="true"><span '
      f'style="width:{share:.0f}%"></span></div>'
      f'<div class="count">{count} of {total} people</div>'
      f"<ul>{''.join(_mark(mark, names) for mark in marks)}</ul></div>"
    )
  tied = [name for name in names if example.choices[name] == odd_one_out.TIE]
  level = f" · {_text(example.level)}" if example.level else ""
  note = f"No choice (tie): {', '.join(tied)}." if tied else ""
  return (
    f'<article><h3>Triplet {number}{level}</h3><div class="three">'
    f"{''.join(items)}</div>{_note(note)}</article>\n"
  )


def _examples_section(content):
  if not content.examples:
    return ""
  articles = "".join(
    _example(index + 1, example)
    for index, example in enumerate(content.examples)
  )
  return (
    _guide(
      "Which of the three is the odd one? The bar counts the people who "
      "chose a picture; below it stand those who call it odd: people by "
      "majority, and the models."
    )
    + f'<div class="examples">{articles}</div>\n'
    + _note(content.examples_note)
  )


def _clusters_section(content):
  if not content.clusters:
    return ""
  articles = []
  for cluster in content.clusters:
    pictures = "".join(
      _picture(image, f"picture {index + 1} of {cluster.name}")
      for index, image in enumerate(cluster.images)
    )
    articles.append(
      f"<article><h3>{_text(cluster.name)}</h3>{_note(cluster.note)}"
      f'<div class="strip">{pictures}</div></article>\n'
    )
  return (
    _guide(
      "Some pictures of clusters of the teacher&rsquo;s embedding, from which "
      "the training triplets are drawn: two of one cluster, one of another."
    )
    + f'<div class="clusters">{"".join(articles)}</div>\n'
  )


def _selections_section(content):
  if not content.selections:
    return ""
  names = [selection.name for selection in content.selections]
  panels = []
  for selection in content.selections:
    columns = ["strength", "cross-entropy"]
    with_accuracy = selection.accuracy is not None
    columns += ["accuracy"] if with_accuracy else []
    rows = []
    for index, strength in enumerate(selection.strength):
      row = [f"{strength:g}", float(selection.cross_entropy[index])]
      row += [float(selection.accuracy[index])] if with_accuracy else []
      row += ["◀ chosen" if index == selection.selected else ""]
      rows.append(row)
    alt = (
      f"Held-out cross-entropy of the {selection.name} teacher by strength; "
      f"{selection.strength[selection.selected]:g} is chosen."
    )
    panels.append(
      "<div>"
      + _figure(plots.draw_selection(selection, names), alt)
      + _table(Table([*columns, ""], rows, digits=4))
      + "</div>\n"
    )
  return (
    _guide(
      "How strongly the transform is held back was chosen by cross-entropy "
      f"on {_text(content.selected_by)}; lower is better. The ring marks the "
      "choice."
    )
    + f'<div class="panels">{"".join(panels)}</div>\n'
  )


def _trade_off_section(content):
  if not content.trade_offs:
    return ""
  rows = [
    [
      selection.name,
      f"{strength:g}" + (" ◀" if index == selection.selected else ""),
      float(selection.accuracy[index]),
      float(selection.neighbours_kept[index]),
    ]
    for selection in content.trade_offs
    for index, strength in enumerate(selection.strength)
  ]
  columns = ["teacher", "strength", "accuracy", "neighbours kept"]
  return (
    _guide(
      "What a transform gains in likeness to people it may lose in the "
      "neighbourhoods of the backbone, on which few-shot classification rests. "
      f"Further up and to the right is better. {_text(content.trade_offs_note)}"
    )
    + _figure(
      plots.draw_trade_off(content.trade_offs),
      "Held-out accuracy against the share of nearest neighbours kept, along "
      "the strengths of each teacher; the numbers are in the table below.",
    )
    + _table(Table(columns, rows, digits=4))
  )


def _curves_section(content):
  curves = [curve for curve in content.curves if len(curve.step)]
  if not curves:
    return ""
  alt = " ".join(
    f"{curve.name}: loss {curve.loss[0]:.4f} at step {curve.step[0]}, "
    f"{curve.loss[-1]:.4f} at step {curve.step[-1]}."
    for curve in curves
  )
  return _guide(
    "Each student learns from its own teacher, so the losses of two students "
    "do not compare. Where there are many steps, the strong line is a running "
    "mean."
  ) + _figure(plots.draw_curves(curves), alt)


def _provenance_section(content):
  parts = []
  for title, value in content.provenance.items():
    if isinstance(value, Mapping):
      rows = "".join(
        f'<tr><th scope="row">{_text(key)}</th>'
        f'<td class="words">{_text(entry)}</td></tr>\n'
        for key, entry in value.items()
      )
      body = (
        f'<div class="scroll"><table class="plain"><tbody>{rows}</tbody>'
        "</table></div>\n"
      )
    else:
      body = f"<pre>{_text(value)}</pre>\n"
    parts.append(f"<h3>{_text(title)}</h3>\n{body}")
  return "".join(parts)


_SECTIONS = (
  ("Results", _tables_section),
  ("Odd one out", _levels_section),
  ("Few-shot classification", _few_shot_section),
  ("Hierarchy of concepts", _hierarchy_section),
  ("Similarity of all pairs", _rdms_section),
  ("Maps of the items", _maps_section),
  ("Uncertainty", _uncertainty_section),
  ("Example triplets", _examples_section),
  ("Clusters", _clusters_section),
  ("Choice of the teacher", _selections_section),
  ("What alignment costs", _trade_off_section),
  ("Training of the students", _curves_section),
  ("Provenance", _provenance_section),
)

_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 64rem; padding: 2.5rem 1.25rem 4rem;
  background: #fff; color: #222;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 1rem;
  letter-spacing: -.01em; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .75rem; }
h3 { font-size: 1rem; line-height: 1.4; margin: 0 0 .5rem; }
p { margin: 0 0 .9rem; max-width: 42rem; }
section { margin-top: 2.75rem; padding-top: 1.5rem;
  border-top: 1px solid #ddd; }
.guide { color: #444; }
.note { color: #555; font-size: .9rem; margin-bottom: 1.75rem; }
.scroll + .note, figure + .note { margin-top: -.75rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.25rem;
  margin: 1.25rem 0 0; padding: 0; font-size: .95rem; }
a { color: #005a8c; }
figure { margin: 0 0 1.25rem; }
figure img { display: block; max-width: 100%; height: auto; }
.panels { display: flex; flex-wrap: wrap; gap: .5rem 1.25rem; }
.panels > * { min-width: 0; max-width: 100%; }
/* The shadow is at the edge of the box until the end of the table covers it. */
.scroll { overflow-x: auto; margin: 0 0 1.25rem -.25rem;
  background:
    linear-gradient(to left, #fff 40%, #fff0) right / 3rem 100% no-repeat local,
    linear-gradient(to left, #0004, #0000) right / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 .4rem .25rem; }
th, td { padding: .4rem .9rem; text-align: right; vertical-align: top; }
th:first-child, .words { text-align: left; }
/* Room for letters that reach left of their place, such as j. */
th:first-child, td:first-child { padding-left: .25rem; }
thead th { font-weight: 600; }
thead th, thead td { border-bottom: 2px solid #222;
  vertical-align: bottom; }
tbody th { font-weight: 500; }
tbody tr { border-bottom: 1px solid #ddd; }
.interval { display: block; font-size: .8rem; color: #555;
  white-space: nowrap; }
.words, .range { white-space: nowrap; }
.scroll th:first-child { position: sticky; left: 0; background: #fff; }
.plain { font-size: .9rem; }
.plain th, .plain td { padding-top: .25rem; padding-bottom: .25rem; }
/* Its names are too long to stay in place beside the values on a phone. */
.scroll .plain th:first-child { position: static; white-space: nowrap; }
.examples + .note { margin-top: 1rem; }
.examples, .clusters { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
article { border: 1px solid #ddd; border-radius: .4rem; padding: .9rem; }
article .note { margin: .4rem 0 0; }
.three { display: grid; grid-template-columns: repeat(3, 1fr);
  grid-template-rows: repeat(5, auto); column-gap: .75rem; }
.item { min-width: 0; font-size: .875rem; display: grid; grid-row: span 5;
  grid-template-rows: subgrid; row-gap: 0;
  grid-template-columns: minmax(0, 1fr); }
.item img { display: block; width: 100%; height: auto; border-radius: .2rem; }
.name { margin-top: .25rem; line-height: 1.35; overflow-wrap: anywhere; }
.votes { height: .4rem; margin: .4rem 0 .15rem; background: #e6e6e6; }
.votes span { display: block; height: 100%; background: #222; }
.count { color: #444; }
.item ul { list-style: none; margin: .35rem 0 0; padding: 0; }
.item li { border-left: .25rem solid; padding-left: .4rem; margin-top: .2rem;
  font-weight: 600; overflow-wrap: anywhere; }
.strip { display: flex; flex-wrap: wrap; gap: .4rem; margin-top: .5rem; }
.strip img { display: block; width: 4.5rem; height: auto;
  border-radius: .2rem; }
.pixelated { image-rendering: pixelated; }
pre { margin: 0 0 1.25rem; padding: .8rem; background: #f5f5f5;
  border-radius: .4rem; font-size: .8rem; line-height: 1.45;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 30rem) {
  body { padding: 1.25rem .9rem 3rem; }
  h1 { font-size: 1.6rem; }
  table { font-size: .9rem; }
  th, td { padding: .35rem .5rem; }
  th:first-child, td:first-child { padding-left: .25rem; }
  .three { column-gap: .5rem; }
}
@media print {
  @page { margin: 15mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2, h3, .guide { break-after: avoid; }
  p, figure, article, table { break-inside: avoid; }
  .panels img { max-height: 54mm; width: auto; }
  .examples, .clusters { gap: 4mm; grid-template-columns: 1fr 1fr; }
  section { margin-top: 8mm; padding-top: 5mm; }
  .votes, .votes span, li { print-color-adjust: exact; }
}
"""
