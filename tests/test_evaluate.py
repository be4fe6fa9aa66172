import csv
import dataclasses
import json
import re

import jax
import numpy as np
import PIL.Image
import pytest

from alignet_jax import artifacts, evaluate, odd_one_out
from alignet_jax.evals import (
  choice_scores,
  evaluation_report,
  given,
  hierarchy,
  human_data,
  models,
  plots,
  readme_table,
  rsa_scores,
  score,
)
from alignet_jax.evals import flags as flags_lib
from alignet_jax.images import collections
from alignet_jax.judgments import convert, prepare, prepared
from alignet_jax.teacher import transform as transform_lib


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Files of every kind about 12 items, and two models of them."""
  folder = tmp_path_factory.mktemp("world")
  np_rng = np.random.default_rng(0)
  x = np_rng.normal(size=(12, 5)).astype(np.float32)
  artifacts.write_npy(folder / "good.npy", x)
  artifacts.write_npy(folder / "poor.npy", np_rng.normal(size=(12, 3)))
  triplets = np.argsort(np_rng.random((60, 12)), axis=1)[:, :3]
  sims = x @ x.T
  for row in triplets:  # What people call odd follows from good.npy.
    a, b, c = row
    others = [sims[b, c], sims[a, c], sims[a, b]]
    odd = int(np.argmax(others))
    row[:] = [*np.delete(row, odd), row[odd]]
  artifacts.write_npy(folder / "triplets.npy", triplets.astype(np.int32))
  artifacts.write_npz(
    folder / "repeats.npz",
    triplets=triplets[:20].astype(np.int32),
    odd_counts=np_rng.integers(0, 3, (20, 3)) + np.array([0, 0, 9]),
  )
  people = np.stack([1 - np.corrcoef(x + np_rng.normal(size=x.shape))] * 3)
  for person in people:
    np.fill_diagonal(person, 0)
  with prepared.writer(folder / "rdms", {"data_set": "mur92"}) as (out, tables):
    artifacts.write_npz(
      out / "rdm.npz", rdm=people.mean(axis=0), per_person=people
    )
    tables["rdm.npz"] = {}
  with prepared.writer(folder / "king", {"data_set": "king"}) as (out, tables):
    artifacts.write_npz(out / "rdm.npz", rdm=np.ones((7, 7)) - np.eye(7))
    tables["rdm.npz"] = {}
  artifacts.write_npy(folder / "d.npy", np.ones((12, 12)) - np.eye(12))
  (folder / "taxonomy.csv").write_text(
    "basic,superordinate\n"
    + "".join(f"b{i // 2},s{i // 4}\n" for i in range(12))
  )
  return folder


@pytest.fixture(scope="module")
def done(world):
  """The command, run once."""
  lines = []
  args = flags_lib.parse(
    [
      f"--model=good={world}/good.npy",
      f"--model=poor={world}/poor.npy",
      f"--triplets={world}/triplets.npy",
      f"--repeats={world}/repeats.npz",
      f"--data={world}/rdms",
      f"--data={world}/king",
      f"--embedding={world}/good.npy",
      f"--taxonomy={world}/taxonomy.csv",
      f"--out={world}/out",
    ]
  )
  evaluate.run(args, log=lines.append)
  return world / "out", lines


def test_table_has_every_model_and_measure(done):
  out, lines = done
  read = json.loads((out / "scores.json").read_text())["scores"]
  found = {
    (r["model"], r["dataset"], r["measure"], r["variant"]): r for r in read
  }
  assert len(found) == len(read)
  assert {r["measure"] for r in read} <= {*score.MEASURES, "all"}
  assert found["good", "things", "accuracy", "dot"]["value"] == 1.0
  assert found["poor", "things", "accuracy", "dot"]["value"] < 0.7
  assert found["good", "things_dense", "spearman", "dot"]["value"] == (
    pytest.approx(1.0)
  )
  assert found["poor", "mur92", "pearson", "cosine, single people"]["num"] == 66
  models_of = ("good", "poor")
  levels, _ = hierarchy.load_taxonomy(out.parent / "taxonomy.csv")
  kinds = hierarchy.pair_kinds(levels)
  for kind in ("same_basic", "different_superordinate"):
    key = "poor", "taxonomy", "distance_change", kind
    assert found[key]["note"] == "minus that of good; over items"
    assert ("good", *key[1:]) not in found
    of_models = [artifacts.read_npy(out.parent / f"{n}.npy") for n in models_of]
    expected = hierarchy.changes(*of_models, kinds)[kind].value
    assert found[key]["value"] == pytest.approx(expected, rel=1e-6)
  # The set of 7 items fits neither model, and says so.
  skipped = found["good", "king", "all", ""]
  assert skipped["note"] == ("skipped: the features have 12 rows for 7 items.")
  with open(out / "scores.csv", newline="") as f:
    assert len(list(csv.DictReader(f))) == len(read)
  assert "accuracy" in lines[0] and "king, all: skipped" in lines[0]


def test_page_is_self_contained(done):
  page = (done[0] / "report.html").read_text()
  for heading in ("Results", "Odd one out", "Hierarchy of concepts", "Skipped"):
    assert heading in page
  assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
  assert "<script" not in page


def test_same_in_python(world, done):
  data = [
    human_data.read_choices(world / "triplets.npy", world / "repeats.npz")
  ]
  pixels = np.arange(12, dtype=np.uint8)[:, None, None, None]
  pixels = np.broadcast_to(pixels, (12, 2, 2, 3))
  good = artifacts.read_npy(world / "good.npy")
  rows, seconds = evaluate.evaluate(
    {
      "array": good,
      "function": lambda image: good[image[:, 0, 0, 0]],
      "sets": {"things": good},
      "empty": {"mur92": good},
    },
    data,
    suite="alignment",
    images={"things": pixels},
  )
  values = {
    row.model: row.value
    for row in rows
    if (row.measure, row.variant) == ("nll", "dot")
  }
  read = json.loads((done[0] / "scores.json").read_text())["scores"]
  expected = next(
    r["value"]
    for r in read
    if (r["model"], r["measure"], r["variant"]) == ("good", "nll", "dot")
  )
  assert values == pytest.approx(
    dict.fromkeys(("array", "function", "sets"), expected), rel=1e-6
  )
  assert "no features of things" in rows[-1].note
  assert set(seconds) == {(name, "things") for name in (*values, "empty")}


def test_aligned_and_photographs(world, tmp_path):
  np_rng = np.random.default_rng(1)
  artifacts.write_npz(
    tmp_path / "map.npz", weights=np.eye(5), mean=0.0, std=2.0
  )
  index = tmp_path / "images.csv"
  index.write_text(
    "file,things_index\na.jpg,3\nb.jpg,\nc.jpg,0\nd.jpg,7\ne.jpg,5\n"
  )
  artifacts.write_npz(
    tmp_path / "pictures.npz",
    features=np_rng.normal(size=(5, 5)),
    files=np.array(["e.jpg", "d.jpg", "c.jpg", "b.jpg", "a.jpg"]),
  )
  args = flags_lib.parse(
    [
      f"--model=m={tmp_path}/pictures.npz",
      f"--aligned=t=m:{tmp_path}/map.npz",
      f"--embedding={world}/good.npy",
      f"--photographs={index}",
      f"--out={tmp_path}/out",
      "--suite=alignment",
      "--markdown",
    ]
  )
  lines = []
  evaluate.run(args, log=lines.append)
  table = lines[0].splitlines()
  assert table[0] == "| data | measure | m | t |"
  row = next(r for r in table if r.startswith("| photographs | spearman, dot"))
  base, aligned = row.split("|")[3:5]
  # A scale changes no rank.
  assert base.strip() == aligned.strip()


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--model=m"], "expected NAME=PATH"),
    (["--model=m=absent.npy"], "nothing at absent.npy"),
    (["--model=m={w}/good.npy", "--model=m={w}/good.npy"], "'m' twice"),
    (["--model=m={w}/good.npy", "--base=x"], "--base is 'x'"),
    (["--model=m={w}/good.npy", "--suite=alignment"], "no human data"),
    (["--model=m={w}/good.npy", "--suite=usefulness"], "no data set"),
    (["--model=m={w}/good.npy", "--data={w}"], "no prepared.json"),
    (["--model=m={w}/good.npy", "--aligned=t=x:f.npz"], "NAME=MODEL:FILE"),
    (
      ["--model=m={w}/good.npy", "--data={w}/king", "--data={w}/king"],
      "called 'king': --data=.*/king and --data=.*/king",
    ),
    (
      ["--model=m={w}/good.npy", "--rdm=d={w}/d.npy", "--sims=d={w}/d.npy"],
      "called 'd': --rdm=d=.* and --sims=d=",
    ),
    (
      [
        "--model=m={w}/good.npy",
        "--triplets={w}/triplets.npy",
        "--rdm=things={w}/d.npy",
      ],
      "called 'things': --triplets=.* and --rdm=things=",
    ),
    (["--model=m=backbone:vit", "--images=a={w}"], "backbone:MODEL:WEIGHTS"),
    (["--model=m=student:{w}:aligned"], "student:FOLDER:VARIANT"),
  ],
)
def test_what_is_wrong_is_told(world, tmp_path, capsys, flags, message):
  flags = [flag.format(w=world) for flag in flags]
  if "--images" in " ".join(flags):
    flags[1] = f"--images=a={world}/good.npy"
    message = "uint8|backbone"
  assert evaluate.main([*flags, f"--out={tmp_path}/out"]) == 2
  assert re.search(message, capsys.readouterr().err)


def test_data_sets_have_names_of_their_own(world):
  args = flags_lib.parse(
    [
      f"--model=m={world}/good.npy",
      f"--data={world}/king",
      f"--data=again={world}/king",
      f"--out={world}/unused",
    ]
  )
  data = given.read_data(args)
  assert [people.name for people in data] == ["king", "again"]
  with pytest.raises(
    artifacts.InputError, match="'king': number 1 of data and"
  ):
    evaluate.evaluate({"m": np.ones((7, 2))}, [data[0], data[0]])
  with pytest.raises(artifacts.InputError, match="'p': number 1 of classific"):
    evaluate.evaluate({"m": np.ones((7, 2))}, classification=["p", "p"])


def test_unknown_suite(world):
  with pytest.raises(artifacts.InputError, match="suite is 'speed'"):
    evaluate.evaluate({"m": np.ones((2, 2))}, suite="speed")
  with pytest.raises(artifacts.InputError, match="no model"):
    evaluate.evaluate({})
  with pytest.raises(artifacts.InputError, match="base is 'zz'; there are m"):
    evaluate.evaluate({"m": np.ones((2, 2))}, base="zz")


def test_levels_of_a_generated_release(tmp_path):
  """The whole road: a file of the released structure to three levels."""
  import pickle

  np_rng = np.random.default_rng(2)
  names = [f"n01/n01_{i}" for i in range(9)]
  people = {}
  for person in range(5):
    trials = []
    for kind in ("between_class", "within_class", "class_border"):
      for _ in range(6):
        three = np_rng.permutation(9)[:3]
        trials.append(
          {f"image{k + 1}Path": f"{names[i]}.JPEG" for k, i in enumerate(three)}
          | {
            "selected_image": f"{names[three[np_rng.integers(3)]]}.JPEG",
            "triplet_type": kind,
            "exp_trial_type": "exp_trial",
          }
        )
    people[f"p{person}"] = trials
  path = tmp_path / "pruned_dataset.pkl"
  path.write_bytes(pickle.dumps(people))
  with prepared.writer(tmp_path / "levels", {"data_set": "levels"}) as (out, t):
    t |= convert.levels(path, out, check_counts=False)
  x = np_rng.normal(size=(9, 4)).astype(np.float32)
  model = models.from_features("m", x, [f"{n}.JPEG" for n in names])
  rows, _ = evaluate.evaluate(
    {"m": model}, human_data.read_folder(tmp_path / "levels")
  )
  found = {(row.measure, row.variant): row for row in rows}
  right = {"between_class": 0, "within_class": 0, "class_border": 0}
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  place = {f"{n}.JPEG": i for i, n in enumerate(names)}
  for trials in people.values():
    for trial in trials:
      a, b, c = (place[trial[f"image{k}Path"]] for k in (1, 2, 3))
      sims = [unit[b] @ unit[c], unit[a] @ unit[c], unit[a] @ unit[b]]
      chosen = (a, b, c)[int(np.argmax(sims))]
      right[trial["triplet_type"]] += chosen == place[trial["selected_image"]]
  for kind, level in (
    ("between_class", "coarse"),
    ("within_class", "fine"),
    ("class_border", "boundary"),
  ):
    row = found["accuracy", f"cosine, {level}"]
    assert row.value == pytest.approx(right[kind] / 30) and row.num == 30
    assert ("accuracy_majority", f"cosine, {level}") in found
    assert ("accuracy", f"dot, {level}, people drawn") in found


@pytest.mark.parametrize("num_people", [1, 7])
def test_people_and_times_of_an_experiment(tmp_path, np_rng, num_people):
  """From a csv by the command to intervals over people."""
  lines = ["image1,image2,image3,odd,participant,rt"]
  for i in range(70):
    a, b, c = np_rng.permutation(11)[:3]
    lines.append(f"i{a:02},i{b:02},i{c:02},{i % 3 + 1},p{i % num_people},{i}")
  (tmp_path / "mine.csv").write_text("\n".join(lines))
  folder = tmp_path / "mine"
  source = f"--source={tmp_path / 'mine.csv'}"
  flags = ["experiment", source, f"--out={folder}", "--test_fraction=0.5"]
  assert prepare.main(flags) == 0
  (people,) = human_data.read_folder(folder)
  assert people.name == "experiment" and len(people.rt) == 35
  x = np_rng.normal(size=(11, 3)).astype(np.float32)
  names = [f"i{i:02}.jpg" for i in range(11)]
  rows, _ = evaluate.evaluate(
    {"m": models.from_features("m", x, names)}, [people], suite="alignment"
  )
  found = {(row.measure, row.variant): row for row in rows}
  assert found["reaction_time", "cosine"].num == 30
  drawn = found["accuracy", "cosine, people drawn"]
  plain = found["accuracy", "cosine"]
  assert drawn.value == plain.value
  if num_people == 1:
    assert np.isnan(drawn.low) and "one person" in drawn.note
  else:
    assert drawn.note == "over 7 people" and drawn.low < drawn.value
    assert (drawn.low, drawn.high) != (plain.low, plain.high)
  artifacts.write_npz(folder / "answers_test.npz", rt=np.ones(3))
  with pytest.raises(artifacts.InputError, match="one per answer, .* are 35"):
    human_data.read_folder(folder)


def test_the_report_says_what_ceilings_and_probabilities_are(np_rng):
  x = np_rng.normal(size=(7, 3)).astype(np.float32)
  triplets = np.argsort(np_rng.random((11, 7)), axis=1)[:, :3].astype(np.int32)
  counts = np_rng.integers(1, 9, (11, 3))
  data = [choice_scores.Choices("mine", triplets, (triplets, counts))]
  of_models = {"m": models.from_features("m", {"mine": x})}
  row = score.Score(
    "alignment",
    "mine",
    "accuracy_repeats",
    "dot",
    0.4,
    ceiling_low=0.477,
    ceiling_high=0.577,
  ).of("m")
  content = evaluation_report.make([row], of_models, data)
  assert content.tables[0].rows[0][-1] == plots.Range(0.477, 0.577)
  assert len(content.scatters) == len(content.reliability) == 1
  assert content.uncertainty_note.startswith(
    "mine: probabilities of all models by dot product, at temperature 1"
  )


def test_report_of_nothing_but_skipped_rows():
  rows = [score.skipped("alignment", "mur92", "all", "why not.").of("m")]
  content = evaluation_report.make(rows, {}, [])
  assert content.tables[0].rows == [("mur92", "all", "m", "why not.")]


def test_report_shows_the_ceilings_that_models_share():
  rows = [
    score.Score("alignment", "d", "accuracy_repeats", "dot", 0.5, *[0.5] * 5)
  ]
  rows += [dataclasses.replace(rows[0], model=name) for name in ("a", "b")]
  content = evaluation_report.make(rows, {}, [])
  assert content.tables[0].columns == ["", "noise ceiling"]
  rows[1] = dataclasses.replace(rows[1], ceiling_low=0.4)
  content = evaluation_report.make(rows, {}, [])
  assert content.tables[0].columns == [""]
  assert content.levels[0].ceilings == [None]


# SOURCES.md of the shared data: accuracy, NLL, entropy r and KL.
PUBLISHED = {
  "clip": ("features_clip_vit_b32", "cosine", 0.4855, 1.078, 0.259, 0.2086),
  "word2vec": ("features_word2vec", "cosine", 0.4647, 1.074, 0.382, 0.2082),
  "vice": ("vice_embedding_42d", "dot", 0.6371, 0.826, 0.551, 0.1745),
  "spose": ("spose_embedding_49d", "dot", 0.6393, 0.8136, 0.537, 0.1928),
}


@pytest.mark.slow
def test_table_of_the_shared_data(shared_data):
  things = shared_data / "things"
  data = [
    human_data.read_choices(
      things / "triplets_test.npy", things / "repeats.npz", num_items=1854
    ),
    human_data.read_dense(
      things / "vice_embedding_42d.npy",
      "photographs",
      shared_data / "imagenet_samples" / "images.csv",
    ),
  ]
  assert data[1].num_items == 183
  of_models = {
    name: models.open_model(name, things / f"{file}.npy")
    for name, (file, *_) in PUBLISHED.items()
  }
  of_models["resnet50"] = models.open_model(
    "resnet50", shared_data / "imagenet_samples" / "features_resnet50.npz"
  )
  rows, _ = evaluate.evaluate(of_models, data, suite="alignment")
  found = {
    (row.model, row.dataset, row.measure, row.variant): row for row in rows
  }
  for name, (_, similarity, *numbers) in PUBLISHED.items():
    for measure, number in zip(
      ("accuracy", "nll", "entropy_r", "kl"), numbers, strict=True
    ):
      row = found[name, "things", measure, similarity]
      assert row.value == pytest.approx(number, abs=1e-3), (name, measure)
      assert row.low < row.value < row.high
  row = found["resnet50", "photographs", "spearman", "cosine"]
  assert row.value == pytest.approx(0.298, abs=1e-3)
  assert row.low < row.value < row.high


def test_a_suite_without_data_is_named():
  x = {"a": np.eye(5, dtype=np.float32)}
  rows, _ = evaluate.evaluate(x, suite="all")
  met = {(row.model, row.suite): row.note for row in rows}
  assert set(met) == {("a", "alignment"), ("a", "usefulness")}
  assert all(note.startswith(score.SKIPPED) for note in met.values())
  assert "--classification" in met["a", "usefulness"]
  assert evaluate.evaluate(x, suite="alignment")[0] == []


def test_table_goes_into_a_readme(world, tmp_path, capsys):
  readme = tmp_path / "README.md"
  readme.write_text("a\n{}\nold\n{}\nb\n".format(*readme_table.marks("x")))
  flags = [
    f"--model=good={world}/good.npy",
    f"--triplets={world}/triplets.npy",
    f"--out={tmp_path}/out",
    "--rows=accuracy/dot",
    "--suite=alignment",
  ]
  assert evaluate.main([*flags, f"--into={readme}#y"]) == 2
  assert "evaluation y: begin --> 0 times" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()  # Told before anything is measured.
  assert evaluate.main([*flags, f"--into={readme}#x"]) == 0
  text = readme.read_text()
  assert text.startswith("a\n<!--") and text.endswith("-->\nb\n")
  assert "old" not in text and f"--into={readme}#x" in text.replace("'", "")
  assert "| things | accuracy, dot | 1.0000 [1.0000, 1.0000] |" in text
  assert "cosine" not in text
  # The files have all rows.
  assert "cosine" in (tmp_path / "out" / "scores.csv").read_text()
  assert evaluate.main([*flags, "--rows=accuracy/x"]) == 2
  assert "--rows=accuracy/x names no row; there" in capsys.readouterr().err
  # A measure that there is none of, before anything is measured.
  flags[2] = f"--out={tmp_path}/other"
  assert evaluate.main([*flags, "--rows=things/acuracy/*"]) == 2
  assert "'acuracy' is none of the measures" in capsys.readouterr().err
  assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("num, whole", [(7, True), (12, False), (13, True)])
def test_categories_have_a_row_per_item(world, tmp_path, capsys, num, whole):
  """Too few or too many rows, and rows whose cell is empty."""
  kinds = tmp_path / "kinds.csv"
  cells = [
    ("ab"[i % 2]) if whole or i not in (3, 4) else "" for i in range(num)
  ]
  kinds.write_text("kind\n" + "".join(f"{cell}\n" for cell in cells))
  args = [
    f"--model=good={world}/good.npy",
    f"--triplets={world}/triplets.npy",
    f"--categories={kinds}",
    "--column=kind",
    "--suite=alignment",
    f"--out={tmp_path}/out",
  ]
  if num != 12:
    assert evaluate.main(args) == 2
    assert f"kinds.csv has {num} rows" in capsys.readouterr().err
    return
  args = flags_lib.parse(args)
  (people,) = given.read_data(args, given.open_models(args, tmp_path))
  assert people.num_items == 12
  assert people.categories["a"].tolist() == [0, 2, 6, 8, 10]
  assert people.categories["b"].tolist() == [1, 5, 7, 9, 11]


def write_pictures(folder, names):
  folder.mkdir()
  for i, name in enumerate(names):
    pixels = np.full((9, 9, 3), 20 * i, np.uint8)
    PIL.Image.fromarray(pixels).save(folder / name)


def test_photographs_are_in_the_page(world, tmp_path):
  """Thumbnails, sorted matrices and triplets of people's similarities."""
  names = [f"{i}.png" for i in range(7)]
  write_pictures(tmp_path / "shown", names)
  index = tmp_path / "images.csv"
  index.write_text(
    "file,things_index\n" + "".join(f"{n},{i}\n" for i, n in enumerate(names))
  )
  kinds = tmp_path / "kinds.csv"
  kinds.write_text(
    "name,kind\n" + "".join(f"c{i},{'ba'[i % 2]}\n" for i in range(12))
  )
  np_rng = np.random.default_rng(3)
  for name in "mn":
    artifacts.write_npz(
      tmp_path / f"{name}.npz",
      features=np_rng.normal(size=(7, 5)),
      files=np.array(names),
    )
  args = flags_lib.parse(
    [
      f"--model=m={tmp_path}/m.npz",
      f"--model=n={tmp_path}/n.npz",
      f"--embedding={world}/good.npy",
      f"--photographs={index}",
      f"--categories={kinds}",
      "--column=kind",
      f"--images=photographs={tmp_path}/shown",
      f"--out={tmp_path}/out",
      "--suite=alignment",
    ]
  )
  data = {people.name: people for people in given.read_data(args)}
  assert data["photographs"].categories == tuple("bababab")
  assert data["things_dense"].categories == tuple("ba" * 6)
  evaluate.run(args, log=lambda text: None)
  page = (tmp_path / "out" / "report.html").read_text()
  # Of seven items, two triplets share none.
  assert page.count('src="data:image/png') == 2 * 3
  assert "1 of 1 people" in page and "of 35 drawn ones" in page
  # Of the map: a picture per item.
  images = {"photographs": collections.FolderImages(tmp_path / "shown", size=5)}
  of_models = {"m": models.open_model("m", tmp_path / "m.npz")}
  maps = evaluation_report._maps(of_models, data.values(), images)
  assert maps["m"].count("<image") == 7
  assert "Items stand in their own order" not in page


