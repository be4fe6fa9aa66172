"""How fast training is, and what it waits for.

Usage:
  speed = Speed({"images": 192}, flops=flops, peak=peak_flops(device_kind))
  with speed.waiting():
    batch = next(batches)
  ...
  speed.count_step()
  bar.update(**speed.words())
"""

import contextlib
import time

# FLOP/s of dense products in bfloat16 of one device, by the beginning of what
# JAX calls it: the makers' data sheets (NVIDIA's give twice that, for sparse
# products; of Google's TPU v2 and v3 a chip is two devices).
PEAK_FLOPS = (
  ("NVIDIA B200", 2.25e15),
  ("NVIDIA H200", 989e12),
  ("NVIDIA H100 PCIe", 756e12),
  ("NVIDIA H100", 989e12),
  ("NVIDIA A100", 312e12),
  ("NVIDIA L40S", 362e12),
  ("NVIDIA L40", 181e12),
  ("NVIDIA L4", 121e12),
  ("Tesla V100", 125e12),
  ("TPU v6 lite", 918e12),
  ("TPU v5 lite", 197e12),
  ("TPU v5", 459e12),  # v5p
  ("TPU v4", 275e12),
  ("TPU v3", 61.5e12),
  ("TPU v2", 22.5e12),
)

# Seconds that a rate is the mean of.
_WINDOW = 5.0


def peak_flops(device_kind):
  """Largest FLOP/s of a device in bfloat16, or None if it is not known.

  Args:
    device_kind: As of `jax.Device.device_kind`.
  """
  for start, flops in PEAK_FLOPS:
    if device_kind.startswith(start):
      return flops
  return None


class Speed:
  """Rates of the last seconds. The first step does not count: it compiles."""

  def __init__(self, units_per_step, *, flops=None, peak=None):
    """Starts before the first step.

    Args:
      units_per_step: Name in the plural -> how many a step deals with.
      flops: Floating point operations per step and device, or None.
      peak: FLOP/s that a device can do, or None.
    """
    self._units = dict(units_per_step)
    self.flops = flops
    self.peak = peak
    self._since = None
    self._values = {}

  @contextlib.contextmanager
  def waiting(self):
    """Counts what happens inside as time waiting for data."""
    start = time.monotonic()
    yield
    if self._since is not None:
      self._waited += time.monotonic() - start

  @contextlib.contextmanager
  def pausing(self):
    """Leaves what happens inside out of all rates, such as an evaluation."""
    start = time.monotonic()
    yield
    if self._since is not None:
      self._since += time.monotonic() - start

  def count_step(self):
    """Counts a step that has been made."""
    now = time.monotonic()
    if self._since is not None:
      self._steps += 1
      seconds = now - self._since
      if seconds > 0:
        self._values = self._rates(seconds)
      if seconds < _WINDOW:
        return
    self._since, self._steps, self._waited = now, 0, 0.0

  def rates(self):
    """Name -> number, such as "images/s"; {} before there are any."""
    return self._values

  def words(self):
    """The same as words to show."""
    words = {}
    for name, value in self._values.items():
      share = name in ("waiting", "MFU")
      words[name] = f"{100 * value:.3g}%" if share else f"{value:.4g}"
    return words

  def _rates(self, seconds):
    rates = {
      f"{name}/s": number * self._steps / seconds
      for name, number in self._units.items()
    }
    if self._units:
      rates["waiting"] = self._waited / seconds
    if self.flops and self.peak:
      rates["MFU"] = self.flops * self._steps / seconds / self.peak
    return rates
