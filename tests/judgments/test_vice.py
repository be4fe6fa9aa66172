import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import test_util as jax_test_util

from alignet_jax import odd_one_out
from alignet_jax.judgments import vice

SETTINGS = {"spike": 0.2, "slab": 1.5, "pi": 0.4}


def random_triplets(np_rng, num_triplets, num_objects):
  """Triplets of distinct objects, int32[n 3]."""
  scores = np_rng.random((num_triplets, num_objects))
  return np.argsort(scores, axis=1)[:, :3].astype(np.int32)


def answered_triplets(np_rng, z, num_triplets):
  """Triplets that judges with embedding z answered, odd item last."""
  triplets = random_triplets(np_rng, num_triplets, len(z))
  logprobs = odd_one_out.log_probs(odd_one_out.logits_of_rows(z, triplets))
  noise = np_rng.gumbel(size=(num_triplets, 3))
  odd = np.argmax(np.asarray(logprobs) + noise, axis=1)
  order = np.array([[1, 2, 0], [2, 0, 1], [0, 1, 2]])[odd]
  return np.take_along_axis(triplets, order, axis=1)


def random_problem(np_rng, dtype):
  """Parameters, noise and triplets of 7 objects in 3 dimensions."""
  loc = np_rng.normal(0.3, 0.8, (7, 3)).astype(dtype)
  log_scale = np_rng.normal(-1.0, 0.4, (7, 3)).astype(dtype)
  eps = np_rng.normal(size=(7, 3)).astype(dtype)
  params = vice.Params(jnp.asarray(loc), jnp.asarray(log_scale))
  return params, jnp.asarray(eps), random_triplets(np_rng, 5, 7)


def objective_loop(params, eps, triplets, num_triplets, density, settings):
  """The objective in plain Python, one number at a time."""
  loc, log_scale, eps = (np.asarray(a, np.float64) for a in (*params, eps))
  num_objects, num_dims = loc.shape
  z = np.zeros_like(loc)
  divergence = 0.0
  for i in range(num_objects):
    for j in range(num_dims):
      scale = math.exp(log_scale[i, j])
      x = loc[i, j] + scale * eps[i, j]
      z[i, j] = max(x, 0.0)
      prior = settings["pi"] * density(x, 0, settings["spike"]) + (
        1 - settings["pi"]
      ) * density(x, 0, settings["slab"])
      divergence += scipy.stats.norm.logpdf(x, loc[i, j], scale)
      divergence -= math.log(prior)
  nll = 0.0
  for first, second, odd in triplets:
    same = math.exp(z[first] @ z[second])
    others = math.exp(z[first] @ z[odd]) + math.exp(z[second] @ z[odd])
    nll -= math.log(same / (same + others)) / len(triplets)
  return nll + divergence / num_triplets


def test_log_prior_by_hand():
  # At 0 with spike 1/2 and slab 2, half each, the Gaussian densities are
  # .797885 and .199471, their mean .498678; the Laplace ones 1 and .25.
  settings = {"spike": 0.5, "slab": 2.0, "pi": 0.5}
  np.testing.assert_allclose(
    vice.log_prior(0.0, prior="gaussian", **settings),
    math.log(0.498678),
    rtol=1e-5,
    atol=0,
  )
  np.testing.assert_allclose(
    vice.log_prior(0.0, prior="laplace", **settings),
    math.log(0.625),
    rtol=1e-5,
    atol=0,
  )


