"""Students of photographs: loss by a loop, batches, what they may see."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from alignet_jax.backbones import vit
from alignet_jax.photos import students, tail, train
from alignet_jax.student import losses
from alignet_jax.triplets import labels

SETTINGS = {
  "loss": "kl",
  "lr": 3e-3,
  "warmup_steps": 1,
  "num_steps": 5,
  "batch_size": 7,
  "decay_to_init": 0.1,
  "clip_norm": 0.0,
  "checkpoint_every": 5,
}


@pytest.fixture(scope="module")
def student():
  """The last block of a small model, tokens of 19 images, and targets."""
  model = vit.ViT(
    patch_size=2, width=8, depth=2, mlp_dim=11, num_heads=2, pool="cls"
  )
  image = jnp.zeros((1, 4, 6, 3))
  params = jax.jit(model.init)(jax.random.key(0), image)["params"]
  np_rng = np.random.default_rng(5)
  tokens = np_rng.normal(size=(19, 7, 8)).astype(np.float32)
  targets = np_rng.normal(size=(19, 3)).astype(np.float32)
  top = tail.make(model, first=1)
  return top, tail.select(params, first=1), tokens, targets


def fit(student, rows, tokens=None, targets=None):
  top, start, own_tokens, own_targets = student
  return students.train(
    top,
    TX,
    start,
    own_tokens if tokens is None else tokens,
    own_targets if targets is None else targets,
    rows=rows,
    temperature=2.0,
    settings=SETTINGS,
    seed=0,
    checkpoint_dir=None,
    label="test",
    log=lambda line: None,
  )


TX = students.make_optimizer(SETTINGS)


def test_all_triplets_are_every_three_once():
  triplets = train.all_triplets(5)
  assert len(triplets) == 10
  assert {tuple(t) for t in triplets} == set(
    itertools.combinations(range(5), 3)
  )


def test_batches_depend_on_seed_and_step_alone():
  rows = np.arange(3, 40, 2)
  shown = [
    train.batch_rows(rows, batch_size=7, seed=seed, step=step)
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 1))
  ]
  np.testing.assert_array_equal(shown[1], shown[3])
  assert len({tuple(batch) for batch in shown}) == 3
  for batch in shown:
    assert len(set(batch)) == 7 and set(batch) <= set(rows)


def scores_of_odd(x, i, j, k):
  return np.array([x[j] @ x[k], x[i] @ x[k], x[i] @ x[j]])


def test_loss_is_that_of_a_loop_over_triplets(student):
  top, start, tokens, targets = student
  batch = {
    "tokens": tokens[:5],
    "teacher": targets[:5],
    "triplets": train.all_triplets(5),
    "temperature": jnp.float32(2.0),
  }
  loss, metrics = train.compute_loss(
    start, batch, model=top, loss_fn=losses.get_loss("kl")
  )
  z = np.asarray(top.apply({"params": start}, tokens[:5]), np.float64)
  total, agreed = 0.0, 0
  for triplet in itertools.combinations(range(5), 3):
    p, q = (
      scipy.special.softmax(scores_of_odd(x.astype(np.float64), *triplet) / t)
      for x, t in ((targets, 1.0), (z, 2.0))
    )
    total += (p * np.log(p / q)).sum()
    agreed += p.argmax() == q.argmax()
  np.testing.assert_allclose(loss, total / 10, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    metrics["accuracy"], agreed / 10, atol=1e-6, rtol=0
  )


def test_training_lowers_the_loss_and_sees_its_rows_alone(student):
  top, start, tokens, targets = student
  rows = np.setdiff1d(np.arange(19), [2, 3, 5])
  params, history = fit(student, rows)
  assert len(history) == 5 and history[0]["distance"] == 0
  changed_tokens, changed_targets = tokens.copy(), targets.copy()
  changed_tokens[[2, 3, 5]], changed_targets[[2, 3, 5]] = 9.0, -9.0
  again, _ = fit(student, rows, changed_tokens, changed_targets)
  jax.tree.map(np.testing.assert_array_equal, params, again)
  changed_targets[7] *= -1
  other, _ = fit(student, rows, changed_tokens, changed_targets)
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, other)
  assert max(jax.tree.leaves(moved)) > 1e-4
  whole = {
    "tokens": tokens[rows],
    "teacher": targets[rows],
    "triplets": train.all_triplets(len(rows)),
    "temperature": jnp.float32(2.0),
  }
  before, after = (
    train.compute_loss(p, whole, model=top, loss_fn=losses.get_loss("kl"))[0]
    for p in (start, params)
  )
  assert after < before


def test_embedding_has_a_row_per_image(student, monkeypatch):
  top, start, tokens, _ = student
  expected = top.apply({"params": start}, tokens)
  for batch_size in (5, 100):
    monkeypatch.setattr(students, "_BATCH_SIZE", batch_size)
    found = students.embed(top, start, tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_sharpness_is_matched(np_rng):
  features = 30 * np_rng.normal(size=(23, 5)).astype(np.float32)
  targets = np_rng.normal(size=(23, 3)).astype(np.float32)
  scaled = students.as_sharp(features, targets, seed=0)
  triplets = np.array(list(itertools.combinations(range(23), 3)))
  found, expected = (
    labels.mean_entropy(labels.pair_similarities(x, triplets))
    for x in (scaled, targets)
  )
  # The temperature comes from a sample of triplets.
  np.testing.assert_allclose(found, expected, rtol=0.02, atol=0)
  np.testing.assert_allclose(
    scaled / scaled[0, 0], features / features[0, 0], rtol=1e-5, atol=1e-5
  )
