"""What runs, what is skipped, and what a kill leaves: with toy stages."""

import json
import os
import pathlib
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from alignet_jax import artifacts, pipeline, stages

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


class Toy:
  """Three stages: numbers (of config.count) -> sums -> words, and what ran."""

  def __init__(self, tmp_path):
    self.workdir = tmp_path / "run"
    self.ran = []
    self.lines = []
    self.contexts = {}
    self.external = {}
    self.config = ml_collections.ConfigDict(
      {
        "seed": 3,
        "stages": ("numbers", "sums", "words"),
        "numbers": {"count": 5, "offset": 0},
        "sums": {"modulo": 100, "names": ("a", "b")},
        "words": {"word": "x"},
      }
    )
    self.stages = tuple(
      pipeline.Stage(
        name=name,
        reads=reads,
        config_keys=(name, "absent"),
        run=getattr(self, f"_run_{name}"),
        external=lambda config, name=name: self.external.get(name, []),
      )
      for name, reads in (
        ("numbers", ()),
        ("sums", ("numbers",)),
        ("words", ("sums", "numbers")),
      )
    )

  def run(self, **settings):
    """Runs and returns (names of the stages that ran, lines of output)."""
    self.ran.clear()
    self.lines.clear()
    pipeline.run(
      self.stages, self.config, self.workdir, log=self.lines.append, **settings
    )
    return list(self.ran)

  def _start(self, name, context):
    self.ran.append(name)
    self.contexts[name] = context

  def _run_numbers(self, context):
    self._start("numbers", context)
    numbers = np.arange(context.config.numbers.count)
    artifacts.write_npy(context.out / "numbers.npy", numbers)
    return {"toy/count/base": len(numbers)}

  def _run_sums(self, context):
    self._start("sums", context)
    numbers = artifacts.read_npy(context.inputs["numbers"] / "numbers.npy")
    total = int(numbers.sum()) % context.config.sums.modulo
    artifacts.write_json(context.out / "sum.json", total)
    return {"toy/sum/base": float(total)}

  def _run_words(self, context):
    self._start("words", context)
    (context.out / "sub").mkdir()
    artifacts.write_text(
      context.out / "sub" / "words.txt", context.config.words.word
    )


@pytest.fixture
def toy(tmp_path, monkeypatch):
  # Waiting for the disk is tested in test_artifacts.py and slow.
  monkeypatch.setattr(os, "fsync", lambda descriptor: None)
  return Toy(tmp_path)


def _error(function, *args, **kwargs):
  with pytest.raises(artifacts.InputError) as info:
    function(*args, **kwargs)
  return str(info.value)


def _read_json(path):
  return json.loads(path.read_text(encoding="utf-8"))


def test_the_first_run_makes_all_and_the_second_nothing(toy):
  assert toy.run() == ["numbers", "sums", "words"]
  assert toy.lines[0] == "numbers: running"
  assert toy.run() == []
  assert toy.lines[:3] == [f"{name}: up to date" for name in toy.config.stages]
  assert sorted(os.listdir(toy.workdir)) == sorted(
    ["numbers", "sums", "words", "results.json", ".lock", ".partial"]
  )
  assert os.listdir(toy.workdir / ".partial") == []


def test_a_stage_sees_only_its_own_fields_frozen(toy):
  toy.run()
  context = toy.contexts["sums"]
  assert sorted(context.config) == ["seed", "sums"]
  assert context.config.seed == 3
  assert context.config.sums.names == ("a", "b")
  with pytest.raises(AttributeError):
    context.config.sums.modulo = 2
  assert dict(context.inputs) == {"numbers": toy.workdir / "numbers"}
  context.log("said by the stage")
  assert toy.lines[-1] == "said by the stage"


def test_a_changed_field_runs_its_stage_and_says_why(toy):
  toy.run()
  toy.config.words.word = "y"
  assert toy.run() == ["words"]
  assert 'words: running (changed: config.words.word "x" -> "y")' in toy.lines
  assert (toy.workdir / "words" / "sub" / "words.txt").read_text() == "y"


