"""How many floating point operations a train step is, for its MFU.

Those of matrix products and convolutions are counted, in what JAX traces. The
compiler counts the body of a loop once, however often it runs, so with parts of
a batch one after the other it would find a fraction of the work.

Usage:
  rates.flops = work.flops_per_device(step_fn, state, batch)
"""

import functools
import math

import jax


def trace(step_fn, state, batch):
  """Traces a step, which the call that follows finds done.

  Args:
    step_fn: What `jax.jit` gives, or a `functools.partial` of that.
    state: Tree of arrays.
    batch: Tree of arrays.

  Returns:
    `jax.stages.Traced`; None where the step is no compiled function.
  """
  args, keywords = (), {}
  if isinstance(step_fn, functools.partial):
    step_fn, args, keywords = step_fn.func, step_fn.args, step_fn.keywords
  if not hasattr(step_fn, "trace"):
    return None
  return step_fn.trace(*args, state, batch, **keywords)


def flops_per_device(step_fn, state, batch):
  """Counts the operations of a step, shared equally by its devices.

  A multiply-add is two. What remat computes twice counts twice.

  Args:
    step_fn: As of `trace`.
    state: Tree of arrays, placed.
    batch: Tree of arrays.

  Returns:
    float; None where the step is no compiled function.
  """
  traced = trace(step_fn, state, batch)
  if traced is None:
    return None
  num_devices = max(
    (
      len(x.sharding.device_set)
      for x in jax.tree.leaves((state, batch))
      if hasattr(x, "sharding")
    ),
    default=1,
  )
  return float(_count(traced.jaxpr.jaxpr)) / num_devices


def _count(jaxpr):
  """Operations of a program."""
  return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation):
  """Operations of a part of a program, those of a loop as often as it runs."""
  name, params = equation.primitive.name, equation.params
  if name in ("dot_general", "conv_general_dilated"):
    first, second = (x.aval.shape for x in equation.invars)
    if name == "dot_general":
      axes = params["dimension_numbers"][0][0]
      terms = math.prod(first[axis] for axis in axes)
    else:
      terms = (
        math.prod(second) // second[params["dimension_numbers"].rhs_spec[0]]
      )
    return 2 * terms * math.prod(equation.outvars[0].aval.shape)
  counts = [_count(jaxpr) for jaxpr in _programs(params)]
  if name == "cond":
    return max(counts)
  # How often a loop that ends by a condition runs, nobody knows before.
  return sum(counts) * (params["length"] if name == "scan" else 1)


def _programs(params):
  """The programs among the parameters of an equation."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      item = getattr(item, "jaxpr", item)  # Of one with its constants.
      if hasattr(item, "eqns"):
        yield item
