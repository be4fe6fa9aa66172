"""Whether all processes of a run are there and mean the same run.

JAX itself, when a process is missing, ends all others after its time-out with a
stack of C++ and without a name. So process 0 first waits at the coordinator's
address until each has called in, compares what they say of themselves, and has
all read a file that it wrote into the workdir. The connections are those of the
standard library, before JAX takes over the port.

Usage:
  roll_call.call("10.0.0.2:8476", num_processes=4, process_id=2,
                 facts={"config": manifest.plain(config)}, workdir=workdir,
                 timeout=300)
"""

import contextlib
import json
import os
import pathlib
import secrets
import socket
import time

from alignet_jax import artifacts, manifest

# Seconds between two attempts to reach process 0, or to see its file.
PAUSE = 0.2

# Seconds that a file may need to be seen through a network file system.
FILE_TIMEOUT = 15.0

# Fields that are shown of two configs that differ.
NUM_SHOWN = 3


def call(
  address, *, num_processes, process_id, facts, workdir, timeout, log=print
):
  """Returns when all processes are there and agree.

  Args:
    address: "host:port" of process 0.
    num_processes: How many there are in all.
    process_id: Which of them this is, from 0.
    facts: Dict from a name, such as "config", to what must be the same
      everywhere: a text, or a config as of `manifest.plain`, of which the
      fields that differ are named.
    workdir: Folder that all must see; process 0 makes it.
    timeout: Seconds to wait for the others.
    log: Prints one line.

  Raises:
    artifacts.InputError: Somebody is missing, or differs, or sees another
      workdir; says who and how. Every process that was there raises the same.
  """
  host, port = parse_address(address)
  if not 0 <= process_id < num_processes:
    raise artifacts.InputError(
      f"--process_id is {process_id}; allowed are 0 to {num_processes - 1}, "
      f"since --num_processes is {num_processes}."
    )
  deadline = time.monotonic() + timeout
  hello = {
    "process": process_id,
    "num_processes": str(num_processes),
    "host": socket.gethostname(),
    "facts": dict(facts),
  }
  workdir = pathlib.Path(workdir)
  if process_id == 0:
    _lead(port, hello, num_processes, workdir, deadline, timeout, log)
  else:
    _answer(host, port, hello, workdir, deadline, timeout)


def parse_address(address):
  """Splits "host:port"; raises `artifacts.InputError` if it is not that."""
  host, colon, port = address.rpartition(":")
  # Longer ones than any port are beyond what int reads.
  is_port = port.isdecimal() and len(port) < 10 and 1 <= int(port) <= 65_535
  if not colon or not host or not is_port:
    raise artifacts.InputError(
      f"--coordinator is {address!r}; write HOST:PORT of process 0, such as"
      " 10.0.0.2:8476, with a port from 1 to 65535, or auto."
    )
  return host.strip("[]"), int(port)


def _lead(port, hello, num_processes, workdir, deadline, timeout, log):
  """Process 0: waits for the others, compares, and tells them."""
  lines = {}  # Process -> its connection.
  hellos = {0: hello}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(_listen(port))
    error = None
    while len(hellos) < num_processes and error is None:
      server.settimeout(max(deadline - time.monotonic(), 0.01))
      try:
        connection, _ = server.accept()
      except TimeoutError:
        error = _missing(hellos, num_processes, timeout)
        break
      line = stack.enter_context(_Line(connection, deadline))
      other = line.receive(FILE_TIMEOUT)
      if not isinstance(other, dict) or "process" not in other:
        continue  # A port scan, or a process that has gone again.
      error = _clash(hellos, other)
      hellos[other["process"]], lines[other["process"]] = other, line
    error = error or _difference(hellos)
    if error is None and lines:
      log(f"all {num_processes} processes are there")
      error = _check_workdir(workdir, hellos, lines)
    for line in lines.values():
      line.send({"error": error})
  if error is not None:
    raise artifacts.InputError(error)


def _answer(host, port, hello, workdir, deadline, timeout):
  """The other processes: call in, look for the file, hear the verdict."""
  while True:
    try:
      connection = socket.create_connection((host, port), timeout=5)
      break
    except OSError as error:
      if time.monotonic() > deadline:
        raise artifacts.InputError(
          f"Process 0 did not answer at {host}:{port} within {timeout:g} s"
          f" ({error}). Start it too, with the same --coordinator, and let the"
          " firewall pass that port."
        ) from None
      time.sleep(PAUSE)
  # It waits for all others, so it may take until its time is up.
  with _Line(connection, deadline + FILE_TIMEOUT + 10) as line:
    line.send(hello)
    message = line.receive()
    if isinstance(message, dict) and "token" in message:
      line.send({"sees": _sees(workdir / message["token"], message["content"])})
      message = line.receive()
  if not isinstance(message, dict) or "error" not in message:
    raise artifacts.InputError(
      f"Process 0 at {host}:{port} ended while the processes were being"
      " counted; see its messages."
    )
  if message["error"] is not None:
    raise artifacts.InputError(message["error"])