def test_what_depends_on_a_changed_output_runs_too(toy):
  toy.run()
  toy.config.numbers.count = 6
  assert toy.run() == ["numbers", "sums", "words"]
  assert "sums: running (changed: output of numbers)" in toy.lines
  assert (
    "words: running (changed: output of numbers, output of sums)" in toy.lines
  )


def test_equal_outputs_of_a_stage_that_ran_change_nothing_after_it(toy):
  toy.run()
  toy.config.numbers.offset = 1
  assert toy.run() == ["numbers"]
  assert "sums: up to date" in toy.lines


def test_metrics_are_part_of_what_later_stages_depend_on(toy):
  toy.run()
  toy.config.numbers.offset = 1
  numbers = toy.stages[0].run

  def with_another_metric(context):
    return {**numbers(context), "toy/more/base": 1}

  stage = pipeline.dataclasses.replace(toy.stages[0], run=with_another_metric)
  toy.stages = (stage, *toy.stages[1:])
  assert toy.run() == ["numbers", "sums", "words"]


def test_the_seed_belongs_to_every_stage(toy):
  toy.run()
  toy.config.seed = 4
  assert toy.run() == ["numbers", "sums", "words"]
  assert "numbers: running (changed: config.seed 3 -> 4)" in toy.lines


def test_many_changes_are_counted(toy):
  toy.run()
  with toy.config.unlocked():
    toy.config.words.update({"a": 1, "b": 2, "c": 3, "d": 4})
  toy.run()
  assert toy.lines[2] == (
    "words: running (changed: config.words.a (none) -> 1, config.words.b"
    " (none) -> 2, config.words.c (none) -> 3, 1 more fields)"
  )


def test_tuple_or_list_and_order_of_fields_are_no_change(toy):
  toy.run()
  toy.config.sums = ml_collections.ConfigDict(
    {"names": ["a", "b"], "modulo": 100}
  )
  assert toy.run() == []


def test_a_stage_left_out_of_the_config_is_neither_run_nor_read(toy):
  toy.config.stages = ("numbers", "words")
  assert toy.run() == ["numbers", "words"]
  assert list(toy.contexts["words"].inputs) == ["numbers"]
  toy.config.stages = ("numbers", "sums", "words")
  assert toy.run() == ["sums", "words"]
  assert "words: running (changed: output of sums)" in toy.lines


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_damaged_artefact_is_made_again(toy, how):
  toy.run()
  path = toy.workdir / "words" / "sub" / "words.txt"
  path.unlink() if how == "gone" else path.write_bytes(b"")
  assert toy.run() == ["words"]
  assert "words: running (its file sub/words.txt is damaged)" in toy.lines
  assert path.read_text() == "x"


def _flip(path):
  """Changes a byte of a file and leaves its size."""
  content = path.read_bytes()
  path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_what_a_stage_reads_is_made_again_if_its_content_is_damaged(toy):
  toy.run()
  path = toy.workdir / "numbers" / "numbers.npy"
  intact = path.read_bytes()
  _flip(path)
  toy.config.sums.modulo = 7
  # The numbers come out as they were, so words are up to date but for sums.
  assert toy.run() == ["numbers", "sums", "words"]
  assert "numbers: running (its file numbers.npy is damaged)" in toy.lines
  assert path.read_bytes() == intact
  assert _read_json(toy.workdir / "sums" / "sum.json") == 3


def test_damage_is_found_in_what_a_damaged_stage_reads_in_turn(toy):
  toy.run()
  _flip(toy.workdir / "numbers" / "numbers.npy")
  _flip(toy.workdir / "sums" / "sum.json")
  toy.config.words.word = "y"
  toy.stages = (
    *toy.stages[:2],
    pipeline.dataclasses.replace(toy.stages[2], reads=("sums",)),
  )
  assert toy.run() == ["numbers", "sums", "words"]


def test_damage_in_a_stage_that_is_not_selected_is_an_error_with_remedy(toy):
  toy.run()
  _flip(toy.workdir / "numbers" / "numbers.npy")
  toy.config.sums.modulo = 7
  message = _error(toy.run, only=["sums"])
  assert (
    "The stage sums reads numbers, which is not up to date (its file"
    " numbers.npy is damaged). Run it too: --stages=numbers,sums," in message
  )
  assert toy.ran == []
  assert toy.run(only=["numbers", "sums"]) == ["numbers", "sums"]


