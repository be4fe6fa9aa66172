"""Dense batches: value and gradient of a plain loop, in chunks, in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.student import losses, objectives, train
from alignet_jax.triplets import dense

P, K, WIDTH = 3, 5, 7


@pytest.fixture(name="batch")
def _batch(np_rng):
  z = np_rng.normal(size=(P * K, WIDTH)).astype(np.float32)
  x = np_rng.normal(size=(P * K, 4)).astype(np.float32)
  return jnp.asarray(z), jnp.asarray(x @ x.T)


def dense_loss(z, sims, name, **settings):
  settings = {"temperature": 1.7, "images_per_cluster": K} | settings
  return objectives.of_dense(z, sims, loss_fn=losses.get_loss(name), **settings)


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_value_and_gradient_are_those_of_a_plain_loop(batch, name):
  """All triplets named one by one, at once, by the shared definition."""
  z, sims = batch
  triplets = [
    (i, j, k)
    for i in range(P * K)
    for j in range(i + 1, P * K)
    for k in range(P * K)
    if i // K == j // K != k // K
  ]
  i, j, k = np.array(triplets).T
  target = jax.nn.log_softmax(
    jnp.stack([sims[j, k], sims[i, k], sims[i, j]], axis=-1)
  )

  def plain(z):
    return objectives.of_triplets(
      z[np.array(triplets)],
      target,
      loss_fn=losses.get_loss(name),
      temperature=1.7,
    )

  def chunked(z):
    # 30 pairs, of which 4 at once: the last chunk is filled up.
    return dense_loss(z, sims, name, chunk_size=4 * P * K)

  grads, metrics = jax.jit(jax.grad(chunked, has_aux=True))(z)
  want_grads, want = jax.jit(jax.grad(plain, has_aux=True))(z)
  for metric, value in want.items():
    np.testing.assert_allclose(
      metrics[metric], value, rtol=1e-5, atol=1e-6, err_msg=metric
    )
  np.testing.assert_allclose(grads, want_grads, rtol=1e-4, atol=1e-6)
  assert 0.1 < want["accuracy"] < 0.9


def test_the_number_of_triplets_is_that_of_the_sampler(batch):
  """A loss of 1 for each triplet has a mean of 1, in chunks of any size."""
  z, sims = batch
  for chunk_size in (1, 100, 10**6):
    loss, _ = objectives.of_dense(
      z,
      sims,
      loss_fn=lambda logits, target: jnp.ones(logits.shape[:-1]),
      temperature=1.0,
      images_per_cluster=K,
      chunk_size=chunk_size,
    )
    np.testing.assert_allclose(loss, 1.0, rtol=1e-6, atol=0)
  assert len(dense.triplets(P, K)) == len(dense.pairs(P, K)) * (P - 1) * K


def test_ties_of_the_teacher_count_as_wrong(batch):
  z, sims = batch
  _, metrics = dense_loss(z, jnp.zeros_like(sims), "kl")
  assert metrics["accuracy"] == 0


def test_memory_is_that_of_a_chunk_not_of_all_triplets():
  """The largest tensor of the gradient, for 64 times as many triplets."""
  m, size = 192, 24
  z, sims = jnp.zeros((m, 5)), jnp.zeros((m, m))
  jaxpr = jax.make_jaxpr(
    jax.grad(
      lambda z: objectives.of_dense(
        z,
        sims,
        loss_fn=losses.jsd,
        temperature=1.0,
        images_per_cluster=size,
        chunk_size=2**14,
      )[0]
    )
  )(z)

  def largest(jaxpr):
    found = 0
    for eqn in jaxpr.eqns:
      found = max([found, *(v.aval.size for v in eqn.outvars)])
      for param in jax.tree.leaves(
        list(eqn.params.values()),
        is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns"),
      ):
        inner = getattr(param, "jaxpr", param)
        if hasattr(inner, "eqns"):
          found = max(found, largest(inner))
    return found

  num_triplets = len(dense.pairs(m // size, size)) * (m - size)
  assert num_triplets == 370_944
  # A chunk has 2 ** 14 triplets of three scores; similarities are m x m.
  assert largest(jaxpr.jaxpr) <= 3 * 2**14


@pytest.mark.parametrize("num_parts", [1, 3, 5])
def test_parts_give_the_gradient_of_the_whole(np_rng, batch, num_parts):
  """Two passes over parts, against one over all; the loss joins all images."""
  _, sims = batch
  image = jnp.asarray(np_rng.normal(size=(P * K, 6)), jnp.float32)
  params = {"w": jnp.asarray(np_rng.normal(size=(6, WIDTH)), jnp.float32)}

  def embed(params, image):
    return jnp.tanh(image @ params["w"])

  def loss_fn(z, sims):
    return dense_loss(z, sims, "jsd", temperature=0.5)

  got, metrics = train.joint_grads(
    embed, loss_fn, params, image, sims, num_parts
  )
  want = jax.grad(lambda p: loss_fn(embed(p, image), sims)[0])(params)
  np.testing.assert_allclose(got["w"], want["w"], rtol=1e-4, atol=1e-6)
  assert metrics["loss"] > 0.01
  with pytest.raises(artifacts.InputError, match="of 15 cannot be cut into 4"):
    train.joint_grads(embed, loss_fn, params, image, sims, 4)


@pytest.mark.parametrize("size", [1, 4, 15])
def test_batches_that_are_no_clusters_are_refused(batch, size):
  with pytest.raises(artifacts.InputError, match="15 images is no two or more"):
    dense_loss(*batch, "jsd", images_per_cluster=size)
