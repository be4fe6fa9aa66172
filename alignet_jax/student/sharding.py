"""Where arrays lie: one mesh, one table of rules.

The mesh has three axes. Examples are spread over "data" and "fsdp"; parameters,
moments and anchor are cut over "fsdp", so that each device keeps a part of
them; and the matrices of attention and perceptrons are cut over "tensor", the
first of two by its outputs and the second by its inputs, so that one sum over
the devices follows each pair. XLA adds the communication that the places ask
for; the numbers do not change but for rounding.

Usage:
  mesh = sharding.make_mesh(fsdp=4)                # all devices, the rest data
  for line in sharding.table(params, mesh):
    print(line)
  state = sharding.place(state, mesh)
  batch = sharding.shard_batch(batch, mesh)
"""

import math
import re

import jax
import numpy as np

from alignet_jax import artifacts

AXES = ("data", "fsdp", "tensor")

# The axes that examples are spread over.
BATCH_AXES = ("data", "fsdp")

_P = jax.sharding.PartitionSpec

# The first rule whose pattern is found in a parameter's "/"-joined name
# decides. It is about the last axes; those before, such as that of the layers
# where blocks are one loop, are not cut. Moments and anchor have names that end
# like those of their parameters, and so follow the same rule.
RULES = (
  # [d heads e] and [heads e d], heads over "tensor".
  (r"(query|key|value)/kernel$", _P("fsdp", "tensor", None)),
  (r"(query|key|value)/bias$", _P("tensor", None)),
  (r"MultiHeadDotProductAttention_0/out/kernel$", _P("tensor", None, "fsdp")),
  # [d hidden] and [hidden d].
  (r"MlpBlock_0/Dense_0/kernel$", _P("fsdp", "tensor")),
  (r"MlpBlock_0/Dense_0/bias$", _P("tensor")),
  (r"MlpBlock_0/Dense_1/kernel$", _P("tensor", "fsdp")),
  # [p p 3 d], [1 n d], [d e].
  (r"embedding/kernel$", _P(None, None, None, "fsdp")),
  (r"pos_embedding$", _P(None, None, "fsdp")),
  (r"(triplet_head|pre_logits|head)/kernel$", _P("fsdp", None)),
  # Norms, other biases, tokens, counters: small.
  (r"", _P()),
)


def make_mesh(*, fsdp=1, tensor=1, devices=None):
  """Arranges devices; what `fsdp` and `tensor` leave over is data parallel.

  Args:
    fsdp: Devices along "fsdp", at least 1.
    tensor: Devices along "tensor", at least 1.
    devices: List of devices, or None for all.

  Returns:
    `jax.sharding.Mesh` with the axes data, fsdp, tensor.

  Raises:
    artifacts.InputError: The number of devices is no multiple of
      `fsdp` * `tensor`.
  """
  devices = np.asarray(jax.devices() if devices is None else devices)
  if fsdp < 1 or tensor < 1 or devices.size % (fsdp * tensor):
    raise artifacts.InputError(
      f"{devices.size} devices cannot be arranged with fsdp={fsdp} and "
      f"tensor={tensor}: their product must divide the number of devices."
    )
  # Not jax.make_mesh: its axes are explicit, which flax modules do not take.
  return jax.sharding.Mesh(devices.reshape(-1, fsdp, tensor), AXES)


def spec(name, shape, mesh, rules=RULES):
  """How one array is cut.

  Where the size of an axis is no multiple of the devices that it would be cut
  over, it is not cut: six heads on four devices lie on each of them whole.

  Args:
    name: Its "/"-joined name.
    shape: Its shape.
    mesh: As of `make_mesh`.
    rules: Table like `RULES`.

  Returns:
    `PartitionSpec`.
  """
  axes = _rule(name, rules)[1]
  if len(axes) > len(shape):
    return _P()
  axes = (None,) * (len(shape) - len(axes)) + tuple(axes)
  cut = [
    axis
    if axis and mesh.shape[axis] > 1 and not size % mesh.shape[axis]
    else None
    for axis, size in zip(axes, shape, strict=True)
  ]
  # The form in which XLA gives it back: another one would compile twice.
  while cut and cut[-1] is None:
    cut.pop()
  return _P(*cut)


def shardings(tree, mesh, rules=RULES):
  """Tree of `NamedSharding` for a tree of arrays or of their shapes."""

  def of(path, x):
    where = spec(_name(path), np.shape(x), mesh, rules)
    return jax.sharding.NamedSharding(mesh, where)

  return jax.tree_util.tree_map_with_path(of, tree)


def place(state, mesh, rules=RULES):
  """Places each leaf of a tree by the rule for its name.

  Args:
    state: Tree of arrays, the same on all hosts.
    mesh: As of `make_mesh`.
    rules: Table like `RULES`.

  Returns:
    The tree in buffers of its own, which a step may spend.
  """

  def put(x, where):
    host = np.asarray(x)
    # Copies: a device may use the memory of a numpy array as it is.
    return jax.make_array_from_callback(
      host.shape, where, lambda index: np.array(host[index])
    )

  return jax.tree.map(put, state, shardings(state, mesh, rules))