def test_contents_are_read_only_of_what_a_stage_that_runs_reads(
  toy, monkeypatch
):
  toy.run()
  hashed = []
  sha256_file = artifacts.sha256_file

  def spy(path):
    hashed.append(path.relative_to(toy.workdir).as_posix())
    return sha256_file(path)

  monkeypatch.setattr(artifacts, "sha256_file", spy)
  _flip(toy.workdir / "words" / "sub" / "words.txt")
  assert toy.run() == []
  assert hashed == []
  toy.config.sums.modulo = 7
  assert toy.run(only=["sums"]) == ["sums"]
  assert hashed == ["numbers/numbers.npy", ".partial/sums/sum.json"]


def test_a_long_reading_is_announced(toy, monkeypatch):
  toy.run()
  monkeypatch.setattr(pipeline.workdir_lib, "LARGE_FILE", 10)
  toy.config.sums.modulo = 7
  toy.run()
  assert toy.lines[0] == "numbers: reading 0.0 GB for damage"


def test_a_corrupt_manifest_counts_as_none_and_is_said(toy):
  toy.run()
  (toy.workdir / "sums" / "manifest.json").write_text("{")
  assert toy.run() == ["sums"]
  assert "sums: its manifest is not usable" in toy.lines[0]
  assert str(toy.workdir / "sums" / "manifest.json") in toy.lines[0]


def test_the_manifest_says_where_an_artefact_comes_from(toy, tmp_path):
  path = tmp_path / "input.txt"
  path.write_bytes(b"abc")
  toy.external["sums"] = [artifacts.ExternalInput("sums.path", path, "get it")]
  toy.run()
  numbers = _read_json(toy.workdir / "numbers" / "manifest.json")
  sums = _read_json(toy.workdir / "sums" / "manifest.json")
  assert sums["stage"] == "sums"
  assert sums["config"] == {
    "seed": 3,
    "sums": {"modulo": 100, "names": ["a", "b"]},
  }
  assert sums["seed"] == 3
  assert sums["inputs"] == {"numbers": numbers["digest"]}
  assert sums["external"] == {str(path): artifacts.sha256_file(path)}
  assert sums["outputs"]["sum.json"] == {
    "bytes": 3,
    "sha256": artifacts.sha256_file(toy.workdir / "sums" / "sum.json"),
  }
  assert sums["metrics"] == {"toy/sum/base": 10.0}
  assert {"alignet_jax", "python", "jax", "numpy"} <= set(sums["versions"])
  assert sums["seconds"] >= 0
  assert sums["created"].endswith("+00:00")


def test_results_are_flat_sorted_and_the_numbers_of_the_table(toy):
  metrics = pipeline.run(
    toy.stages, toy.config, toy.workdir, log=toy.lines.append
  )
  assert metrics == {"toy/count/base": 5, "toy/sum/base": 10.0}
  assert _read_json(toy.workdir / "results.json") == metrics
  table = "\n              base\ntoy/count        5\ntoy/sum    10.0000\n"
  assert toy.lines[-2:] == [table, f"results: {toy.workdir / 'results.json'}"]


def test_the_report_is_named_if_there_is_one(toy):
  def write_report(context):
    artifacts.write_text(context.out / "report.html", "<html>")

  toy.stages = (*toy.stages, pipeline.Stage("report", (), (), write_report))
  toy.config.stages = (*toy.config.stages, "report")
  toy.run()
  path = toy.workdir / "report" / "report.html"
  assert toy.lines[-1] == f"report: {path}"


def test_results_are_gone_while_a_stage_has_to_run(toy):
  toy.run()
  toy.config.words.word = "y"
  words = toy.stages[2].run
  existed = []

  def look(context):
    existed.append((toy.workdir / "results.json").exists())
    words(context)

  stage = pipeline.dataclasses.replace(toy.stages[2], run=look)
  toy.stages = (*toy.stages[:2], stage)
  toy.run()
  assert existed == [False]
  assert (toy.workdir / "results.json").exists()


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf")])
def test_a_metric_that_is_not_finite_stops_the_run_by_name(toy, value):
  stage = pipeline.Stage("bad", (), (), lambda context: {"levels/x": value})
  toy.stages = (stage,)
  toy.config.stages = ("bad",)
  with pytest.raises(ValueError, match="levels/x of stage bad is (nan|inf)"):
    toy.run()
  assert not (toy.workdir / "bad").exists()
  assert toy.lines[-1] == "bad: failed"


