"""Runs the stages of an experiment, each only if it has to.

A stage reads the artefacts of earlier stages and makes one of its own, a folder
with a manifest. It is up to date while its part of the config, the outputs of
the stages that it reads, and its files outside the workdir are those that the
manifest names. So a changed config re-runs what depends on it, and a run that
was stopped, by whatever means, goes on with the same command. What a stage is
about to read is compared with the manifest first, byte by byte; where nothing
has to run, sizes are enough.

Where several processes run together (see `distributed`), process 0 decides and
writes all artefacts. The others wait until it comes to a stage with
`all_hosts`, run that beside it, and throw away what they write into their own
`out`.

Usage:
  metrics = run(stages.stages(), config, "runs/quickstart")
"""

import dataclasses
import datetime
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping

import ml_collections

from alignet_jax import artifacts, distributed, manifest, progress, results
from alignet_jax import config as config_lib
from alignet_jax import workdir as workdir_lib

# How many changes of a config are named in the line that says why.
MAX_CHANGES = 3


@dataclasses.dataclass(frozen=True)
class StageContext:
  """What a stage is given.

  Attributes:
    config: The top-level fields that the stage declares, and `seed`; frozen.
    out: Empty folder to write into; it becomes the artefact.
    scratch: Folder that survives a kill, for checkpoints. It belongs to this
      config and these inputs, and is removed when the stage is complete.
    inputs: Upstream stage -> folder of its artefact; only those that the config
      includes.
    log: Prints one line.
    logs: Folder for what one watches while the stage runs, such as curves. It
      is no part of the artefact, stays, and is not to be read by stages. None
      where there is none.
  """

  config: ml_collections.ConfigDict
  out: pathlib.Path
  scratch: pathlib.Path
  inputs: Mapping[str, pathlib.Path]
  log: Callable[[str], None]
  logs: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Stage:
  """A step of the experiment.

  Attributes:
    name: Its name, which is also that of its folder.
    reads: Names of earlier stages whose artefacts it reads.
    config_keys: Top-level config fields that it depends on, besides `seed`.
    run: Makes the artefact; returns metrics, flat name -> number, or None.
    external: Lists the files outside the workdir that it reads, given the part
      of the config that the stage sees. Must be quick.
    all_hosts: Whether all processes run it together, if there are several. Its
      `out` is then the artefact in process 0 only; its scratch folder is one.
  """

  name: str
  reads: tuple[str, ...]
  config_keys: tuple[str, ...]
  run: Callable[[StageContext], Mapping[str, float] | None]
  external: Callable[
    [ml_collections.ConfigDict], list[artifacts.ExternalInput]
  ] = lambda config: []
  all_hosts: bool = False


def run(
  stages,
  config,
  workdir,
  *,
  only=None,
  before_first=None,
  log=progress.write,
):
  """Brings the artefacts in a workdir up to date.

  Args:
    stages: The stages, each after those that it reads.
    config: ConfigDict with `seed`, `stages` (names of those to include) and the
      fields that the stages declare.
    workdir: Folder of the artefacts; made if it does not exist.
    only: Names of the stages to run, or None for all in the config. What they
      read must be up to date.
    before_first: Called without arguments before the first stage that has to
      run; not called if all are up to date.
    log: Called with each line of output.

  Returns:
    The metrics of all stages that are up to date, name -> number: those in
    `workdir/results.json`, in the order of the stages.

  Raises:
    artifacts.InputError: If the config, the names in `only`, the workdir or the
      files outside it are not as they must be. All missing files are named at
      once, before anything runs.
  """
  jobs = _make_jobs(stages, config)
  selected = _select(jobs, only)
  if not distributed.is_main():
    return _follow(jobs, pathlib.Path(workdir).absolute(), before_first)
  where = ""
  try:
    with workdir_lib.opened(workdir, log=log) as folder:
      runner = _Runner(jobs, folder, log)
      runner.check(selected)
      for name in selected:
        reason = runner.reason(jobs[name])
        if reason is None:
          log(f"{name}: up to date")
          runner.tidy(jobs[name])
          continue
        where = f" in stage {name}"
        if before_first is not None:
          before_first()
          before_first = None
        log(f"{name}: running" + (f" ({reason})" if reason else ""))
        runner.run(jobs[name])
        where = ""
      metrics = runner.finish()
  except (KeyboardInterrupt, SystemExit):
    distributed.stop_others()
    log(f"stopped{where}; the same command goes on from there")
    raise
  distributed.broadcast({"done": metrics})
  return metrics


def _follow(jobs, workdir, before_first):
  """What the processes other than the first do: they wait for their stages."""
  quiet = lambda line: None  # noqa: E731
  try:
    while True:
      message = distributed.broadcast()
      if "done" in message:
        return message["done"]
      if before_first is not None:
        before_first()
        before_first = None
      job = jobs[message["stage"]]
      with tempfile.TemporaryDirectory() as out:
        context = StageContext(
          config=job.config,
          out=pathlib.Path(out),
          scratch=workdir / message["scratch"],
          inputs={name: workdir / name for name in job.reads},
          log=quiet,
          logs=workdir / "logs" / job.name,
        )
        job.stage.run(context)
  except (KeyboardInterrupt, SystemExit):
    distributed.stop_others()
    raise


