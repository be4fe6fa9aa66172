"""What all tests share: strict JAX on simulated CPU devices, and fixtures.

The settings go by environment variables, so that the processes which tests
start have them too, and must be made before the first import of JAX.
"""

import os
import pathlib
import signal
import sys

import hypothesis
import pytest

if "jax" in sys.modules:
  raise RuntimeError(
    "JAX was imported before tests/conftest.py, which sets it up. Run the "
    "tests by `python -m pytest`, without plugins that import JAX."
  )

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Eight devices let any test shard. Measured with jax 0.10.2 on two cores: no
# cost (40 compilations 4.3 s instead of 4.4 s, 6,000 eager operations 0.18 s
# instead of 0.17 s).
NUM_DEVICES = "--xla_force_host_platform_device_count"
if NUM_DEVICES not in os.environ.get("XLA_FLAGS", ""):
  flags = [os.environ.get("XLA_FLAGS", ""), f"{NUM_DEVICES}=8"]
  os.environ["XLA_FLAGS"] = " ".join(flags).strip()

# A shell that starts something in the background has it ignore Ctrl-C, and so
# would every process that a test starts to stop it by just that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

# The same examples every time, and no time limit: a busy machine is no error.
hypothesis.settings.register_profile(
  "deterministic", derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile("deterministic")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Marks what uses the shared data, so that `-m "not data"` leaves it out."""
  for item in items:
    if "shared_data" in getattr(item, "fixturenames", ()):
      item.add_marker(pytest.mark.data)


def pytest_runtest_setup(item):
  """Skips tests without their GPU, and keeps TensorFlow off the GPU."""
  if item.get_closest_marker("gpu"):
    import jax

    if jax.default_backend() == "cpu":
      pytest.skip("needs an accelerator; run with JAX_PLATFORMS=cuda -m gpu")
  # Only if something imported it: importing TensorFlow takes seconds.
  if tensorflow := sys.modules.get("tensorflow"):
    try:
      tensorflow.config.set_visible_devices([], "GPU")
    except (AttributeError, RuntimeError):
      pass  # half imported, or in use already


@pytest.fixture(scope="session")
def shared_data():
  """Folder of human data, features and weights beside the repository."""
  path = REPOSITORY.parent / "shared" / "data"
  if not path.is_dir():
    pytest.skip(f"needs the data in {path}, which does not exist")
  return path


@pytest.fixture
def np_rng():
  """A numpy generator, seeded alike for every test."""
  import numpy as np

  return np.random.default_rng(4711)