def test_a_stage_that_fails_leaves_the_old_artefact_and_the_ones_before(toy):
  toy.run()
  toy.config.numbers.count = 6
  toy.config.sums.modulo = 0
  with pytest.raises(ZeroDivisionError):
    toy.run()
  assert _read_json(toy.workdir / "sums" / "sum.json") == 10
  assert not (toy.workdir / "results.json").exists()
  toy.config.sums.modulo = 100
  assert toy.run() == ["sums", "words"]
  assert _read_json(toy.workdir / "sums" / "sum.json") == 15
  # Back again: the artefacts of the first config are replaced, not mixed.
  toy.config.numbers.count = 5
  assert toy.run() == ["numbers", "sums", "words"]


def test_before_first_is_called_once_and_only_if_something_runs(toy):
  calls = []
  toy.run(before_first=lambda: calls.append(list(toy.ran)))
  assert calls == [[]]
  toy.run(before_first=lambda: calls.append("again"))
  assert calls == [[]]


# --- --stages


def test_only_the_stages_named_run(toy):
  assert toy.run(only=["numbers"]) == ["numbers"]
  assert _read_json(toy.workdir / "results.json") == {"toy/count/base": 5}
  assert toy.run(only=["words", "sums"]) == ["sums", "words"]
  assert toy.run(only=["sums"]) == []


def test_a_missing_or_stale_upstream_is_an_error_that_names_what_to_run(toy):
  message = _error(toy.run, only=["words"])
  assert "The stage words reads sums, which is not up to date." in message
  assert "--stages=numbers,sums,words" in message
  toy.run()
  toy.config.sums.modulo = 7
  message = _error(toy.run, only=["words"])
  assert "The stage words reads sums" in message
  assert "--stages=sums,words" in message
  assert toy.ran == []
  assert (toy.workdir / "results.json").exists()


def test_results_of_stages_that_are_not_up_to_date_are_left_out(toy):
  toy.run()
  toy.config.sums.modulo = 7
  assert toy.run(only=["numbers"]) == []
  assert _read_json(toy.workdir / "results.json") == {"toy/count/base": 5}


def test_an_unknown_stage_gives_the_nearest(toy):
  message = _error(toy.run, only=["sumz"])
  assert "no stage 'sumz'" in message
  assert "Did you mean 'sums'? There are: numbers, sums, words." in message
  toy.config.stages = ("numbers", "wrods")
  message = _error(toy.run)
  assert "config.stages has 'wrods'" in message
  assert "Did you mean 'words'?" in message


@pytest.mark.parametrize("field", ["seed", "stages"])
def test_a_config_without_seed_or_stages_is_explained(toy, field):
  del toy.config[field]
  assert f"no field '{field}'" in _error(toy.run)


# --- files outside the workdir


def test_every_missing_input_is_named_before_anything_runs(toy, tmp_path):
  present = tmp_path / "present"
  present.write_bytes(b"abc")
  External = artifacts.ExternalInput
  toy.external["numbers"] = [
    External("numbers.a", None, "from page A"),
    External("numbers.b", "", "from page B"),
    External("numbers.here", present, "not printed"),
    External("numbers.unset", None, "not printed", optional=True),
  ]
  toy.external["words"] = [
    External("words.c", tmp_path / "none", "run command C"),
    External("words.d", tmp_path / "typo", "optional, but set", optional=True),
    External("numbers.a", None, "from page A"),
  ]
  assert _error(toy.run).splitlines() == [
    "4 inputs are missing:",
    "  config.numbers.a is not set",
    "    from page A",
    "  config.numbers.b is not set",
    "    from page B",
    f"  config.words.c is {tmp_path / 'none'}, which does not exist",
    "    run command C",
    f"  config.words.d is {tmp_path / 'typo'}, which does not exist",
    "    optional, but set",
  ]
  assert toy.ran == []


