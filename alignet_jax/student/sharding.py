"""Where arrays lie: one mesh with the axes data, fsdp and tensor.

In this version parameters are copied to every device and batches are split over
data and fsdp; rules for splitting parameters go into `RULES`.

Usage:
  mesh = make_mesh()
  state = replicate(state, mesh)
  batch = shard_batch(batch, mesh)
"""

import re

import jax
import numpy as np

AXES = ("data", "fsdp", "tensor")

# The first pattern that a parameter's "/"-joined name contains decides.
RULES = ((r".*", jax.sharding.PartitionSpec()),)


def make_mesh(*, fsdp=1, tensor=1, devices=None):
  """Arranges devices in a mesh.

  Args:
    fsdp: devices along the axis of that name.
    tensor: likewise.
    devices: list of devices, all of them by default.

  Returns:
    `jax.sharding.Mesh`; what fsdp and tensor leave over is along data.
  """
  devices = np.array(jax.devices() if devices is None else devices)
  if devices.size % (fsdp * tensor):
    raise ValueError(
      f"{devices.size} devices cannot be arranged with fsdp={fsdp} and "
      f"tensor={tensor}; their product must divide {devices.size}."
    )
  return jax.sharding.Mesh(devices.reshape(-1, fsdp, tensor), AXES)


def spec_of(name):
  """PartitionSpec of a parameter, by its "/"-joined name."""
  return next(spec for pattern, spec in RULES if re.search(pattern, name))


def replicate(tree, mesh):
  """Copies a tree to every device, each leaf as its rule says."""

  def place(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    sharding = jax.sharding.NamedSharding(mesh, spec_of(name))
    return jax.device_put(leaf, sharding)

  return jax.tree_util.tree_map_with_path(place, tree)


def shard_batch(batch, mesh):
  """Splits the first axis of every array over data and fsdp.

  Raises:
    ValueError: If that axis is not a multiple of the devices.
  """
  spec = jax.sharding.PartitionSpec(("data", "fsdp"))
  sharding = jax.sharding.NamedSharding(mesh, spec)
  parts = mesh.shape["data"] * mesh.shape["fsdp"]

  def place(array):
    if len(array) % parts:
      raise ValueError(
        f"A batch of {len(array)} cannot be split over {parts} devices; take a "
        f"multiple of {parts}."
      )
    return jax.device_put(array, sharding)

  return jax.tree.map(place, batch)
