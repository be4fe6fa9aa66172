"""Speed of a train step: alone, of its input, and of both together.

  pip install -e .
  python benchmarks/train_step.py                      # CPU, or GPU
  python benchmarks/train_step.py --batches=dense
  python benchmarks/train_step.py --official_python=PYTHON --clone=CLONE

"model" takes steps on one batch that lies on the device, "input" makes batches
and hands them to the device, "both" does both, as training does. The input is a
folder of JPEG files written for the purpose, or, with --packed, the same images
packed as pixels. Beside them the product of two square matrices, in the type of
the step, is timed: what the device gives at most. The last form puts the step
of the released code beside ours, by turns, in a process of its own (see
`official_step.py`); --only_model leaves the input out. By default a CPU takes 4
triplets of ViT-B/16 at 224 pixels in float32, one after the other (the gradient
is that of all, and the caches hold one; the released step has no such parts:
--num_microbatches=1 for ours without), a GPU 512 in bfloat16. Speed on a
machine that does other work as well means nothing; only ratios do, roughly.
"""

import argparse
import contextlib
import functools
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from alignet_jax.backbones import vit
from alignet_jax.images import opening, preprocess
from alignet_jax.student import losses, model, optimizer, sharding, train
from alignet_jax.triplets import dataset, dense_batches


def main():
  """Prints the table; see above."""
  args = parse_args()
  mesh = sharding.make_mesh(fsdp=args.fsdp, tensor=args.tensor)
  student, tx = make_student(args)
  step = make_step(args, student, tx, mesh)
  state = make_state(args, student, tx, mesh)
  speeds = {}
  with contextlib.ExitStack() as stack:
    rounds = {"model": ModelRound(args, step, state, mesh)}
    if not args.only_model:
      folder = stack.enter_context(tempfile.TemporaryDirectory())
      images = write_images(args, pathlib.Path(folder))
      rounds["input"] = InputRound(args, images, mesh)
      rounds["both"] = BothRound(args, images, mesh, rounds["model"])
    if args.official_python:
      rounds["official"] = stack.enter_context(OfficialRound(args))
    ceiling = CeilingRound(args)
    ceilings = []
    for _ in range(args.rounds):
      for name, run in rounds.items():
        speeds.setdefault(name, []).append(run())
      ceilings.append(ceiling())
  show(args, speeds, ceilings, mesh)
  return 0