@pytest.mark.parametrize(
  ("prior", "density"),
  [("gaussian", scipy.stats.norm.pdf), ("laplace", scipy.stats.laplace.pdf)],
)
def test_log_prior_equals_scipy_far_into_the_tails(prior, density):
  x = np.linspace(-9, 9, 41)
  expected = np.log(0.4 * density(x, 0, 0.2) + 0.6 * density(x, 0, 1.5))
  with jax.enable_x64(True):
    met = vice.log_prior(jnp.asarray(x), prior=prior, **SETTINGS)
  np.testing.assert_allclose(met, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
  ("prior", "density"),
  [("gaussian", scipy.stats.norm.pdf), ("laplace", scipy.stats.laplace.pdf)],
)
def test_objective_equals_a_plain_loop(np_rng, prior, density):
  with jax.enable_x64(True):
    params, eps, triplets = random_problem(np_rng, np.float64)
    met = vice.objective(
      params, eps, triplets, num_triplets=11, prior=prior, **SETTINGS
    )
  expected = objective_loop(params, eps, triplets, 11, density, SETTINGS)
  # The cross-entropy is in float32, as everywhere in the package.
  np.testing.assert_allclose(met, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("prior", vice.PRIORS)
def test_gradient_of_objective_equals_finite_differences(np_rng, prior):
  with jax.enable_x64(True):
    params, eps, triplets = random_problem(np_rng, np.float64)

    def loss(params):
      return vice.objective(
        params, eps, triplets, num_triplets=11, prior=prior, **SETTINGS
      )

    # Differences of a float32 cross-entropy: coarse steps, loose tolerance.
    jax_test_util.check_grads(
      loss, (params,), order=1, modes=["rev"], eps=1e-3, atol=2e-3, rtol=2e-3
    )


def test_objective_and_gradient_are_finite_at_extreme_values(np_rng):
  loc = jnp.asarray(np_rng.choice([-100.0, 100.0], (7, 2)), jnp.float32)
  eps = jnp.asarray(np_rng.normal(size=(7, 2)), jnp.float32)
  triplets = random_triplets(np_rng, 13, 7)
  value_and_grad = jax.jit(
    jax.value_and_grad(functools.partial(vice.objective, **SETTINGS))
  )
  for log_scale in (-30.0, 3.0):
    params = vice.Params(loc, jnp.full_like(loc, log_scale))
    value, grads = value_and_grad(params, eps, triplets, num_triplets=13)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_permuting_objects_permutes_gradients(np_rng):
  params, eps, triplets = random_problem(np_rng, np.float32)
  order = np_rng.permutation(7)
  inverse = np.argsort(order)
  grad_fn = jax.jit(jax.grad(functools.partial(vice.objective, **SETTINGS)))
  grads = grad_fn(params, eps, triplets, num_triplets=5)
  permuted = grad_fn(
    vice.Params(*(a[order] for a in params)),
    eps[order],
    inverse[triplets],
    num_triplets=5,
  )
  for met, expected in zip(permuted, grads, strict=True):
    np.testing.assert_allclose(met, expected[order], rtol=1e-5, atol=1e-6)


def test_epoch_is_adam_on_the_objective(np_rng):
  params, _, _ = random_problem(np_rng, np.float32)
  batches = np.stack([random_triplets(np_rng, 5, 7) for _ in range(3)])
  noise = jnp.asarray(np_rng.normal(size=50), jnp.float32)
  offsets, lrs = jnp.asarray([3, 17, 9]), jnp.asarray([0.1, 0.05, 0.02])
  expected = [np.asarray(p, np.float64) for p in params]
  moments = [[np.zeros((7, 3)), np.zeros((7, 3))] for _ in params]
  losses = []
  cross_entropy = jax.jit(vice.cross_entropy)
  grad_fn = jax.jit(jax.grad(functools.partial(vice.objective, **SETTINGS)))
  for step in range(3):
    eps = noise[offsets[step] : offsets[step] + 21].reshape(7, 3)
    point = vice.Params(*(jnp.asarray(p, jnp.float32) for p in expected))
    losses.append(cross_entropy(point, eps, batches[step]))
    grads = grad_fn(point, eps, batches[step], num_triplets=11)
    for index, grad in enumerate(np.asarray(grads, np.float64)):
      m, v = moments[index]
      m[:] = 0.9 * m + 0.1 * grad
      v[:] = 0.999 * v + 0.001 * grad**2
      m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
      expected[index] -= float(lrs[step]) * m_hat / (np.sqrt(v_hat) + 1e-8)
  state, metrics = vice.train_epoch(
    vice.init_state(params),
    batches,
    offsets,
    lrs,
    noise,
    num_triplets=11,
    prior="gaussian",
    **SETTINGS,
  )
  for met, wanted in zip(state.params, expected, strict=True):
    np.testing.assert_allclose(met, wanted, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(metrics["nll"], np.mean(losses), rtol=1e-5, atol=0)


@pytest.fixture(scope="module")
def recovery():
  """A fit to judges whose embedding is known: 60 objects in 4 dimensions."""
  np_rng = np.random.default_rng(3)
  kept = np_rng.random((60, 4)) < 0.4
  truth = np.where(kept, np_rng.uniform(0.7, 2.5, (60, 4)), 0).astype(
    np.float32
  )
  train = answered_triplets(np_rng, truth, 20_000)
  test = answered_triplets(np_rng, truth, 5_000)
  fit = vice.fit(
    train,
    num_objects=60,
    num_dims=11,
    num_epochs=100,
    batch_size=256,
    lr=0.05,
    seed=1,
  )
  return truth, test, fit


def test_recovers_the_dimensions_of_simulated_judges(recovery):
  truth, _, fit = recovery
  loc, _ = vice.prune(fit.loc, fit.scale)
  assert 4 <= loc.shape[1] <= 5  # of 11
  correlations = np.corrcoef(truth.T, np.maximum(loc, 0).T)[:4, 4:]
  assert len(set(correlations.argmax(axis=1))) == 4
  assert correlations.max(axis=1).min() > 0.9


def test_predicts_held_out_choices_near_the_ceiling_of_the_judges(recovery):
  truth, test, fit = recovery
  loc, scale = vice.prune(fit.loc, fit.scale)
  logprobs = vice.choice_logprobs(jax.random.key(2), loc, scale, test)
  judges = np.asarray(
    odd_one_out.log_probs(odd_one_out.logits_of_rows(truth, test))
  )
  # What who knows the judges' probabilities scores on average; sparse judges
  # have ties, which `accuracy` would call wrong.
  ceiling = np.exp(judges).max(axis=1).mean()
  assert ceiling > 0.6
  assert odd_one_out.accuracy(logprobs) > ceiling - 0.015
  assert -logprobs[:, 2].mean() < -judges[:, 2].mean() + 0.01


def test_cross_entropy_falls_during_the_fit(recovery):
  nll = recovery[2].history["nll"]
  assert nll.shape == (100,)
  assert nll[-1] < nll[0] - 0.1


@pytest.fixture(autouse=True)
def small_noise_table(request, monkeypatch):
  """Draws thousands of numbers instead of millions for each tiny fit."""
  if "recovery" not in request.fixturenames:
    monkeypatch.setattr(vice, "_NOISE_TABLE_SIZE", 2**12)


def fit_tiny(**changes):
  np_rng = np.random.default_rng(5)
  settings = {
    "num_objects": 13,
    "num_dims": 3,
    "num_epochs": 4,
    "batch_size": 17,
    "seed": 7,
  }
  triplets = random_triplets(np_rng, 50, 13)
  return vice.fit(changes.pop("triplets", triplets), **(settings | changes))


def test_same_arguments_give_the_same_bytes():
  first, second, other = fit_tiny(), fit_tiny(), fit_tiny(seed=8)
  assert first.loc.tobytes() == second.loc.tobytes()
  assert first.scale.tobytes() == second.scale.tobytes()
  np.testing.assert_array_equal(first.history["nll"], second.history["nll"])
  assert first.loc.tobytes() != other.loc.tobytes()


def test_seed_larger_than_32_bits():
  assert np.isfinite(fit_tiny(seed=2**31 + 5).loc).all()


def test_validation_and_callback_change_nothing():
  np_rng = np.random.default_rng(6)
  seen = []
  watched = fit_tiny(
    val_triplets=random_triplets(np_rng, 19, 13),
    val_every=3,
    callback=lambda epoch, metrics: seen.append((epoch, metrics)),
  )
  assert watched.loc.tobytes() == fit_tiny().loc.tobytes()
  assert [epoch for epoch, _ in seen] == [0, 1, 2, 3]
  due = np.isfinite(watched.history["val_nll"])
  np.testing.assert_array_equal(due, [False, False, True, True])
  assert seen[3][1]["val_accuracy"] == watched.history["val_accuracy"][3]
  assert all(isinstance(v, float) for v in seen[3][1].values())


def test_batch_larger_than_the_data_is_all_of_it():
  assert (
    fit_tiny(batch_size=5000).loc.tobytes()
    == fit_tiny(batch_size=50).loc.tobytes()
  )


def test_epochs_compile_once():
  vice.train_epoch.clear_cache()
  fit_tiny(num_epochs=3)
  assert vice.train_epoch._cache_size() == 1


def test_objects_without_judgments_return_to_the_prior():
  np_rng = np.random.default_rng(8)
  fit = vice.fit(
    random_triplets(np_rng, 50, 7),  # of the objects 0 to 6
    num_objects=11,
    num_dims=5,
    num_epochs=1500,
    batch_size=50,
    lr=0.02,
    spike=0.9,
    slab=1.1,
  )
  np.testing.assert_allclose(fit.loc[7:], 0, rtol=0, atol=0.2)
  np.testing.assert_allclose(fit.scale[7:], 1, rtol=0, atol=0.2)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"triplets": np.zeros((0, 3), np.int32)}, "triplets is empty"),
    ({"triplets": np.zeros((2, 2), np.int32)}, r"shape \(2, 2\)"),
    ({"triplets": np.zeros((2, 3))}, "type float64"),
    ({"triplets": np.array([[0, 1, 13]])}, r"rows 0 to 13.*\[0, 12\]"),
    ({"triplets": np.array([[-1, 1, 2]])}, "rows -1 to 2"),
    ({"val_triplets": np.array([[0, 1, 13]])}, "val_triplets holds"),
    ({"num_dims": 0}, "num_dims is 0"),
    ({"num_epochs": 0}, "num_epochs is 0"),
    ({"lr": float("nan")}, "lr is nan; expected a positive"),
    ({"lr": 0.0}, "lr is 0.0; expected a positive"),
    ({"pi": 1.0}, "pi is 1.0"),
    ({"spike": -0.1}, "spike is -0.1"),
    ({"prior": "cauchy"}, "'cauchy'; known: gaussian, laplace"),
    ({"lr_decay": "linear"}, "'linear'; known: cosine, constant"),
    ({"lr": 1e30}, "diverged in epoch"),
  ],
)
def test_bad_arguments_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    fit_tiny(**changes)


