"""One step of ours is one step of the released code.

The released modules (model, loss, decay, and kauldron's train step) run in an
environment of their own, since kauldron wants other packages:

  python3.11 -m venv OFFICIAL
  OFFICIAL/bin/pip install kauldron opencv-python-headless
  git clone https://github.com/google-deepmind/alignet CLONE
  ALIGNET_OFFICIAL_PYTHON=OFFICIAL/bin/python ALIGNET_OFFICIAL_CLONE=CLONE \
    python -m pytest -m parity tests/student/test_official_step.py

Without these two variables the test is skipped.
"""

import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax.backbones import vit, weights
from alignet_jax.student import losses, model, optimizer, train
from alignet_jax.triplets import labels

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
TOLERANCE = 1e-5
NUM_TRIPLETS, SIZE, HEAD_DIM, COUNT = 5, 32, 11, 10
# So large that the update is no small part of the updated parameters.
LR = 0.3
# "mu/16" of big_vision.
BACKBONE = vit.ViT(
  patch_size=16, width=32, depth=1, mlp_dim=128, num_heads=2, pool="map"
)

pytestmark = pytest.mark.parity


@pytest.fixture(name="official")
def _official():
  """Interpreter and clone of the released code."""
  names = ("ALIGNET_OFFICIAL_PYTHON", "ALIGNET_OFFICIAL_CLONE")
  for name in names:
    if not os.environ.get(name):
      pytest.skip(f"parity needs {name}; see the module's docstring")
  return [os.environ[name] for name in names]


def theirs(name):
  """The name of one of our parameters in the released model."""
  return name.replace("backbone/", "model/_Model_0/", 1)


def assert_close(ours, other, what):
  """Largest difference over the largest entry, for each tensor and all."""
  largest = max(np.max(np.abs(x)) for x in other.values())
  worst = {}
  for name, x in ours.items():
    difference = np.max(np.abs(x - other[theirs(name)]))
    # A key's bias has a gradient of 0 but for rounding: the softmax does not
    # see it. It is compared with the largest entry of all tensors.
    is_zero = name.endswith("key/bias")
    scale = max(np.max(np.abs(other[theirs(name)])), 1e-3 * largest)
    scale = largest if is_zero and what != "params" else scale
    worst[name] = difference / scale
  name = max(worst, key=worst.get)
  print(f"{what}: largest relative difference {worst[name]:.2g}, of {name}")
  assert worst[name] < TOLERANCE


def test_loss_gradients_and_updated_parameters_agree(
  official, np_rng, tmp_path
):
  """From the middle of training: away from the anchor, with moments.

  At the first step Adam divides a gradient by its own size, so that entries
  that are 0 but for rounding would decide; and the decay would have no say.
  """
  student = model.Student(backbone=BACKBONE, head_dim=HEAD_DIM)
  shapes = weights.expected_shapes(student, image_size=SIZE)

  def draw(scale):
    return {
      name: (scale * np_rng.normal(size=shape)).astype(np.float32)
      for name, shape in shapes.items()
    }

  anchor, noise = draw(0.2), draw(0.1)
  params = {name: anchor[name] + noise[name] for name in anchor}
  nu = {name: x**2 + np.float32(1e-6) for name, x in draw(1e-3).items()}
  pixels = np_rng.integers(
    0, 256, (NUM_TRIPLETS, 3, SIZE, SIZE, 3), dtype=np.uint8
  )
  pair_sims = np_rng.normal(size=(NUM_TRIPLETS, 3), scale=2).astype(np.float32)

  given = {"image": pixels.astype(np.float32) / np.float32(255)}
  given |= {"pair_sims": pair_sims, "count": np.int32(COUNT)}
  for prefix, tree in (("params", params), ("anchor", anchor), ("nu", nu)):
    given |= {f"{prefix}/{theirs(name)}": x for name, x in tree.items()}
  np.savez(tmp_path / "given.npz", **given)
  python, clone = official
  done = subprocess.run(
    [
      python,
      PROGRAM / "official_step.py",
      f"--clone={clone}",
      f"--head_dim={HEAD_DIM}",
      f"--lr={LR}",
      tmp_path / "given.npz",
      tmp_path / "out.npz",
    ],
    env={**os.environ, "XLA_FLAGS": "", "JAX_NUMPY_RANK_PROMOTION": "allow"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  with np.load(tmp_path / "out.npz") as file:
    out = dict(file)

  def tree(flat):
    return jax.tree.map(jnp.array, weights.unflatten(flat))

  tx = optimizer.make_optimizer(
    lr=LR, warmup_steps=0, num_steps=100_000, decay_to_init=1.0
  )
  state = train.init_state(tree(anchor), tx)
  clip, adam, decay, schedule = state.opt_state
  state = state.replace(
    params=tree(params),
    opt_state=(
      clip,
      adam._replace(count=jnp.array(COUNT), nu=tree(nu)),
      decay,
      schedule._replace(count=jnp.array(COUNT)),
    ),
  )
  state, metrics = train.train_step(
    state,
    {"image": pixels, "target_logprobs": labels.target_logprobs(pair_sims)},
    model=student,
    tx=tx,
    loss_fn=losses.jsd,
    temperature=100.0,
    value_range=(0, 1),
  )
  difference = abs(metrics["loss"] / out["loss"] - 1)
  print(f"loss {out['loss']:.6f}: relative difference {difference:.2g}")
  assert difference < TOLERANCE
  adam = state.opt_state[1]
  for what, ours in (
    ("mu", adam.mu),
    ("nu", adam.nu),
    ("params", state.params),
  ):
    prefix = f"{what}/"
    other = {
      name.removeprefix(prefix): x
      for name, x in out.items()
      if name.startswith(prefix)
    }
    # mu began at 0, so that it is a tenth of the gradient.
    assert_close(weights.flatten(jax.device_get(ours)), other, what)
  # Else their agreement would say nothing of the update.
  moved = weights.flatten(jax.device_get(state.params))
  for name, x in moved.items():
    step = np.max(np.abs(x - params[name]))
    assert step > 0.01 * np.max(np.abs(x)), name
