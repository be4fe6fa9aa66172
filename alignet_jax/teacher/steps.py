"""What is minimised, and the compiled steps that do it.

Pure functions of arrays. Everything with a leading axis of strengths is a
`vmap` of the same for one, so one program fits them all.

Usage:
  value = steps.loss(params, x, x, {"triplets": batch}, 1e-2, steps.Objective())
  params, opt_state = steps.train_epoch(params, opt_state, x, x, batches, ...)
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alignet_jax import odd_one_out
from alignet_jax.teacher import objectives, parameters

# A batch of b triplets among n items costs about n^2 through the matrix of all
# similarities, or b times this number through the rows of the triplets: where
# the two took the same time on two CPU cores, for 512 dimensions (the matrix
# 12 ns per entry; gathering three rows, and scattering back, 8.6 us).
_ENTRIES_PER_TRIPLET = 700

# Triplets whose rows are gathered at a time: 4096 of width 1152 take 57 MB.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is minimised, besides the choices themselves.

  (1 - locality_weight) * choices + locality_weight * `objectives.locality_loss`
  + strength * penalty (paper.md, section G).

  Attributes:
    penalty: Name in `objectives.PENALTIES`.
    cosine: Whether similarity is the cosine instead of the dot product.
    temperature: Positive; divides the similarities.
    use_bias: As of `parameters.init`, and so are the next three.
    rank: See `use_bias`.
    bias: See `use_bias`.
    scale: Multiple of the identity to start from, or None for the one that
      predicts the choices best (for the cosine: 1 / sqrt(d)). `Deviation:`
      that of human_alignment and gLocal is 1e-3 whatever the features.
    locality_weight: Share of the locality loss, in [0, 1).
    locality_temperature: Positive; of the locality loss.
    locality_batch: Items per batch of the locality loss.
  """

  penalty: str = "identity"
  cosine: bool = False
  temperature: float = 1.0
  use_bias: bool = True
  rank: int = 0
  scale: float | None = None
  bias: float = 0.0
  locality_weight: float = 0.0
  locality_temperature: float = 0.1
  locality_batch: int = 256

  def __post_init__(self):
    if self.penalty not in objectives.PENALTIES:
      raise ValueError(
        f"Unknown penalty {self.penalty!r}; known: "
        f"{', '.join(objectives.PENALTIES)}."
      )
    if not 0 <= self.locality_weight < 1:
      raise ValueError(
        f"locality_weight is {self.locality_weight}; expected at least 0 and "
        "less than 1."
      )
    for name in ("temperature", "locality_temperature", "locality_batch"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} is {getattr(self, name)}; expected > 0.")


def use_whole_matrix(num_items, num_triplets):
  """Whether the similarities of all items are the cheaper way to some."""
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


def _logits(params, x, triplets, objective, *, whole_matrix):
  """Scores triplets by one strength's map, in whichever way is cheaper."""
  z = parameters.embed(params, x)
  if objective.cosine:
    norm = objectives.root(jnp.sum(z**2, axis=-1, keepdims=True))
    z = z / jnp.maximum(norm, jnp.finfo(z.dtype).tiny)
  if not whole_matrix:
    logits = odd_one_out.logits_of_rows(z, triplets)
  else:
    sims = _all_sims(z)
    # The pair without item p, for p = 0, 1, 2: as `odd_one_out.logits`.
    logits = sims[triplets[:, (1, 0, 0)], triplets[:, (2, 2, 1)]]
  return logits / objective.temperature


def loss(params, x, local, batch, strength, objective, *, whole_matrix=False):
  """What a step minimises.

  Args:
    params: As of `parameters.init`.
    x: f32[n d] standardised features.
    local: f32[m d] standardised features of the items of the locality loss.
    batch: dict with "triplets" int32[b 3], rows of `x`, odd item last; maybe
      "targets" f32[b 3] log probabilities; and "local" int32[l], rows of
      `local`, if `objective` has a locality weight.
    strength: f32[], of the penalty.
    objective: `Objective`.
    whole_matrix: Whether to go through the similarities of all items, which
      changes the time and not the value.

  Returns:
    f32[] in nats.
  """
  logits = _logits(
    params, x, batch["triplets"], objective, whole_matrix=whole_matrix
  )
  if "targets" in batch:
    value = objectives.soft_loss(logits, batch["targets"])
  else:
    value = objectives.hard_loss(logits)
  if objective.locality_weight:
    items = local[batch["local"]]
    local_value = objectives.locality_loss(
      parameters.embed(params, items),
      items,
      temperature=objective.locality_temperature,
    )
    share = objective.locality_weight
    value = (1 - share) * value + share * local_value
  return value + strength * parameters.penalty(params, objective.penalty)


