"""Config files, their arguments, single fields, and what a typo is told."""

import re

import ml_collections
import pytest
from ml_collections import config_dict

from alignet_jax import artifacts, config

CONFIG = """
import ml_collections
from alignet_jax import config as config_lib

WIDTH = 7

def get_config(arg=""):
  arg = config_lib.parse_arg(arg, runlocal=False, seed=0)
  config = ml_collections.ConfigDict()
  config.seed = arg.seed
  config.width = WIDTH if arg.runlocal else 10 * WIDTH
  return config
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A working directory with configs/experiment.py in it, and no others."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(config, "PACKAGE", tmp_path / "site" / "alignet_jax")
  (tmp_path / "configs").mkdir()
  path = tmp_path / "configs" / "experiment.py"
  path.write_text(CONFIG, encoding="utf-8")
  return tmp_path


def _example():
  example = ml_collections.ConfigDict(
    {
      "seed": 3,
      "teacher": {
        "lr": 0.1,
        "num_steps": 100,
        "center": True,
        "path": "",
        "strengths": (0.5, 1.0),
        "sizes": (2, 3),
        "names": ("a", "b"),
        "mixed": ("a", 1),
        "any": (),
        "numbers": [1, 2],
        "nothing": None,
        "waiting": config_dict.placeholder(str),
        "deep": {"x": 1},
      },
      "student": {"warmup": 5},
    }
  )
  return example.lock()


def _error(function, *args, **kwargs):
  with pytest.raises(artifacts.InputError) as info:
    function(*args, **kwargs)
  return str(info.value)


@pytest.mark.parametrize(
  ("spec", "path", "arg"),
  [
    ("configs/a.py", "configs/a.py", ""),
    ("configs/a.py:", "configs/a.py", ""),
    ("configs/a.py:runlocal,seed=1", "configs/a.py", "runlocal,seed=1"),
    ("a:b/c.py:d", "a:b/c.py", "d"),
    ("configs/a.py:path=b.py:c", "configs/a.py", "path=b.py:c"),
    ("configs/a:d", "configs/a", "d"),
  ],
)
def test_split(spec, path, arg):
  assert config.split(spec) == (path, arg)


def test_load_runs_the_file_with_its_argument_and_locks(folder):
  loaded = config.load("configs/experiment.py:runlocal,seed=5")
  assert (loaded.seed, loaded.width) == (5, 7)
  assert loaded.is_locked
  assert config.load("configs/experiment.py").width == 70
  assert config.load(str(folder / "configs" / "experiment.py")).width == 70


def test_load_sees_an_edit_within_the_same_second(folder, monkeypatch):
  monkeypatch.setattr("sys.dont_write_bytecode", False)
  path = folder / "configs" / "experiment.py"
  assert config.load("configs/experiment.py:runlocal").width == 7
  path.write_text(CONFIG.replace("WIDTH = 7", "WIDTH = 8"), encoding="utf-8")
  assert config.load("configs/experiment.py:runlocal").width == 8
  assert [p.name for p in path.parent.iterdir()] == ["experiment.py"]


@pytest.mark.parametrize("place", ["repository", "wheel"])
def test_load_looks_beside_the_package_and_inside(folder, place):
  base = config.PACKAGE if place == "wheel" else config.PACKAGE.parent
  (base / "configs").mkdir(parents=True)
  (base / "configs" / "far.py").write_text(CONFIG, encoding="utf-8")
  assert config.load("configs/far.py").width == 70
  assert "nearest one is site" in _error(config.load, "configs/fra.py")


def test_a_missing_config_file_gives_the_nearest(folder):
  (folder / "script.py").write_text("print()", encoding="utf-8")
  message = _error(config.load, "configs/experimant.py:seed=1")
  assert "no config file configs/experimant.py" in message
  assert "nearest one is configs/experiment.py" in message
  message = _error(config.load, "script_.py")
  assert message.endswith("there are: experiment.")


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("def get_config(arg:\n", r"line 1: SyntaxError"),
    ("\n\ndef get_config(arg=''):\n  return 1 / 0", r"line 4: ZeroDivision"),
    ("import not_there", r"line 1: ModuleNotFoundError.*not_there"),
    ("x = 1", r"no function get_config"),
    ("def get_config(arg=''):\n  return {}", r"returned dict"),
    ("def get_config():\n  return {}", r"TypeError.*get_config"),
  ],
)
def test_a_broken_config_file_is_named_with_the_line(folder, text, sentence):
  (folder / "configs" / "broken.py").write_text(text, encoding="utf-8")
  message = _error(config.load, "configs/broken.py")
  assert message.startswith("configs/broken.py")
  assert re.search(sentence, message)


def test_an_unknown_argument_of_a_config_names_file_and_nearest(folder):
  message = _error(config.load, "configs/experiment.py:runlokal")
  assert message.startswith("configs/experiment.py")
  assert "'runlokal'" in message
  assert "Did you mean 'runlocal'" in message


def test_parse_arg_reads_each_type():
  defaults = {"runlocal": False, "big": True, "seed": 0, "lr": 1.0, "name": "a"}
  assert config.parse_arg("", **defaults).to_dict() == defaults
  parsed = config.parse_arg(
    "runlocal,big=false,seed=-2,lr=3,name=b", **defaults
  )
  assert parsed.to_dict() == {
    "runlocal": True,
    "big": False,
    "seed": -2,
    "lr": 3.0,
    "name": "b",
  }
  assert isinstance(parsed.lr, float)


@pytest.mark.parametrize(
  ("arg", "sentence"),
  [
    ("seed", "'seed' needs a value of type int, such as seed=0"),
    ("seed=x", "argument seed is an int .*'x' is not"),
    ("seed=1.5", "'1.5' is not"),
    ("runlocal=1", "runlocal is true or false .*'1' is not"),
    ("sead=1", "Did you mean 'seed'"),
  ],
)
def test_parse_arg_explains(arg, sentence):
  message = _error(config.parse_arg, arg, runlocal=False, seed=0)
  assert re.search(sentence, message)


@pytest.mark.parametrize(
  ("field", "text", "value"),
  [
    ("seed", "4", 4),
    ("teacher.lr", "1e-3", 1e-3),
    ("teacher.lr", "2", 2.0),
    ("teacher.lr", "inf", float("inf")),
    ("teacher.center", "false", False),
    ("teacher.center", "False", False),
    ("teacher.path", "1", "1"),
    ("teacher.path", "", ""),
    ("teacher.path", "a=b,c", "a=b,c"),
    ("teacher.strengths", "(1,2.5)", (1.0, 2.5)),
    ("teacher.strengths", "1,2.5", (1.0, 2.5)),
    ("teacher.strengths", "[3]", (3.0,)),
    ("teacher.strengths", "", ()),
    ("teacher.strengths", "()", ()),
    ("teacher.sizes", "(5,)", (5,)),
    ("teacher.names", "x, y", ("x", "y")),
    ("teacher.names", "('x,1', 'y')", ("x,1", "y")),
    ("teacher.names", "01,2.50", ("01", "2.50")),
    ("teacher.names", "'x'", ("x",)),
    ("teacher.mixed", "('b', 2, 3)", ("b", 2, 3)),
    ("teacher.any", "a,1,2.5,true", ("a", 1, 2.5, True)),
    ("teacher.numbers", "7,8,9", [7, 8, 9]),
    ("teacher.nothing", "3", 3),
    ("teacher.nothing", "a/b", "a/b"),
    ("teacher.waiting", "3", "3"),
    ("teacher.deep.x", "2", 2),
  ],
)
def test_an_override_has_the_type_of_the_present_value(field, text, value):
  example = _example()
  before = example.to_json_best_effort()
  changed = config.apply_overrides(example, {field: text})
  got = changed
  for key in field.split("."):
    got = got[key]
  assert got == value
  assert type(got) is type(value)
  if isinstance(value, tuple):
    assert [type(item) for item in got] == [type(item) for item in value]
  assert changed.is_locked
  assert example.to_json_best_effort() == before


@pytest.mark.parametrize(
  ("field", "text", "parts"),
  [
    (
      "teacher.lrr",
      "1",
      ["config.teacher.lrr.", "mean config.teacher.lr?", "center, deep, lr,"],
    ),
    ("teachr.lr", "1", ["mean config.teacher?", "are: seed, student, teacher"]),
    ("warmup", "1", ["mean config.student.warmup?"]),
    ("teacher.deep.y", "1", ["mean config.teacher.deep.x?"]),
    ("seed.x", "1", ["config.seed is an int (now 3), not a group"]),
    ("teacher.deep", "1", ["config.teacher.deep is a group", "deep.x"]),
    ("seed", "1.5", ["config.seed is an int (now 3)", "'1.5' is not"]),
    ("seed", "", ["'' is not"]),
    ("teacher.lr", "fast", ["a float (now 0.1)", "'fast' is not"]),
    ("teacher.lr", "nan", ["'nan' is not"]),
    ("teacher.center", "1", ["true or false (now True)", "'1' is not"]),
    ("teacher.center", "yes", ["'yes' is not"]),
    ("teacher.sizes", "1,2.5", ["tuple (now (2, 3))", "'1,2.5' is not"]),
    ("teacher.sizes", "1,,2", ["'1,,2' is not"]),
    ("teacher.strengths", "1,a", ["'1,a' is not"]),
    ("teacher.mixed", "1,2.5", ["'1,2.5' is not"]),
  ],
)
def test_a_wrong_override_is_explained(field, text, parts):
  message = _error(config.apply_overrides, _example(), {field: text})
  for part in parts:
    assert part in message


def test_a_field_that_refers_to_another_follows_it():
  example = ml_collections.ConfigDict({"width": 4})
  example.mlp_dim = 4 * example.get_ref("width")
  changed = config.apply_overrides(example.lock(), {"width": "8"})
  assert changed.mlp_dim == 32
  assert example.mlp_dim == 16
