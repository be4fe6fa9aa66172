"""Folds of concepts: each held out once, and nothing of it leaks."""

import numpy as np
import pytest

from alignet_jax.photos import folds

SETTINGS = {
  "num_triplets": 700,
  "seed": 0,
  "strengths": (0.1, 1.0),
  "lr": 1e-2,
  "lr_decay": "cosine",
  "batch_size": 128,
  "num_epochs": 2,
  "patience": 0,
}


def test_every_concept_is_in_one_fold():
  parts = folds.split(17, num_folds=5, seed=3)
  assert sorted(map(len, parts)) == [3, 3, 3, 4, 4]
  np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(17))


@pytest.mark.parametrize("num_folds", [1, 6])
def test_folds_need_three_concepts(num_folds):
  with pytest.raises(ValueError, match=f"num_folds is {num_folds}; of 17"):
    folds.split(17, num_folds=num_folds, seed=0)


def test_a_teacher_knows_nothing_of_its_fold(np_rng):
  """Other people and photographs there change no bit; elsewhere they do."""
  features = np_rng.normal(size=(23, 5)).astype(np.float32)
  embedding = np_rng.normal(size=(23, 3)).astype(np.float32)
  fold = np.array([2, 7, 11, 13, 19])

  def fit(features, embedding):
    chosen = folds.fit_without(features, embedding, fold, **SETTINGS)
    return chosen.transform.weights, chosen.transform.mean, chosen.table

  weights, mean, table = fit(features, embedding)
  changed = [x.copy() for x in (features, embedding)]
  for x in changed:
    x[fold] = 100 * x[fold[::-1]]
  again = fit(*changed)
  np.testing.assert_array_equal(again[0], weights)
  np.testing.assert_array_equal(again[1], mean)
  assert again[2] == table
  embedding[0] = embedding[1]
  assert not np.array_equal(fit(features, embedding)[0], weights)