def test_examples_are_of_the_base_transformed_and_share_no_item(world):
  x = artifacts.read_npy(world / "good.npy")
  base = models.from_features("base", x)
  turn = np.diag([9.0, 1, 1, 1, 1])
  of_models = {
    "base": base,
    "other": models.from_features("other", x[::-1]),
    "map": models.transformed(
      "map", base, transform_lib.AffineTransform(turn, np.zeros(5), 0.0, 1.0)
    ),
  }
  # The collection has the items in another order.
  pixels = np.arange(12, dtype=np.uint8)[::-1, None, None, None]
  names = [f"{i}.png" for i in range(12)]
  images = {
    "p": collections.ArrayImages(
      np.tile(pixels, (1, 4, 4, 3)), names=names[::-1]
    ),
  }
  people = rsa_scores.dense("p", x, names)
  found = evaluation_report._examples(of_models, [people], images, "base")
  assert "of map differ most from those of base" in found["examples_note"]
  shown = [example.images[:, 0, 0, 0].tolist() for example in found["examples"]]
  items = sum(shown, [])
  # Four triplets of twelve items at most, and each picture is its item's.
  assert 3 <= len(shown) <= 4 and len(set(items)) == len(items)
  triplets, counts, _ = evaluation_report._asked(people)
  answers = dict(zip(map(tuple, triplets.tolist()), counts, strict=True))
  probs = {
    name: np.exp(
      odd_one_out.log_probs(choice_scores.logits(y, triplets, "cosine"))
    )
    for name, y in (("base", x), ("map", (x @ turn).astype(np.float32)))
  }
  moved = np.abs(probs["map"] - probs["base"]).sum(axis=1)
  assert shown[0] == triplets[moved.argmax()].tolist()
  for example, three in zip(found["examples"], shown, strict=True):
    assert list(example.odd_counts) == answers[tuple(three)].tolist()


