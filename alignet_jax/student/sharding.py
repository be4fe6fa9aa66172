"""Where arrays lie: one mesh, one table of rules.

Usage:
  mesh = sharding.make_mesh()                       # all devices, data parallel
  state = sharding.replicate(state, mesh)
  batch = sharding.shard_batch(batch, mesh)
"""

import re

import jax
import jax.numpy as jnp
import numpy as np

from alignet_jax import artifacts

AXES = ("data", "fsdp", "tensor")

# The axes that examples are spread over.
BATCH_AXES = ("data", "fsdp")

_P = jax.sharding.PartitionSpec

# First rule whose pattern is found in a parameter's "/"-joined name decides.
# Replicated everywhere for now; the moments of the optimiser and the anchor of
# the decay have the parameters' names, and so follow the same rule.
RULES = ((r"", _P()),)


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


def spec(name, rules=RULES):
  """The `PartitionSpec` of a parameter with a given "/"-joined name."""
  return next(s for pattern, s in rules if re.search(pattern, name))


def replicate(state, mesh, rules=RULES):
  """Places each leaf of a tree by the rule for its name.

  Args:
    state: Tree of arrays.
    mesh: As of `make_mesh`.
    rules: Table like `RULES`.

  Returns:
    The tree in buffers of its own, which a step may spend.
  """

  def put(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    where = jax.sharding.NamedSharding(mesh, spec(name, rules))
    # Placing may reuse the buffer of the first device, so a copy is placed.
    return jax.device_put(jnp.copy(x), where)

  return jax.tree_util.tree_map_with_path(put, state)


def shard_batch(batch, mesh):
  """Spreads the first axis of each array over the devices.

  Args:
    batch: Dict of arrays [b ...]; with several processes the share of this
      one, which holds the examples of its own devices.
    mesh: As of `make_mesh`.

  Returns:
    Dict of `jax.Array`.

  Raises:
    artifacts.InputError: b is no multiple of the devices it is spread over.
  """
  where = jax.sharding.NamedSharding(mesh, _P(BATCH_AXES))
  num_parts = mesh.shape["data"] * mesh.shape["fsdp"]
  num_hosts = jax.process_count() if mesh.is_multi_process else 1
  for name, x in batch.items():
    if len(x) * num_hosts % num_parts:
      raise artifacts.InputError(
        f"A batch of {len(x) * num_hosts} ({name!r}) cannot be spread over "
        f"{num_parts} devices: make the batch size a multiple of that."
      )
  if num_hosts > 1:
    return {
      name: jax.make_array_from_process_local_data(where, x)
      for name, x in batch.items()
    }
  return jax.device_put(batch, where)
