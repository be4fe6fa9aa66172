import json
import pickle

import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.judgments import convert


def test_describe_by_hand():
  triplets = np.array(
    [[0, 1, 2], [2, 0, 1], [5, 0, 1], [0, 1, 2], [1, 2, 0]], np.int32
  )
  assert convert.describe(triplets, np.array([4, 4, 9, 9, 4])) == {
    "rows": 5,
    "objects": 4,
    "participants": 2,
    "triplets": 2,
    "answers_per_triplet": 2.5,
    "repeated": 0.6,
  }
  assert convert.describe(triplets)["participants"] is None


def test_parts_by_hand(tmp_path):
  train = np.array([[0, 1, 2], [2, 3, 4], [2, 1, 0]], np.int64)
  test = np.array([[1, 0, 2], [0, 1, 4]], np.int64)
  repeats = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[0, 1, 2], [5, 0, 0]])
  tables = convert.write_parts(
    tmp_path, {"train": train, "test": test}, {}, repeats
  )
  written = artifacts.read_npy(tmp_path / "triplets_train.npy")
  assert written.dtype == np.int32 and written.tolist() == train.tolist()
  assert tables["triplets_train.npy"]["rows_about_test_triplets"] == 2
  assert tables["repeats.npz"] == {
    "rows": 8,
    "objects": 6,
    "participants": None,
    "triplets": 2,
    "answers_per_triplet": 4.0,
    "repeated": 0.75,
  }


def test_several_by_hand():
  counts = np.array([[1, 0, 0], [1, 1, 0], [0, 2, 0]])
  triplets, odd_counts = convert.several((np.arange(9).reshape(3, 3), counts))
  assert triplets.tolist() == [[3, 4, 5], [6, 7, 8]]
  assert odd_counts.tolist() == [[1, 1, 0], [0, 2, 0]]


def test_is_among_by_a_loop(np_rng):
  a, b = (np_rng.random((50, 6)).argsort(axis=1)[:, :3] for _ in range(2))
  b = b[:7]
  expected = [set(row) in [set(other) for other in b] for row in a.tolist()]
  assert any(expected) and not all(expected)
  assert convert.is_among(a, b).tolist() == expected
  assert not convert.is_among(a, b[:0]).any()


def test_levels(tmp_path):
  def trial(kind, odd, **more):
    return {
      "image1Path": "t/a.JPEG",
      "image2Path": "t/b.JPEG",
      "image3Path": "t/c.JPEG",
      "selected_image": f"t/{odd}.JPEG",
      "triplet_type": kind,
      "exp_trial_type": "exp_trial",
      "time": 900.0,
      **more,
    }

  people = {
    "p1": [
      trial("within_class", "a"),
      trial("class_border", "c"),
      trial("within_class", "b", exp_trial_type="catch"),
    ],
    "p2": [trial("within_class", "b")],
  }
  path = tmp_path / "pruned_dataset.pkl"
  path.write_bytes(pickle.dumps(people))
  with pytest.raises(artifacts.InputError, match="123,043"):
    convert.levels(path, tmp_path)
  tables = convert.levels(path, tmp_path, check_counts=False, rt_field="time")
  arrays = artifacts.read_npz(tmp_path / "levels.npz")
  assert set(arrays) == {"triplets", "level", "participant", "rt"}
  assert arrays["triplets"].tolist() == [[1, 2, 0], [0, 1, 2], [0, 2, 1]]
  assert arrays["triplets"].dtype == np.int32
  assert arrays["level"].tolist() == [1, 2, 1]
  assert arrays["participant"].tolist() == [0, 0, 1]
  np.testing.assert_allclose(arrays["rt"], 0.9, rtol=1e-6, atol=0)
  assert json.loads((tmp_path / "stimuli.json").read_text()) == {
    "levels": ["coarse", "fine", "boundary"],
    "stimuli": ["a", "b", "c"],
  }
  assert [row["rows"] for row in tables.values()] == [3, 0, 2, 1]


def write_csv(path, np_rng, num=200):
  lines = ["image1,image2,image3,odd,participant,rt"]
  triplets = np_rng.random((40, 11)).argsort(axis=1)[:, :3]
  answers = []
  for i in range(num):
    a, b, c = (f"i{item:02}.jpg" for item in triplets[i % 40])
    odd = (a, b, c)[np_rng.integers(3)]
    lines.append(f"{a},{b},{c},{odd},p{i % 5},{1.5 + i / 100}")
    answers.append(([x for x in (a, b, c) if x != odd], odd))
  path.write_text("\n".join(lines))
  return answers


def test_experiment(tmp_path, np_rng):
  answers = write_csv(tmp_path / "mine.csv", np_rng)
  tables = convert.lab_experiment(
    tmp_path / "mine.csv", tmp_path, test_fraction=0.2
  )
  stimuli = artifacts.read_json(tmp_path / "stimuli.json")["stimuli"]
  train = artifacts.read_npy(tmp_path / "triplets_train.npy")
  test = artifacts.read_npy(tmp_path / "triplets_test.npy")
  both = [
    (sorted([stimuli[a], stimuli[b]]), stimuli[odd])
    for a, b, odd in np.concatenate([train, test]).tolist()
  ]
  assert sorted(both) == sorted((sorted(two), odd) for two, odd in answers)
  assert len(test) == 40
  assert not convert.is_among(train, test).any()
  assert tables["triplets_train.npy"]["participants"] == 5
  repeats = artifacts.read_npz(tmp_path / "repeats.npz")
  # Each triplet was answered five times, and those of the test are repeats.
  assert (repeats["odd_counts"].sum(axis=1) % 5 == 0).all()
  assert repeats["odd_counts"].sum() == 40
  assert convert.is_among(repeats["triplets"], test).all()
  # Each answer of the test is with its person and time.
  held_out = artifacts.read_npz(tmp_path / "answers_test.npz")
  told = zip(
    *(held_out[k].tolist() for k in ("participant", "rt")), strict=True
  )
  for answer, (person, rt) in zip(both[len(train) :], told, strict=True):
    line = round((rt - 1.5) * 100)
    assert answer == (sorted(answers[line][0]), answers[line][1])
    assert person == line % 5


