"""Fits the affine map that makes a backbone's features human-like.

The loss of odd-one-out choices (or of their probabilities) plus a pull towards
a multiple of the identity (paper.md, sections A and G). All strengths of the
pull are fitted at once by one compiled program, on the same batches, and each
stops on its own when held-out choices are no longer better predicted.

Selection, of the epoch as of the strength, is by the cross-entropy of held-out
human choices, also where the fit itself is to soft targets.

Usage:
  train, held_out = fit.split_triplets(triplets, val_fraction=0.1, seed=0)
  result = fit.fit_transform(
    features, triplets[train], val_triplets=triplets[held_out],
    target_logprobs=target_logprobs[train], identity_weights=(1e-3, 1e-2),
    lr=1e-3, batch_size=16384, num_epochs=20, patience=3, seed=0)
  embedding = result.transform.apply(features)
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alignet_jax import odd_one_out
from alignet_jax.teacher import objectives
from alignet_jax.teacher import transform as transform_lib

# A batch of b triplets among n items costs about n^2 through the matrix of all
# similarities, or b times this number through the rows of the triplets: where
# the two took the same time on two CPU cores, for 512 dimensions (the matrix
# 12 ns per entry; gathering three rows, and scattering back, 8.6 us).
_ENTRIES_PER_TRIPLET = 700

# Triplets whose rows are gathered at a time: 4096 of width 1152 take 57 MB.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class FitResult:
  """A fitted transform, and what it was chosen from.

  Attributes:
    transform: The `AffineTransform` that predicts held-out choices best.
    table: One dict per strength, in the order given, of plain numbers:
      identity_weight; epoch, the one that was kept (0 is the initial map);
      num_epochs, how many were run before it stopped; val_nll and val_accuracy
      of the held-out choices; val_entropy, the mean entropy of the predicted
      ones in nats, which says how sure the teacher is; selected, a bool.
  """

  transform: transform_lib.AffineTransform
  table: list[dict]


def standardise(features):
  """One mean and one standard deviation for the whole matrix.

  Not one per feature: the pull towards the identity means to keep the
  backbone's geometry, which scaling each feature would change first.

  Args:
    features: f32[n d].

  Returns:
    (mean, std): f32[], f32[].

  Raises:
    ValueError: Features that are NaN or infinite, or equal for all items.
  """
  features = np.asarray(features)
  if features.ndim != 2 or not features.size:
    raise ValueError(
      f"features have shape {features.shape}; expected (items, features)."
    )
  bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
  if bad.size:
    first = ", ".join(str(row) for row in bad[:5])
    more = ", ..." if bad.size > 5 else ""
    raise ValueError(
      f"{bad.size} of {len(features)} rows of the features hold NaN or"
      f" infinity (rows {first}{more}). Replace these rows, or leave out the"
      " triplets and rows of these items."
    )
  if (features == features[:1]).all():
    raise ValueError(
      f"All {len(features)} rows of the features are equal; nothing can be"
      " learnt from constant features."
    )
  mean = features.mean(dtype=np.float64)
  std = features.std(dtype=np.float64)
  return np.float32(mean), np.float32(std)


def split_triplets(triplets, *, val_fraction, seed):
  """Sets some triplets aside, so that no set of three is on both sides.

  A triplet that was answered several times, in whatever order, is one set of
  three: all its answers go to the same side.

  Args:
    triplets: int[n 3].
    val_fraction: Share of the distinct sets of three to set aside, in (0, 1).
    seed: Seed of the draw.

  Returns:
    (train, held_out): int64 row numbers of `triplets`, each ascending; none
    empty.

  Raises:
    ValueError: The fraction leaves one side without triplets.
  """
  triplets = np.asarray(triplets)
  sets, set_ids = np.unique(
    np.sort(triplets, axis=-1), axis=0, return_inverse=True
  )
  num_held_out = round(val_fraction * len(sets))
  if not 0 < num_held_out < len(sets):
    raise ValueError(
      f"val_fraction {val_fraction} of {len(sets)} distinct triplets leaves"
      f" {len(sets) - num_held_out} to train on and {num_held_out} to hold out;"
      " both need at least one."
    )
  np_rng = np.random.default_rng([seed, 0])
  is_held_out = np.zeros(len(sets), bool)
  is_held_out[np_rng.permutation(len(sets))[:num_held_out]] = True
  held_out = is_held_out[set_ids.reshape(-1)]
  return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def fit_transform(
  features,
  triplets,
  *,
  val_triplets,
  target_logprobs=None,
  identity_weights,
  lr,
  batch_size,
  num_epochs,
  patience,
  seed,
  callback=None,
):
  """Fits one transform per strength of the pull, and selects the best.

  W begins as the multiple of the identity that gives embeddings of mean
  squared length 1, and the bias as zero; Adam. `Deviation:` the initial
  multiple of human_alignment and gLocal is 1e-3 whatever the width.

  Args:
    features: f32[n d], not standardised.
    triplets: int[t 3] rows of `features`, odd item last.
    val_triplets: int[v 3] held-out choices, odd item last. They must not be
      the ones that the result will be tested on.
    target_logprobs: f32[t 3] to fit to the probabilities of the choices,
      entry p for item p of `triplets`; None to fit to the choices.
    identity_weights: Strengths of the pull towards the identity relative to
      the mean loss per triplet, each >= 0.
    lr: Learning rate of Adam, constant.
    batch_size: Most triplets per step; an epoch is cut into equal batches, and
      leaves out, differently each time, the few that are left over.
    num_epochs: Most epochs.
    patience: Epochs without improvement after which a strength stops; the best
      epoch counts. 0 runs all epochs and takes the last. Held-out choices are
      about the same objects, so a strong regulariser looks best before it has
      shaped the map, and early stopping undoes it.
    seed: Seed of the order of the triplets.
    callback: Called after each epoch with the epoch (from 1) and the held-out
      cross-entropy of the epoch that counts so far, f32[strengths].

  Returns:
    A `FitResult`.

  Raises:
    ValueError: Features, triplets or targets that cannot be fitted; says why.
    FloatingPointError: No strength predicts held-out choices at all.
  """
  features = np.asarray(features)
  mean, std = standardise(features)
  triplets = _check_triplets(triplets, len(features), "triplets")
  val_triplets = _check_triplets(val_triplets, len(features), "val_triplets")
  if target_logprobs is not None:
    target_logprobs = _check_targets(target_logprobs, len(triplets))
  identity_weights = np.asarray(identity_weights, np.float64)
  if identity_weights.ndim != 1 or not identity_weights.size:
    raise ValueError("identity_weights must be a list of one or more numbers.")
  if not (identity_weights >= 0).all():
    raise ValueError(
      f"identity_weights hold {identity_weights.min()}; none may be negative."
    )
  # As the transform standardises, in the same precision.
  x = (features.astype(np.float32) - mean) / std
  num_steps = -(-len(triplets) // batch_size)
  epoch_fn = functools.partial(
    _run_epoch,
    num_steps=num_steps,
    whole_matrix=_use_whole_matrix(len(x), len(triplets) // num_steps),
    val_whole_matrix=_use_whole_matrix(len(x), len(val_triplets)),
  )
  arrays = jax.tree.map(
    jnp.asarray,
    {
      "x": x,
      "triplets": triplets,
      "target_logprobs": target_logprobs,
      "val_triplets": val_triplets,
      "identity_weights": identity_weights.astype(np.float32),
      "lr": np.float32(lr),
    },
  )
  state = _init_state(
    arrays, whole_matrix=_use_whole_matrix(len(x), len(val_triplets))
  )
  rng = jax.random.key(seed)
  for epoch in range(1, num_epochs + 1):
    state = epoch_fn(
      state, arrays, jax.random.fold_in(rng, epoch), patience=patience
    )
    if callback is not None:
      callback(epoch, np.asarray(state["best"]["nll"]))
    if (np.asarray(state["num_worse"]) >= max(patience, 1)).all():
      break
  return _result(jax.device_get(state), identity_weights, mean, std, lr)


def _check_triplets(triplets, num_items, name):
  """Refuses triplets that do not name three different rows."""
  triplets = np.asarray(triplets)
  if triplets.ndim != 2 or triplets.shape[1] != 3 or not len(triplets):
    raise ValueError(
      f"{name} have shape {triplets.shape}; expected (n, 3) with n > 0."
    )
  if triplets.dtype.kind not in "iu":
    raise ValueError(f"{name} are {triplets.dtype}; expected integers.")
  if triplets.min() < 0 or triplets.max() >= num_items:
    raise ValueError(
      f"{name} hold the rows {triplets.min()} to {triplets.max()}; the features"
      f" have the rows 0 to {num_items - 1}. Do both list the same items, and"
      " do the rows count from 0?"
    )
  ordered = np.sort(triplets, axis=-1)
  twice = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=-1))
  if twice.size:
    raise ValueError(
      f"{name} name an item twice in {twice.size} places, first in row"
      f" {twice[0]}: {triplets[twice[0]].tolist()}."
    )
  return triplets.astype(np.int32)


def _check_targets(target_logprobs, num_triplets):
  """Refuses targets that are not log probabilities of these triplets."""
  target_logprobs = np.asarray(target_logprobs, np.float32)
  if target_logprobs.shape != (num_triplets, 3):
    raise ValueError(
      f"target_logprobs have shape {target_logprobs.shape}; expected"
      f" {(num_triplets, 3)}, a row per triplet."
    )
  totals = np.exp(target_logprobs).sum(axis=-1)
  off = np.flatnonzero(~(np.abs(totals - 1) < 1e-3))  # NaN counts as off.
  if off.size:
    raise ValueError(
      f"{off.size} rows of target_logprobs are not log probabilities: those of"
      f" row {off[0]} add up to {totals[off[0]]}, not 1."
    )
  return target_logprobs


def _use_whole_matrix(num_items, num_triplets):
  return num_items**2 <= _ENTRIES_PER_TRIPLET * num_triplets


@jax.custom_vjp
def _all_sims(z):
  """Dot products of all items: f32[n d] -> f32[n n]."""
  return z @ z.T


def _all_sims_forward(z):
  return z @ z.T, z


def _all_sims_backward(z, grad):
  # One product of matrices where the chain rule, factor by factor, takes two.
  return ((grad + grad.T) @ z,)


_all_sims.defvjp(_all_sims_forward, _all_sims_backward)


def _logits(params, x, triplets, *, whole_matrix):
  """Scores triplets by one strength's map, in whichever way is cheaper."""
  z = x @ params["weights"] + params["bias"][None, :]
  if not whole_matrix:
    return odd_one_out.logits_of_rows(z, triplets)
  sims = _all_sims(z)
  # The pair without item p, for p = 0, 1, 2: as `odd_one_out.logits`.
  return sims[triplets[:, (1, 0, 0)], triplets[:, (2, 2, 1)]]


