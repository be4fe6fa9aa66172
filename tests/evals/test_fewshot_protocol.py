"""The least squares of big_vision's evaluator, step by step, beside ours."""

import numpy as np
import pytest

from alignet_jax.evals import fewshot


def big_vision(train, train_ids, test, test_ids, num_shots, num_classes, seed):
  """Shuffle every class, take the first, whiten, pad, eigendecompose."""
  rng = np.random.default_rng(seed)
  rows = np.concatenate(
    [
      rng.permutation(np.where(train_ids == label)[0])[:num_shots]
      for label in range(num_classes)
    ]
  )
  x, y = train[rows], 2.0 * np.eye(num_classes)[train_ids[rows]] - 1.0
  mean, std = x.mean(axis=0), x.std(axis=0) + 1e-5
  x = np.pad((x - mean) / std, ((0, 0), (0, 1)), constant_values=100.0)
  test = np.pad((test - mean) / std, ((0, 0), (0, 1)), constant_values=100.0)
  values, vectors = np.linalg.eigh(x @ x.T)
  weights = (x.T @ vectors / (values + 2.0**10)) @ (vectors.T @ y)
  return np.mean((test @ weights).argmax(axis=1) == test_ids)


@pytest.mark.parametrize("num_shots", [1, 5])
def test_equals_big_vision_draw_by_draw(np_rng, num_shots):
  ids, test_ids = np.arange(77) % 7, np.arange(301) % 7
  centres = np_rng.normal(size=(7, 61))
  train = centres[ids] + 3 * np_rng.normal(size=(77, 61))
  test = centres[test_ids] + 3 * np_rng.normal(size=(301, 61))
  _, ours = fewshot.k_shot_accuracy(
    train, ids, test, test_ids, num_shots=num_shots, seed=None
  )
  theirs = [
    big_vision(train, ids, test, test_ids, num_shots, 7, seed)
    for seed in range(3)
  ]
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
  # Other draws are other images, so this can fail.
  _, others = fewshot.k_shot_accuracy(
    train, ids, test, test_ids, num_shots=num_shots, seed=0
  )
  assert not np.array_equal(ours, others)
