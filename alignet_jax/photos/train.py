"""A student of a thousand photographs: dense batches through the last blocks.

Every triplet of a batch is used, so a batch of 64 images teaches 41,664 times
(paper.md, section C, has a triplet per three images). All images are few enough
to be in memory, as tokens before the first trained block.

`Deviation:` from the released student: no triplet head, so that the
representation itself is compared (see `student.model`); triplets of a batch are
all that there are, near and far; only the last blocks are trained.

Usage:
  rows = train.batch_rows(every, batch_size=64, seed=0, step=0)
  batch = {"tokens": tokens[rows], "teacher": features[rows],
           "triplets": train.all_triplets(64), "temperature": 20.0}
  state, metrics = train.train_step(
    state, batch, model=tail, tx=tx, loss_fn=losses.get_loss("kl"))
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alignet_jax import odd_one_out
from alignet_jax.student import optimizer
from alignet_jax.student import train as student_train
from alignet_jax.triplets import dense


def batch_rows(rows, *, batch_size, seed, step):
  """Images of a step: a function of (rows, seed, step).

  Args:
    rows: int[n] images that may be shown, n >= batch_size.
    batch_size: m.
    seed: Non-negative int.
    step: Number of the step.

  Returns:
    int64[m], different ones.
  """
  return np.random.default_rng([seed, step]).choice(
    rows, batch_size, replace=False
  )


def all_triplets(num_items):
  """int32[t 3], every three of so many items once."""
  chosen = itertools.combinations(range(num_items), 3)
  return np.array(list(chosen), np.int32)


def compute_loss(params, batch, *, model, loss_fn):
  """Mean loss over all triplets of a batch.

  Args:
    params: Tree of the parameters of `model`.
    batch: {"tokens": f32[m n d], "teacher": f32[m e], "triplets": int32[t 3],
      "temperature": f32[]}. Dot products of the teacher's are its similarities
      at temperature 1; the temperature divides the student's.
    model: `tail.Tail`.
    loss_fn: One of `losses.LOSSES`.

  Returns:
    f32[], and a dict of means: "loss"; "accuracy", the share of triplets in
    which the student's odd one is the teacher's; "entropy" of the student's
    choice, in nats.
  """
  z = model.apply({"params": params}, batch["tokens"])
  triplets = batch["triplets"]
  target = dense.logits(batch["teacher"], triplets)
  target_logprobs = odd_one_out.log_probs(target)
  logits = dense.logits(z, triplets, temperature=batch["temperature"])
  loss = jnp.mean(loss_fn(logits, target_logprobs))
  agrees = jnp.argmax(logits, axis=-1) == jnp.argmax(target, axis=-1)
  entropy = odd_one_out.entropy(odd_one_out.log_probs(logits))
  return loss, {
    "loss": loss,
    "accuracy": jnp.mean(agrees.astype(jnp.float32)),
    "entropy": jnp.mean(entropy),
  }


@functools.partial(
  jax.jit,
  static_argnames=("model", "tx", "loss_fn"),
  donate_argnames="state",
)
def train_step(state, batch, *, model, tx, loss_fn):
  """Makes one update.

  Args:
    state: `student.train.TrainState`. Spent.
    batch: As of `compute_loss`.
    model: `tail.Tail`.
    tx: As of `optimizer.make_optimizer`.
    loss_fn: One of `losses.LOSSES`.

  Returns:
    The next state, and metrics from before the update, each f32[]: those of
    `compute_loss`, and "distance" from the initial weights (Euclidean) where
    the optimiser decays to them.
  """
  grads, metrics = jax.grad(compute_loss, has_aux=True)(
    state.params,
    batch,
    model=model,
    loss_fn=loss_fn,
  )
  anchor = optimizer.anchor(state.opt_state)
  if anchor is not None:
    moved = jax.tree.map(jnp.subtract, state.params, anchor)
    squares = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(moved)]
    metrics["distance"] = jnp.sqrt(sum(squares))
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return student_train.TrainState(state.step + 1, params, opt_state), metrics