def test_probabilities_without_uncertainty_are_the_softmax(np_rng):
  loc = np_rng.normal(size=(7, 5)).astype(np.float32)
  triplets = random_triplets(np_rng, 11, 7)
  met = vice.choice_logprobs(
    jax.random.key(0), loc, np.full_like(loc, 1e-9), triplets, num_samples=3
  )
  z = np.maximum(loc, 0)
  expected = odd_one_out.log_probs(odd_one_out.logits_of_rows(z, triplets))
  np.testing.assert_allclose(met, expected, rtol=1e-5, atol=1e-5)


def test_probabilities_not_scores_are_averaged(np_rng):
  rng = jax.random.key(4)
  loc = np_rng.normal(size=(7, 5)).astype(np.float32)
  scale = np_rng.uniform(0.5, 2.0, (7, 5)).astype(np.float32)
  triplets = random_triplets(np_rng, 11, 7)
  total = np.zeros((11, 3))
  for sample in range(13):
    eps = jax.random.normal(jax.random.fold_in(rng, sample), (7, 5))
    z = np.maximum(loc + scale * np.asarray(eps), 0).astype(np.float64)
    for row, (a, b, c) in enumerate(triplets):
      dots = np.exp([z[b] @ z[c], z[a] @ z[c], z[a] @ z[b]])
      total[row] += dots / dots.sum() / 13
  met = vice.choice_logprobs(rng, loc, scale, triplets, num_samples=13)
  np.testing.assert_allclose(np.exp(met), total, rtol=1e-4, atol=1e-6)


