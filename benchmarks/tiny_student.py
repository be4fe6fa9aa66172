"""The real student stage on tiny images, in processes that can be killed.

Kills need many processes, and one takes ten seconds to import JAX, TensorFlow
and the rest. So a server imports them once, before any of them starts a thread,
and forks a process for each run: what is killed is a process of its own all the
same. A run goes through `alignet_jax.main`, with the workdir, the stages and
the signals of the command line; the two stages before the student are toys.

Usage:
  with tiny_student.Server() as server:
    run = server.start(workdir, devices=1, log=path)
    run.kill(signal.SIGKILL)
    code = run.wait()
"""

import json
import os
import pathlib
import subprocess
import sys
import zlib

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

NUM_STEPS = 20
BATCH_SIZE = 8
NUM_TRIPLETS = 53  # So that an epoch ends within a batch, three times.
CHECKPOINT_EVERY = 3
SIZE = 16

CONFIG = """
import runpy
def get_config(arg=""):
  config = runpy.run_path({quickstart!r})["get_config"](arg)
  config.stages = ("features", "triplets", "student")
  config.student.variants = ("aligned",)
  config.student.batch_size = {batch_size}
  config.student.num_microbatches = 1
  config.student.num_steps = {num_steps}
  config.student.warmup_steps = 2
  config.student.checkpoint_every = {checkpoint_every}
  config.student.eval_every = 10
  return config
"""


class Server:
  """Starts runs; a context manager."""

  def __init__(self):
    """Prepares; the process starts with the context."""
    self._environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    # Each run says how many devices it wants.
    self._environment.update(XLA_FLAGS="", JAX_PLATFORMS="cpu")

  def __enter__(self):
    """Imports everything."""
    self._process = subprocess.Popen(
      [sys.executable, __file__],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=self._environment,
    )
    return self

  def __exit__(self, *error):
    """Ends the server; runs must have been waited for."""
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()

  def start(self, workdir, *arguments, devices=1, log, pause=0.0):
    """Starts a run.

    Args:
      workdir: Its workdir.
      *arguments: Further arguments of the command line.
      devices: How many devices of the CPU it has.
      log: Path that gets a line of JSON for each batch (step, one number per
        triplet), appended; with ".out" its output, and with ".npz" the final
        state.
      pause: Seconds to wait before each step.

    Returns:
      A `Run`.
    """
    job = {
      "workdir": str(workdir),
      "arguments": arguments,
      "devices": devices,
      "log": str(log),
      "pause": pause,
    }
    return Run(self, self.ask(job), pathlib.Path(log))

  def ask(self, message):
    """Sends a message and returns the answer."""
    print(json.dumps(message), file=self._process.stdin, flush=True)
    return json.loads(self._process.stdout.readline())


class Run:
  """A process of a run.

  Attributes:
    pid: Its number.
    log: See `Server.start`.
  """

  def __init__(self, server, pid, log):
    """Wraps a process that runs."""
    self._server = server
    self._code = None
    self.pid = pid
    self.log = log

  def num_batches(self):
    """How many batches all runs with this log have had."""
    return len(self.log.read_text().splitlines()) if self.log.exists() else 0

  def is_over(self):
    """Whether it has ended by itself."""
    if self._code is None:
      self._code = self._server.ask({"poll": self.pid})
    return self._code is not None

  def kill(self, number):
    """Sends it a signal, unless it is over."""
    if not self.is_over():
      os.kill(self.pid, number)

  def wait(self):
    """Its exit code; negative the signal that ended it."""
    if self._code is None:
      self._code = self._server.ask({"wait": self.pid})
    return self._code

  def output(self):
    """What it and earlier runs with this log have printed."""
    return self.log.with_suffix(".out").read_text()


def read_log(path):
  """Step -> numbers of its triplets; raises if a step had two batches."""
  batches = {}
  for line in pathlib.Path(path).read_text().splitlines():
    step, numbers = json.loads(line)
    if batches.setdefault(step, numbers) != numbers:
      raise AssertionError(f"step {step} had two different batches")
  return batches


def serve():
  """The process of `Server`."""
  # Before any fork, so that each run finds them imported.
  import clu.metric_writers  # noqa: F401
  import orbax.checkpoint  # noqa: F401
  import tensorflow  # noqa: F401

  from alignet_jax import main  # noqa: F401
  from alignet_jax.student import stage  # noqa: F401

  for line in sys.stdin:
    message = json.loads(line)
    if "poll" in message:
      pid, status = os.waitpid(message["poll"], os.WNOHANG)
      answer = os.waitstatus_to_exitcode(status) if pid else None
    elif "wait" in message:
      _, status = os.waitpid(message["wait"], 0)
      answer = os.waitstatus_to_exitcode(status)
    else:
      answer = os.fork()
      if answer == 0:
        _run(message)
    print(json.dumps(answer), flush=True)


