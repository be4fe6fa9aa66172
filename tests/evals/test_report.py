import base64
import csv
import dataclasses
import html.parser
import io
import os
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from alignet_jax.evals import plots, report

VOID = {"meta", "img", "br", "link", "input"}


class Page(html.parser.HTMLParser):
  """Collects the tags, attributes and text of a page; checks the nesting."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.attributes, self.text = [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, key, value) for key, value in attrs]
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] != "style" and data.strip():
      self.text.append(data.strip())

  def values(self, key):
    return [value for _, name, value in self.attributes if name == key]


def images(n=3, size=7, seed=0):
  np_rng = np.random.default_rng(seed)
  return np_rng.integers(256, size=(n, size, size, 3), dtype=np.uint8)


def make_content(name="aligned", **changes):
  """A small report with every section; `name` stands wherever text can."""
  example = report.TripletExample(
    images(), (7, 2, 1), {"base": 1, name: 0, "control": -1}, name, (name,) * 3
  )
  fields = dict(
    title=f"Title {name}",
    intro=[f"Intro {name}"],
    tables=[
      report.Table(
        ("model", name),
        ((name, plots.Estimate(0.6214, 0.5931, 0.6502)), ("base", -0.4128)),
        title=name,
        note=name,
      )
    ],
    levels=[
      plots.Bars(
        ("coarse", name),
        {"base": (0.41, 0.42), name: (plots.Estimate(0.6, 0.5, 0.7), 0.44)},
        title=name,
        ylabel=name,
        chance=1 / 3,
        ceilings=((0.55, 0.71), None),
        note=name,
      )
    ],
    few_shot=plots.Bars(("5-shot",), {name: (0.73,)}, note=name),
    hierarchy=plots.Bars(("same basic",), {name: (0.6,)}, note=name),
    maps={name: "<svg/>"},
    rdms=plots.Rdms(
      {name: 1 - np.eye(5)}, [name] * 5, {name: 0.25}, name, name
    ),
    scatters=[plots.Scatter(name, [0.1, 0.9], [0.2, 0.8], 0.5)],
    reliability=[plots.Reliability(name, [0.5], [0.4], [9])],
    uncertainty_note=name,
    examples=[example],
    examples_note=name,
    clusters=[report.Cluster(name, images(2), note=name)],
    selections=[plots.Selection(name, [0.1, 1.0], [0.91, 0.87], 1)],
    trade_offs=[
      plots.Selection(name, [0.1, 1.0], [0.91, 0.87], 1, [0.5, 0.4], [0.2, 0.7])
    ],
    trade_offs_note=name,
    selected_by=name,
    curves=[plots.Curve(name, [0, 1], [0.4, 0.3])],
    provenance={name: {name: name}, "config": name},
  )
  return report.ReportContent(**(fields | changes))


@pytest.fixture(scope="module")
def whole():
  return report.render_report(make_content())


@pytest.fixture
def no_drawing(monkeypatch):
  """Replaces the figures, which test_plots.py tests, by an empty one."""
  for name in dir(plots):
    if name.startswith("draw_"):
      monkeypatch.setattr(plots, name, lambda *_: "<svg/>")


def decoded_images(page):
  for source in page.values("src"):
    kind, data = re.fullmatch(
      r"data:(image/[a-z+]+);base64,(.*)", source
    ).groups()
    yield kind, base64.b64decode(data)


def test_page_loads_nothing_from_elsewhere(whole):
  page = Page(whole)
  assert len(page.values("src")) == 15
  assert all(value.startswith("data:image/") for value in page.values("src"))
  assert all(value.startswith("#") for value in page.values("href"))
  assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
  assert not re.search(r"url\(|@import|https?:|srcset", whole)
  for kind, data in decoded_images(page):
    if kind == "image/svg+xml":
      svg = re.sub(r'xmlns(:\w+)?="[^"]*"', "", data.decode())
      assert not re.search(r"https?:|<script|@import|url\((?!#)", svg)


def test_links_lead_somewhere(whole):
  page = Page(whole)
  assert page.values("href") == [f"#{name}" for name in page.values("id")]
  assert len(set(page.values("id"))) == 13


def test_page_contains_the_numbers(whole):
  page = Page(whole)
  text = " ".join(page.text)
  for number in ("0.621 [0.593, 0.650]", "−0.413", "0.9100", "0.8700"):
    assert number in text
  alts = " ".join(page.values("alt"))
  for number in (
    "coarse: base 0.410, aligned 0.600, noise ceiling 0.550 to 0.710.",
    "aligned: base 0.420, aligned 0.440.",
    "Chance: 0.333.",
    "Spearman 0.250",
    "Correlation 0.500",
    "0.50: 0.40",
    "loss 0.4000 at step 0, 0.3000 at step 1",
    "1 is chosen",
  ):
    assert number in alts


def test_every_picture_has_an_alternative_text(whole):
  page = Page(whole)
  assert len(page.values("alt")) == page.tags.count("img")
  assert all(page.values("alt"))


@pytest.mark.parametrize(
  "name",
  ["<script>alert(1)</script>", "\" onload='x' \"", "&lt;b&gt;", "</td>"],
)
def test_all_text_is_escaped(name, no_drawing):
  text = report.render_report(make_content(name))
  page, plain = Page(text), Page(report.render_report(make_content("plain")))
  # The name may change words, never structure.
  assert page.tags == plain.tags
  assert [a[:2] for a in page.attributes] == [a[:2] for a in plain.attributes]
  assert " ".join(page.text).count(name) == " ".join(plain.text).count("plain")
  assert "<script" not in text


def test_same_content_gives_the_same_bytes(whole, tmp_path):
  script = (
    "import importlib.util, sys\n"
    "spec = importlib.util.spec_from_file_location('t', sys.argv[1])\n"
    "module = importlib.util.module_from_spec(spec)\n"
    "spec.loader.exec_module(module)\n"
    "module.report.write_report(sys.argv[2], module.make_content())\n"
  )
  # In another process, whose sets order strings differently.
  env = {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
  path = tmp_path / "report.html"
  subprocess.run(
    [sys.executable, "-c", script, __file__, path],
    env=os.environ | env,
    check=True,
  )
  assert path.read_bytes() == whole.encode()


def test_nothing_to_show_gives_no_section():
  page = Page(report.render_report(report.ReportContent(title="Empty")))
  assert page.text == ["Empty", "Empty"]  # <title> and <h1>.
  assert not {"section", "h2", "nav", "p"} & set(page.tags)


@pytest.mark.parametrize(
  "field, title",
  [
    ("tables", "Results"),
    ("levels", "Odd one out"),
    ("few_shot", "Few-shot classification"),
    ("rdms", "Similarity of all pairs"),
    ("scatters", "Uncertainty"),
    ("reliability", "Uncertainty"),
    ("examples", "Example triplets"),
    ("clusters", "Clusters"),
    ("selections", "Choice of the teacher"),
    ("trade_offs", "What alignment costs"),
    ("curves", "Training of the students"),
    ("provenance", "Provenance"),
  ],
)
def test_one_field_gives_one_section(field, title, no_drawing):
  value = getattr(make_content(), field)
  page = Page(report.render_report(report.ReportContent(**{field: value})))
  assert page.tags.count("section") == page.tags.count("h2") == 1
  assert title in page.text
  assert "nav" not in page.tags


def test_every_field_is_shown(no_drawing):
  # A field added later must not be forgotten on the page.
  fields = {field.name for field in dataclasses.fields(report.ReportContent)}
  complete = report.render_report(make_content())
  empty = report.ReportContent()
  for field in fields:
    fewer = make_content(**{field: getattr(empty, field)})
    assert report.render_report(fewer) != complete, field


def example_words(**changes):
  fields = dict(
    images=images(),
    odd_counts=(7, 2, 1),
    choices={"base": 1, "aligned": 0, "control": -1},
    level="coarse",
    names=("sparrow", "bus", "tricycle"),
  )
  example = report.TripletExample(**(fields | changes))
  text = report.render_report(report.ReportContent(examples=[example]))
  words = Page(text).text
  return words[words.index("Triplet 1 · coarse") + 1 :]


def test_marks_stand_below_the_picture_they_name():
  assert example_words() == [
    *("sparrow", "7 of 10 people", "●", "people", "▲", "aligned"),
    *("bus", "2 of 10 people", "■", "base"),
    *("tricycle", "1 of 10 people"),
    "No choice (tie): control.",
  ]


def test_tied_people_are_marked_twice():
  words = example_words(odd_counts=(4, 0, 4), choices={}, names=())
  assert words == [
    *("4 of 8 people", "●", "people"),
    "0 of 8 people",
    *("4 of 8 people", "●", "people"),
  ]


def test_pictures_come_back_as_they_were():
  content = report.ReportContent(clusters=[report.Cluster("a", images(2))])
  page = Page(report.render_report(content))
  for image, (kind, data) in zip(images(2), decoded_images(page), strict=True):
    assert kind == "image/png"
    np.testing.assert_array_equal(PIL.Image.open(io.BytesIO(data)), image)
  assert page.values("class").count("pixelated") == 2


def test_large_pictures_are_reduced():
  large = images(1, size=300)
  content = report.ReportContent(clusters=[report.Cluster("a", large)])
  page = Page(report.render_report(content))
  [(_, data)] = decoded_images(page)
  assert PIL.Image.open(io.BytesIO(data)).size == (224, 224)
  assert "pixelated" not in page.values("class")


@pytest.mark.parametrize(
  "image", [np.zeros((5, 5, 3), np.float32), np.zeros((5, 5), np.uint8)]
)
def test_only_colour_pictures_of_bytes(image):
  content = report.ReportContent(clusters=[report.Cluster("a", [image])])
  with pytest.raises(ValueError, match="A picture is uint8"):
    report.render_report(content)


@pytest.mark.parametrize(
  "cell, expected",
  [
    (0.12345, ["0.123"]),
    (-0.12345, ["−0.123"]),
    (np.float32(0.5), ["0.500"]),
    (0.000532, ["0.00053"]),
    (-0.000014, ["−1.4e−05"]),
    (0.001, ["0.001"]),
    (0.0, ["0.000"]),
    (12043, ["12,043"]),
    (np.int64(7), ["7"]),
    (None, ["–"]),
    (float("nan"), ["–"]),
    (np.float32("nan"), ["–"]),
    ("words", ["words"]),
    (plots.Estimate(0.5, 0.25, 0.75), ["0.500", "[0.250, 0.750]"]),
    (plots.Estimate(0.5), ["0.500"]),
    # Bounds, such as of a noise ceiling, are no interval of a number.
    (plots.Range(0.477, 0.577), ["0.477 to 0.577"]),
    (plots.Estimate(float("nan"), float("nan"), float("nan")), ["–"]),
  ],
)
def test_cells(cell, expected):
  table = report.Table(("model", "score"), (("base", cell),))
  page = Page(report.render_report(report.ReportContent(tables=[table])))
  words = page.text
  assert words[words.index("base") + 1 :] == expected


def test_every_table_scrolls_in_its_own_box(whole):
  assert whole.count("<table") == whole.count('<div class="scroll"><table') > 3
  (rule,) = re.findall(r"\n\.scroll \{([^{}]*)\}", report._CSS)
  assert "overflow-x: auto" in rule


@pytest.mark.parametrize(
  "categories, said", [(("",) * 5, 0), (("a", "a", "b", "b", "b"), 2)]
)
def test_order_of_the_items_is_said_only_where_they_are_sorted(
  categories, said, no_drawing
):
  rdms = plots.Rdms({"people": 1 - np.eye(5)}, categories)
  page = report.render_report(report.ReportContent(rdms=rdms))
  assert page.count("by category") == said


def test_cells_of_tables_are_never_broken_inside_a_word():
  rules = re.findall(r"([^{}]*)\{([^{}]*)\}", report._CSS)
  breaking = [
    selector
    for selector, rule in rules
    if re.search(r"overflow-wrap|word-break|white-space: *normal", rule)
  ]
  assert breaking  # names of pictures and preformatted text
  assert not re.search(r"td|th\b|table|plain|words", " ".join(breaking))


def test_wrong_shapes_are_refused():
  with pytest.raises(ValueError, match="has 1 cells; there are 2 columns"):
    report.Table(("model", "score"), (("base",),))
  with pytest.raises(ValueError, match="3 images and 3 counts, not 2 and 3"):
    report.TripletExample(images(2), (1, 2, 3), {})


def test_files_are_written(tmp_path, no_drawing):
  content = make_content("樹")
  report.write_report(tmp_path / "report.html", content)
  written = (tmp_path / "report.html").read_bytes().decode("utf-8")
  assert written == report.render_report(content)
  rows = [{"a": 1 / 3, "b": "x,y"}, {"a": 2, "b": "樹"}]
  report.write_csv(tmp_path / "rows.csv", rows)
  text = (tmp_path / "rows.csv").read_bytes().decode("utf-8")
  assert "\r" not in text
  back = list(csv.DictReader(io.StringIO(text)))
  assert float(back[0]["a"]) == 1 / 3
  assert [row["b"] for row in back] == ["x,y", "樹"]
  with pytest.raises(ValueError, match="the first"):
    report.write_csv(tmp_path / "rows.csv", [{"a": 1}, {"b": 1}])
