import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from alignet_jax.teacher import objectives


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def _soft_loss_loop(logits, target_logprobs):
  """The loss and its gradient with respect to the logits."""
  total, grads = 0.0, np.zeros_like(logits)
  for row, (scores, targets) in enumerate(
    zip(logits, target_logprobs, strict=True)
  ):
    probs = [np.exp(s) / sum(np.exp(t) for t in scores) for s in scores]
    for p in range(3):
      target = np.exp(targets[p])
      total -= target * np.log(probs[p]) / len(logits)
      for q in range(3):  # d log softmax_p / d logit_q
        slope = (1.0 if p == q else 0.0) - probs[q]
        grads[row, q] -= target * slope / len(logits)
  return total, grads


def _random_case(np_rng, num=7):
  logits = np_rng.normal(size=(num, 3))
  targets = np.log(np_rng.dirichlet([1.0, 1.0, 1.0], size=num))
  return logits, targets


def test_soft_loss_and_gradient_equal_a_loop(x64, np_rng):
  logits, targets = _random_case(np_rng)
  loss, grads = jax.value_and_grad(objectives.soft_loss)(
    jnp.asarray(logits), jnp.asarray(targets)
  )
  expected, expected_grads = _soft_loss_loop(logits, targets)
  np.testing.assert_allclose(loss, expected, rtol=1e-12, atol=0)
  np.testing.assert_allclose(grads, expected_grads, rtol=1e-10, atol=1e-14)


def test_hard_loss_and_gradient_equal_a_loop_with_the_odd_item_last(
  x64, np_rng
):
  logits, _ = _random_case(np_rng)
  with np.errstate(divide="ignore"):
    certain = np.log(np.tile([0.0, 0.0, 1.0], (len(logits), 1)))
  loss, grads = jax.value_and_grad(objectives.hard_loss)(jnp.asarray(logits))
  expected, expected_grads = _soft_loss_loop(logits, certain)
  np.testing.assert_allclose(loss, expected, rtol=1e-12, atol=0)
  np.testing.assert_allclose(grads, expected_grads, rtol=1e-10, atol=1e-14)
  # Certain targets, with their log 0, are the hard loss.
  soft, soft_grads = jax.value_and_grad(objectives.soft_loss)(
    jnp.asarray(logits), jnp.asarray(certain)
  )
  np.testing.assert_allclose(soft, expected, rtol=1e-12, atol=0)
  np.testing.assert_allclose(soft_grads, grads, rtol=1e-12, atol=1e-14)


def test_by_hand():
  # softmax(0, ln 2, ln 5) = (1 2 5) / 8.
  logits = jnp.log(jnp.array([[1.0, 2.0, 5.0]]))
  np.testing.assert_allclose(
    objectives.hard_loss(logits), np.log(8 / 5), rtol=1e-6, atol=0
  )
  targets = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
  expected = 0.5 * np.log(8) + 0.25 * np.log(4) + 0.25 * np.log(8 / 5)
  np.testing.assert_allclose(
    objectives.soft_loss(logits, targets), expected, rtol=1e-6, atol=0
  )
  # tr / p = 3 leaves [[-2, 2], [0, 2]]: 12. 1 + 4 + 25 = 30.
  weights = jnp.array([[1.0, 2.0], [0.0, 5.0]])
  np.testing.assert_allclose(
    objectives.identity_penalty(weights), 12.0, rtol=1e-6, atol=0
  )
  np.testing.assert_allclose(
    objectives.frobenius(weights), np.sqrt(30), rtol=1e-6, atol=0
  )


def test_the_order_of_items_does_not_matter_if_targets_move_along(np_rng):
  logits, targets = _random_case(np_rng)
  order = [2, 0, 1]
  np.testing.assert_allclose(
    objectives.soft_loss(jnp.asarray(logits), jnp.asarray(targets)),
    objectives.soft_loss(
      jnp.asarray(logits[:, order]), jnp.asarray(targets[:, order])
    ),
    rtol=1e-6,
    atol=0,
  )


def test_soft_loss_is_least_at_the_targets(np_rng):
  _, targets = _random_case(np_rng)
  targets = jnp.asarray(targets, jnp.float32)
  loss, grads = jax.value_and_grad(objectives.soft_loss)(targets + 4, targets)
  entropy = -jnp.mean(jnp.sum(jnp.exp(targets) * targets, axis=-1))
  np.testing.assert_allclose(loss, entropy, rtol=1e-5, atol=0)
  np.testing.assert_allclose(grads, np.zeros_like(grads), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_large_logits_keep_losses_and_gradients_finite(scale):
  logits = jnp.array([[0.0, scale, -scale], [scale, 0.0, scale]])
  targets = jnp.log(jnp.array([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]]))
  for loss_fn in (
    objectives.hard_loss,
    lambda logits: objectives.soft_loss(logits, targets),
  ):
    loss, grads = jax.value_and_grad(loss_fn)(logits)
    assert np.isfinite(loss)
    assert np.isfinite(grads).all()


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.3])
def test_multiples_of_the_identity_cost_nothing(scale):
  penalty, grads = jax.value_and_grad(objectives.identity_penalty)(
    scale * jnp.eye(5)
  )
  np.testing.assert_allclose(penalty, 0.0, rtol=0, atol=1e-12)
  np.testing.assert_allclose(grads, np.zeros((5, 5)), rtol=0, atol=1e-6)


def test_identity_penalty_equals_a_loop_and_is_the_least_over_scales(
  x64, np_rng
):
  weights = np_rng.normal(size=(5, 5))

  def distance(scale):
    total = 0.0
    for i in range(5):
      for j in range(5):
        total += (weights[i, j] - (scale if i == j else 0.0)) ** 2
    return total

  scale = sum(weights[i, i] for i in range(5)) / 5
  penalty = float(objectives.identity_penalty(jnp.asarray(weights)))
  np.testing.assert_allclose(penalty, distance(scale), rtol=1e-12, atol=0)
  assert penalty < min(distance(scale + 0.01), distance(scale - 0.01))


def test_only_a_square_matrix_has_an_identity():
  with pytest.raises(ValueError, match=r"\(5, 3\); only a square"):
    objectives.identity_penalty(jnp.zeros((5, 3)))


def test_frobenius_has_gradient_zero_at_zero():
  length, grads = jax.value_and_grad(objectives.frobenius)(jnp.zeros((5, 3)))
  assert length == 0
  np.testing.assert_array_equal(grads, np.zeros((5, 3)))


def test_gradients(x64, np_rng):
  logits, targets = _random_case(np_rng)
  targets = jnp.asarray(targets)
  for function, point in (
    (objectives.hard_loss, logits),
    (lambda logits: objectives.soft_loss(logits, targets), logits),
    (objectives.identity_penalty, np_rng.normal(size=(5, 5))),
    (objectives.frobenius, np_rng.normal(size=(5, 3))),
  ):
    jax.test_util.check_grads(
      function, (jnp.asarray(point),), order=1, atol=1e-6, rtol=1e-6
    )
