"""How a student does on triplets that it is not trained on.

Usage:
  metrics = heldout.evaluate(
    params, batches, model=student, loss_fn=losses.get_loss("jsd"),
    temperature=100.0, value_range=(0, 1))
"""

import functools

import jax
import jax.numpy as jnp

from alignet_jax import odd_one_out
from alignet_jax.backbones import features


def evaluate(params, batches, **settings):
  """Means over all triplets of an epoch; those that fill it up do not count.

  Args:
    params: Tree of the student's parameters.
    batches: Dicts {"image": uint8[b 3 h w 3], "target_logprobs": f32[b 3],
      "mask": bool[b]}, at least one with a triplet that counts.
    **settings: `model`, `loss_fn`, `temperature` and `value_range`, as of
      `train.compute_loss`.

  Returns:
    Dict: "loss", and "accuracy", the share of triplets where the student's odd
    one is the teacher's, ties of either counting as wrong.
  """
  totals = None
  for batch in batches:
    sums = _sums(params, batch, **settings)
    totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    # One program over several devices at a time; see `checksums.of_state`.
    jax.block_until_ready(totals)
  number = float(totals["number"])
  return {k: float(totals[k]) / number for k in ("loss", "accuracy")}


@functools.partial(
  jax.jit, static_argnames=("model", "loss_fn", "temperature", "value_range")
)
def _sums(params, batch, *, model, loss_fn, temperature, value_range):
  """Sums over the triplets that count, and how many they are."""
  image, target_logprobs = batch["image"], batch["target_logprobs"]
  image = features.scale_pixels(image, value_range)
  z, _ = model.apply({"params": params}, image.reshape(-1, *image.shape[2:]))
  z = z.reshape(-1, 3, z.shape[-1])
  logits = odd_one_out.logits(z, temperature=temperature)
  target = odd_one_out.choose(target_logprobs)
  is_right = odd_one_out.choose(logits) == target
  is_right &= target != odd_one_out.TIE
  real = batch["mask"].astype(jnp.float32)
  return {
    "loss": jnp.sum(real * loss_fn(logits, target_logprobs)),
    "accuracy": jnp.sum(real * is_right),
    "number": jnp.sum(real),
  }
