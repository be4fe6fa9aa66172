"""How long a checkpoint keeps the training waiting.

Prints, for a state of parameters, two moments and an anchor: the seconds of a
copy to the host, of the save that returns early, and of the same until all is
on the disk.

  PYTHONPATH=. python benchmarks/checkpoints.py --megabytes=100
"""

import argparse
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from alignet_jax import checkpoints


def main():
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--megabytes", type=int, default=100)
  parser.add_argument("--repeats", type=int, default=5)
  args = parser.parse_args()
  width = 512
  layers = max(1, args.megabytes * 10**6 // (4 * 4 * width * width))
  part = lambda seed: {  # noqa: E731
    f"block_{i}": jax.random.normal(jax.random.key(seed + i), (width, width))
    for i in range(layers)
  }
  state = {
    name: part(seed)
    for seed, name in enumerate(("params", "mu", "nu", "anchor"))
  }
  jax.block_until_ready(state)
  size = sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6
  times = {"copy to the host": [], "save": [], "on the disk": []}
  with (
    tempfile.TemporaryDirectory() as folder,
    checkpoints.Checkpoints(folder, log=lambda line: None) as saver,
  ):
    for step in range(args.repeats + 1):
      state = jax.tree.map(lambda x: jnp.add(x, 1), state)
      jax.block_until_ready(state)
      start = time.monotonic()
      jax.tree.map(lambda x: np.array(x, copy=True), state)
      times["copy to the host"].append(time.monotonic() - start)
      start = time.monotonic()
      saver.save(step, state, [])
      times["save"].append(time.monotonic() - start)
      saver.wait()
      times["on the disk"].append(time.monotonic() - start)
  print(f"{size:.0f} MB in {len(jax.tree.leaves(state))} arrays; median of")
  for name, seconds in times.items():
    # The first compiles.
    print(f"  {name}: {np.median(seconds[1:]):.3f} s")


if __name__ == "__main__":
  main()
