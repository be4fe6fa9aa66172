"""Fits the affine map that makes a backbone's features human-like.

The loss of odd-one-out choices (or of their probabilities) plus a pull, mostly
towards a multiple of the identity (paper.md, sections A, F and G). All
strengths of the pull are fitted at once by one compiled program, on the same
batches, and each stops on its own when held-out choices are no longer better
predicted.

Selection, of the epoch as of the strength, is by the cross-entropy of held-out
human choices, also where the fit itself is to soft targets. `selection` says
which choices to hold out.

Usage:
  result = fit.fit_transform(
    features, triplets, val_triplets=held_out, target_logprobs=target_logprobs,
    strengths=(1e-3, 1e-2), lr=1e-3, batch_size=16384, num_epochs=20,
    patience=3, seed=0)
  embedding = result.transform.apply(features)
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from alignet_jax import odd_one_out
from alignet_jax.teacher import checks, parameters, steps, zero_shot
from alignet_jax.teacher import transform as transform_lib

# Triplets that the scale of the initial map is found by.
_NUM_FOR_START = 20_000

# Of these, whose rows are gathered at a time.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class FitResult:
  """A fitted transform, and what it was chosen from.

  Attributes:
    transform: The `AffineTransform` that predicts held-out choices best.
    table: One dict per strength, in the order given, of plain numbers:
      strength; epoch, the one that was kept (0 is the initial map);
      num_epochs, how many were run before it stopped; val_nll and val_accuracy
      of the held-out choices; val_entropy, the mean entropy of the predicted
      ones in nats, which says how sure the teacher is; selected, a bool.
    transforms: The `AffineTransform` of every strength.
  """

  transform: transform_lib.AffineTransform
  table: list[dict]
  transforms: list[transform_lib.AffineTransform]


def fit_transform(
  features,
  triplets,
  *,
  val_triplets=None,
  val_features=None,
  target_logprobs=None,
  strengths,
  lr,
  batch_size,
  num_epochs,
  patience,
  seed,
  objective=None,
  local_features=None,
  per_feature=False,
  lr_decay="constant",
  mesh=None,
  callback=None,
):
  """Fits one transform per strength of the pull, and selects the best. Adam.

  Args:
    features: f32[n d], not standardised.
    triplets: int[t 3] rows of `features`, odd item last.
    val_triplets: int[v 3] held-out choices, rows of `val_features`, odd item
      last. They must not be the ones that the result will be tested on. None
      where there is nothing to select: one strength, all epochs.
    val_features: f32[o d] of the objects of `val_triplets`, not standardised;
      None for `features`.
    target_logprobs: f32[t 3] to fit to the probabilities of the choices,
      entry p for item p of `triplets`; None to fit to the choices.
    strengths: Of the penalty relative to the mean loss per triplet, each >= 0.
    lr: Learning rate of Adam.
    batch_size: Most triplets per step; an epoch is cut into equal batches, and
      leaves out, differently each time, the few that are left over.
    num_epochs: Most epochs.
    patience: Epochs without improvement after which a strength stops; the best
      epoch counts. 0 runs all epochs and takes the last. Held-out choices about
      the same objects make a strong regulariser look best before it has shaped
      the map, and early stopping by them undoes it.
    seed: Seed of the order of the triplets.
    objective: `steps.Objective`, or None for its defaults.
    local_features: f32[m d] items whose neighbours the locality loss keeps, not
      standardised; None for `features`.
    per_feature: As of `checks.standardise`.
    lr_decay: "constant", or "cosine", from `lr` to 0 over all epochs.
    mesh: `jax.sharding.Mesh` with an axis "tensor", to spread the columns of a
      wide map over devices; None for one device.
    callback: Called after each epoch with the epoch (from 1) and the held-out
      cross-entropy of the epoch that counts so far, f32[strengths].

  Returns:
    A `FitResult`; without `val_triplets` its val_ numbers are NaN.

  Raises:
    ValueError: Features, triplets or targets that cannot be fitted; says why.
    FloatingPointError: No strength gives finite numbers.
  """
  objective = objective or steps.Objective()
  checks.check_settings(lr=lr, batch_size=batch_size, num_epochs=num_epochs)
  features = np.asarray(features)
  mean, std = checks.standardise(features, per_feature=per_feature)
  triplets = checks.check_triplets(triplets, len(features), "triplets")
  if val_features is None:
    val_features = features
  else:
    val_features = checks.check_other(val_features, features, "val_features")
  if val_triplets is not None:
    val_triplets = checks.check_triplets(
      val_triplets, len(val_features), "val_triplets"
    )
  if target_logprobs is not None:
    target_logprobs = checks.check_targets(target_logprobs, len(triplets))
  strengths = checks.check_strengths(strengths, val_triplets, patience)
  if lr_decay not in ("constant", "cosine"):
    raise ValueError(f"Unknown lr_decay {lr_decay!r}; known: constant, cosine.")
  local_features = checks.check_local(local_features, features)

  def standardised(x):
    # As the transform standardises, in the same precision.
    return jnp.asarray((np.asarray(x, np.float32) - mean) / std)

  x, local = standardised(features), standardised(local_features)
  val_x = x if val_features is features else standardised(val_features)
  num_steps = -(-len(triplets) // batch_size)
  size = len(triplets) // num_steps
  local_size = min(objective.locality_batch, len(local))
  params = parameters.init(
    features.shape[1],
    rank=objective.rank,
    use_bias=objective.use_bias,
    scale=_start(objective, x, triplets, target_logprobs, seed),
    bias=objective.bias,
    seed=seed,
  )
  judging = {
    "objective": objective,
    "whole_matrix": val_triplets is not None
    and steps.use_whole_matrix(len(val_x), len(val_triplets)),
  }
  state = steps.init_state(
    params, len(strengths), val_x, val_triplets, **judging
  )
  if mesh is not None:
    state, x, local = steps.spread(state, x, local, mesh)
  weights = jnp.asarray(strengths, jnp.float32)
  for epoch in range(1, num_epochs + 1):
    np_rng = np.random.default_rng([seed, 1, epoch])
    rows = np_rng.permutation(len(triplets))[: num_steps * size]
    batches = {"triplets": triplets[rows].reshape(num_steps, size, 3)}
    if target_logprobs is not None:
      batches["targets"] = target_logprobs[rows].reshape(num_steps, size, 3)
    if objective.locality_weight:
      batches["local"] = np.stack(
        [np_rng.permutation(len(local))[:local_size] for _ in range(num_steps)]
      )
    numbers = (epoch - 1) * num_steps + np.arange(num_steps)
    decay = 1.0
    if lr_decay == "cosine":
      decay = 0.5 * (1 + np.cos(np.pi * numbers / (num_epochs * num_steps)))
    batches["lr"] = np.broadcast_to(lr * decay, numbers.shape).astype(
      np.float32
    )
    new = steps.train_epoch(
      state["params"],
      state["opt_state"],
      x,
      local,
      batches,
      weights,
      objective=objective,
      whole_matrix=steps.use_whole_matrix(len(x), size),
    )
    state = steps.judge(state, new, val_x, val_triplets, patience, **judging)
    if callback is not None:
      callback(epoch, np.asarray(state["best"]["nll"]))
    if (np.asarray(state["num_worse"]) >= max(patience, 1)).all():
      break
  return _result(jax.device_get(state), strengths, mean, std, lr)


def _start(objective, x, triplets, target_logprobs, seed):
  """The multiple of the identity to start from.

  That which predicts best by itself. The pull leaves it free, but Adam's equal
  steps for all entries move it slowly: from 1 / sqrt(d), a strong pull needed
  four times as many steps on CLIP features and THINGS judgments.
  """
  if objective.scale is not None or objective.cosine:
    return objective.scale
  np_rng = np.random.default_rng([seed, 2])
  rows = np_rng.permutation(len(triplets))[:_NUM_FOR_START]
  if target_logprobs is None:
    probs = np.tile([0.0, 0.0, 1.0], (len(rows), 1))
  else:
    probs = np.exp(np.asarray(target_logprobs, np.float64)[rows])
  blocks = range(0, len(rows), _BLOCK)
  logits = np.concatenate(
    [
      np.asarray(
        odd_one_out.logits_of_rows(x, triplets[rows[start : start + _BLOCK]])
      )
      for start in blocks
    ]
  )
  # Ties but for rounding, as of one-hot features; or NaN, or infinite.
  if not np.ptp(logits, axis=1).max() > 1e-5 * np.abs(logits).max():
    return None
  best = zero_shot.best_temperature(
    logits / objective.temperature, probs, distance="kl"
  )
  # At an edge the features say nothing, or are always right: no scale is best.
  return None if best.at_edge else best.temperature**-0.5


def _result(state, strengths, mean, std, lr):
  best = state["best"]
  finite = [
    np.isfinite(leaf.reshape(len(strengths), -1)).all(axis=1)
    for leaf in jax.tree.leaves(state["params"])
  ]
  if not np.all(finite, axis=0).any():
    raise FloatingPointError(
      f"The fit diverged at every strength; lr {lr} is too large for these"
      " features."
    )
  selected = int(np.argmin(best["nll"]))
  table, transforms = [], []
  for index, strength in enumerate(strengths):
    judged = np.isfinite(best["accuracy"][index])
    table.append(
      {
        "strength": float(strength),
        "epoch": int(best["epoch"][index]),
        "num_epochs": int(state["num_epochs"][index]),
        "val_nll": float(best["nll"][index]) if judged else float("nan"),
        "val_accuracy": float(best["accuracy"][index]),
        "val_entropy": float(best["entropy"][index]),
        "selected": index == selected,
      }
    )
    params = jax.tree.map(lambda leaf, i=index: leaf[i], best["params"])
    weights, bias = parameters.to_dense(params)
    transforms.append(
      transform_lib.AffineTransform(weights, bias, mean=mean, std=std)
    )
  return FitResult(transforms[selected], table, transforms)