def test_groups_of_a_set(world, tmp_path, capsys):
  (tmp_path / "kinds.csv").write_text(
    "kind\n" + "".join(f"{'xy'[i % 2]}\n" for i in range(12))
  )
  flags = [
    f"--model=good={world}/good.npy",
    f"--data={world}/rdms",
    f"--out={tmp_path}/out",
    "--suite=alignment",
  ]
  table = f"{tmp_path}/kinds.csv"
  args = flags_lib.parse([*flags, f"--groups=mur92={table}:kind"])
  assert given.read_data(args)[0].categories == tuple("xy" * 6)
  for groups, message in (
    (f"king={table}:kind", "the set one of mur92"),
    (f"mur92={table}", "SET=TABLE:COLUMN"),
    (f"mur92={table}:sort", "no column sort"),
  ):
    assert evaluate.main([*flags, f"--groups={groups}"]) == 2
    assert message in capsys.readouterr().err


def test_matrices_are_sorted_by_category():
  categories = ("b", "", "a", "b", "a")
  matrix = np.arange(25.0).reshape(5, 5)
  matrices, shown = evaluation_report._sorted_rdms({"m": matrix}, categories)
  order = [2, 4, 0, 3, 1]
  np.testing.assert_array_equal(matrices["m"], matrix[order][:, order])
  assert shown == ["a", "a", "b", "b", "other"]
  many = [f"c{i:02d}" for i in range(20)] * 2 + ["last"] * 5
  few = evaluation_report._few(many)
  assert few == ["other"] * 40 + ["last"] * 5


