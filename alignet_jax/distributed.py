"""Several processes that train together, on one host or on many.

Each host runs the same command. Process 0 runs the pipeline and writes the
artefacts; a stage with `all_hosts` runs everywhere, and what is to be done is
told by process 0. All must see one workdir (NFS or the like). Without
`initialize` there is one process, and everything here returns at once, without
an import of JAX.

Small facts go through the store of JAX's coordination service, not through the
devices: they can be told while the devices compute, and by a process that
fails.

Usage:
  distributed.initialize("10.0.0.2:8476", num_processes=4, process_id=2,
                         facts={"config": manifest.plain(config)},
                         workdir=workdir)
  if distributed.is_main():
    ...
  job = distributed.broadcast(job)          # what process 0 gave
  distributed.shut_down()
"""

import hashlib
import json
import os
import pathlib
import signal
import sys
import threading
import time

from alignet_jax import artifacts, progress, roll_call

# Seconds without a sign of life after which JAX ends all processes.
HEARTBEAT_TIMEOUT = 100

# Steps between the signal that one process got and the step at which all stop.
# A step needs all processes, and the loop waits for the step before the last,
# so no process is more than two steps ahead of another.
STOP_DELAY = 4

# How long a process that fails leaves the others to read why, in seconds.
FAREWELL = 2.0


class _State:
  """The one connection of this process."""

  client = None
  process_id = 0
  num_processes = 1
  is_stopping = False  # All have agreed to stop.
  calls = 0  # Of the functions below: the same everywhere, so it names keys.


_state = _State()


def initialize(
  coordinator,
  *,
  num_processes=None,
  process_id=None,
  facts,
  workdir,
  timeout=300,
  log=progress.write,
):
  """Joins this process to the others, or says who is missing.

  Must come before anything is computed with JAX.

  Args:
    coordinator: "host:port" of process 0; "auto" where JAX can find out by
      itself (TPU pods, Slurm, Open MPI).
    num_processes: How many there are; with "auto" found out.
    process_id: Which this is, from 0; with "auto" found out.
    facts: See `roll_call.call`.
    workdir: Folder that all must see.
    timeout: Seconds to wait for the others.
    log: Prints one line.

  Raises:
    artifacts.InputError: See `roll_call.call`; or "auto" finds nothing.
  """
  import jax

  if coordinator == "auto":
    coordinator, num_processes, process_id = _detect(timeout)
  elif num_processes is None or process_id is None:
    raise artifacts.InputError(
      "--coordinator needs --num_processes and --process_id; only with"
      " --coordinator=auto are they found out."
    )
  roll_call.call(
    coordinator,
    num_processes=num_processes,
    process_id=process_id,
    facts=facts,
    workdir=workdir,
    timeout=timeout,
    log=log,
  )
  # It would take SIGTERM for itself; the loop agrees on a step on its own.
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(
    coordinator,
    num_processes,
    process_id,
    initialization_timeout=int(timeout),
    heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
    shutdown_timeout_seconds=60,
  )
  # No public name gives the store; orbax reaches it in the same way.
  from jax._src import distributed as jax_distributed

  _state.client = jax_distributed.global_state.client
  _state.num_processes, _state.process_id = num_processes, process_id
  threading.Thread(target=_watch, args=(_state.client,), daemon=True).start()
  # The processes tell each other of their devices, and wait two minutes for
  # that: so all do it now, and not each when it first computes something.
  jax.devices()
  _check_devices(gather(jax.local_device_count()))


def _check_devices(numbers):
  """Raises unless all processes have as many devices as process 0."""
  others = [i for i, number in enumerate(numbers) if number != numbers[0]]
  if others:
    raise artifacts.InputError(
      f"Process {others[0]} has {numbers[others[0]]} devices and process 0 has"
      f" {numbers[0]}; all must have equally many. See CUDA_VISIBLE_DEVICES, or"
      " XLA_FLAGS for simulated ones."
    )


