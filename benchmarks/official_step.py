"""One train step of the released AligNet code, in an environment of its own.

  python3.11 -m venv OFFICIAL
  OFFICIAL/bin/pip install kauldron opencv-python-headless
  git clone https://github.com/google-deepmind/alignet CLONE
  OFFICIAL/bin/python benchmarks/official_step.py --clone=CLONE in.npz out.npz
  OFFICIAL/bin/python benchmarks/official_step.py --clone=CLONE --variant=B/16

The first form takes one step from a given state; `tests/student` compares it
with ours. The second one times steps on random pixels and weights, a round for
each line that it is sent; `benchmarks/train_step.py` starts it. Model, loss,
optimiser and step are those of the clone and of kauldron; nothing of ours is
imported. Two things must be bent: the clone is imported as
kauldron_projects.alignet, where it lies in its own repository, and a class that
kauldron has renamed gets its old name back.

A file of a state holds, under "/"-joined names, `params/...`, `anchor/...` and
`nu/...`, the second moments; `count`, the number of steps done; `image` in
[0, 1], f32[b 3 h w 3]; and `pair_sims` f32[b 3]. What comes out has `loss`,
`params/...`, `mu/...` and `nu/...`; the first moments start at 0, so that they
are the gradient times 1 - b1.
"""

import argparse
import json
import pathlib
import sys
import time
import types


def main():
  """Makes one step, or answers the lines of the input; see above."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--clone", required=True, help="of alignet")
  parser.add_argument("--variant", default="mu/16")
  parser.add_argument("--head_dim", type=int, default=1024)
  parser.add_argument("--num_triplets", type=int, default=4)
  parser.add_argument("--image_size", type=int, default=224)
  parser.add_argument("--num_steps", type=int, default=1, help="per round")
  parser.add_argument("--lr", type=float, default=3e-5)
  parser.add_argument("files", nargs="*", help="state in, state out")
  args = parser.parse_args()
  import_clone(args.clone)
  model, optimizer, step = make_step(args)
  if args.files:
    take_one_step(args, optimizer, step)
  else:
    answer(args, model, optimizer, step)
  return 0


def import_clone(clone):
  """Makes the clone importable as `kauldron_projects.alignet`."""
  from kauldron import kd

  if not hasattr(kd.ckpts, "AbstractPartialLoader"):
    kd.ckpts.AbstractPartialLoader = kd.ckpts.InitTransform
  for name, path in (
    ("kauldron_projects", []),
    ("kauldron_projects.alignet", [str(pathlib.Path(clone).resolve())]),
  ):
    module = types.ModuleType(name)
    module.__path__ = path
    sys.modules[name] = module


def make_step(args):
  """Model, optimiser and step of the released configuration."""
  import optax
  from kauldron import kd
  from kauldron_projects.alignet import bv_wrapper, losses

  model = bv_wrapper.TripletWrapper(
    image="batch.image_triplet",
    model=bv_wrapper.Model(
      variant=args.variant, model_kwargs={"pool_type": "map"}
    ),
    out_features=args.head_dim,
  )
  # The schedule after its warm-up, which would begin with a step of 0.
  schedule = optax.cosine_decay_schedule(args.lr, 100_000)
  optimizer = kd.optim.named_chain(
    adam=optax.scale_by_adam(),
    decay=kd.optim.decay_to_init(weight_decay=1.0),
    lr=optax.scale_by_learning_rate(schedule),
  )
  trainer = kd.train.Trainer(
    seed=42,
    train_ds=None,
    model=model,
    num_train_steps=100_000,
    train_losses={
      "triplet": losses.JSDTripletLoss(
        logits="preds.triplet_logits",
        target_sims="batch.image_similarities",
        tau=100,
        normalize=False,
      )
    },
    optimizer=optimizer,
    workdir="/nonexistent",  # Nothing is written.
  )

  def step(state, image, pair_sims):
    batch = {"image_triplet": image, "image_similarities": pair_sims}
    return trainer.trainstep.step(state, batch, return_losses=True)

  return model, optimizer, step


def make_state(params, opt_state):
  """State of kauldron; `params` and `opt_state` are spent by the step."""
  import jax.numpy as jnp
  from kauldron import kd

  return kd.train.TrainState(
    step=jnp.asarray(0), params=params, opt_state=opt_state, collections={}
  )


def take_one_step(args, optimizer, step):
  """Reads a state, takes a step from it, writes what came out."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  path_in, path_out = args.files
  with np.load(path_in, allow_pickle=False) as given:
    given = dict(given)
  params, anchor, nu = (
    nested(given, prefix) for prefix in ("params", "anchor", "nu")
  )
  opt_state = optimizer.init(anchor)
  count = jnp.asarray(given["count"], jnp.int32)
  opt_state["adam"] = opt_state["adam"]._replace(count=count, nu=nu)
  opt_state["lr"] = opt_state["lr"]._replace(count=count)
  opt_state = jax.tree.map(jnp.array, opt_state)
  state, aux = step(
    make_state(params, opt_state), given["image"], given["pair_sims"]
  )
  loss = aux.compute(flatten=False).loss_values["triplet"]
  adam = state.opt_state["adam"]
  trees = {"params": state.params, "mu": adam.mu, "nu": adam.nu}
  np.savez(path_out, loss=np.asarray(loss), **flat(trees))


def answer(args, model, optimizer, step):
  """Times a round for each line of the input, after one step to compile."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  np_rng = np.random.default_rng(0)
  size = args.image_size
  shape = (args.num_triplets, 3, size, size, 3)
  image = jnp.asarray(np_rng.random(shape, np.float32))
  pair_sims = jnp.asarray(np_rng.normal(size=shape[:2]), jnp.float32)
  params = jax.jit(model.init)(jax.random.key(0), image[:1])["params"]
  params = jax.tree.map(jnp.array, params)
  opt_state = jax.tree.map(jnp.array, optimizer.init(params))
  state, aux = step(make_state(params, opt_state), image, pair_sims)
  jax.block_until_ready((state.params, aux))
  print(json.dumps("ready"), flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    for _ in range(args.num_steps):
      state, aux = step(state, image, pair_sims)
    jax.block_until_ready((state.params, aux))
    seconds = time.perf_counter() - start
    print(json.dumps(args.num_steps / seconds), flush=True)


def nested(arrays, prefix):
  """The tree below a prefix of "/"-joined names."""
  import jax.numpy as jnp

  tree = {}
  for name, x in arrays.items():
    top, _, rest = name.partition("/")
    if top != prefix or not rest:
      continue
    *parents, leaf = rest.split("/")
    node = tree
    for part in parents:
      node = node.setdefault(part, {})
    node[leaf] = jnp.array(x)
  return tree


def flat(tree):
  """Numpy arrays of a tree under "/"-joined names."""
  import jax
  import numpy as np

  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x)
    for path, x in leaves
  }


if __name__ == "__main__":
  sys.exit(main())