def test_categories_from_a_taxonomy():
  names = ("a.jpg", "b.jpg", "c.jpg")
  people = rsa_scores.RdmSet("p", np.ones((3, 3)), items=names)
  levels = {"basic": ["1", "2", "3"], "superordinate": ["x", "y", "z"]}
  named = human_data.Taxonomy(levels, ("c", "a", "b"))
  assert evaluation_report._categories(people, [named]) == ("y", "z", "x")
  plain = human_data.Taxonomy(levels)
  assert evaluation_report._categories(people, [plain]) == ("x", "y", "z")
  own = dataclasses.replace(people, categories=("u", "v", "w"))
  assert evaluation_report._categories(own, [named]) == ("u", "v", "w")
  other = human_data.Taxonomy(levels, ("c", "a", "d"))
  assert evaluation_report._categories(people, [other]) == ()


def test_triplets_of_pairs_are_answered_by_each_person():
  near = np.array([[0, 1, 5, 9], [1, 0, 6, 7], [5, 6, 0, 2], [9, 7, 2, 0.0]])
  # The second person finds 0 and 2 most alike; the third has no opinion.
  other = near.copy()
  other[0, 2] = other[2, 0] = 0.5
  people = rsa_scores.RdmSet(
    "p", near, np.stack([near, other, np.ones((4, 4)) - np.eye(4)])
  )
  triplets, counts, _ = evaluation_report._asked(people)
  found = dict(zip(map(tuple, triplets.tolist()), counts.tolist(), strict=True))
  assert found[0, 1, 2] == [0, 1, 1]
  assert found[1, 2, 3] == [2, 0, 0]
  assert len(found) == 4


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--synsets=a"], "belong together"),
    (["--synsets=a", "--wordnet=b"], "needs --taxonomy"),
    (["--depths=3,5"], "first one larger"),
    (["--depths=x,5"], "--depths: it is 'x'"),
    (["--severities=1,6"], "are 1 to 5"),
  ],
)
def test_flags_that_do_not_fit(capsys, flags, message):
  with pytest.raises(SystemExit) as error:
    flags_lib.parse(["--model=m=x.npy", "--out=o", *flags])
  assert error.value.code == 2
  assert message in capsys.readouterr().err