def constrain(state, mesh, rules=RULES):
  """Inside jit: keeps each leaf where `place` puts it; without a mesh as is."""
  if mesh is None:
    return state
  return jax.lax.with_sharding_constraint(state, shardings(state, mesh, rules))


def replicated(x, mesh):
  """Inside jit: the whole array on every device; without a mesh as it is."""
  if mesh is None:
    return x
  where = jax.sharding.NamedSharding(mesh, _P())
  return jax.lax.with_sharding_constraint(x, where)


def table(params, mesh, rules=RULES):
  """Describes where parameters lie, for people.

  Args:
    params: Tree of arrays or of their shapes.
    mesh: As of `make_mesh`.
    rules: Table like `RULES`.

  Returns:
    List of lines: one per rule and place that occur, with the number of tensors
    and megabytes of one device. Says where an axis was not cut because its size
    is no multiple.
  """
  rows = {}
  for path, x in jax.tree_util.tree_leaves_with_path(params):
    name = _name(path)
    pattern, wanted = _rule(name, rules)
    where = spec(name, x.shape, mesh, rules)
    whole = [
      f"{axis}={mesh.shape[axis]}"
      for axis in wanted
      if axis and mesh.shape[axis] > 1 and axis not in where
    ]
    note = f", not cut: no multiple of {' or '.join(whole)}" if whole else ""
    num_parts = math.prod(mesh.shape[axis] for axis in where if axis)
    row = rows.setdefault((pattern or "all others", f"{where}{note}"), [0, 0])
    row[0] += 1
    row[1] += math.prod(x.shape) * np.dtype(x.dtype).itemsize / num_parts
  size = " x ".join(f"{axis} {n}" for axis, n in mesh.shape.items())
  total = sum(row[1] for row in rows.values())
  return [
    f"mesh {size}: {total / 1e6:.1f} MB of parameters on each device",
    *(
      f"  {pattern}: {count} tensors, {number / 1e6:.1f} MB, {where}"
      for (pattern, where), (count, number) in rows.items()
    ),
  ]


def batch_share(mesh, process=None):
  """Which part of each batch this process makes.

  Processes whose devices differ along "tensor" only make the same part.

  Args:
    mesh: As of `make_mesh`.
    process: Index of the process; this one by default.

  Returns:
    (host_index, num_hosts) for `dataset.make_dataset`.

  Raises:
    artifacts.InputError: The devices of the process are no block of equal size
      along data and fsdp.
  """
  process = jax.process_index() if process is None else process
  owners = np.array([d.process_index for d in mesh.devices.flat])
  owners = owners.reshape(-1, mesh.shape["tensor"])
  parts = np.flatnonzero((owners == process).any(axis=1))
  first, size = parts[0], len(parts)
  is_block = np.array_equal(parts, np.arange(first, first + size))
  if not is_block or first % size or len(owners) % size:
    raise artifacts.InputError(
      f"The devices of process {process} hold the parts {parts.tolist()} of"
      f" {len(owners)} of a batch, which is no even share. Choose"
      " config.student.mesh so that fsdp * tensor divides the devices of a"
      " process, or is a multiple of them."
    )
  return int(first // size), len(owners) // size


def shard_batch(batch, mesh):
  """Makes global arrays of the share of a batch that each process has.

  Args:
    batch: Dict of arrays [s ...], this process's share (`batch_share`) of b
      examples; all of them if there is one process.
    mesh: As of `make_mesh`.

  Returns:
    Dict of `jax.Array` [b ...], the first axis spread over the devices.

  Raises:
    artifacts.InputError: b is no multiple of the devices it is spread over.
  """
  where = jax.sharding.NamedSharding(mesh, _P(BATCH_AXES))
  _, num_hosts = batch_share(mesh)
  for name, x in batch.items():
    check_batch_size(len(x) * num_hosts, mesh, what=f"A batch ({name!r})")
  return {
    name: jax.make_array_from_process_local_data(
      where, np.asarray(x), (len(x) * num_hosts, *np.shape(x)[1:])
    )
    for name, x in batch.items()
  }


def check_batch_size(size, mesh, *, what):
  """Refuses a batch size that is no multiple of the devices' number of parts.

  Args:
    size: Examples of all processes.
    mesh: As of `make_mesh`.
    what: What has this size, the subject of the sentence.

  Raises:
    artifacts.InputError: The parts would not be equal; says which would be.
  """
  num_parts = mesh.shape["data"] * mesh.shape["fsdp"]
  if size % num_parts:
    raise artifacts.InputError(
      f"{what} of {size} cannot be spread over {num_parts} devices (data"
      f" {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}): make it a multiple"
      f" of that, for example {-(-size // num_parts) * num_parts}."
    )


def _rule(name, rules):
  return next(rule for rule in rules if re.search(rule[0], name))


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator="/")