def test_inputs_of_stages_that_do_not_run_may_be_missing(toy, tmp_path):
  missing = artifacts.ExternalInput("words.c", tmp_path / "none", "C")
  toy.external["words"] = [missing]
  assert toy.run(only=["numbers", "sums"]) == ["numbers", "sums"]
  assert "1 input is missing" in _error(toy.run)


def test_missing_inputs_are_said_before_any_file_is_hashed(toy, tmp_path):
  large = tmp_path / "large"
  large.write_bytes(b"abc")
  toy.external["numbers"] = [artifacts.ExternalInput("numbers.a", large, "")]
  toy.run()
  os.utime(large, ns=(1, 1))
  toy.config.words.word = "y"
  toy.external["words"] = [artifacts.ExternalInput("words.c", None, "C")]
  hashes = (toy.workdir / ".hashes.json").read_bytes()
  _error(toy.run)
  assert (toy.workdir / ".hashes.json").read_bytes() == hashes


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_changed_content_of_an_input_runs_its_stage(toy, tmp_path, kind):
  path = tmp_path / "input"
  inside = path / "x" if kind == "folder" else path
  inside.parent.mkdir(exist_ok=True)
  inside.write_bytes(b"abc")
  toy.external["sums"] = [artifacts.ExternalInput("sums.path", path, "")]
  toy.run()
  assert toy.run() == []
  inside.write_bytes(b"abcd")
  assert toy.run() == ["sums"]
  assert f"sums: running (changed: content of {path})" in toy.lines
  other = tmp_path / "other"
  other.write_bytes(b"")
  toy.external["sums"].append(artifacts.ExternalInput("sums.more", other, ""))
  assert toy.run() == ["sums"]
  assert f"sums: running (changed: whether {other} is read)" in toy.lines


def test_an_artefact_outlives_the_file_it_was_made_from(toy, tmp_path):
  path = tmp_path / "input"
  path.write_bytes(b"abc")
  toy.external["sums"] = [artifacts.ExternalInput("sums.path", path, "")]
  toy.run()
  path.unlink()
  assert toy.run() == []
  toy.config.sums.modulo = 7
  assert f"config.sums.path is {path}, which" in _error(toy.run)


# --- kills


def test_scratch_survives_a_failure_of_the_same_work_only(toy):
  words = toy.stages[2].run
  found = []

  def fail_once(context):
    found.append(sorted(os.listdir(context.scratch)))
    (context.scratch / context.config.words.word).write_text("")
    if context.config.words.word != "z":
      raise RuntimeError
    words(context)

  stage = pipeline.dataclasses.replace(toy.stages[2], run=fail_once)
  toy.stages = (*toy.stages[:2], stage)
  for word in ("x", "x", "y", "x"):
    toy.config.words.word = word
    with pytest.raises(RuntimeError):
      toy.run()
  # The third run has other work, and throws away what the first two did.
  assert found == [[], ["x"], [], []]
  toy.config.words.word = "z"
  toy.run()
  assert os.listdir(toy.workdir / ".partial") == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_stop_says_where_and_that_the_command_goes_on(toy, error):
  def stop(context):
    raise error

  stage = pipeline.dataclasses.replace(toy.stages[1], run=stop)
  toy.stages = (toy.stages[0], stage, toy.stages[2])
  with pytest.raises(error):
    toy.run()
  assert toy.lines[-1] == (
    "stopped in stage sums; the same command goes on from there"
  )