def parse_args():
  """The flags, with what is left open decided by the device."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--variant", default="B/16")
  parser.add_argument("--image_size", type=int, default=224)
  parser.add_argument("--dtype", help="of matrix products")
  parser.add_argument("--remat", action="store_true")
  parser.add_argument("--scan", action="store_true")
  parser.add_argument("--batches", choices=("triplet", "dense"))
  parser.add_argument("--num_triplets", type=int, help="or 3 images each")
  parser.add_argument("--images_per_cluster", type=int, default=4)
  parser.add_argument("--num_microbatches", type=int)
  parser.add_argument("--fsdp", type=int, default=1)
  parser.add_argument("--tensor", type=int, default=1)
  parser.add_argument("--num_steps", type=int, help="per round")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--matrix", type=int, help="edge; 8192 on a GPU")
  parser.add_argument("--num_images", type=int, help="files written")
  parser.add_argument("--packed", action="store_true")
  parser.add_argument("--only_model", action="store_true")
  parser.add_argument("--official_python", help="interpreter with kauldron")
  parser.add_argument("--clone", help="of google-deepmind/alignet")
  args = parser.parse_args()
  on_cpu = jax.devices()[0].platform == "cpu"
  args.batches = args.batches or "triplet"
  args.dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
  args.num_triplets = args.num_triplets or (4 if on_cpu else 512)
  if args.num_microbatches is None:
    in_parts = on_cpu and args.batches != "dense" and args.num_triplets <= 16
    args.num_microbatches = args.num_triplets if in_parts else 1
  args.num_steps = args.num_steps or (1 if on_cpu else 10)
  args.matrix = args.matrix or (1024 if on_cpu else 8192)
  args.num_images = args.num_images or max(64, 6 * args.num_triplets)
  if args.official_python and not args.clone:
    parser.error("--official_python needs --clone")
  return args


def make_student(args):
  """The student of the released configuration, and its optimiser."""
  backbone = vit.from_variant(
    args.variant,
    pool="map",
    dtype=args.dtype,
    remat=args.remat,
    scan=args.scan,
  )
  tx = optimizer.make_optimizer(lr=3e-5, warmup_steps=0, num_steps=100_000)
  return model.Student(backbone=backbone, head_dim=1024), tx


def make_step(args, student, tx, mesh):
  """`train.train_step` with all but state and batch bound."""
  return functools.partial(
    train.train_step,
    model=student,
    tx=tx,
    loss_fn=losses.jsd,
    temperature=100.0,
    value_range=(0, 1),
    images_per_cluster=(
      args.images_per_cluster if args.batches == "dense" else 0
    ),
    num_microbatches=args.num_microbatches,
    mesh=mesh,
  )


def make_state(args, student, tx, mesh):
  """Random weights, placed."""
  image = jnp.zeros([1, args.image_size, args.image_size, 3])
  params = jax.jit(student.init)(jax.random.key(0), image)["params"]
  for line in sharding.table(params, mesh):
    print(line)
  return sharding.place(train.init_state(params, tx), mesh)


def random_batch(args):
  """A batch of pixels and targets, as numpy arrays."""
  np_rng = np.random.default_rng(0)
  b, size = args.num_triplets, args.image_size
  shape = (b, 3, size, size, 3)
  image = np_rng.integers(0, 256, shape, dtype=np.uint8)
  if args.batches == "dense":
    x = np_rng.normal(size=(3 * b, 16)).astype(np.float32)
    image = image.reshape(-1, *shape[2:])
    return {"image": image, "teacher_sims": x @ x.T}
  logits = np_rng.normal(size=(b, 3)).astype(np.float32)
  return {
    "image": image,
    "target_logprobs": np.array(jax.nn.log_softmax(logits)),
  }


class ModelRound:
  """Steps on one batch that lies on the device."""

  def __init__(self, args, step, state, mesh):
    """Compiles, and takes one step."""
    self.step, self.state = step, state
    self._batch = sharding.shard_batch(random_batch(args), mesh)
    self._num_steps = args.num_steps
    self()

  def __call__(self):
    """Steps per second."""
    start = time.perf_counter()
    for _ in range(self._num_steps):
      self.state, metrics = self.step(self.state, self._batch)
    jax.block_until_ready((self.state, metrics))
    return self._num_steps / (time.perf_counter() - start)


class InputRound:
  """Batches made and handed to the device, without a step."""

  def __init__(self, args, images, mesh):
    """Starts the stream."""
    self._batches = make_batches(args, images, mesh)
    self._num_steps = args.num_steps
    jax.block_until_ready(next(self._batches))

  def __call__(self):
    """Batches per second."""
    start = time.perf_counter()
    for _ in range(self._num_steps):
      batch = next(self._batches)
    jax.block_until_ready(batch)
    return self._num_steps / (time.perf_counter() - start)


class BothRound:
  """Steps on batches as they are made."""

  def __init__(self, args, images, mesh, model_round):
    """Starts the stream; the state is that of the other round."""
    self._batches = make_batches(args, images, mesh)
    self._round, self._num_steps = model_round, args.num_steps
    self()

  def __call__(self):
    """Steps per second."""
    run, start = self._round, time.perf_counter()
    for _ in range(self._num_steps):
      run.state, metrics = run.step(run.state, next(self._batches))
    jax.block_until_ready((run.state, metrics))
    return self._num_steps / (time.perf_counter() - start)


def write_images(args, folder):
  """A collection of smooth random images, 256 pixels wide."""
  np_rng = np.random.default_rng(0)
  raw, size = folder / "raw", args.image_size
  raw.mkdir()
  for i in range(args.num_images):
    small = np_rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(small).resize((256, 256))
    picture.save(raw / f"{i:06}.jpg", quality=90)
  asked = preprocess.Preprocessing(size)
  if not args.packed:
    return opening.open_collection(raw, asked)
  from alignet_jax.images import pack

  pack.pack(folder / "packed", opening.open_collection(raw, asked))
  return opening.open_collection(folder / "packed", asked)


def make_batches(args, images, mesh):
  """Batches on the device, without end."""
  np_rng = np.random.default_rng(0)
  n, num_steps = len(images), 10**6
  common = {"seed": 0, "start_step": 0, "num_steps": num_steps}
  if args.batches == "dense":
    num_clusters = 3 * args.num_triplets // args.images_per_cluster
    batches = dense_batches.make_dataset(
      np.arange(n) % num_clusters,
      np_rng.normal(size=(n, 1152)).astype(np.float32),
      images,
      clusters_per_batch=num_clusters,
      images_per_cluster=args.images_per_cluster,
      **common,
    )
    names = ("image", "teacher_sims")
  else:
    batches = dataset.make_dataset(
      np_rng.integers(n, size=(10 * n, 3)),
      np_rng.normal(size=(10 * n, 3)).astype(np.float32),
      images,
      batch_size=args.num_triplets,
      **common,
    )
    names = ("image", "target_logprobs")
  for batch in batches:
    yield sharding.shard_batch({name: batch[name] for name in names}, mesh)


class CeilingRound:
  """The product of two square matrices."""

  def __init__(self, args):
    """Compiles, and makes one product."""
    key = jax.random.key(2)
    self._x = jax.random.normal(key, (args.matrix, args.matrix), args.dtype)
    self._product = jax.jit(lambda x, y: x @ y)
    self._flops = 2 * args.matrix**3
    self()

  def __call__(self):
    """Operations per second."""
    start = time.perf_counter()
    for _ in range(20):
      y = self._product(self._x, self._x)
    jax.block_until_ready(y)
    return 20 * self._flops / (time.perf_counter() - start)


class OfficialRound(contextlib.AbstractContextManager):
  """The released code's step, in a process of its own."""

  def __init__(self, args):
    """Starts the process and waits until it has taken a step."""
    program = pathlib.Path(__file__).with_name("official_step.py")
    command = [
      args.official_python,
      program,
      f"--clone={args.clone}",
      f"--variant={args.variant}",
      f"--num_triplets={args.num_triplets}",
      f"--image_size={args.image_size}",
      f"--num_steps={args.num_steps}",
    ]
    self._process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    self._answer()

  def __call__(self):
    """Steps per second."""
    self._process.stdin.write("go\n")
    self._process.stdin.flush()
    return self._answer()

  def __exit__(self, *error):
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()

  def _answer(self):
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError("The official step ended; see its messages above.")
    return json.loads(line)