@dataclasses.dataclass(frozen=True)
class _Job:
  """A stage with its part of one config."""

  stage: Stage
  config: ml_collections.FrozenConfigDict
  config_hash: str
  reads: tuple[str, ...]
  external: tuple[artifacts.ExternalInput, ...]

  @property
  def name(self):
    return self.stage.name

  @property
  def external_paths(self):
    return [str(item.path) for item in self.external if item.path]


class _Runner:
  """The jobs of one config in one workdir."""

  def __init__(self, jobs, folder, log):
    self._jobs = jobs
    self._folder = folder
    self._log = log
    self._manifests = {name: self._read_manifest(name) for name in jobs}
    self._intact = set()  # Stages of which every file was read and compared.
    self._damaged = {}  # Stage -> file found damaged by that.

  def _read_manifest(self, name):
    try:
      return manifest.read(self._folder.path / name)
    except artifacts.InputError as error:
      self._log(
        f"{name}: its manifest is not usable, so it is made anew: {error}"
      )
      return None

  def reason(self, job, *, hash_files=True):
    """Why a stage must run, "" if it never did, or None if it need not."""
    made = self._manifests[job.name]
    if made is None:
      return ""
    changes = []
    if made.config_hash != job.config_hash:
      changes += manifest.config_changes(
        made.config, manifest.plain(job.config)
      )
      if len(changes) > MAX_CHANGES:
        changes[MAX_CHANGES:] = [f"{len(changes) - MAX_CHANGES} more fields"]
    inputs = self._input_digests(job)
    for name in sorted({*inputs, *made.inputs}):
      if inputs.get(name) != made.inputs.get(name):
        changes.append(f"output of {name}")
    for path in sorted({*job.external_paths, *made.external}):
      if path not in job.external_paths or path not in made.external:
        changes.append(f"whether {path} is read")
      # A file that is gone cannot have changed what was made from it.
      elif hash_files and pathlib.Path(path).exists():
        if self._folder.digest(path) != made.external[path]:
          changes.append(f"content of {path}")
    if changes:
      return f"changed: {', '.join(changes)}"
    if made.config_hash != job.config_hash:
      return "changed: config"
    damaged = self._damaged.get(job.name) or manifest.damaged_output(
      self._folder.path / job.name, made
    )
    return None if damaged is None else f"its file {damaged} is damaged"

  def _input_digests(self, job):
    made = {name: self._manifests[name] for name in job.reads}
    return {name: m.digest if m else None for name, m in made.items()}

  def _stale(self, *, hash_files):
    """Stages that must run, or may have to because of an earlier one."""
    stale = []
    for name, job in self._jobs.items():
      if self.reason(job, hash_files=hash_files) is not None or any(
        upstream in stale for upstream in job.reads
      ):
        stale.append(name)
    return stale

  def check(self, selected):
    """Raises InputError if a selected stage lacks something it reads."""
    # What is missing is said before gigabytes are read for their hashes.
    self._require(selected, self._stale(hash_files=False))
    while True:
      stale = self._stale(hash_files=True)
      self._require(selected, stale)
      running = [name for name in selected if name in stale]
      # A damaged artefact is made again, for which others may have to be read.
      if not self._find_damage(running, stale):
        break
    if running:
      (self._folder.path / results.FILE).unlink(missing_ok=True)

  def _require(self, selected, stale):
    """Raises InputError unless all that selected stages read is there."""
    for name in selected:
      for upstream in self._jobs[name].reads:
        if upstream in stale and upstream not in selected:
          reason = self.reason(self._jobs[upstream], hash_files=False)
          raise artifacts.InputError(
            f"The stage {name} reads {upstream}, which is not up to date"
            + (f" ({reason})" if reason else "")
            + f". Run it too: --stages={_needed(self._jobs, name, stale)}, or"
            " leave --stages out."
          )
    _require_inputs(
      self._jobs[name].external for name in selected if name in stale
    )

  def _find_damage(self, running, stale):
    """Reads what stages will read; whether any of it is damaged."""
    reads = {read for name in running for read in self._jobs[name].reads}
    for name in self._jobs:
      if name not in reads or name in stale or name in self._intact:
        continue
      made = self._manifests[name]
      num_bytes = sum(output["bytes"] for output in made.outputs.values())
      if num_bytes > workdir_lib.LARGE_FILE:
        self._log(f"{name}: reading {num_bytes / 1e9:.1f} GB for damage")
      damaged = manifest.damaged_output(
        self._folder.path / name, made, read=True
      )
      if damaged is None:
        self._intact.add(name)
      else:
        self._damaged[name] = damaged
    return any(name in self._damaged for name in reads - set(stale))

  def run(self, job):
    """Runs a stage and puts its artefact in place."""
    inputs = self._input_digests(job)
    external = {path: self._folder.digest(path) for path in job.external_paths}
    out = self._folder.partial / job.name
    if out.exists():
      shutil.rmtree(out)
    out.mkdir()
    key = _scratch_key(job.config_hash, inputs, external)
    scratch = self._folder.scratch(job.name, key)
    context = StageContext(
      config=job.config,
      out=out,
      scratch=scratch,
      inputs={name: self._folder.path / name for name in inputs},
      log=self._log,
      logs=self._folder.path / "logs" / job.name,
    )
    if job.stage.all_hosts:
      where = scratch.relative_to(self._folder.path)
      distributed.broadcast({"stage": job.name, "scratch": str(where)})
    start = time.monotonic()
    try:
      metrics = results.checked(job.stage.run(context), job.name)
    except Exception:
      self._log(f"{job.name}: failed")
      raise
    seconds = time.monotonic() - start
    outputs = manifest.describe_outputs(out)
    made = manifest.Manifest(
      stage=job.name,
      config=manifest.plain(job.config),
      config_hash=job.config_hash,
      inputs=inputs,
      external=external,
      outputs=outputs,
      digest=manifest.hash_json([outputs, metrics]),
      versions=manifest.versions(),
      seed=job.config.seed,
      seconds=round(seconds, 3),
      created=datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
      metrics=metrics,
    )
    manifest.write(out, made)
    artifacts.commit_directory(out, self._folder.path / job.name)
    self._folder.remove_scratch(job.name, key)
    self._manifests[job.name] = made
    self._damaged.pop(job.name, None)
    self._log(f"{job.name}: done in {progress.format_seconds(seconds)}")

  def tidy(self, job):
    """Removes what a kill at the very end of a finished stage left."""
    made = self._manifests[job.name]
    key = _scratch_key(made.config_hash, made.inputs, made.external)
    self._folder.remove_scratch(job.name, key)

  def finish(self):
    """Writes and prints the results of all stages that are up to date."""
    stale = self._stale(hash_files=True)
    metrics = results.merge(
      {
        name: self._manifests[name].metrics
        for name in self._jobs
        if name not in stale
      }
    )
    path = self._folder.path / results.FILE
    results.write(path, metrics)
    if metrics:
      self._log(f"\n{results.table(metrics)}\n")
    self._log(f"results: {path}")
    report = self._folder.path / "report" / "report.html"
    if report.exists() and "report" in self._jobs and "report" not in stale:
      self._log(f"report: {report}")
    return metrics