def code_version():
  """SHA-256 of the sources of this package, 16 digits."""
  digest = hashlib.sha256()
  folder = pathlib.Path(__file__).parent
  for path in sorted(folder.rglob("*.py")):
    digest.update(path.relative_to(folder).as_posix().encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()[:16]


def process_index():
  """Which process this is, from 0."""
  return _state.process_id


def process_count():
  """How many processes there are."""
  return _state.num_processes


def is_main():
  """Whether this process is the one that writes files and prints."""
  return _state.process_id == 0


def broadcast(value=None):
  """Returns what process 0 gave, however long it takes to give it.

  Args:
    value: JSON value; that of process 0 counts.
  """
  if _state.client is None:
    return value
  key = _key("broadcast")
  if is_main():
    _state.client.key_value_set(key, json.dumps(value))
    return value
  return json.loads(_get(key))


def gather(value):
  """The JSON values that all processes give, in their order."""
  if _state.client is None:
    return [value]
  key = _key("gather")
  _state.client.key_value_set(f"{key}/{process_index()}", json.dumps(value))
  return [json.loads(_get(f"{key}/{i}")) for i in range(process_count())]


def all_true(flag):
  """Whether all processes say true."""
  return all(gather(bool(flag)))


def fetch(tree):
  """Copies arrays to the host, also those that are spread over processes.

  Args:
    tree: Tree of `jax.Array`. All processes must call this.

  Returns:
    Tree of numpy arrays, the same everywhere.
  """
  import jax

  def fetch_one(x):
    if getattr(x, "is_fully_addressable", True) or x.is_fully_replicated:
      return jax.device_get(x)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(x, tiled=True)

  return jax.tree.map(fetch_one, tree)


class StopAgreement:
  """Lets all processes stop at the same step when one of them got a signal."""

  def __init__(self):
    """Starts an agreement; all processes do so at the same place."""
    self._key = _key("stop") if _state.client is not None else None
    self._published = False

  def is_due(self, step, number):
    """Whether to stop before a step. All processes ask before each.

    Args:
      step: Number of steps done.
      number: Of the signal that this process got, or 0.
    """
    if self._key is None:
      return bool(number)
    if number and not self._published:
      self._publish(step + STOP_DELAY)
    # The earliest, of which all know in time: so it is the same for all.
    entries = _state.client.key_value_dir_get(self._key)
    return any(step >= int(value) for _, value in entries)

  def _publish(self, step):
    _state.client.key_value_set(f"{self._key}/{process_index()}", str(step))
    self._published = True

  def number(self, number):
    """The largest of the signal numbers that the processes got, or 0."""
    largest = max(gather(number))
    _state.is_stopping = largest > 0
    return largest


def stop_others():
  """Has the other processes get SIGTERM, if this one alone got a signal."""
  if _state.client is not None and not _state.is_stopping:
    _tell({"process": process_index(), "stop": True})


def shut_down():
  """Ends the connection, when all have come to their end."""
  if _state.client is not None:
    import jax

    _state.client = None
    jax.distributed.shutdown()
    _state.num_processes, _state.process_id = 1, 0


def fail(text, code=1):
  """Ends all processes, because this one cannot go on; does not return.

  Args:
    text: Why, for the output of the others.
    code: Exit code of this process.
  """
  _tell({"process": process_index(), "text": text})
  sys.stdout.flush()
  sys.stderr.flush()
  time.sleep(FAREWELL)
  os._exit(code)  # An orderly end would wait for the others.


def _tell(message):
  client = _state.client
  if client is not None:
    try:
      client.key_value_set("alignet/end", json.dumps(message))
    except Exception:
      return  # Another one was first, or the service is gone.


def _watch(client):
  """Ends this process when another one says so; runs beside all else."""
  message = None
  while message is None:
    try:
      message = client.blocking_key_value_get("alignet/end", 5_000)
    except Exception as error:
      if "DEADLINE_EXCEEDED" not in str(error):
        return  # The connection is closed.
    if _state.client is not client:
      return
  message = json.loads(message)
  if message["process"] == process_index():
    return
  if message.get("stop"):
    if _state.is_stopping:
      return
    os.kill(os.getpid(), signal.SIGTERM)
    return
  print(
    f"error: process {message['process']} failed, so all stop: "
    f"{message['text']}",
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


def _key(kind):
  """A key that is used once; all processes make the same calls."""
  _state.calls += 1
  return f"alignet/{_state.calls}/{kind}"


def _get(key):
  """The value of a key, as soon as there is one."""
  while True:
    try:
      # Short, so that a signal of Python is heeded in between.
      return _state.client.blocking_key_value_get(key, 1_000)
    except Exception as error:
      if "DEADLINE_EXCEEDED" not in str(error):
        raise


def _detect(timeout):
  """Address, number of processes and own number, as JAX finds them."""
  from jax._src import clusters

  try:
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
      None, None, None, None, None, timeout
    )
  except Exception as error:
    raise _not_detected() from error
  address, num_processes, process_id, _ = found
  if address is None or num_processes is None or process_id is None:
    raise _not_detected()
  return address, num_processes, process_id


def _not_detected():
  return artifacts.InputError(
    "--coordinator=auto found neither a TPU pod nor Slurm nor Open MPI. Give"
    " --coordinator=HOST:PORT, --num_processes and --process_id."
  )