def _run(job):
  """One run, in a process of its own; does not return."""
  import traceback

  output = os.open(
    pathlib.Path(job["log"]).with_suffix(".out"),
    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
  )
  os.dup2(output, 1)
  os.dup2(output, 2)
  code = 70
  try:
    code = _train(job)
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _train(job):
  import jax

  from alignet_jax import main, pipeline, stages
  from alignet_jax.images import collections, sources

  workdir = pathlib.Path(job["workdir"])
  jax.config.update("jax_num_cpu_devices", job["devices"])
  jax.config.update("jax_compilation_cache_dir", str(workdir.parent / "cache"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  np_rng = np.random.default_rng(3)
  pixels = np_rng.integers(0, 256, (29, SIZE, SIZE, 3), np.uint8)
  sources.open_images = lambda *args, **kw: collections.ArrayImages(pixels)
  _watch_batches(job)
  _keep_state(job)
  student = next(s for s in stages.stages() if s.name == "student")
  stages.stages = lambda: (
    pipeline.Stage("features", (), (), _make_features),
    pipeline.Stage("triplets", (), (), _make_triplets),
    student,
  )
  config = workdir.parent / "tiny.py"
  if not config.exists():
    text = CONFIG.format(
      quickstart=str(REPOSITORY / "configs" / "quickstart.py"),
      batch_size=BATCH_SIZE,
      num_steps=NUM_STEPS,
      checkpoint_every=CHECKPOINT_EVERY,
    )
    partial = config.with_suffix(f".{os.getpid()}")
    partial.write_text(text)
    partial.rename(config)
  return main.main(
    [f"--config={config}", f"--workdir={workdir}", *job["arguments"]]
  )


def _watch_batches(job):
  """Has every batch written down before its step."""
  import time

  from alignet_jax.triplets import dataset

  make_dataset = dataset.make_dataset

  def watched(*args, start_step, **settings):
    batches = make_dataset(*args, start_step=start_step, **settings)
    for step, batch in enumerate(batches, start_step):
      numbers = [
        zlib.crc32(image.tobytes(), int(index))
        for image, index in zip(batch["image"], batch["index"], strict=True)
      ]
      with open(job["log"], "a") as file:
        file.write(json.dumps([step, numbers]) + "\n")
      time.sleep(job["pause"])
      yield batch

  dataset.make_dataset = watched


def _keep_state(job):
  """Has the final state of training written down, the optimiser's included."""
  import jax

  from alignet_jax import distributed, loop

  train = loop.train

  def keeping(*args, **settings):
    state, history = train(*args, **settings)
    leaves = {
      jax.tree_util.keystr(path, simple=True, separator="/"): x
      for path, x in jax.tree_util.tree_leaves_with_path(
        distributed.fetch(state)
      )
    }
    np.savez(pathlib.Path(job["log"]).with_suffix(".npz"), **leaves)
    return state, history

  loop.train = keeping


def _make_features(context):
  """A random backbone."""
  import jax
  import jax.numpy as jnp

  from alignet_jax import artifacts
  from alignet_jax.backbones import stage, weights

  backbone = {
    "variant": "",
    "patch_size": 8,
    "width": 16,
    "depth": 1,
    "mlp_dim": 24,
    "num_heads": 2,
    "pool": "gap",
    "size": SIZE,
    "value_range": [0.0, 1.0],
  }
  model = stage.make_model(backbone)
  image = jnp.zeros([1, SIZE, SIZE, 3])
  params = jax.jit(model.init)(jax.random.key(1), image)["params"]
  weights.save(context.out / "backbone.npz", params)
  artifacts.write_json(context.out / "backbone.json", backbone)


def _make_triplets(context):
  """Random triplets."""
  from alignet_jax.triplets import files

  np_rng = np.random.default_rng(2)
  for split, number in (("train", NUM_TRIPLETS), ("val", 13)):
    indices = np.array(
      [np_rng.choice(29, 3, replace=False) for _ in range(number)]
    )
    pair_sims = -np.sort(-np_rng.normal(size=(number, 3)), axis=1)
    path = files.path_of(context.out, "aligned", split, "cluster_border")
    files.write(path, indices, pair_sims)


if __name__ == "__main__":
  serve()