def _listen(port):
  try:
    return socket.create_server(("", port), backlog=1024)
  except OSError as error:
    raise artifacts.InputError(
      f"Process 0 cannot wait for the others at port {port}"
      f" ({error.strerror}). Is another run using it? Give another port to"
      " --coordinator, the same in all processes."
    ) from error


def _missing(hellos, num_processes, timeout):
  missing = [str(i) for i in range(num_processes) if i not in hellos]
  there = [f"{i} on {hellos[i]['host']}" for i in sorted(hellos)]
  word = "Process" if len(missing) == 1 else "Processes"
  return (
    f"{word} {', '.join(missing)} of {num_processes} did not call in within"
    f" {timeout:g} s; there are {', '.join(there)}. See their messages, start"
    " the same command on every host, and let the firewall pass the port."
  )


def _clash(hellos, other):
  """What is wrong with the number of a process, or None."""
  mine = hellos[0]["num_processes"]
  if other["num_processes"] != mine:
    return (
      f"The process on {other['host']} says --num_processes"
      f"={other['num_processes']}, process 0 says {mine}."
    )
  if other["process"] in hellos:
    return (
      f"Two processes call themselves --process_id={other['process']}, on"
      f" {hellos[other['process']]['host']} and on {other['host']}."
    )
  return None


def _difference(hellos):
  """Which process says something else of itself than process 0, or None."""
  for name, expected in hellos[0]["facts"].items():
    if isinstance(expected, dict):
      others = _config_changes(hellos, name)
      if others:
        return (
          f"Processes differ in their {name}: from process 0 to"
          f" {'; to '.join(others)}. Start the same command from the same files"
          " everywhere."
        )
      continue
    others = [
      f"{i} on {hello['host']} ({hello['facts'].get(name)})"
      for i, hello in sorted(hellos.items())
      if hello["facts"].get(name) != expected
    ]
    if others:
      return (
        f"Processes differ in their {name}: process 0 has {expected}, but"
        f" {', '.join(others)}. Start the same command from the same files"
        " everywhere."
      )
  return None


def _config_changes(hellos, name):
  """Of each process whose config is another: who it is, and first fields."""
  mine, others = hellos[0]["facts"][name], []
  for i, hello in sorted(hellos.items()):
    theirs = hello["facts"].get(name)
    # One of another version may say no config.
    theirs = theirs if isinstance(theirs, dict) else {}
    changes = manifest.config_changes(mine, theirs)
    if changes:
      more = len(changes) - NUM_SHOWN
      shown = ", ".join(changes[:NUM_SHOWN])
      shown += f" and {more} more fields" if more > 0 else ""
      others.append(f"{i} on {hello['host']}, {shown}")
  return others


def _check_workdir(workdir, hellos, lines):
  """Has all read a file of process 0; who does not see it, or None."""
  content = secrets.token_hex(16)
  path = workdir / f".token-{content[:8]}"
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    artifacts.write_text(path, content)
  except OSError as error:
    return f"The workdir {workdir} cannot be written to: {error.strerror}."
  try:
    for line in lines.values():
      line.send({"token": path.name, "content": content})
    blind = [
      f"{i} on {hellos[i]['host']}"
      for i, line in sorted(lines.items())
      if (line.receive() or {}).get("sees") is not True
    ]
  finally:
    path.unlink(missing_ok=True)
  if not blind:
    return None
  return (
    f"These processes do not see what process 0 writes into {workdir}:"
    f" {', '.join(blind)}. The workdir must be one folder that all hosts share,"
    " such as on NFS; give it by --workdir."
  )


def _sees(path, content):
  deadline = time.monotonic() + FILE_TIMEOUT
  while time.monotonic() < deadline:
    with contextlib.suppress(OSError):
      os.listdir(path.parent)  # Network file systems remember absent files.
      if path.read_text(encoding="utf-8") == content:
        return True
    if not path.parent.is_dir():
      return False
    time.sleep(PAUSE)
  return False


class _Line:
  """A connection that carries one JSON value per line."""

  def __init__(self, connection, deadline):
    self._connection = connection
    self._deadline = deadline
    self._file = connection.makefile("rb")

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._file.close()
    self._connection.close()

  def send(self, value):
    """Sends a value; one that has gone is not told."""
    with contextlib.suppress(OSError):
      self._connection.sendall(json.dumps(value).encode() + b"\n")

  def receive(self, timeout=None):
    """The next value, or None where there is none in time."""
    left = max(self._deadline - time.monotonic(), FILE_TIMEOUT)
    self._connection.settimeout(timeout or left)
    try:
      return json.loads(self._file.readline(1 << 20))
    except (OSError, ValueError):
      return None
