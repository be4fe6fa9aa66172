"""Losses: by hand, against loops and libraries, laws, gradients, extremes."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats

from alignet_jax.student import losses

NAMES = sorted(losses.LOSSES)


def random_batch(np_rng, b=7):
  logits = np_rng.normal(size=(b, 3), scale=2).astype(np.float32)
  teacher = np_rng.normal(size=(b, 3), scale=2).astype(np.float32)
  return logits, scipy.special.log_softmax(teacher, axis=-1)


def test_by_hand():
  """Student (1/2, 1/4, 1/4), teacher (1/4, 1/2, 1/4); m = (3/8, 3/8, 1/4)."""
  logits = np.log([[2.0, 1.0, 1.0]]).astype(np.float32)
  target = np.log([[0.25, 0.5, 0.25]]).astype(np.float32)
  # 1/4 ln(1/2) + 1/2 ln 2 = 1/4 ln 2
  np.testing.assert_allclose(
    losses.kl(logits, target), [np.log(2) / 4], rtol=1e-6, atol=0
  )
  # Both halves alike: 1/4 ln(2/3) + 1/2 ln(4/3)
  expected = np.log(2 / 3) / 4 + np.log(4 / 3) / 2
  np.testing.assert_allclose(
    losses.jsd(logits, target), [expected], rtol=1e-6, atol=0
  )
  np.testing.assert_allclose(
    losses.contrastive_hard(logits, target), [np.log(4)], rtol=1e-6, atol=0
  )


def test_against_a_plain_loop(np_rng):
  logits, target = random_batch(np_rng)
  for b in range(len(logits)):
    q = np.exp(logits[b].astype(np.float64))
    q /= q.sum()
    p = np.exp(target[b].astype(np.float64))
    m = (p + q) / 2
    kl = jsd = 0.0
    for i in range(3):
      kl += p[i] * np.log(p[i] / q[i])
      jsd += p[i] * np.log(p[i] / m[i]) / 2 + q[i] * np.log(q[i] / m[i]) / 2
    one = slice(b, b + 1)
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(losses.kl(logits[one], target[one]), kl, **close)
    np.testing.assert_allclose(
      losses.jsd(logits[one], target[one]), jsd, **close
    )


def test_against_libraries(np_rng):
  logits, target = random_batch(np_rng)
  p, q = np.exp(target), scipy.special.softmax(logits, axis=-1)
  close = {"rtol": 1e-4, "atol": 1e-6}
  kl = losses.kl(logits, target)
  np.testing.assert_allclose(kl, scipy.stats.entropy(p, q, axis=-1), **close)
  logprobs = jax.nn.log_softmax(logits)
  np.testing.assert_allclose(
    kl,
    optax.losses.kl_divergence_with_log_targets(logprobs, target),
    **close,
  )
  # scipy gives the distance, which is the root.
  distance = scipy.spatial.distance.jensenshannon(p, q, axis=-1)
  np.testing.assert_allclose(losses.jsd(logits, target), distance**2, **close)
  np.testing.assert_allclose(
    losses.contrastive_hard(logits, target),
    optax.softmax_cross_entropy_with_integer_labels(logits, target.argmax(-1)),
    **close,
  )


def test_contrastive_hard_is_the_released_formula(np_rng):
  """-s01/tau + logsumexp(s/tau) with the odd image last, entry 2 = s01."""
  pair_sims = np_rng.normal(size=(5, 3), scale=40).astype(np.float32)
  released = -pair_sims[:, 0] / 10 + scipy.special.logsumexp(
    pair_sims / 10, axis=-1
  )
  target = np.log([[0.2, 0.3, 0.5]]).repeat(5, axis=0).astype(np.float32)
  loss = losses.contrastive_hard(pair_sims[:, ::-1] / 10, target)
  np.testing.assert_allclose(loss, released, rtol=1e-5, atol=1e-5)


def test_contrastive_hard_shares_the_target_among_ties():
  logits = np.array([[1.0, 3.0, 0.0]], np.float32)
  target = np.log([[0.4, 0.4, 0.2]]).astype(np.float32)
  logprobs = scipy.special.log_softmax(logits[0])
  np.testing.assert_allclose(
    losses.contrastive_hard(logits, target),
    [-(logprobs[0] + logprobs[1]) / 2],
    rtol=1e-6,
    atol=0,
  )


@pytest.mark.parametrize("name", ["kl", "jsd"])
def test_zero_with_zero_gradient_exactly_where_both_agree(np_rng, name):
  loss_fn = losses.get_loss(name)
  _, target = random_batch(np_rng)
  np.testing.assert_allclose(loss_fn(target + 5, target), 0, rtol=0, atol=1e-6)
  grad = jax.grad(lambda x: jnp.sum(loss_fn(x, target)))(target + 5)
  np.testing.assert_allclose(grad, 0, rtol=0, atol=1e-6)
  for i in range(3):
    other = target.copy()
    other[:, i] += 1.0
    assert np.all(loss_fn(other, target) > 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_laws(np_rng, name):
  loss_fn = losses.get_loss(name)
  logits, target = random_batch(np_rng, b=101)
  loss = loss_fn(logits, target)
  assert loss.shape == (101,)
  assert np.all(loss > 0)
  close = {"rtol": 1e-4, "atol": 1e-5}
  np.testing.assert_allclose(loss_fn(logits + 3.0, target), loss, **close)
  order = [2, 0, 1]
  np.testing.assert_allclose(
    loss_fn(logits[:, order], target[:, order]), loss, **close
  )
  assert np.max(np.abs(loss_fn(logits[:, order], target) - loss)) > 0.1


def test_jsd_is_symmetric_and_at_most_ln_2(np_rng):
  logits, target = random_batch(np_rng, b=101)
  logprobs = np.asarray(jax.nn.log_softmax(logits))
  np.testing.assert_allclose(
    losses.jsd(logits, target),
    losses.jsd(target, logprobs),
    rtol=1e-3,
    atol=1e-6,
  )
  opposite = losses.jsd(
    np.array([[1e4, 0, 0]], np.float32),
    np.array([[-np.inf, 0, -np.inf]], np.float32),
  )
  np.testing.assert_allclose(opposite, [np.log(2)], rtol=1e-6, atol=0)
  assert np.all(losses.jsd(logits * 100, target) <= np.log(2) * (1 + 1e-6))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_in_float64(np_rng, name):
  loss_fn = losses.get_loss(name)
  logits, target = random_batch(np_rng, b=3)
  with jax.enable_x64(True):
    jax.test_util.check_grads(
      lambda x: loss_fn(x, jnp.asarray(target, jnp.float64)),
      (jnp.asarray(logits, jnp.float64),),
      order=1,
      modes=("rev",),
      atol=1e-5,
      rtol=1e-5,
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
  "logits", [[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [0, 0, 1e4]]
)
@pytest.mark.parametrize(
  "probs", [[0.2, 0.3, 0.5], [0, 1, 0], [0.5, 0, 0.5], [0, 0, 1]]
)
def test_extremes_are_finite_in_value_and_gradient(name, logits, probs):
  loss_fn = losses.get_loss(name)
  with np.errstate(divide="ignore"):
    target = np.log(np.array([probs], np.float32))
  logits = np.array([logits], np.float32)
  loss, grad = jax.value_and_grad(lambda x: loss_fn(x, target)[0])(logits)
  assert np.isfinite(loss) and loss >= 0
  assert np.all(np.isfinite(grad))
  np.testing.assert_allclose(np.sum(grad), 0, rtol=0, atol=1e-5)
  if name == "kl":
    probs_student = scipy.special.softmax(logits)
    np.testing.assert_allclose(
      grad, probs_student - np.array([probs]), rtol=0, atol=1e-6
    )


def test_an_unknown_loss_is_refused_with_the_known_ones():
  with pytest.raises(ValueError, match="'mse'.*jsd, kl, contrastive_hard"):
    losses.get_loss("mse")
