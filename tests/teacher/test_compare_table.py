import csv
import json

import numpy as np
import pytest

from alignet_jax.teacher import compare_table

NAN = float("nan")


def _row(model, variant, accuracy, **fields):
  row = {name: NAN for name in compare_table.COLUMNS}
  row |= {"model": model, "variant": variant, "accuracy": accuracy}
  row |= {"accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.03}
  return row | fields


ROWS = [
  _row("clip", "zero_shot", 0.4855, temperature=0.0612),
  _row(
    "clip",
    "soft",
    0.5885,
    gain=0.103,
    gain_low=0.09,
    gain_high=0.115,
    strength=3e-3,
    kl=0.1016,
    neighbours_kept=0.25,
  ),
  _row("a$b_$", "soft", 0.51, gain=-0.2, gain_low=-0.3, gain_high=-0.1),
]


def test_text_says_all_numbers():
  lines = compare_table.format_text(ROWS, ceiling=(0.6, 0.67)).split("\n")
  assert len(lines) == 5 and len(set(lines)) == 5
  assert lines[1].split() == (
    "clip zero_shot 0.4855 [0.4655, 0.5155] - - - - - - -".split()
  )
  assert lines[2].split() == (
    "clip soft 0.5885 [0.5685, 0.6185] +0.1030 [+0.0900, +0.1150] - - 0.1016 "
    "- 0.250 0.003".split()
  )
  assert "-0.2000 [-0.3000, -0.1000]" in lines[3]
  assert lines[4].startswith("chance 0.3333; noise ceiling 0.6000 to 0.6700")
  assert compare_table.format_text(ROWS).endswith("chance 0.3333")


def test_columns_line_up():
  lines = compare_table.format_text(ROWS).split("\n")
  start = lines[0].index("accuracy")
  assert [line[start : start + 6] for line in lines[1:4]] == [
    "0.4855",
    "0.5885",
    "0.5100",
  ]


def test_files_hold_the_rows(tmp_path):
  compare_table.write(
    tmp_path, ROWS, about={"num_test": 7}, ceiling=(0.6, 0.67)
  )
  with open(tmp_path / "table.csv", encoding="utf-8", newline="") as f:
    table = list(csv.DictReader(f))
  assert tuple(table[0]) == compare_table.COLUMNS
  assert [row["model"] for row in table] == ["clip", "clip", "a$b_$"]
  assert float(table[1]["gain_high"]) == 0.115 and table[0]["gain"] == ""
  found = json.loads((tmp_path / "table.json").read_text())
  assert found["rows"][1]["kl"] == 0.1016 and found["rows"][0]["kl"] is None
  assert found["num_test"] == 7 and found["noise_ceiling"] == [0.6, 0.67]
  np.testing.assert_allclose(found["chance"], 1 / 3, rtol=1e-12, atol=0)
  assert (tmp_path / "table.png").read_bytes()[:4] == b"\x89PNG"
  assert "<svg" in (tmp_path / "table.svg").read_text()


def test_files_are_reproducible(tmp_path):
  contents = []
  for name in ("one", "two"):
    out = tmp_path / name
    out.mkdir()
    compare_table.write(out, ROWS, about={})
    contents.append({p.name: p.read_bytes() for p in out.iterdir()})
  assert len(contents[0]) == 4 and contents[0] == contents[1]


@pytest.mark.parametrize("ceiling", [None, (0.6, 0.67)])
def test_figure_shows_every_row_and_interval(ceiling):
  figure = compare_table.draw(ROWS, ceiling=ceiling)
  axes = figure.axes[0]
  assert [text.get_text() for text in axes.get_yticklabels()] == [
    "clip",
    "a$b_$",
  ]
  points = {
    container.get_label(): container.lines[0].get_xdata()
    for container in axes.containers
  }
  assert points["zero_shot"].tolist() == [0.4855]
  assert points["soft"].tolist() == [0.5885, 0.51]
  bars = axes.containers[1].lines[2][0].get_segments()
  np.testing.assert_allclose(
    [bar[:, 0] for bar in bars],
    [[0.5685, 0.6185], [0.49, 0.54]],
    rtol=1e-12,
    atol=0,
  )
  # Symbols of one model are apart, and the first model is on top.
  heights = [c.lines[0].get_ydata()[0] for c in axes.containers]
  assert -0.5 < heights[0] < heights[1] < 0.5
  assert axes.get_ylim()[0] > axes.get_ylim()[1]
  labels = {text.get_text() for text in figure.legends[0].get_texts()}
  expected = {"chance", "zero_shot", "soft"}
  assert labels == expected | ({"noise ceiling"} if ceiling else set())
