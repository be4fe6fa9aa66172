"""VICE: a sparse embedding of objects that knows how sure people are.

Each object has a Gaussian over every dimension, with mean `loc` and standard
deviation `scale`. A draw x = loc + scale * eps gives the embedding
z = relu(x), and the odd item of a triplet is chosen by the softmax of the three
pair dots (`odd_one_out.logits`). Fitting minimises, over N triplets,

  mean cross-entropy + (log q(x) - log p(x)) / N

where q is the Gaussian above and p a spike-and-slab prior, both evaluated
before the relu (paper.md, section H). Averaged over draws this is the negative
evidence lower bound per triplet. What people disagree about shows in two ways:
in dots that are close together, and in wide posteriors. The soft targets of the
teacher are `choice_logprobs`, which averages over draws.

Usage:
  fit = vice.fit(triplets, num_objects=1854, seed=0)
  loc, scale = vice.prune(fit.loc, fit.scale)        # f32[n d], d <= num_dims
  logprobs = vice.choice_logprobs(jax.random.key(1), loc, scale, triplets)
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

from alignet_jax import odd_one_out

# The families of spike-and-slab prior.
PRIORS = ("gaussian", "laplace")

# Normal numbers that the steps share. See `_noise_table`.
_NOISE_TABLE_SIZE = 2**22

# Triplets whose probabilities are computed at a time: with 100 dimensions their
# rows take 79 MB.
_BLOCK = 2**16


class Params(NamedTuple):
  """Parameters of the posterior.

  Attributes:
    loc: f32[n d] means, before the relu and so of either sign.
    log_scale: f32[n d] natural logarithm of the standard deviations.
  """

  loc: jax.Array
  log_scale: jax.Array


class State(NamedTuple):
  """All that an epoch changes.

  Attributes:
    params: `Params`.
    opt_state: State of Adam.
  """

  params: Params
  opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class ViceFit:
  """A fitted posterior, not pruned.

  Attributes:
    loc: f32[n d] means, before the relu.
    scale: f32[n d] positive standard deviations.
    history: dict from name to f64[num_epochs]: "nll", the mean cross-entropy in
      nats of one draw per step, and "kl", one draw's (log q - log p) / N at the
      end of the epoch. With validation triplets also "val_nll" and
      "val_accuracy", NaN in the epochs without validation.
  """

  loc: np.ndarray
  scale: np.ndarray
  history: dict[str, np.ndarray]


def log_prior(x, *, prior="gaussian", spike=0.25, slab=1.0, pi=0.5):
  """Log density of the spike-and-slab prior, for each element.

  pi * f(x; spike) + (1 - pi) * f(x; slab), where f is the density of a
  zero-mean Gaussian with that standard deviation, or of a zero-mean Laplace
  distribution with that scale.

  Args:
    x: f32[*b], before the relu.
    prior: "gaussian" or "laplace".
    spike: Positive width of the narrow part.
    slab: Positive width of the wide part.
    pi: Share of the spike, in (0, 1).

  Returns:
    f32[*b] in nats.
  """
  if prior == "gaussian":
    constant, power = 0.5 * math.log(2 * math.pi), lambda u: 0.5 * u * u
  elif prior == "laplace":
    constant, power = math.log(2.0), jnp.abs
  else:
    raise ValueError(f"Unknown prior {prior!r}; known: {', '.join(PRIORS)}.")
  log_spike = jnp.log(pi) - jnp.log(spike) - power(x / spike)
  log_slab = jnp.log1p(-pi) - jnp.log(slab) - power(x / slab)
  return log_slab + jax.nn.softplus(log_spike - log_slab) - constant


def divergence(params, eps, **prior_settings):
  """One draw's log q(x) - log p(x), summed over objects and dimensions.

  Args:
    params: `Params`.
    eps: f32[n d] standard normal draw, x = loc + exp(log_scale) * eps.
    **prior_settings: As `log_prior`.

  Returns:
    f32[]. Its mean over draws is the Kullback-Leibler divergence KL(q || p).
  """
  x = _sample(params, eps)
  log_q = -0.5 * eps * eps - params.log_scale - 0.5 * math.log(2 * math.pi)
  return jnp.sum(log_q - log_prior(x, **prior_settings))


def cross_entropy(params, eps, triplets):
  """Mean cross-entropy of people's choices under one draw.

  Args:
    params: `Params`.
    eps: f32[n d] standard normal draw.
    triplets: int[b 3] rows of the objects, odd item last.

  Returns:
    f32[] in nats.
  """
  z = jax.nn.relu(_sample(params, eps))
  scores = odd_one_out.logits_of_rows(z, triplets)
  return -jnp.mean(odd_one_out.log_probs(scores)[:, 2])


def objective(params, eps, triplets, *, num_triplets, **prior_settings):
  """What a step minimises: cross-entropy of a batch plus the scaled divergence.

  Args:
    params: `Params`.
    eps: f32[n d] standard normal draw, the same for both terms.
    triplets: int[b 3] rows of the objects, odd item last.
    num_triplets: Number N of triplets in the whole training set, which is what
      the divergence is divided by, not the batch size.
    **prior_settings: As `log_prior`.

  Returns:
    f32[] in nats per triplet.
  """
  cost = divergence(params, eps, **prior_settings) / num_triplets
  return cross_entropy(params, eps, triplets) + cost


def init_params(np_rng, *, num_objects, num_dims, log_scale=None):
  """Starting values.

  Args:
    np_rng: numpy generator.
    num_objects: Number n of objects.
    num_dims: Number d of dimensions before pruning.
    log_scale: Start of every log standard deviation, or None for the published
      start, which is -7.07 at 100 dimensions: narrower than they end by far.

  Returns:
    `Params`. Means are normal with standard deviation sqrt(2 / d).
  """
  std = math.sqrt(2 / num_dims)
  if log_scale is None:
    log_scale = -1 / std
  loc = std * np_rng.standard_normal((num_objects, num_dims))
  return Params(
    jnp.asarray(loc, jnp.float32),
    jnp.full(loc.shape, log_scale, jnp.float32),
  )


def init_state(params):
  """State before the first step."""
  return State(params, optax.scale_by_adam().init(params))


@functools.partial(jax.jit, static_argnames=("prior",), donate_argnums=0)
def train_epoch(
  state, batches, offsets, lrs, noise, *, num_triplets, prior, spike, slab, pi
):
  """Runs the steps of one epoch in one compiled scan.

  Args:
    state: `State`; its buffers are reused.
    batches: int32[s b 3] triplets of the steps, odd item last.
    offsets: int32[s] where in `noise` each step reads.
    lrs: f32[s] learning rate of each step.
    noise: f32[p] standard normal numbers, at least n * d more than the largest
      offset.
    num_triplets: As `objective`.
    prior: As `log_prior`, and so are `spike`, `slab` and `pi`.
    spike: See `prior`.
    slab: See `prior`.
    pi: See `prior`.

  Returns:
    state: The new `State`.
    metrics: dict with "nll" f32[] and "kl" f32[], as in `ViceFit`.
  """
  tx = optax.scale_by_adam()
  settings = {"prior": prior, "spike": spike, "slab": slab, "pi": pi}
  shape = state.params.loc.shape

  def draw(offset):
    window = jax.lax.dynamic_slice(noise, (offset,), (math.prod(shape),))
    return window.reshape(shape)

  def loss_fn(params, eps, triplets):
    nll = cross_entropy(params, eps, triplets)
    # The value of the divergence is not asked for at every step, only its
    # gradient: XLA then leaves out the logarithms.
    cost = divergence(params, eps, **settings) / num_triplets
    return nll + cost, nll

  def step(state, inputs):
    triplets, offset, lr = inputs
    grad_fn = jax.grad(loss_fn, has_aux=True)
    grads, nll = grad_fn(state.params, draw(offset), triplets)
    updates, opt_state = tx.update(grads, state.opt_state)
    params = jax.tree.map(lambda p, u: p - lr * u, state.params, updates)
    return State(params, opt_state), nll

  state, nll = jax.lax.scan(step, state, (batches, offsets, lrs))
  kl = divergence(state.params, draw(offsets[0]), **settings) / num_triplets
  return state, {"nll": jnp.mean(nll), "kl": kl}


def fit(
  triplets,
  *,
  num_objects,
  num_dims=100,
  num_epochs=100,
  batch_size=1024,
  lr=0.01,
  lr_decay="cosine",
  prior="gaussian",
  spike=0.25,
  slab=1.0,
  pi=0.5,
  log_scale=None,
  seed=0,
  val_triplets=None,
  val_every=10,
  val_samples=10,
  callback=None,
):
  """Fits the posterior to people's choices.

  Deviation: paper.md, section H, has batches of 128 and a constant learning
  rate of .001 for up to 2,000 epochs. The prior touches every parameter at
  every step, so larger batches with a larger, decaying rate cost far less for
  the same objective.

  Args:
    triplets: int[N 3] rows of the objects, odd item last.
    num_objects: Number n of objects; rows are in [0, n).
    num_dims: Number d of dimensions before pruning.
    num_epochs: Passes through the triplets, at least 1.
    batch_size: Triplets per step; at most N are used. Each epoch shuffles anew
      and leaves out the last, incomplete batch.
    lr: Learning rate of Adam.
    lr_decay: "cosine", from `lr` to 0 over the run, or "constant".
    prior: As `log_prior`, and so are `spike`, `slab` and `pi`.
    spike: See `prior`.
    slab: See `prior`.
    pi: See `prior`.
    log_scale: As `init_params`.
    seed: Decides start, batches and noise. The same arguments give the same
      bytes on one machine.
    val_triplets: int[m 3] triplets to watch, or None. They change nothing.
    val_every: Epochs between validations; the last epoch always has one.
    val_samples: Draws per validation.
    callback: Called as callback(epoch, metrics) after every epoch, with the
      epoch counted from 0 and a dict from the names of `ViceFit.history` to
      floats; or None.

  Returns:
    `ViceFit`.

  Raises:
    ValueError: If an argument is out of range, or the fit has diverged.
  """
  triplets = _check_triplets("triplets", triplets, num_objects)
  if val_triplets is not None:
    val_triplets = _check_triplets("val_triplets", val_triplets, num_objects)
  _check_settings(
    num_objects=num_objects,
    num_dims=num_dims,
    num_epochs=num_epochs,
    batch_size=batch_size,
    lr=lr,
    spike=spike,
    slab=slab,
    val_every=val_every,
    val_samples=val_samples,
  )
  if not 0 < pi < 1:
    raise ValueError(f"pi is {pi}; expected a share between 0 and 1.")
  if prior not in PRIORS:
    raise ValueError(f"Unknown prior {prior!r}; known: {', '.join(PRIORS)}.")
  if lr_decay not in ("cosine", "constant"):
    raise ValueError(f"Unknown lr_decay {lr_decay!r}; known: cosine, constant.")

  # Everything is drawn by numpy, which has nothing to compile.
  np_rng = np.random.default_rng([seed, 0])
  params = init_params(
    np_rng, num_objects=num_objects, num_dims=num_dims, log_scale=log_scale
  )
  state = init_state(params)
  num_params = params.loc.size
  noise = _noise_table(np_rng, num_params)
  batch_size = min(batch_size, len(triplets))
  num_batches = len(triplets) // batch_size
  history = {}
  for epoch in range(num_epochs):
    np_rng = np.random.default_rng([seed, 1, epoch])
    order = np_rng.permutation(len(triplets))[: num_batches * batch_size]
    steps = epoch * num_batches + np.arange(num_batches)
    state, metrics = train_epoch(
      state,
      triplets[order].reshape(num_batches, batch_size, 3),
      np_rng.integers(
        len(noise) - num_params + 1, size=num_batches, dtype=np.int32
      ),
      _learning_rates(steps, num_epochs * num_batches, lr, lr_decay),
      noise,
      num_triplets=len(triplets),
      prior=prior,
      spike=spike,
      slab=slab,
      pi=pi,
    )
    metrics = {name: float(value) for name, value in metrics.items()}
    if not math.isfinite(metrics["nll"] + metrics["kl"]):
      raise ValueError(
        f"VICE diverged in epoch {epoch}: the cross-entropy is "
        f"{metrics['nll']} and the divergence {metrics['kl']}. lr is {lr}; a "
        "smaller one may help."
      )
    if val_triplets is not None:
      due = (epoch + 1) % val_every == 0 or epoch + 1 == num_epochs
      val_rng = jax.random.key(seed)
      metrics |= _validate(val_rng, state, val_triplets, val_samples, due)
    for name, value in metrics.items():
      history.setdefault(name, []).append(value)
    if callback is not None:
      callback(epoch, metrics)
  return ViceFit(
    loc=np.asarray(state.params.loc),
    scale=np.exp(np.asarray(state.params.log_scale)),
    history={name: np.asarray(value) for name, value in history.items()},
  )


def choice_logprobs(rng, loc, scale, triplets, *, num_samples=50):
  """Probability that people call each item of a triplet odd.

  Monte-Carlo average of the *probabilities* over draws of the embedding, not
  of the embeddings or of the scores: that is where the uncertainty of the
  embedding enters. A draw is one whole embedding, shared by all triplets.

  Args:
    rng: Key; the same key gives the same draws, whatever the triplets.
    loc: f32[n d] means.
    scale: f32[n d] standard deviations.
    triplets: int[m 3] rows of the objects, in any order.
    num_samples: Number of draws (paper.md, section H: 50 in evaluation).

  Returns:
    f32[m 3] log probabilities. Entry p belongs to item p being odd.
  """
  if num_samples < 1:
    raise ValueError(f"num_samples is {num_samples}; expected at least 1.")
  loc, scale = jnp.asarray(loc), jnp.asarray(scale)
  triplets = _check_triplets("triplets", triplets, len(loc), empty=True)
  blocks = [
    _mean_logprobs(
      rng,
      loc,
      scale,
      triplets[start : start + _BLOCK],
      num_samples=num_samples,
    )
    for start in range(0, len(triplets), _BLOCK)
  ]
  return np.concatenate([np.zeros((0, 3), np.float32), *blocks])


def significant(loc, scale, *, alpha=0.05):
  """Tells which weights are above zero, at a bounded false discovery rate.

  The p-value of a weight is the posterior's mass below zero, Phi(-loc / scale).
  Within each dimension the Benjamini-Hochberg procedure rejects "not above
  zero" for the objects with the r smallest p-values, where r is the largest
  rank whose p-value is at most alpha * r / n.

  Args:
    loc: f32[n d] means.
    scale: f32[n d] positive standard deviations.
    alpha: False discovery rate within a dimension, in (0, 1).

  Returns:
    bool[n d], True where rejected.
  """
  loc, scale = np.asarray(loc, np.float64), np.asarray(scale, np.float64)
  p_values = scipy.special.ndtr(-loc / scale)
  num_objects = len(loc)
  ranks = np.arange(1, num_objects + 1)[:, None]
  passes = np.sort(p_values, axis=0) <= alpha * ranks / num_objects
  num_rejected = np.max(np.where(passes, ranks, 0), axis=0, initial=0)
  # All p-values up to the threshold are rejected, equal ones alike.
  return p_values <= alpha * num_rejected / num_objects


def prune(loc, scale, *, alpha=0.05, k=5):
  """Keeps the dimensions that matter for some objects, heaviest first.

  A dimension is kept if *more* than k of its weights are `significant`.

  Args:
    loc: f32[n d] means.
    scale: f32[n d] positive standard deviations.
    alpha: As `significant`.
    k: Number of objects that is not enough.

  Returns:
    loc: f32[n e] means of the kept dimensions, e <= d, sorted by the L1 norm of
      relu(loc), the largest first; equal ones keep their order. e may be 0.
    scale: f32[n e] their standard deviations.
  """
  loc, scale = np.asarray(loc), np.asarray(scale)
  counts = np.sum(significant(loc, scale, alpha=alpha), axis=0)
  norms = np.sum(np.maximum(loc, 0), axis=0, dtype=np.float64)
  order = np.argsort(-norms, kind="stable")
  kept = order[counts[order] > k]
  return loc[:, kept], scale[:, kept]


def _sample(params, eps):
  """The reparameterised draw, f32[n d], before the relu."""
  return params.loc + jnp.exp(params.log_scale) * eps


@functools.partial(jax.jit, static_argnames=("num_samples",))
def _mean_logprobs(rng, loc, scale, triplets, *, num_samples):
  """`choice_logprobs` of triplets that fit into memory at once."""

  def add(total, sample):
    eps = jax.random.normal(jax.random.fold_in(rng, sample), loc.shape)
    z = jax.nn.relu(loc + scale * eps)
    logprobs = odd_one_out.log_probs(odd_one_out.logits_of_rows(z, triplets))
    return jnp.logaddexp(total, logprobs), None

  start = jnp.full(triplets.shape, -jnp.inf)
  total, _ = jax.lax.scan(add, start, jnp.arange(num_samples))
  return jax.nn.log_softmax(total)


def _noise_table(np_rng, num_params):
  """Standard normal numbers, f32[p], of which each step reads a window.

  Deviation: not a fresh draw per step, which for 1,854 objects in 100
  dimensions takes 4.0 ms where the rest of a step with 1,024 triplets takes
  3.8 (two busy cores). The windows start at random places of a table of
  millions, so a weight meets a number again as rarely as stochastic gradients
  ask for.
  """
  size = max(_NOISE_TABLE_SIZE, 4 * num_params)
  return jnp.asarray(np_rng.standard_normal(size, dtype=np.float32))


def _learning_rates(steps, num_steps, lr, lr_decay):
  """Learning rate of each of the given steps, f32[s]."""
  if lr_decay == "cosine":
    lr = lr * 0.5 * (1 + np.cos(np.pi * steps / num_steps))
  return np.broadcast_to(lr, steps.shape).astype(np.float32)


def _validate(rng, state, triplets, num_samples, due):
  """Scores of the validation triplets, or NaN where they are not due."""
  if not due:
    return {"val_nll": math.nan, "val_accuracy": math.nan}
  logprobs = choice_logprobs(
    rng,
    state.params.loc,
    jnp.exp(state.params.log_scale),
    triplets,
    num_samples=num_samples,
  )
  return {
    "val_nll": float(-np.mean(logprobs[:, 2], dtype=np.float64)),
    "val_accuracy": float(odd_one_out.accuracy(logprobs)),
  }


def _check_triplets(name, triplets, num_objects, *, empty=False):
  """The triplets as int32[m 3], or an error in words."""
  triplets = np.asarray(triplets)
  if triplets.ndim != 2 or triplets.shape[1] != 3:
    raise ValueError(f"{name} has shape {triplets.shape}; expected (n, 3).")
  if not np.issubdtype(triplets.dtype, np.integer):
    raise ValueError(f"{name} has type {triplets.dtype}; expected integers.")
  if not len(triplets):
    if empty:
      return triplets.astype(np.int32)
    raise ValueError(f"{name} is empty; at least one triplet is needed.")
  # JAX would take the nearest row for one out of range, in silence.
  low, high = triplets.min(), triplets.max()
  if low < 0 or high >= num_objects:
    raise ValueError(
      f"{name} holds rows {low} to {high}; there are {num_objects} objects, so "
      f"rows are in [0, {num_objects - 1}]."
    )
  return triplets.astype(np.int32)


def _check_settings(**settings):
  """Raises where a setting that must be positive is not."""
  for name, value in settings.items():
    if not value > 0:
      raise ValueError(f"{name} is {value}; expected a positive number.")