def _evaluate(params, x, val_triplets, *, whole_matrix):
  """How well one strength's map predicts held-out choices."""
  if whole_matrix:
    logits = _logits(params, x, val_triplets, whole_matrix=True)
  else:
    z = x @ params["weights"] + params["bias"][None, :]
    logits = jax.lax.map(
      functools.partial(odd_one_out.logits_of_rows, z),
      val_triplets,
      batch_size=_BLOCK,
    )
  logprobs = odd_one_out.log_probs(logits)
  return {
    "nll": -jnp.mean(logprobs[:, 2]),
    "accuracy": odd_one_out.accuracy(logits, 2),
    "entropy": jnp.mean(odd_one_out.entropy(logprobs)),
  }


@functools.partial(jax.jit, static_argnames="whole_matrix")
def _init_state(arrays, *, whole_matrix):
  """The state of all strengths, equal at first; leading axis: strengths."""
  width = arrays["x"].shape[1]
  # Standardised features have mean square 1, so rows mean squared length d.
  params = {
    "weights": jnp.eye(width) / jnp.sqrt(width),
    "bias": jnp.zeros(width),
  }
  scores = _evaluate(
    params, arrays["x"], arrays["val_triplets"], whole_matrix=whole_matrix
  )
  state = {
    "params": params,
    "opt_state": optax.adam(arrays["lr"]).init(params),
    "best": {"params": params, "epoch": np.int32(0), **scores},
    "num_epochs": np.int32(0),
    "num_worse": np.int32(0),  # epochs since the best one
  }
  num_strengths = len(arrays["identity_weights"])
  return jax.tree.map(
    lambda leaf: jnp.broadcast_to(leaf, (num_strengths, *jnp.shape(leaf))),
    state,
  )


