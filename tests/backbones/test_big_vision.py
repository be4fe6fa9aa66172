"""The model of big_vision's repository: same numbers, files there and back."""

import sys

import jax
import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.backbones import architecture, big_vision, load, vit, weights

SIZES = {"width": 24, "depth": 3, "mlp_dim": 20, "num_heads": 3}


@pytest.fixture
def theirs():
  """big_vision's models/vit.py, from PYTHONPATH."""
  return pytest.importorskip(
    "big_vision.models.vit",
    reason="needs a clone of google-research/big_vision in PYTHONPATH",
    exc_type=ImportError,
  )


def shaken(params, np_rng):
  """Parameters moved from where they start, some of them at 0 or 1."""
  return jax.tree.map(
    lambda x: np.asarray(x) + 0.1 * np_rng.normal(size=x.shape), params
  )


def savez(path, params):
  """As big_vision writes its files: names joined by slashes."""
  flat = {k: np.asarray(v, np.float32) for k, v in params.items()}
  np.savez(path, **flat)


def forward(model, params, image):
  return jax.jit(model.apply)({"params": params}, image)[1]


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
def test_round_trip(theirs, np_rng, tmp_path, pool, scan):
  """Their random parameters, in their file, here; and ours in theirs."""
  shared = {**SIZES, "rep_size": 8, "num_classes": 7}
  model = theirs.Model(
    patch_size=(4, 4),
    pool_type=big_vision.POOL_TYPES[pool],
    scan=scan,
    **shared,
  )
  image = np_rng.normal(size=(2, 12, 12, 3)).astype(np.float32)
  params = jax.jit(model.init)(jax.random.key(0), image)["params"]
  params = shaken(params, np_rng)
  savez(tmp_path / "a.npz", weights.flatten(params))
  expected = forward(model, params, image)
  for ours_scan in (False, True):
    ours = vit.ViT(patch_size=4, pool=pool, scan=ours_scan, **shared)
    loaded, report = weights.load(tmp_path / "a.npz", ours, image_size=12)
    assert report.unused == report.resampled == ()
    out = forward(ours, loaded, image)
    for name in ("stem", "encoded", "head_input", "pre_logits", "logits"):
      np.testing.assert_allclose(
        np.ravel(out[name]), np.ravel(expected[name]), rtol=0, atol=1e-5
      )
    # What is noted beside the tensors is nothing to them.
    weights.save(
      tmp_path / "b.npz", loaded, architecture=architecture.describe(ours)
    )
    assert weights.load(tmp_path / "b.npz", model, image_size=12)
    config = {"scan": scan}
    back = theirs.load(params, str(tmp_path / "b.npz"), config)
    again = forward(model, back, image)
    np.testing.assert_array_equal(again["logits"], expected["logits"])


@pytest.mark.slow
def test_round_trip_b16(theirs, np_rng, tmp_path):
  model = theirs.Model(variant="B/16", pool_type="map", scan=True)
  image = np_rng.normal(size=(2, 224, 224, 3)).astype(np.float32)
  params = jax.jit(model.init)(jax.random.key(0), image)["params"]
  savez(tmp_path / "a.npz", weights.flatten(params))
  backbone = load.load("siglip_b16", tmp_path / "a.npz")
  expected = forward(model, params, image)
  out = forward(backbone.model, backbone.params, image)
  for name in ("encoded", "pre_logits"):
    difference = np.max(np.abs(out[name] - expected[name]))
    print(f"{name}: max difference {difference:.1e}")
    assert difference <= 1e-5


@pytest.mark.parametrize("scan", [False, True])
def test_by_name(theirs, np_rng, tmp_path, scan):
  """Their module runs as a backbone, with the same numbers as ours."""
  backbone = load.load(
    "big_vision:mu/16", image_size=48, pool="gap", scan=scan, seed=3
  )
  assert isinstance(backbone.model, theirs._Model)
  assert "random" in str(backbone.report)
  image = np_rng.normal(size=(2, 48, 48, 3)).astype(np.float32)
  backbone.save(tmp_path / "a.npz")
  again = load.load(
    "big_vision:mu/16", tmp_path / "a.npz", image_size=64, pool="gap", scan=scan
  )
  assert again.report.resampled == ("pos_embedding",)
  sizes = {"width": 32, "depth": 1, "mlp_dim": 128, "num_heads": 2}
  ours = load.load("big_vision_b16", tmp_path / "a.npz", image_size=48, **sizes)
  np.testing.assert_allclose(
    forward(backbone.model, backbone.params, image)[backbone.output],
    forward(ours.model, ours.params, image)[ours.output],
    rtol=0,
    atol=1e-5,
  )


def test_what_big_vision_cannot_do_is_refused(theirs):
  with pytest.raises(artifacts.InputError, match="no variant 'Q/16'"):
    big_vision.make("Q/16")
  with pytest.raises(artifacts.InputError, match="cls, gap, map"):
    big_vision.make("B/16", pool="cls_patch_mean")
  with pytest.raises(artifacts.InputError, match="comes with scan=True"):
    load.load("big_vision:B/16", remat=True)


def test_without_big_vision_the_way_to_get_it_is_told(monkeypatch):
  monkeypatch.setitem(sys.modules, "big_vision.models", None)
  monkeypatch.setitem(sys.modules, "big_vision", None)
  with pytest.raises(artifacts.InputError, match="git clone.*PYTHONPATH"):
    load.load("big_vision:B/16")
  assert load.load("augreg_ti16", image_size=32).params  # needs it not


def test_models_of_big_vision_are_described_as_ours(theirs):
  for pool in big_vision.POOL_TYPES:
    model = big_vision.make("S/14", pool=pool)
    expected = architecture.describe(vit.from_variant("S/14", pool=pool))
    assert architecture.describe(model) == expected