# Runs in a process without threads, because it forks. The child of round n
# kills itself before its n-th change of the disk; the next child goes on.
KILLS = """
import os, pathlib, shutil, signal, sys
import ml_collections
from alignet_jax import artifacts, manifest, pipeline

def make(context):
  done = context.scratch / "done"
  count = int(done.read_text()) if done.exists() else 0
  for i in range(count, 2):
    artifacts.write_text(done, str(i + 1))
  upstream = [(p / "value").read_text() for p in context.inputs.values()]
  value = "+".join([*upstream, context.config.word])
  artifacts.write_text(context.out / "value", value)
  return {f"{context.out.name}/length/{context.config.word}": len(value)}

STAGES = tuple(
  pipeline.Stage(name, reads, ("word",), make)
  for name, reads in (("a", ()), ("b", ("a",))))

def run(workdir, word, kill_at=None):
  if child := os.fork():
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  count = [0]
  def counted(function):
    def call(*args, **kwargs):
      count[0] += 1
      if count[0] == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
      return function(*args, **kwargs)
    return call
  os.fsync = lambda descriptor: None  # slow; a kill loses nothing of it
  for name in ("replace", "rename", "mkdir", "rmdir", "unlink", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
  config = ml_collections.ConfigDict(
    {"seed": 0, "stages": ("a", "b"), "word": word})
  try:
    pipeline.run(STAGES, config, workdir, log=lambda line: None)
  except BaseException as error:
    print(repr(error), flush=True)
    os._exit(1)
  os._exit(0)

def content(workdir):
  return {
    str(p.relative_to(workdir)): p.is_file() and p.read_bytes()
    for p in sorted(workdir.rglob("*"))
    if p.name not in ("manifest.json", ".lock")}

manifest.versions()  # fills the caches that all children share
root = pathlib.Path(sys.argv[1])
assert run(root / "before", "old") == 0
before = content(root / "before")
assert run(root / "whole", "new") == 0
expected = content(root / "whole")
assert expected["b/value"] == b"new+new", expected
kill_at, code = 0, -signal.SIGKILL
while code == -signal.SIGKILL:
  kill_at += 1
  workdir = root / str(kill_at)
  shutil.copytree(root / "before", workdir)
  code = run(workdir, "new", kill_at)
  assert code in (0, -signal.SIGKILL), code
  left = content(workdir)
  # Finished numbers are there only beside the artefacts that they belong to.
  if "results.json" in left:
    whole = expected if b"new" in left["results.json"] else before
    assert all(left[name] == whole[name] for name in whole), (kill_at, left)
  assert run(workdir, "new") == 0, kill_at
  assert content(workdir) == expected, (kill_at, content(workdir), expected)
print(kill_at)
"""


def test_a_kill_before_any_change_of_the_disk_ends_in_the_same_files(tmp_path):
  run = subprocess.run(
    [sys.executable, "-c", KILLS, str(tmp_path)],
    capture_output=True,
    text=True,
    cwd=REPOSITORY,
  )
  assert run.returncode == 0, run.stdout + run.stderr
  assert int(run.stdout) > 40


# --- the real stages


def test_the_real_stages_stand_in_order_and_import_nothing_heavy():
  code = (
    "import sys; from alignet_jax import main, stages; stages.stages();"
    "heavy = {'jax', 'tensorflow', 'matplotlib', 'scipy'};"
    "print(sorted(heavy & set(sys.modules)))"
  )
  run = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    check=True,
    cwd=REPOSITORY,
  )
  assert run.stdout == "[]\n"
  seen = set()
  for stage in stages.stages():
    assert set(stage.reads) <= seen
    seen.add(stage.name)
  assert len(seen) == 12


def test_stages_out_of_order_are_a_mistake_of_the_programmer(toy):
  toy.stages = toy.stages[::-1]
  with pytest.raises(ValueError, match="sums must stand before words"):
    toy.run()


def test_other_processes_run_the_stages_of_all_hosts_only(
  tmp_path, monkeypatch
):
  messages = iter(
    [{"stage": "b", "scratch": ".partial/b.scratch-1"}, {"done": {"m": 1.0}}]
  )
  monkeypatch.setattr(pipeline.distributed, "is_main", lambda: False)
  monkeypatch.setattr(pipeline.distributed, "broadcast", lambda: next(messages))
  contexts = []

  def run_b(context):
    (context.out / "x.json").write_text("1")
    contexts.append(context)

  config = ml_collections.ConfigDict({"seed": 3, "stages": ("a", "b")})
  stages = (
    pipeline.Stage("a", (), (), run=None),
    pipeline.Stage("b", ("a",), (), run=run_b, all_hosts=True),
  )
  assert pipeline.run(stages, config, tmp_path) == {"m": 1.0}
  (context,) = contexts
  assert context.config.seed == 3
  assert context.inputs == {"a": tmp_path / "a"}
  assert context.scratch == tmp_path / ".partial" / "b.scratch-1"
  assert not context.out.exists() and os.listdir(tmp_path) == []