@functools.partial(
  jax.jit, static_argnames=("num_steps", "whole_matrix", "val_whole_matrix")
)
def _run_epoch(
  state,
  arrays,
  rng,
  *,
  num_steps,
  patience,
  whole_matrix,
  val_whole_matrix,
):
  """One epoch of all strengths, on the same batches."""
  x, triplets = arrays["x"], arrays["triplets"]
  target_logprobs = arrays["target_logprobs"]
  tx = optax.adam(arrays["lr"])
  order = jax.random.permutation(rng, len(triplets))
  batch_size = len(triplets) // num_steps
  batches = order[: num_steps * batch_size].reshape(num_steps, batch_size)

  def objective(params, identity_weight, rows):
    logits = _logits(params, x, triplets[rows], whole_matrix=whole_matrix)
    if target_logprobs is None:
      loss = objectives.hard_loss(logits)
    else:
      loss = objectives.soft_loss(logits, target_logprobs[rows])
    penalty = objectives.identity_penalty(params["weights"])
    return loss + identity_weight * penalty

  def epoch_of_one(state, identity_weight):
    def step(carry, rows):
      params, opt_state = carry
      grads = jax.grad(objective)(params, identity_weight, rows)
      updates, opt_state = tx.update(grads, opt_state)
      return (optax.apply_updates(params, updates), opt_state), None

    (params, opt_state), _ = jax.lax.scan(
      step, (state["params"], state["opt_state"]), batches
    )
    num_epochs = state["num_epochs"] + 1
    scores = _evaluate(
      params, x, arrays["val_triplets"], whole_matrix=val_whole_matrix
    )
    is_better = scores["nll"] < state["best"]["nll"]  # NaN is not.
    # Without patience the last epoch counts, or the last before it diverged.
    is_better |= (patience == 0) & jnp.isfinite(scores["nll"])
    new = {
      "params": params,
      "opt_state": opt_state,
      "best": _where(
        is_better,
        {"params": params, "epoch": num_epochs, **scores},
        state["best"],
      ),
      "num_epochs": num_epochs,
      "num_worse": jnp.where(is_better, 0, state["num_worse"] + 1),
    }
    # One that has stopped is carried along unchanged.
    return _where(state["num_worse"] < jnp.maximum(patience, 1), new, state)

  return jax.vmap(epoch_of_one)(state, arrays["identity_weights"])


def _where(condition, if_true, if_false):
  return jax.tree.map(
    lambda a, b: jnp.where(condition, a, b), if_true, if_false
  )


def _result(state, identity_weights, mean, std, lr):
  if not np.isfinite(state["params"]["weights"]).all(axis=(1, 2)).any():
    raise FloatingPointError(
      f"The fit diverged at every strength; lr {lr} is too large for these"
      " features."
    )
  best = state["best"]
  selected = int(np.argmin(best["nll"]))
  table = [
    {
      "identity_weight": float(identity_weights[index]),
      "epoch": int(best["epoch"][index]),
      "num_epochs": int(state["num_epochs"][index]),
      "val_nll": float(best["nll"][index]),
      "val_accuracy": float(best["accuracy"][index]),
      "val_entropy": float(best["entropy"][index]),
      "selected": index == selected,
    }
    for index in range(len(identity_weights))
  ]
  fitted = transform_lib.AffineTransform(
    weights=best["params"]["weights"][selected],
    bias=best["params"]["bias"][selected],
    mean=mean,
    std=std,
  )
  return FitResult(fitted, table)
