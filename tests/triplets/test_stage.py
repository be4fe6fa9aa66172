import pathlib
import types

import ml_collections
import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.triplets import dense_files, files, labels, stage

NUM_IMAGES, WIDTH = 61, 5


def _config(num_clusters=7, **triplets):
  return ml_collections.FrozenConfigDict(
    {
      "seed": 3,
      "clusters": {
        "num_clusters": num_clusters,
        "num_restarts": 2,
        "num_iters": 20,
      },
      "triplets": {
        "sampling": "cluster_border",
        "num_train": 211,
        "num_val": 53,
        "untransformed_temperature": "match",
      }
      | triplets,
    }
  )


def _context(root, name, config):
  out = root / name
  out.mkdir(exist_ok=True)
  return types.SimpleNamespace(
    config=config,
    out=out,
    scratch=root,
    inputs={
      stage_name: root / stage_name
      for stage_name in ("features", "teacher", "clusters")
    },
    log=lambda line: None,
  )


@pytest.fixture(name="root")
def _root(tmp_path) -> pathlib.Path:
  """Features far from zero, and a transform that shrinks and rotates them."""
  np_rng = np.random.default_rng(0)
  features = 40 + 9 * np_rng.normal(size=(NUM_IMAGES, WIDTH))
  weights = np_rng.normal(size=(WIDTH, WIDTH))
  bias = np_rng.normal(size=WIDTH)
  for name in ("features", "teacher"):
    (tmp_path / name).mkdir()
  artifacts.write_npy(
    tmp_path / "features" / "collection.npy", features.astype(np.float32)
  )
  artifacts.write_npz(
    tmp_path / "teacher" / "transform.npz",
    weights=weights.astype(np.float32),
    bias=bias.astype(np.float32),
    mean=np.float32(40),
    std=np.float32(9),
  )
  return tmp_path


def _transformed(root):
  features = np.load(root / "features" / "collection.npy")
  stored = np.load(root / "teacher" / "transform.npz")
  standardised = (features - stored["mean"]) / stored["std"]
  return standardised @ stored["weights"] + stored["bias"]


def _run(root, config):
  metrics = dict(stage.run_clusters(_context(root, "clusters", config)))
  return metrics | stage.run_triplets(_context(root, "triplets", config))


def test_clusters_and_triplets_of_both_representations(root):
  metrics = _run(root, _config())
  features = {
    "aligned": _transformed(root),
    "untransformed": np.load(root / "features" / "collection.npy"),
  }
  temperature = {
    "aligned": 1.0,
    "untransformed": metrics["triplets/untransformed_temperature"],
  }
  for name, x in features.items():
    clusters = artifacts.read_npz(root / "clusters" / f"{name}.npz")
    ids, centroids = clusters["cluster_ids"], clusters["centroids"]
    assert centroids.shape == (7, WIDTH)
    squares = np.sum((x - centroids[ids]) ** 2)
    np.testing.assert_allclose(clusters["inertia"], squares, rtol=1e-4, atol=0)
    assert clusters["inertia"] == metrics[f"clusters/inertia/{name}"]
    shares = np.bincount(ids) / NUM_IMAGES
    even = np.exp(-np.sum(shares * np.log(shares))) / 7
    np.testing.assert_allclose(
      metrics[f"clusters/balance/{name}"], even, rtol=1e-12, atol=0
    )
    for split, number in (("train", 211), ("val", 53)):
      path = files.path_of(root / "triplets", name, split, "cluster_border")
      triplets = files.read(path, num_images=NUM_IMAGES)
      assert triplets.indices.shape == (number, 3)
      assert triplets.num_unsorted == 0
      # Two of one cluster and one of another, wherever the odd one stands.
      num_clusters = [len(set(row)) for row in ids[triplets.indices].tolist()]
      assert set(num_clusters) == {2}
      z = x[triplets.indices]
      dots = np.stack(
        [
          np.sum(z[:, a] * z[:, b], axis=-1)
          for a, b in ((0, 1), (0, 2), (1, 2))
        ],
        axis=-1,
      )
      np.testing.assert_allclose(
        triplets.pair_sims, dots / temperature[name], rtol=1e-4, atol=1e-4
      )
      if split == "train":
        np.testing.assert_allclose(
          metrics[f"triplets/target_entropy/{name}"],
          labels.mean_entropy(triplets.pair_sims),
          rtol=1e-4,
          atol=0,
        )


def test_dense_batches_find_the_same_teacher_beside_the_triplets(root):
  metrics = _run(root, _config())
  features = np.load(root / "features" / "collection.npy")
  for name in ("aligned", "untransformed"):
    teacher = dense_files.read(root / "triplets" / name)
    clusters = artifacts.read_npz(root / "clusters" / f"{name}.npz")
    np.testing.assert_array_equal(teacher.cluster_ids, clusters["cluster_ids"])
    x = features if name == "untransformed" else _transformed(root)
    if name == "aligned":
      x = teacher.transform.apply(features)
      np.testing.assert_allclose(x, _transformed(root), rtol=1e-4, atol=1e-4)
      assert teacher.temperature == 1
    else:
      assert teacher.transform is None
      temperature = metrics["triplets/untransformed_temperature"]
      assert teacher.temperature == temperature != 1
    path = files.path_of(root / "triplets", name, "train", "cluster_border")
    triplets = files.read(path, num_images=NUM_IMAGES)
    first, second = x[triplets.indices[:, 0]], x[triplets.indices[:, 1]]
    np.testing.assert_allclose(
      triplets.pair_sims[:, 0],
      np.sum(first * second, axis=-1) / teacher.temperature,
      rtol=1e-4,
      atol=1e-4,
    )


def test_control_is_as_sharp_as_the_aligned_targets_unless_told(root):
  matched = _run(root, _config())
  np.testing.assert_allclose(
    matched["triplets/target_entropy/untransformed"],
    matched["triplets/target_entropy/aligned"],
    rtol=0,
    atol=1e-6,
  )
  # A str, as the command line gives it. Raw dots are about 5 * 40 ** 2.
  raw = _run(root, _config(untransformed_temperature="1.0"))
  assert raw["triplets/untransformed_temperature"] == 1.0
  assert (
    raw["triplets/target_entropy/untransformed"]
    < matched["triplets/target_entropy/untransformed"] / 2
  )


def test_same_seed_same_bytes_and_val_differs_from_train(root):
  contents = []
  for _ in range(2):
    _run(root, _config(num_val=211))
    paths = sorted((root / "triplets").rglob("*_cluster_border.npz"))
    assert len(paths) == 4
    contents.append([path.read_bytes() for path in paths])
  assert contents[0] == contents[1]
  assert len(set(contents[0])) == 4


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"sampling": "class_border"}, "sampling is 'class_border'.*cluster_bor"),
    ({"untransformed_temperature": "mach"}, "'mach'; it must be 'match' or"),
    ({"untransformed_temperature": 0.0}, "is 0.0; it must be 'match' or"),
    ({"untransformed_temperature": "nan"}, "is 'nan'; it must"),
  ],
)
def test_wrong_settings_are_named(root, change, message):
  with pytest.raises(artifacts.InputError, match=message):
    _run(root, _config(**change))


def test_more_clusters_than_images_are_refused(root):
  config = _config(num_clusters=NUM_IMAGES + 1)
  with pytest.raises(artifacts.InputError, match="is 62; .* between 2 and 61"):
    stage.run_clusters(_context(root, "clusters", config))