def _scratch_key(config_hash, inputs, external):
  """What checkpoints depend on, as eight hexadecimal digits."""
  return manifest.hash_json([config_hash, inputs, external])[:8]


def _make_jobs(stages, config):
  """Name -> job of the stages that the config includes, in order."""
  for field in ("seed", "stages"):
    if field not in config:
      raise artifacts.InputError(f"The config has no field {field!r}.")
  names = [stage.name for stage in stages]
  for name in config.stages:
    if name not in names:
      raise artifacts.InputError(
        f"config.stages has {name!r}, which is no stage."
        f"{config_lib.did_you_mean(name, names)}"
      )
  jobs = {}
  for stage in stages:
    if stage.name not in config.stages:
      continue
    keys = ["seed", *(key for key in stage.config_keys if key in config)]
    part = ml_collections.ConfigDict({key: config[key] for key in keys})
    part = ml_collections.FrozenConfigDict(part)
    jobs[stage.name] = _Job(
      stage=stage,
      config=part,
      config_hash=manifest.config_hash(part),
      reads=tuple(name for name in stage.reads if name in config.stages),
      external=tuple(stage.external(part)),
    )
    for name in jobs[stage.name].reads:
      if name not in jobs:
        raise ValueError(f"The stage {name} must stand before {stage.name}.")
  return jobs


def _select(jobs, only):
  """Names of the jobs to run, in order."""
  if only is None:
    return list(jobs)
  for name in only:
    if name not in jobs:
      raise artifacts.InputError(
        f"This config has no stage {name!r}."
        f"{config_lib.did_you_mean(name, jobs)}"
      )
  return [name for name in jobs if name in only]


def _needed(jobs, name, stale):
  """A stage and the stale ones that it reads, directly or not: "a,b,c"."""
  needed = {name}
  for earlier in reversed(list(jobs)):
    if earlier in needed:
      needed |= {read for read in jobs[earlier].reads if read in stale}
  return ",".join(earlier for earlier in jobs if earlier in needed)


def _require_inputs(external_of_jobs):
  """Raises one InputError that names every missing file, if there are any."""
  missing = {}
  for external in external_of_jobs:
    for item in external:
      if not item.path and not item.optional:
        missing[item.field, None] = ("is not set", item.remedy)
      elif item.path and not pathlib.Path(item.path).exists():
        missing[item.field, str(item.path)] = (
          f"is {item.path}, which does not exist",
          item.remedy,
        )
  if missing:
    count = "1 input is" if len(missing) == 1 else f"{len(missing)} inputs are"
    lines = [
      f"  config.{field} {state}\n    {remedy}"
      for (field, _), (state, remedy) in missing.items()
    ]
    raise artifacts.InputError("\n".join([f"{count} missing:", *lines]))