def test_probabilities_follow_the_order_of_the_items(np_rng):
  rng = jax.random.key(0)
  loc = np_rng.normal(size=(7, 5)).astype(np.float32)
  scale = np.full_like(loc, 0.4)
  triplets = random_triplets(np_rng, 11, 7)
  order = np.array([2, 0, 1])
  met = vice.choice_logprobs(rng, loc, scale, triplets[:, order])
  expected = vice.choice_logprobs(rng, loc, scale, triplets)[:, order]
  np.testing.assert_allclose(met, expected, rtol=1e-5, atol=1e-6)


def test_probabilities_do_not_depend_on_the_blocks(np_rng, monkeypatch):
  rng = jax.random.key(0)
  loc = np_rng.normal(size=(7, 5)).astype(np.float32)
  scale = np.full_like(loc, 0.4)
  triplets = random_triplets(np_rng, 11, 7)
  expected = vice.choice_logprobs(rng, loc, scale, triplets)
  monkeypatch.setattr(vice, "_BLOCK", 4)
  met = vice.choice_logprobs(rng, loc, scale, triplets)
  np.testing.assert_allclose(met, expected, rtol=1e-6, atol=1e-6)


def test_wider_posteriors_give_less_certain_choices(np_rng):
  loc = np_rng.choice([-1.0, 2.5], (13, 5)).astype(np.float32)
  triplets = random_triplets(np_rng, 50, 13)
  entropies = [
    odd_one_out.entropy(
      vice.choice_logprobs(
        jax.random.key(0), loc, np.full_like(loc, scale), triplets
      )
    ).mean()
    for scale in (0.01, 0.5, 1.5)
  ]
  assert entropies[0] < entropies[1] < entropies[2]


