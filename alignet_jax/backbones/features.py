"""Runs a model over a collection of images and collects one of its outputs.

Usage:
  x = features.extract(model, params, images, batch_size=64,
                       value_range=(-1, 1), output="pre_logits")  # f32[n d]
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from alignet_jax import artifacts


def extract(
  model,
  params,
  images,
  *,
  batch_size,
  value_range=(0, 1),
  output="pre_logits",
  callback=None,
):
  """Computes one output of a model for every image of a collection.

  The last batch is filled up with copies of its first image, whose results are
  dropped, so that the model is compiled once.

  Args:
    model: flax module that maps f32[b h w 3] to (x, dict of named outputs).
    params: Its parameters.
    images: Collection with `len` and `load(indices) -> uint8[b h w 3]`.
    batch_size: Images per call, at least 1.
    value_range: What 0 and 255 become; belongs to the weights.
    output: Name in the dict of outputs.
    callback: Called with the number of images done, after each batch; or None.

  Returns:
    f32[n ...], row i for image i; [n d] for "pre_logits".

  Raises:
    artifacts.InputError: There is no such output, or no image.
  """
  n = len(images)
  if n < 1:
    raise artifacts.InputError("There is no image to extract features of.")
  batch_size = min(batch_size, n)
  params = jax.device_put(params)
  result = None
  for start in range(0, n, batch_size):
    indices = np.arange(start, start + batch_size)
    num_real = min(batch_size, n - start)
    indices[num_real:] = start
    x = _forward(
      params,
      images.load(indices),
      model=model,
      value_range=tuple(value_range),
      output=output,
    )
    if result is None:
      result = np.empty((n, *x.shape[1:]), np.float32)
    result[start : start + num_real] = np.asarray(x)[:num_real]
    if callback is not None:
      callback(start + num_real)
  return result


def scale_pixels(image, value_range):
  """Turns pixels of 0 to 255 into floats of a range.

  Args:
    image: uint8[*b h w 3].
    value_range: Low and high: what 0 and 255 become.

  Returns:
    f32[*b h w 3].
  """
  low, high = value_range
  return jnp.asarray(image, jnp.float32) * ((high - low) / 255.0) + low


@functools.partial(jax.jit, static_argnames=("model", "value_range", "output"))
def _forward(params, image, *, model, value_range, output):
  _, out = model.apply({"params": params}, scale_pixels(image, value_range))
  if output not in out:
    raise artifacts.InputError(
      f"The model has no output {output!r}; it has {', '.join(out)}."
    )
  return out[output].astype(jnp.float32)
