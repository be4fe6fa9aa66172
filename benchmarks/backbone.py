"""Images per second of ViT-B/16 at 224 pixels, beside PyTorch's.

  pip install -e .
  python benchmarks/backbone.py                           # CPU, or GPU
  python benchmarks/backbone.py --torch_python=PYTHON     # CPU, both

PYTHON is the interpreter of an environment with torch and transformers. On a
CPU both sides compute a forward pass in float32 of the same random weights'
shape, with as many threads, PyTorch in a process of its own, by turns with
ours. The threads of JAX are those of the CPUs that the process may use:
`taskset -c 0,1 python benchmarks/backbone.py --num_threads=2 ...`. On a GPU
ours runs in bfloat16, beside the product of two square matrices in bfloat16 on
the same device: what the hardware gives at most. Speed on a machine that does
other work as well means nothing; only ratios do, and they roughly.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# Multiply-adds of B/16 on 14 x 14 patches and the class token, per image, in
# the matrix products: patches, four of d x d and two of d x 4 d for each token
# and block, and the two of attention. A multiply-add is two operations.
TOKENS, WIDTH, DEPTH, MLP_DIM, PATCH = 197, 768, 12, 3072, 16
MULTIPLY_ADDS = (
  (TOKENS - 1) * 3 * PATCH**2 * WIDTH
  + DEPTH * TOKENS * (4 * WIDTH**2 + 2 * WIDTH * MLP_DIM)
  + DEPTH * 2 * TOKENS**2 * WIDTH
)


def main():
  """Prints the table; see above."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--torch_python", help="interpreter with torch")
  parser.add_argument("--batch_size", type=int, help="8 on a CPU, else 256")
  parser.add_argument("--num_batches", type=int, default=4, help="per round")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--num_threads", type=int, help="of torch")
  parser.add_argument("--matrix", type=int, help="edge; 8192 on a GPU")
  parser.add_argument(
    "--reference", action="store_true", help=argparse.SUPPRESS
  )
  args = parser.parse_args()
  args.num_threads = args.num_threads or len(os.sched_getaffinity(0))
  if args.reference:
    return run_reference(args)

  import jax

  device = jax.devices()[0]
  on_cpu = device.platform == "cpu"
  args.batch_size = args.batch_size or (8 if on_cpu else 256)
  dtype = "float32" if on_cpu else "bfloat16"
  our_round = make_our_round(args, dtype)
  ceiling_round = make_ceiling_round(
    args.matrix or (1024 if on_cpu else 8192), dtype
  )
  ours, theirs, ceilings = [], [], []
  reference = start_reference(args) if args.torch_python else None
  for _ in range(args.rounds):
    ours.append(our_round())
    ceilings.append(ceiling_round())
    if reference:
      theirs.append(ask_reference(reference))
  if reference:
    reference.stdin.close()
    reference.wait()

  print(
    f"{device.device_kind}, {args.num_threads} CPUs; ViT-B/16, 224 px, {dtype},"
    f" batches of {args.batch_size}, {args.num_batches} per round"
  )
  show("ours", ours)
  if theirs:
    show("torch", theirs)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(
      f"ratio: median {statistics.median(ratios):.2f}, "
      f"{min(ratios):.2f} to {max(ratios):.2f}"
    )
  used = [2e-12 * MULTIPLY_ADDS * speed for speed in ours]
  shares = [a / b for a, b in zip(used, ceilings, strict=True)]
  print(
    f"matrix products: {statistics.median(used):.3g} of "
    f"{statistics.median(ceilings):.3g} TFLOP/s that one product of square "
    f"matrices reaches: {100 * statistics.median(shares):.0f}%"
  )
  return 0


def show(name, speeds):
  """Prints the rounds of one side."""
  shown = ", ".join(f"{speed:,.2f}" for speed in speeds)
  print(f"{name:<6} images/s: {shown}")


def make_our_round(args, dtype):
  """A function that times a round, compiled before."""
  import jax
  import jax.numpy as jnp

  from alignet_jax.backbones import load

  backbone = load.load("augreg_b16", image_size=224, dtype=dtype)
  params = jax.device_put(backbone.params)
  image = jax.random.normal(
    jax.random.key(1), (args.batch_size, 224, 224, 3), jnp.float32
  )

  @jax.jit
  def forward(params, image):
    return backbone.model.apply({"params": params}, image)[0]

  return timer(
    lambda: forward(params, image), args.num_batches, args.batch_size
  )


def make_ceiling_round(edge, dtype):
  """A function that measures a matrix product, in TFLOP/s."""
  import jax

  x = jax.random.normal(jax.random.key(2), (edge, edge), dtype)
  product = jax.jit(lambda x, y: x @ y)
  return timer(lambda: product(x, x), 20, 2e-12 * edge**3)


def timer(run, num_calls, amount):
  """A function that returns `amount` per second; `run` is called before."""
  import jax

  jax.block_until_ready(run())

  def timed():
    start = time.perf_counter()
    for _ in range(num_calls):
      result = run()
    jax.block_until_ready(result)
    return num_calls * amount / (time.perf_counter() - start)

  return timed


def start_reference(args):
  """Starts this file with the other interpreter; it waits for a line each."""
  command = [
    args.torch_python,
    __file__,
    "--reference",
    f"--batch_size={args.batch_size}",
    f"--num_batches={args.num_batches}",
    f"--num_threads={args.num_threads}",
  ]
  process = subprocess.Popen(
    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  json.loads(process.stdout.readline())  # Ready: it has run once.
  return process


def ask_reference(process):
  """Images per second of a round of it."""
  process.stdin.write("go\n")
  process.stdin.flush()
  return json.loads(process.stdout.readline())


def run_reference(args):
  """Answers each line of the input; imports nothing of ours."""
  import torch
  import transformers

  torch.set_num_threads(args.num_threads)
  config = transformers.ViTConfig(image_size=224, patch_size=16)
  model = transformers.ViTModel(config, add_pooling_layer=False).eval()
  image = torch.randn(args.batch_size, 3, 224, 224)
  with torch.inference_mode():
    model(image)
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
      start = time.perf_counter()
      for _ in range(args.num_batches):
        model(image)
      seconds = time.perf_counter() - start
      speed = args.num_batches * args.batch_size / seconds
      print(json.dumps(speed), flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