def flops_per_step(args):
  """Operations of the matrix products of a step, forward and backward.

  Per image, in multiply-adds: patches, four of d x d and two of d x 4 d for
  each token and block, and the two of attention; the pooling's own are left
  out. A multiply-add is two operations, and the backward pass costs twice the
  forward one. What is computed again, by remat or in parts, does not count.
  """
  width, depth, mlp_dim, _ = vit.VARIANTS[args.variant.partition("/")[0]]
  patch = int(args.variant.partition("/")[2])
  tokens = (args.image_size // patch) ** 2
  per_image = (
    tokens * 3 * patch**2 * width
    + depth * tokens * (4 * width**2 + 2 * width * mlp_dim)
    + depth * 2 * tokens**2 * width
  )
  return 3 * 2 * per_image * 3 * args.num_triplets


def show(args, speeds, ceilings, mesh):
  """Prints what was measured."""
  device = jax.devices()[0]
  print(
    f"{mesh.devices.size} x {device.device_kind}, jax {jax.__version__};"
    f" ViT-{args.variant}, {args.image_size} px, {args.dtype},"
    f" {args.num_triplets} triplets or {3 * args.num_triplets} images a step"
    f" ({args.batches}), {args.num_steps} steps a round"
  )
  for name, values in speeds.items():
    middle = statistics.median(values)
    shown = ", ".join(f"{value:.4g}" for value in values)
    print(
      f"{name:<9} {middle:.4g} steps/s (rounds: {shown});"
      f" {middle * args.num_triplets:.4g} triplets/s,"
      f" {3 * middle * args.num_triplets:.4g} images/s"
    )
  for name in ("both", "official"):
    if name in speeds:
      pairs = zip(speeds["model"], speeds[name], strict=True)
      ratios = [ours / other for ours, other in pairs]
      print(
        f"model over {name}: median {statistics.median(ratios):.3f},"
        f" {min(ratios):.3f} to {max(ratios):.3f}"
      )
  flops = flops_per_step(args)
  total = statistics.median(ceilings) * mesh.devices.size
  for name in ("model", "both"):
    if name in speeds:
      used = flops * statistics.median(speeds[name])
      print(
        f"{name}: {used / 1e12:.3g} of {total / 1e12:.3g} TFLOP/s that a"
        f" product of matrices reaches: {100 * used / total:.0f}%"
      )
  stats = device.memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    print(
      f"peak memory of the device: {stats['peak_bytes_in_use'] / 1e9:.2f} GB"
    )
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  print(f"peak memory of the process: {peak / 1e9:.2f} GB")


if __name__ == "__main__":
  sys.exit(main())
