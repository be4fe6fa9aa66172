"""Numbers by which it is told whether a checkpoint reads back as it was.

Of arrays they are computed on the devices, by integers only, so that they are
the same on any number of devices and cost the training nothing on the host.

Usage:
  sums = checksums.of_state(state)                # {"params/w": uint32[], ...}
  record["checksum"] = checksums.of_record(record)
"""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np

# Odd, so that every single bit counts; 2^32 divided by the golden ratio.
_MULTIPLIER = np.uint32(0x9E3779B1)


def of_state(state):
  """Computes a number per array that any changed bit changes.

  Args:
    state: Tree of arrays.

  Returns:
    Dict from name to uint32[], of arrays in one piece perhaps still being
    computed.
  """
  sums = {}
  for name, x in named(state):
    sums[name] = _checksum(x)
    if isinstance(x, jax.Array) and not x.is_fully_replicated:
      # One at a time: of hundreds of programs whose devices wait for each
      # other, those of simulated devices, which share threads, wait for ever.
      jax.block_until_ready(sums[name])
  return sums


def of_record(record):
  """CRC-32 of what a record says, its own checksum left out."""
  content = {k: v for k, v in record.items() if k != "checksum"}
  return zlib.crc32(json.dumps(content, sort_keys=True).encode())


@jax.jit
def _checksum(x):
  """Sum over entries of their bits times an odd weight, modulo 2^32.

  Integers add up to the same in any order, so neither the number of devices nor
  the compiler matters. A single changed bit changes its summand by an odd
  multiple of a power of two below 2^32, and so the sum.
  """
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  word = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
  words = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
  # By dimensions and not flattened: that would gather what is spread.
  place = jnp.zeros(words.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(words.ndim)):
    index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    place += index * np.uint32(stride % 2**32)
    stride *= words.shape[axis]
  weights = (place * _MULTIPLIER) | np.uint32(1)
  return jnp.sum(words * weights, dtype=jnp.uint32)


def named(tree):
  """Pairs of "/"-joined name and leaf."""
  return [
    (jax.tree_util.keystr(path, simple=True, separator="/"), x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  ]