@functools.partial(jax.jit, static_argnames=("objective", "whole_matrix"))
def _score(params, x, val_triplets, *, objective, whole_matrix):
  """How well one strength's map predicts held-out choices.

  Without any, nll is 0 for finite numbers and NaN for others.
  """
  if val_triplets is None:
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    nan = jnp.float32(jnp.nan)
    nll = jnp.where(jnp.stack(finite).all(), 0.0, nan)
    return {"nll": nll, "accuracy": nan, "entropy": nan}
  logits_fn = functools.partial(_logits, params, x, objective=objective)
  if whole_matrix:
    logits = logits_fn(val_triplets, whole_matrix=True)
  else:
    blocks = jnp.array_split(
      val_triplets, list(range(_BLOCK, len(val_triplets), _BLOCK))
    )
    parts = [logits_fn(block, whole_matrix=False) for block in blocks]
    logits = jnp.concatenate(parts)
  logprobs = odd_one_out.log_probs(logits)
  return {
    "nll": -jnp.mean(logprobs[:, 2]),
    "accuracy": odd_one_out.accuracy(logits, 2),
    "entropy": jnp.mean(odd_one_out.entropy(logprobs)),
  }


def init_state(params, num_strengths, x, val_triplets, **settings):
  """The state of all strengths, equal at first; leading axis: strengths.

  Args:
    params: As of `parameters.init`.
    num_strengths: Length of that axis.
    x: f32[n d] standardised features of the held-out choices.
    val_triplets: int32[v 3], or None.
    **settings: objective and whole_matrix of `judge`.

  Returns:
    dict that `judge` takes and gives.
  """
  scores = _score(params, x, val_triplets, **settings)
  state = {
    "params": params,
    "opt_state": optax.scale_by_adam().init(params),
    "best": {"params": params, "epoch": np.int32(0), **scores},
    "num_epochs": np.int32(0),
    "num_worse": np.int32(0),  # epochs since the best one
  }
  return jax.tree.map(
    lambda leaf: jnp.broadcast_to(leaf, (num_strengths, *jnp.shape(leaf))),
    state,
  )


def spread(state, x, local, mesh):
  """Spreads the columns of maps over the axis "tensor"; the rest everywhere.

  Args:
    state: As of `init_state`.
    x: f32[n d].
    local: f32[m d].
    mesh: `jax.sharding.Mesh` with an axis "tensor".

  Returns:
    The three, placed.
  """
  named = functools.partial(jax.sharding.NamedSharding, mesh)
  spec = jax.sharding.PartitionSpec

  def place(leaf):
    # Maps are [strengths, d, d] (or [strengths, r, d]).
    wide = leaf.ndim == 3 and leaf.shape[-1] % mesh.shape["tensor"] == 0
    where = spec(None, None, "tensor") if wide else spec()
    return jax.device_put(leaf, named(where))

  state = jax.tree.map(place, state)
  return state, *(jax.device_put(a, named(spec())) for a in (x, local))


@functools.partial(jax.jit, static_argnames=("objective", "whole_matrix"))
def train_epoch(
  params, opt_state, x, local, batches, strengths, *, objective, whole_matrix
):
  """One epoch of all strengths, on the same batches.

  Args:
    params: As of `parameters.init`, with a leading axis of strengths.
    opt_state: State of Adam of each.
    x: As of `loss`, and so is `local`.
    local: See `x`.
    batches: As the batch of `loss`, with a leading axis of steps; and "lr"
      f32[s], the learning rate of each step.
    strengths: f32[r].
    objective: `Objective`.
    whole_matrix: As of `loss`.

  Returns:
    The new params and opt_state.
  """
  tx = optax.scale_by_adam()

  def epoch_of_one(params, opt_state, strength):
    def step(carry, batch):
      params, opt_state = carry
      grads = jax.grad(loss)(
        params, x, local, batch, strength, objective, whole_matrix=whole_matrix
      )
      updates, opt_state = tx.update(grads, opt_state)
      params = jax.tree.map(lambda p, u: p - batch["lr"] * u, params, updates)
      return (params, opt_state), None

    carry, _ = jax.lax.scan(step, (params, opt_state), batches)
    return carry

  return jax.vmap(epoch_of_one)(params, opt_state, strengths)


@functools.partial(jax.jit, static_argnames=("objective", "whole_matrix"))
def judge(state, new, x, val_triplets, patience, *, objective, whole_matrix):
  """The state after an epoch: what is kept, and which strengths go on.

  Args:
    state: As of `init_state`.
    new: What `train_epoch` made of it.
    x: As of `loss`.
    val_triplets: int32[v 3], or None to keep the last epoch.
    patience: As of `fit.fit_transform`.
    objective: `Objective`.
    whole_matrix: As of `loss`.

  Returns:
    The next state.
  """

  def of_one(state, params, opt_state):
    num_epochs = state["num_epochs"] + 1
    scores = _score(
      params, x, val_triplets, objective=objective, whole_matrix=whole_matrix
    )
    is_better = scores["nll"] < state["best"]["nll"]  # NaN is not.
    # Without patience the last epoch counts, or the last before it diverged.
    is_better |= (patience == 0) & jnp.isfinite(scores["nll"])
    after = {
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
    return _where(state["num_worse"] < jnp.maximum(patience, 1), after, state)

  return jax.vmap(of_one)(state, *new)


def _where(condition, if_true, if_false):
  return jax.tree.map(
    lambda a, b: jnp.where(condition, a, b), if_true, if_false
  )