def test_a_student_of_a_finished_run_embeds_pictures(tmp_path, np_rng):
  """As a backbone, with the pixels that its file asks for."""
  from alignet_jax.backbones import features, load, vit
  from alignet_jax.backbones import stage as backbone_stage

  sizes = {
    "patch_size": 4,
    "width": 8,
    "depth": 1,
    "mlp_dim": 11,
    "num_heads": 2,
  }
  backbone = {**sizes, "pool": "cls", "size": 8, "value_range": (-1, 1)}
  model = vit.ViT(**sizes, pool="cls")
  for seed, variant in enumerate(("base", "aligned")):
    image = np.zeros((1, 8, 8, 3), np.float32)
    params = jax.jit(model.init)(jax.random.key(seed), image)["params"]
    backbone_stage.save(tmp_path / f"{variant}.npz", params, backbone)
  kernel, bias = np_rng.normal(size=(8, 3)), np_rng.normal(size=3)
  head = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
  artifacts.write_npz(tmp_path / "aligned_head.npz", **head)
  described = {"representation": "patch_mean"}
  artifacts.write_json(tmp_path / "head.json", described)
  pictures = np_rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
  artifacts.write_npy(tmp_path / "pictures.npy", pictures)
  distances = np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0)))
  artifacts.write_npy(tmp_path / "mine.npy", distances)
  args = [
    *(f"--model={v}=student:{tmp_path}:{v}" for v in ("base", "aligned")),
    f"--images=mine={tmp_path}/pictures.npy",
    f"--rdm=mine={tmp_path}/mine.npy",
    "--suite=alignment",
    f"--out={tmp_path}/out",
  ]
  assert evaluate.main(args) == 0
  for variant in ("base", "aligned"):
    made = np.load(f"{tmp_path}/out/features/{variant}/mine/features.npy")
    loaded = load.load("noted", tmp_path / f"{variant}.npz")
    expected, patch_mean = features.forward(
      loaded.params,
      pictures,
      model=loaded.model,
      scaling=loaded.preprocessing,
      outputs=("pre_logits", "patch_mean"),
    )
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
  assert evaluate.main([f"--model=m=student:{tmp_path}:best", *args[2:]]) == 2
  parsed = flags_lib.parse(
    [f"--model=m=student:{tmp_path}:aligned_head", *args]
  )
  through = given.open_models(parsed, tmp_path / "out")
  np.testing.assert_allclose(
    models.rows_of(through["m"], "mine", num_items=5),
    np.asarray(patch_mean) @ kernel + bias,
    rtol=1e-5,
    atol=1e-5,
  )
