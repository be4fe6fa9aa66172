"""Held-out loss and accuracy, against a plain loop over the triplets."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from alignet_jax.student import heldout, losses


class Linear(nn.Module):
  """Embeds an image by one product, as a backbone would."""

  @nn.compact
  def __call__(self, image):
    z = nn.Dense(5)(image.reshape(len(image), -1))
    return z, {}


@pytest.mark.parametrize("name", ["jsd", "kl"])
def test_against_a_loop_with_a_padded_last_batch(np_rng, name):
  image = np_rng.integers(0, 256, (7, 3, 2, 2, 3), np.uint8)
  target = np_rng.normal(size=(7, 3)).astype(np.float32)
  target -= np.log(np.exp(target).sum(axis=1, keepdims=True))
  target[4, 0] = target[4, 1] = target[4].max() + 1  # A tie of the teacher.
  model = Linear()
  params = model.init(jax.random.key(3), image[0] / 255.0)["params"]
  dense = jax.tree.map(np.asarray, params["Dense_0"])
  order = np.array([0, 1, 2, 3, 4, 5, 6, 6])  # The last one fills up.
  mask = np.arange(8) < 7
  batches = [
    {
      "image": image[order[i : i + 4]],
      "target_logprobs": target[order[i : i + 4]],
      "mask": mask[i : i + 4],
    }
    for i in (0, 4)
  ]
  found = heldout.evaluate(
    params,
    batches,
    model=model,
    loss_fn=losses.get_loss(name),
    temperature=2.0,
    value_range=(0, 1),
  )
  expected, right = [], []
  for pixels, logprobs in zip(image, target, strict=True):
    flat = pixels.reshape(3, -1) / 255.0
    z = flat @ dense["kernel"] + dense["bias"]
    scores = np.array([z[1] @ z[2], z[0] @ z[2], z[0] @ z[1]]) / 2.0
    expected.append(losses.get_loss(name)(scores[None], logprobs[None])[0])
    is_tie = np.sum(logprobs == logprobs.max()) > 1
    right.append(not is_tie and np.argmax(scores) == np.argmax(logprobs))
  assert found["loss"] == pytest.approx(np.mean(expected), rel=1e-5, abs=1e-7)
  assert found["accuracy"] == pytest.approx(np.mean(right), rel=1e-6, abs=0)
