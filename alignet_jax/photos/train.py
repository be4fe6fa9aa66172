"""A student of a thousand photographs: dense batches through the last blocks.

Every triplet of a batch is used, so a batch of 64 images teaches 41,664 times
(paper.md, section C, has a triplet per three images). All images are few enough
to be in memory, as tokens before the first trained block.

`Deviation:` from the released student: no triplet head, so that the
representation itself is compared (see `student.model`); triplets of a batch are
all that there are, near and far; only the last blocks are trained.

The step of `student.train` does not serve: it takes pixels, a temperature that
it is compiled for, while each fold has its own, and of a dense batch only the
triplets at the border of two clusters. What is done with the loss of triplets,
and with a gradient, is the same code.

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
import numpy as np

from alignet_jax import odd_one_out
from alignet_jax.student import objectives
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
    f32[], and a dict of means, as of `objectives.of_triplets`.
  """
  z = model.apply({"params": params}, batch["tokens"])
  triplets = batch["triplets"]
  target = dense.logits(batch["teacher"], triplets)
  logits = dense.logits(z, triplets, temperature=batch["temperature"])
  return objectives.of_logits(
    logits, odd_one_out.log_probs(target), loss_fn=loss_fn
  )


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
    `compute_loss` and `student.train.apply_gradients`.
  """
  grads, metrics = jax.grad(compute_loss, has_aux=True)(
    state.params,
    batch,
    model=model,
    loss_fn=loss_fn,
  )
  return student_train.apply_gradients(state, grads, metrics, tx=tx)
