"""Whether a train step fits, said before the first one.

The step is compiled ahead; the call that follows finds it compiled.

Usage:
  plan = memory.plan(step_fn, state, batch)
  log(memory.line(plan))
  memory.check(plan)
"""

import dataclasses
import re

import jax
import numpy as np

from alignet_jax import artifacts, work

# What part of a state an array is, by the first pattern found in its name.
_KINDS = (
  ("anchor", r"(^|/)anchor(/|$)"),
  ("moments", r"(^|/)(mu|nu|trace)(/|$)"),
  ("parameters", r"(^|/)params(/|$)"),
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """Memory that a step needs, per device.

  Attributes:
    state: Kind, such as "moments" -> bytes.
    batch: Bytes of the batch.
    work: Bytes of activations and whatever else is there for a while.
    limit: Bytes that the device has, or None if it does not say.
  """

  state: dict[str, int]
  batch: int
  work: int
  limit: int | None

  @property
  def total(self):
    """All bytes."""
    return sum(self.state.values()) + self.batch + self.work


def plan(step_fn, state, batch):
  """Compiles a step and adds up what it needs.

  Args:
    step_fn: What `jax.jit` gives, or a `functools.partial` of that.
    state: Tree of arrays.
    batch: Tree of arrays.

  Returns:
    A `Plan`; None where the step is no compiled function or the compiler does
    not tell.
  """
  traced = work.trace(step_fn, state, batch)
  if traced is None:
    return None
  analysis = traced.lower().compile().memory_analysis()
  if analysis is None:
    return None
  arguments = _bytes(state) + _bytes(batch)
  # What is given back in place of a spent argument needs no room of its own.
  fresh = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
  spill = max(analysis.argument_size_in_bytes - arguments, 0)
  return Plan(
    state=_by_kind(state),
    batch=_bytes(batch),
    work=int(analysis.temp_size_in_bytes + max(fresh, 0) + spill),
    limit=_limit(),
  )


def line(plan):
  """Such as "memory per device: parameters 0.34 GB, ..., of 80.00 GB"."""
  parts = {**plan.state, "batch": plan.batch, "activations": plan.work}
  words = [f"{name} {_show(size)}" for name, size in parts.items() if size]
  limit = f" of {_show(plan.limit)}" if plan.limit else ", limit unknown"
  return (
    f"memory per device: {', '.join(words)}; {_show(plan.total)} in all{limit}"
  )


def check(plan):
  """Raises `artifacts.InputError` with remedies if a step does not fit."""
  if plan.limit is not None and plan.total > plan.limit:
    raise artifacts.InputError(
      f"The train step does not fit: {line(plan)}. Raise num_microbatches,"
      " which divides the activations; lower batch_size; compute in bfloat16"
      " or recompute activations (remat), where the config has these; or"
      " spread the state over more devices (fsdp)."
    )


def _by_kind(state):
  kinds = dict.fromkeys(("parameters", "moments", "anchor", "other state"), 0)
  for path, x in jax.tree_util.tree_leaves_with_path(state):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    kind = next((k for k, p in _KINDS if re.search(p, name)), "other state")
    kinds[kind] += _bytes(x)
  return kinds


def _bytes(tree):
  """Bytes of a tree on one device."""
  total = 0
  for x in jax.tree.leaves(tree):
    shape = np.shape(x)
    if hasattr(x, "sharding"):
      shape = x.sharding.shard_shape(shape)
    total += int(np.prod(shape, dtype=np.int64)) * np.dtype(x.dtype).itemsize
  return total


def _limit():
  """Bytes that a device can give, where it says so."""
  stats = jax.local_devices()[0].memory_stats()
  return (stats or {}).get("bytes_limit")


def _show(size):
  return f"{size / 1e9:.2f} GB" if size >= 5e6 else f"{size / 1e6:.2f} MB"
