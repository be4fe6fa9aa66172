import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.teacher import transform as transform_lib


def _transform(np_rng, *, num_features=5, num_embedding=3):
  return transform_lib.AffineTransform(
    weights=np_rng.normal(size=(num_features, num_embedding)),
    bias=np_rng.normal(size=num_embedding),
    mean=0.5,
    std=2.0,
  )


def test_apply_standardises_then_maps_rows():
  transform = transform_lib.AffineTransform(
    weights=[[1, 2, 0], [0, 1, 3]], bias=[10, 20, 30], mean=1.0, std=2.0
  )
  # (3 - 1) / 2 = 1 and (5 - 1) / 2 = 2; 1 * (1 2 0) + 2 * (0 1 3) + bias.
  embedding = transform.apply([[3, 5], [1, 1]])
  np.testing.assert_array_equal(embedding, [[11, 24, 36], [10, 20, 30]])
  assert embedding.dtype == np.float32


def test_apply_takes_any_leading_axes_and_statistics_per_feature(np_rng):
  x = np_rng.normal(size=(2, 7, 5)).astype(np.float32)
  mean, std = np_rng.normal(size=5), np_rng.uniform(1, 2, size=5)
  weights = np_rng.normal(size=(5, 3))
  transform = transform_lib.AffineTransform(weights, np.zeros(3), mean, std)
  expected = np.einsum("bnd,de->bne", (x - mean) / std, weights)
  np.testing.assert_allclose(transform.apply(x), expected, rtol=1e-5, atol=1e-5)


def test_save_and_load_give_the_same_bits(np_rng, tmp_path):
  saved = _transform(np_rng)
  saved.save(tmp_path / "teacher.npz")
  loaded = transform_lib.AffineTransform.load(tmp_path / "teacher.npz")
  for name in ("weights", "bias", "mean", "std"):
    np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
    assert getattr(loaded, name).dtype == np.float32


def test_a_file_without_bias_has_bias_zero(np_rng, tmp_path):
  saved = _transform(np_rng)
  np.savez(
    tmp_path / "t.npz", weights=saved.weights, mean=[0.5] * 5, std=np.array(2.0)
  )
  loaded = transform_lib.AffineTransform.load(tmp_path / "t.npz")
  np.testing.assert_array_equal(loaded.bias, np.zeros(3))
  assert loaded.mean.shape == (5,)
  assert loaded.std.shape == ()


def test_a_file_can_be_written_without_a_bias_of_zero(np_rng, tmp_path):
  saved = dataclasses.replace(_transform(np_rng), bias=[0.0, 1.0, 2.0])
  path = tmp_path / "t.npz"
  with pytest.raises(ValueError, match="t.npz: .* a bias that is not zero"):
    saved.save(path, with_bias=False)
  assert not path.exists()
  without = dataclasses.replace(saved, bias=np.zeros(3))
  without.save(path, with_bias=False)
  assert sorted(np.load(path)) == ["mean", "std", "weights"]
  loaded = transform_lib.AffineTransform.load(path)
  x = np_rng.normal(size=(7, 5)).astype(np.float32)
  np.testing.assert_array_equal(loaded.apply(x), without.apply(x))


def test_wrong_width_names_both_widths(np_rng):
  with pytest.raises(ValueError, match=r"\(7, 4\).* expects 5 features"):
    _transform(np_rng).apply(np.zeros((7, 4)))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"weights": np.zeros(5)}, r"weights have shape \(5,\)"),
    ({"bias": np.zeros(5)}, r"bias has shape \(5,\); expected \(3,\)"),
    ({"mean": np.zeros(3)}, r"mean has shape \(3,\); expected one number or"),
    ({"std": 0.0}, r"std holds 0.0; it must be positive"),
    ({"weights": np.full((5, 3), np.nan)}, "weights holds NaN"),
  ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path, change, message):
  arrays = {
    "weights": np.zeros((5, 3)),
    "bias": np.zeros(3),
    "mean": 0.0,
    "std": 1.0,
    **change,
  }
  with pytest.raises(ValueError, match=message):
    transform_lib.AffineTransform(**arrays)
  np.savez(tmp_path / "bad.npz", **arrays)
  with pytest.raises(artifacts.InputError, match=f"bad.npz: {message}"):
    transform_lib.AffineTransform.load(tmp_path / "bad.npz")


def test_a_file_without_weights_is_refused_by_name(tmp_path):
  np.savez(tmp_path / "bad.npz", mean=0.0, std=1.0)
  with pytest.raises(artifacts.InputError, match="bad.npz .* 'weights'"):
    transform_lib.AffineTransform.load(tmp_path / "bad.npz")


def test_needs_no_jax():
  program = (
    "import sys; from alignet_jax.teacher import transform;"
    "sys.exit('jax' in sys.modules)"
  )
  root = pathlib.Path(transform_lib.__file__).parents[2]
  subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


@pytest.mark.parametrize(
  ("name", "width", "has_bias"),
  [
    ("clip_ViT-L__14__visual__transform.npz", 768, False),
    ("resnet18__avgpool__transform.npz", 512, True),
  ],
)
def test_reads_the_transforms_released_with_glocal(
  shared_data, np_rng, name, width, has_bias
):
  path = shared_data / "glocal_transforms" / name
  transform = transform_lib.AffineTransform.load(path)
  assert transform.weights.shape == (width, width)
  assert bool(transform.bias.any()) == has_bias
  with np.load(path) as raw:
    mean, std, weights = raw["mean"], raw["std"], raw["weights"]
    bias = raw["bias"] if has_bias else 0
  x = np_rng.normal(size=(7, width))
  np.testing.assert_allclose(
    transform.apply(x),
    ((x - mean) / std) @ weights + bias,
    rtol=1e-4,
    atol=1e-4,
  )
  # Nearly a multiple of the identity: what the pull towards it leaves.
  diagonal = np.diag(transform.weights)
  off = transform.weights - np.diag(diagonal)
  assert 0.05 < diagonal.mean() < 0.13
  assert off.std() < 1e-3
