"""Runs a model over a collection of images and collects one of its outputs.

`extract` keeps them in memory, for the stages of a run; `feature_files` streams
those of any number of images to the disk.

Usage:
  x = features.extract(model, params, images, batch_size=64,
                       value_range=(-1, 1), output="pre_logits")  # f32[n d]
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import preprocess


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
    value_range: What 0 and 255 become, or `preprocess.Preprocessing`; belongs
      to the weights.
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
  if not isinstance(value_range, preprocess.Preprocessing):
    value_range = tuple(value_range)
  result = None
  for start in range(0, n, batch_size):
    indices = np.arange(start, start + batch_size)
    num_real = min(batch_size, n - start)
    indices[num_real:] = start
    (x,) = forward(
      params,
      images.load(indices),
      model=model,
      scaling=value_range,
      outputs=(output,),
    )
    if result is None:
      result = np.empty((n, *x.shape[1:]), np.float32)
    result[start : start + num_real] = np.asarray(x)[:num_real]
    if callback is not None:
      callback(start + num_real)
  return result


def scale_pixels(image, scaling):
  """Turns pixels of 0 to 255 into the floats that a model takes.

  Args:
    image: uint8[*b h w 3].
    scaling: Low and high, which 0 and 255 become; or
      `preprocess.Preprocessing`, for its mean and std.

  Returns:
    f32[*b h w 3].
  """
  if isinstance(scaling, preprocess.Preprocessing):
    return scaling.normalise(image)
  low, high = scaling
  return jnp.asarray(image, jnp.float32) * ((high - low) / 255.0) + low


@functools.partial(jax.jit, static_argnames=("model", "scaling", "outputs"))
def forward(params, image, *, model, scaling, outputs):
  """Computes outputs of a model for one batch.

  Args:
    params: Its parameters.
    image: uint8[b h w 3].
    model: flax module that maps f32[b h w 3] to (x, dict of named outputs).
    scaling: `preprocess.Preprocessing`, or what 0 and 255 become.
    outputs: Tuple of names in that dict.

  Returns:
    List of f32[b ...], one per name.

  Raises:
    artifacts.InputError: There is no such output.
  """
  x = scale_pixels(image, scaling)
  _, out = model.apply({"params": params}, x)
  for name in outputs:
    if name not in out:
      raise artifacts.InputError(
        f"The model has no output {name!r}; it has {', '.join(out)}."
      )
  return [out[name].astype(jnp.float32) for name in outputs]