def test_experiment_without_test(tmp_path, np_rng):
  write_csv(tmp_path / "mine.csv", np_rng)
  tables = convert.lab_experiment(
    tmp_path / "mine.csv", tmp_path, test_fraction=0
  )
  assert set(tables) == {"triplets_train.npy"}
  assert tables["triplets_train.npy"]["rows"] == 200
  # Then all answers are what an evaluation is about.
  told = artifacts.read_npz(tmp_path / "answers_train.npz")
  assert told["participant"].shape == told["rt"].shape == (200,)


def test_experiment_that_cannot_be_split(tmp_path):
  (tmp_path / "a.csv").write_text("image1,image2,image3,odd\na,b,c,a\n")
  with pytest.raises(artifacts.InputError, match="test_fraction 0.1"):
    convert.lab_experiment(tmp_path / "a.csv", tmp_path)


def test_jspsych(tmp_path):
  trials = [
    {"stimulus": ["a", "b", "c"], "response": i % 3, "rt": 900}
    for i in range(4)
  ]
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "p1.json").write_text(json.dumps(trials))
  (tmp_path / "in" / "p2.json").write_text(json.dumps(trials))
  for path, num in ((tmp_path / "in", 8), (tmp_path / "in" / "p1.json", 4)):
    out = tmp_path / str(num)
    out.mkdir()
    tables = convert.lab_experiment(path, out, test_fraction=0)
    assert tables["triplets_train.npy"]["rows"] == num


def test_unit_of_reaction_times_is_passed_on(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text("image1,image2,image3,odd,rt\na,b,c,a,900\n")
  with pytest.raises(artifacts.InputError, match="milliseconds"):
    convert.lab_experiment(path, tmp_path, test_fraction=0)
  convert.lab_experiment(path, tmp_path, test_fraction=0, rt_unit="ms")


def test_peterson_takes_the_matrix_named(tmp_path):
  np.save(tmp_path / "a.npy", [[9.0, 7, 1], [7, 9, 2], [1, 2, 9]])
  tables = convert.similarities("peterson", tmp_path / "a.npy", tmp_path)
  arrays = artifacts.read_npz(tmp_path / "rdm.npz")
  assert arrays["rdm"].tolist() == [[0, 0, 6], [0, 0, 5], [6, 5, 0]]
  assert tables == {"rdm.npz": {"items": 3, "pairs": 3, "participants": None}}
  with pytest.raises(artifacts.InputError, match="only a .mat file"):
    convert.similarities(
      "peterson", tmp_path / "a.npy", tmp_path, variable="simMatrix"
    )


@pytest.mark.parametrize("name", ["rdm48", "mur92", "king", "cichy"])
def test_other_files_are_errors(tmp_path, name):
  (tmp_path / "a.mat").write_bytes(bytes(200))
  with pytest.raises(artifacts.InputError, match="a.mat"):
    convert.similarities(name, tmp_path / "a.mat", tmp_path)


@pytest.mark.parametrize(
  "name, path, num, people",
  [
    ("rdm48", "things/RDM48_triplet.mat", 48, None),
    ("mur92", "mur92/92_behavRDMs.mat", 92, 16),
  ],
)
def test_shared_matrices(tmp_path, shared_data, name, path, num, people):
  tables = convert.similarities(name, shared_data / path, tmp_path)
  arrays = artifacts.read_npz(tmp_path / "rdm.npz")
  assert arrays["rdm"].shape == (num, num)
  assert ("per_person" in arrays) == (people is not None)
  assert tables["rdm.npz"]["participants"] == people


def test_trials_of_a_json_can_be_chosen_by_a_field(tmp_path):
  answer = {"trial_type": "html-button-response", "task": "odd"}
  answer |= {"images": ["a", "b", "c"], "response": 1, "rt": 900}
  consent = {"trial_type": "html-button-response", "response": 0, "rt": 800}
  path = tmp_path / "answers.json"
  path.write_text(json.dumps([consent, answer, answer]), encoding="utf-8")
  with pytest.raises(artifacts.InputError, match="--where FIELD=VALUE"):
    convert.lab_experiment(path, tmp_path, test_fraction=0)
  convert.lab_experiment(
    path, tmp_path, test_fraction=0, where=[("task", "odd")]
  )
  assert np.load(tmp_path / "triplets_train.npy").tolist() == [[0, 2, 1]] * 2
  csv = tmp_path / "a.csv"
  csv.write_text("image1,image2,image3,odd\na,b,c,a\n", encoding="utf-8")
  with pytest.raises(artifacts.InputError, match="in a json only"):
    convert.lab_experiment(csv, tmp_path, where=[("task", "odd")])
