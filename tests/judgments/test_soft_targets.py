"""Tests for the soft targets of `alignet_jax.judgments.stage`."""

import types

import ml_collections
import numpy as np
import pytest
import scipy.special

from alignet_jax import artifacts
from alignet_jax.judgments import stage


@pytest.fixture
def make(np_rng, tmp_path):
  """Runs the stage on files of 13 objects and 29 + 5 triplets."""
  np.save(tmp_path / "embedding.npy", np_rng.random((13, 3)))
  np.save(tmp_path / "features.npy", np_rng.normal(size=(13, 7)))
  for split, number in (("train", 29), ("test", 5)):
    triplets = [np_rng.permutation(13)[:3] for _ in range(number)]
    np.save(tmp_path / f"{split}.npy", np.array(triplets, np.int16))

  def run(name, **judgments):
    config = ml_collections.FrozenConfigDict(
      {
        "seed": 3,
        "things": {
          "triplets_train": str(tmp_path / "train.npy"),
          "triplets_test": str(tmp_path / "test.npy"),
          "repeats": "",
          "features": str(tmp_path / "features.npy"),
          "vice_embedding": str(tmp_path / "embedding.npy"),
          "num_objects": 0,
        },
        "judgments": {
          "source": "things",
          "soft": "embedding",
          "own_vice": False,
          "num_drawn": 0,
          **judgments,
        },
      }
    )
    out = tmp_path / name
    out.mkdir()
    stage.run_judgments(
      types.SimpleNamespace(
        config=config, out=out, scratch=tmp_path / "s", log=lambda line: None
      )
    )
    return out

  return run


def test_drawn_triplets_have_the_probabilities_of_the_embedding(make, tmp_path):
  out = make("some", num_drawn=101)
  drawn = artifacts.read_npz(out / "drawn.npz")
  assert set(drawn) == {"triplets", "soft"}
  triplets = drawn["triplets"]
  assert triplets.shape == (101, 3)
  assert all(len(set(row)) == 3 and max(row) < 13 for row in triplets.tolist())
  z = np.load(tmp_path / "embedding.npy")
  for row, logprobs in zip(triplets, drawn["soft"], strict=True):
    i, j, k = z[row]
    expected = scipy.special.log_softmax([j @ k, i @ k, i @ j])
    np.testing.assert_allclose(logprobs, expected, rtol=1e-5, atol=1e-6)
  again = artifacts.read_npz(make("again", num_drawn=101) / "drawn.npz")
  np.testing.assert_array_equal(again["triplets"], triplets)


def test_nothing_is_drawn_unasked_or_without_targets(make):
  assert not (make("none", num_drawn=0) / "drawn.npz").exists()
  out = make("hard", soft="none", num_drawn=7)
  assert not (out / "drawn.npz").exists() and not (out / "soft.npz").exists()
  with pytest.raises(artifacts.InputError, match="num_drawn is -1"):
    make("less", num_drawn=-1)