def test_no_triplets_and_no_dimensions():
  loc, scale = np.zeros((7, 0), np.float32), np.ones((7, 0), np.float32)
  rng = jax.random.key(0)
  empty = vice.choice_logprobs(rng, loc, scale, np.zeros((0, 3), np.int32))
  assert empty.shape == (0, 3)
  met = vice.choice_logprobs(rng, loc, scale, [[0, 1, 2]], num_samples=2)
  np.testing.assert_allclose(met, np.log(1 / 3), rtol=1e-6, atol=0)
  with pytest.raises(ValueError, match="num_samples is 0"):
    vice.choice_logprobs(rng, loc, scale, [[0, 1, 2]], num_samples=0)
  with pytest.raises(ValueError, match=r"rows 0 to 7; there are 7 objects"):
    vice.choice_logprobs(rng, loc, scale, [[0, 1, 7]])


def p_value_columns(p_values):
  """Means that have the given p-values at unit scale, f64[n d]."""
  return -scipy.stats.norm.ppf(np.asarray(p_values, np.float64).T)


def test_significant_by_hand():
  # Five objects at alpha .05: thresholds .01, .02, .03, .04, .05 by rank.
  loc = p_value_columns(
    [
      # Sorted .005 .025 .029 .2 .9: ranks 1 and 3 pass, so the first three are
      # rejected, .025 too although it is above its own threshold of .02.
      [0.2, 0.005, 0.029, 0.9, 0.025],
      # Rank 5 passes: all.
      [0.049, 0.049, 0.048, 0.047, 0.046],
      # None passes.
      [0.011, 0.5, 0.6, 0.7, 0.8],
    ]
  )
  met = vice.significant(loc, np.ones_like(loc))
  expected = np.array(
    [[0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool
  ).T
  np.testing.assert_array_equal(met, expected)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.4])
def test_significant_equals_a_plain_loop(np_rng, alpha):
  loc = np_rng.normal(1.0, 1.5, (29, 17)) * (np_rng.random((29, 17)) < 0.6)
  scale = np_rng.uniform(0.2, 1.5, (29, 17))
  met = vice.significant(loc, scale, alpha=alpha)
  for dim in range(17):
    p_values = scipy.stats.norm.cdf(-loc[:, dim] / scale[:, dim])
    order = np.argsort(p_values)
    num_rejected = 0
    for rank, index in enumerate(order, start=1):
      if p_values[index] <= alpha * rank / 29:
        num_rejected = rank
    expected = np.zeros(29, bool)
    expected[order[:num_rejected]] = True
    np.testing.assert_array_equal(met[:, dim], expected)
  assert 0 < met.sum() < met.size


def test_significance_equals_scipy(np_rng):
  loc, scale = np_rng.normal(1.0, 1.0, (29, 5)), np.full((29, 5), 0.6)
  p_values = scipy.stats.norm.cdf(-loc / scale)
  adjusted = scipy.stats.false_discovery_control(p_values, axis=0)
  np.testing.assert_array_equal(vice.significant(loc, scale), adjusted <= 0.05)


def test_prune_keeps_strictly_more_than_k_and_sorts_by_weight():
  loc = np.full((11, 4), -1.0, np.float32)
  loc[:5, 0] = 9.0  # 5 objects: not more than 5
  loc[:6, 1] = 2.0  # 6 objects, weight 12
  loc[:7, 2] = 3.0  # 7 objects, weight 21
  loc[:, 3] = 0.01  # nowhere significant
  scale = np.full((11, 4), 0.1, np.float32)
  scale[:, 2] = 0.2
  kept, kept_scale = vice.prune(loc, scale)
  np.testing.assert_array_equal(kept, loc[:, [2, 1]])
  np.testing.assert_array_equal(kept_scale, scale[:, [2, 1]])
  kept, _ = vice.prune(loc, scale, k=4)
  np.testing.assert_array_equal(kept, loc[:, [0, 2, 1]])


def test_negative_means_carry_no_weight():
  # Without the relu dimension 0 would be the heavier one: 60 + 50 > 72.
  loc = np.full((11, 2), -10.0, np.float32)
  loc[:6, 0], loc[:6, 1], loc[6:, 1] = 10.0, 12.0, 0.0
  kept, _ = vice.prune(loc, np.ones_like(loc))
  np.testing.assert_array_equal(kept, loc[:, [1, 0]])


def test_prune_may_keep_nothing():
  kept, scale = vice.prune(np.zeros((11, 3)), np.ones((11, 3)))
  assert kept.shape == scale.shape == (11, 0)
