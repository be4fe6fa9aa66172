"""Speed and values of the teacher's fit, beside the reference implementation.

  git clone https://github.com/LukasMut/gLocal
  python benchmarks/teacher.py
  python benchmarks/teacher.py --reference=gLocal --reference_python=PYTHON
  python benchmarks/teacher.py --search --features=F.npy --triplets=T.npy

PYTHON is the interpreter of an environment with torch and pytorch_lightning. It
runs in a process of its own, in turns with ours, with as many threads. Without
--search: 1,854 objects of 768 features, one strength, random choices; ours in
batches of 16,384, the default of the configs, the reference in its default of
256. The reference's step is called without Lightning's trainer, which would
only add to its time.

Prints triplets per second of both, their ratio, and value and gradient of each
objective of both on the same parameters and batch. With --search: the time of a
whole selection (9 strengths, 3 folds, and the final fit).
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import types

import numpy as np

NUM_OBJECTS, WIDTH = 1854, 768
BATCH, REFERENCE_BATCH = 16_384, 256
STRENGTH = 1e-2
SEARCH = {
  "strengths": tuple(float(x) for x in np.geomspace(1e-4, 1.0, 9)),
  "num_folds": 3,
  "lr": 2e-3,
  "lr_decay": "cosine",
  "batch_size": 16_384,
  # 100 steps per fold; twice as many select the same strength and predict no
  # better.
  "num_epochs": 5,
  "patience": 0,
  "seed": 0,
}


def main():
  """Prints the table; see above."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--reference", help="clone of LukasMut/gLocal")
  parser.add_argument("--reference_python", default=sys.executable)
  parser.add_argument("--num_steps", type=int, default=20, help="per round")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--search", action="store_true")
  parser.add_argument("--features", help=".npy, for --search")
  parser.add_argument("--triplets", help=".npy, for --search")
  parser.add_argument("--work", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.work:
    return run_reference(args)
  if args.search:
    return time_search(args)

  with tempfile.TemporaryDirectory() as work:
    problem = make_problem()
    np.savez(pathlib.Path(work) / "problem.npz", **problem)
    speeds = {"ours": [], "reference": []}
    our_round = make_our_round(problem, args.num_steps)
    for _ in range(args.rounds):
      speeds["ours"].append(our_round())
      if args.reference:
        theirs = ask_reference(args, work)
        speeds["reference"].append(theirs["triplets_per_second"])
    print(f"{os.cpu_count()} CPUs, {NUM_OBJECTS} objects, {WIDTH} features")
    for name, measured in speeds.items():
      if measured:
        shown = ", ".join(f"{speed:,.0f}" for speed in measured)
        print(f"{name:<10} triplets/s: {shown}")
    if args.reference:
      ratios = [
        ours / theirs
        for ours, theirs in zip(
          speeds["ours"], speeds["reference"], strict=True
        )
      ]
      print(f"ratio: {min(ratios):.1f} to {max(ratios):.1f}")
      compare_values(problem, np.load(pathlib.Path(work) / "values.npz"))
  return 0


def make_problem():
  """Features, a map that is no multiple of the identity, and triplets."""
  np_rng = np.random.default_rng(0)
  triplets = np_rng.integers(NUM_OBJECTS, size=(400_000, 3))
  ordered = np.sort(triplets, axis=1)
  distinct = (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
  small = 0.2 * np_rng.standard_normal((WIDTH, WIDTH))
  return {
    "x": np_rng.standard_normal((NUM_OBJECTS, WIDTH)).astype(np.float32),
    "weights": ((np.eye(WIDTH) + small) / WIDTH**0.5).astype(np.float32),
    "bias": 0.1 * np_rng.standard_normal(WIDTH).astype(np.float32),
    "triplets": triplets[distinct][:323_099].astype(np.int32),
  }


def make_our_round(problem, num_steps):
  """A function that times steps, compiled before."""
  import jax
  import jax.numpy as jnp

  from alignet_jax.teacher import parameters, steps

  objective = steps.Objective()
  x = jnp.asarray(problem["x"])
  state = steps.init_state(
    parameters.init(WIDTH),
    1,
    x,
    None,
    objective=objective,
    whole_matrix=False,
  )
  carry = state["params"], state["opt_state"]
  np_rng = np.random.default_rng(1)

  def run_steps():
    nonlocal carry
    rows = np_rng.permutation(len(problem["triplets"]))
    rows = np.resize(rows, (num_steps, BATCH))
    batches = {
      "triplets": problem["triplets"][rows],
      "lr": np.full(num_steps, 1e-3, np.float32),
    }
    carry = steps.train_epoch(
      *carry,
      x,
      x,
      batches,
      jnp.full(1, STRENGTH),
      objective=objective,
      whole_matrix=steps.use_whole_matrix(NUM_OBJECTS, BATCH),
    )
    jax.block_until_ready(carry)

  def timed():
    start = time.perf_counter()
    run_steps()
    return num_steps * BATCH / (time.perf_counter() - start)

  run_steps()
  return timed


def compare_values(problem, theirs):
  """Prints how far values and gradients of the objectives are apart."""
  import jax

  from alignet_jax.teacher import steps

  params = {"weights": problem["weights"], "bias": problem["bias"]}
  batch = {
    "triplets": problem["triplets"][:REFERENCE_BATCH],
    "local": np.arange(64),
  }
  for name, objective in objectives(steps).items():
    value, grads = jax.value_and_grad(steps.loss)(
      params, problem["x"], problem["x"], batch, STRENGTH, objective
    )
    errors = {"value": abs(float(value) / float(theirs[f"{name}_value"]) - 1)}
    for part in ("weights", "bias"):
      expected = theirs[f"{name}_{part}"]
      difference = np.linalg.norm(grads[part] - expected)
      errors[part] = difference / np.linalg.norm(expected)
    shown = ", ".join(f"{part} {error:.1e}" for part, error in errors.items())
    print(f"{name}: relative difference of value and gradients: {shown}")


def objectives(steps):
  """Those that the reference has."""
  return {
    "naive": steps.Objective(penalty="frobenius"),
    "global": steps.Objective(),
    "glocal": steps.Objective(locality_weight=0.25, locality_temperature=0.1),
  }


def time_search(args):
  """Times the selection of the strength and the final fit."""
  from alignet_jax.teacher import selection

  features = np.load(args.features)
  triplets = np.load(args.triplets).astype(np.int32)
  start = time.perf_counter()
  chosen = selection.by_objects(features, triplets, **SEARCH)
  seconds = time.perf_counter() - start
  print(
    f"{len(triplets)} triplets, {features.shape} features, "
    f"{len(SEARCH['strengths'])} strengths, {SEARCH['num_folds']} folds and "
    f"the final fit: {seconds:.0f} s"
  )
  for row in chosen.table:
    print(
      f"strength {row['strength']:<8.3g} cross-entropy {row['val_nll']:.4f} "
      f"accuracy {row['val_accuracy']:.4f}{' *' if row['selected'] else ''}"
    )
  return 0


def ask_reference(args, work):
  """Runs this file with the other interpreter; returns what it measured."""
  command = [
    args.reference_python,
    __file__,
    f"--reference={pathlib.Path(args.reference).resolve()}",
    f"--work={work}",
    f"--num_steps={args.num_steps}",
  ]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def load_reference(folder, name):
  """One file of the reference, without its package, which imports a lot."""
  package = "reference_probing"
  if package not in sys.modules:
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = [str(folder)]
  spec = importlib.util.spec_from_file_location(
    f"{package}.{name}", folder / f"{name}.py"
  )
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module
  spec.loader.exec_module(module)
  return module


def run_reference(args):
  """Calls the reference; imports nothing of ours."""
  import torch

  torch.set_num_threads(os.cpu_count())
  folder = pathlib.Path(args.reference) / "utils" / "probing"
  probe_lib = load_reference(folder, "global_probe")
  contrastive = load_reference(folder, "contrastive_loss").ContrastiveLoss
  data = load_reference(folder / "data", "triplet_dataset")
  problem = np.load(pathlib.Path(args.work) / "problem.npz")
  settings = {
    "optim": "adam",
    "lr": 1e-3,
    "lmbda": STRENGTH,
    "use_bias": True,
    "sigma": 1e-3,
    "max_epochs": 1,
  }

  def make(regulariser):
    probe = probe_lib.GlobalProbe(problem["x"], settings | {"reg": regulariser})
    probe.log = lambda *args, **kwargs: None
    with torch.no_grad():
      probe.transform_w.copy_(torch.from_numpy(problem["weights"]))
      probe.transform_b.copy_(torch.from_numpy(problem["bias"]))
    return probe

  def loader(triplets):
    return torch.utils.data.DataLoader(
      data.TripletData(triplets.astype(np.int64), NUM_OBJECTS),
      batch_size=REFERENCE_BATCH,
      shuffle=False,
    )

  values = {}
  first = next(iter(loader(problem["triplets"][:REFERENCE_BATCH])))
  for name, regulariser in (
    ("naive", "l2"),
    ("global", "eye"),
    ("glocal", "eye"),
  ):
    probe = make(regulariser)
    loss = probe.training_step(first, 0)
    if name == "glocal":
      # Its objective as in `glocal_probe.py`, whose class needs a data set.
      penalty = probe.eye_regularization()
      x = torch.from_numpy(problem["x"][:64])
      z = x @ probe.transform_w + probe.transform_b

      def cosines(a):
        a = torch.nn.functional.normalize(a, dim=1)
        return a @ a.T

      local = contrastive(temperature=0.1)(cosines(x), cosines(z))
      loss = 0.75 * (loss - penalty) + 0.25 * local + penalty
    loss.backward()
    values[f"{name}_value"] = loss.item()
    values[f"{name}_weights"] = probe.transform_w.grad.numpy()
    values[f"{name}_bias"] = probe.transform_b.grad.numpy()
  np.savez(pathlib.Path(args.work) / "values.npz", **values)

  probe = make("eye")
  tx = torch.optim.Adam(probe.parameters(), lr=1e-3)

  def run_steps(num_steps):
    start = time.perf_counter()
    for batch in loader(problem["triplets"][: num_steps * REFERENCE_BATCH]):
      tx.zero_grad()
      probe.training_step(batch, 0).backward()
      tx.step()
    return num_steps * REFERENCE_BATCH / (time.perf_counter() - start)

  run_steps(5)
  print(json.dumps({"triplets_per_second": run_steps(args.num_steps)}))
  return 0


if __name__ == "__main__":
  sys.exit(main())
