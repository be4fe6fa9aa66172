import numpy as np
import pytest
import sklearn.cluster

from alignet_jax.triplets import kmeans, kmeans_checkpoint

SETTINGS = dict(seed=0, num_iters=50, num_restarts=3, chunk_size=97)


def _blobs(num_rows=600, num_blobs=23, width=7, offset=0.0):
  np_rng = np.random.default_rng(0)
  middles = np_rng.normal(size=(num_blobs, width))
  blob = np_rng.integers(0, num_blobs, num_rows)
  noise = 0.4 * np_rng.normal(size=(num_rows, width))
  return (middles[blob] + noise + offset).astype(np.float32)


def _nearest_by_loop(features, centroids):
  features, centroids = np.float64(features), np.float64(centroids)
  squares = [np.sum((features - c) ** 2, axis=1) for c in centroids]
  return np.argmin(squares, axis=0), np.min(squares, axis=0)


def test_finds_separate_blobs_by_hand():
  features = np.array([[0.0], [2.0], [10.0], [14.0], [30.0]], np.float32)
  clusters = kmeans.fit(features, num_clusters=3, **SETTINGS)
  np.testing.assert_array_equal(np.sort(clusters.centroids[:, 0]), [1, 12, 30])
  assert clusters.inertia == 1 + 1 + 4 + 4
  assert len(set(clusters.cluster_ids[[0, 2, 4]].tolist())) == 3
  assert clusters.cluster_ids[0] == clusters.cluster_ids[1]


@pytest.mark.parametrize("chunk_size", [97, 600, 10**6])
def test_result_is_a_fixed_point_of_lloyd(chunk_size):
  features = _blobs()
  settings = SETTINGS | {"chunk_size": chunk_size}
  clusters = kmeans.fit(features, num_clusters=11, **settings)
  assert clusters.num_iters < 50
  assert clusters.cluster_ids.dtype == np.int32
  assert clusters.centroids.dtype == np.float32
  want, squares = _nearest_by_loop(features, clusters.centroids)
  np.testing.assert_array_equal(clusters.cluster_ids, want)
  np.testing.assert_allclose(
    clusters.inertia, np.sum(squares), rtol=1e-5, atol=0
  )
  for cluster in range(11):
    mean = np.mean(features[want == cluster], axis=0)
    np.testing.assert_allclose(
      clusters.centroids[cluster], mean, rtol=1e-4, atol=1e-5
    )
  np.testing.assert_array_equal(
    kmeans.assign(features, clusters.centroids, chunk_size=chunk_size), want
  )


def test_inertia_is_within_one_percent_of_scikit_learn():
  features = _blobs(num_rows=2000, num_blobs=29)
  clusters = kmeans.fit(features, num_clusters=31, **SETTINGS)
  reference = sklearn.cluster.KMeans(
    31, n_init=3, max_iter=50, tol=0, random_state=0
  ).fit(features)
  assert clusters.inertia < 1.01 * reference.inertia_


def test_more_restarts_are_never_worse_and_the_best_is_kept():
  features, lines = _blobs(), []
  many = kmeans.fit(features, num_clusters=11, log=lines.append, **SETTINGS)
  one = SETTINGS | {"num_restarts": 1}
  assert many.inertia <= kmeans.fit(features, num_clusters=11, **one).inertia
  assert len(lines) == 3 and "start 3 of 3" in lines[2]
  reached = [float(line.split("inertia ")[1].split()[0]) for line in lines]
  assert len(set(reached)) > 1
  np.testing.assert_allclose(many.inertia, min(reached), rtol=1e-5, atol=0)


def test_same_seed_same_bits_and_other_seed_other_start():
  features = _blobs()
  first, second = (
    kmeans.fit(features, num_clusters=11, **SETTINGS) for _ in range(2)
  )
  np.testing.assert_array_equal(first.cluster_ids, second.cluster_ids)
  np.testing.assert_array_equal(first.centroids, second.centroids)
  assert first.inertia == second.inertia
  other = kmeans.fit(features, num_clusters=11, **(SETTINGS | {"seed": 1}))
  assert np.any(other.centroids != first.centroids)


def test_no_cluster_is_empty_while_there_are_distinct_rows():
  features = _blobs(num_rows=101, num_blobs=2)
  clusters = kmeans.fit(features, num_clusters=100, **SETTINGS)
  assert len(np.unique(clusters.cluster_ids)) == 100


def test_fewer_distinct_rows_than_clusters_end_without_inertia():
  features = np.repeat(_blobs(num_rows=5), 7, axis=0)
  clusters = kmeans.fit(features, num_clusters=11, **SETTINGS)
  assert np.all(np.isfinite(clusters.centroids))
  np.testing.assert_allclose(clusters.inertia, 0, rtol=0, atol=1e-8)


def test_large_common_offset_does_not_matter():
  # 3000 is about 10,000 standard deviations; products of float32 values of
  # that size have a spacing of 1, more than the distances between clusters.
  near = kmeans.fit(_blobs(), num_clusters=11, **SETTINGS)
  far = kmeans.fit(_blobs(offset=3000.0), num_clusters=11, **SETTINGS)
  np.testing.assert_allclose(far.inertia, near.inertia, rtol=0.02, atol=0)


def test_features_in_half_precision_are_summed_in_float32():
  features = _blobs().astype(np.float16)
  half = kmeans.fit(features, num_clusters=11, **SETTINGS)
  full = kmeans.fit(features.astype(np.float32), num_clusters=11, **SETTINGS)
  np.testing.assert_array_equal(half.cluster_ids, full.cluster_ids)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_clusters": 601}, "num_clusters is 601; .* 1 and 600, the number of"),
    ({"num_clusters": 0}, "num_clusters is 0"),
    ({"num_iters": 0}, "num_iters is 0; it must be at least 1"),
    ({"num_restarts": 0}, "num_restarts is 0"),
    ({"chunk_size": 0}, "chunk_size is 0"),
  ],
)
def test_numbers_out_of_range_are_named(change, message):
  with pytest.raises(ValueError, match=message):
    kmeans.fit(_blobs(), **({"num_clusters": 3} | SETTINGS | change))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_named(value):
  features = _blobs()
  features[[17, 400], [3, 5]] = value
  with pytest.raises(ValueError, match="2 of 600 rows .*first is row 17"):
    kmeans.fit(features, num_clusters=3, **SETTINGS)


def test_wrong_shape_is_named():
  with pytest.raises(ValueError, match=r"\[n d\], not \[600\]"):
    kmeans.fit(_blobs()[:, 0], num_clusters=3, **SETTINGS)


class _KilledError(Exception):
  pass


def test_killed_fit_goes_on_to_the_same_bits(tmp_path, monkeypatch):
  features, path = _blobs(), tmp_path / "kmeans.npz"
  whole = kmeans.fit(features, num_clusters=11, **SETTINGS)
  monkeypatch.setattr(kmeans_checkpoint, "INTERVAL", 0.0)
  write, writes = kmeans_checkpoint.Checkpoint.write, []

  def write_and_die(saver, best, **start):
    write(saver, best, **start)
    writes.append((start["restart"], start["num_updates"]))
    if writes[-1] in ((0, 3), (1, 2)):
      raise _KilledError

  monkeypatch.setattr(kmeans_checkpoint.Checkpoint, "write", write_and_die)
  for _ in range(2):
    with pytest.raises(_KilledError):
      kmeans.fit(features, num_clusters=11, checkpoint=path, **SETTINGS)
  resumed = kmeans.fit(features, num_clusters=11, checkpoint=path, **SETTINGS)
  # No update is made twice, and the first start is not made again.
  assert len(set(writes)) == len(writes)
  np.testing.assert_array_equal(resumed.cluster_ids, whole.cluster_ids)
  np.testing.assert_array_equal(resumed.centroids, whole.centroids)
  assert resumed.inertia == whole.inertia
  assert resumed.num_iters == whole.num_iters
  assert not path.exists()


@pytest.mark.parametrize("change", ["seed", "features", "damage"])
def test_checkpoint_of_something_else_is_not_gone_on_from(tmp_path, change):
  features, path, lines = _blobs(), tmp_path / "kmeans.npz", []
  mean = features.mean(axis=0)
  seed = 1 if change == "seed" else 0
  settings = [11, seed, *(SETTINGS[n] for n in ("num_iters", "num_restarts"))]
  settings.append(SETTINGS["chunk_size"])
  other = features + 1 if change == "features" else features
  saver = kmeans_checkpoint.Checkpoint(path, settings, other, mean, log=print)
  saver.write(None, restart=2, num_updates=1, centroids=[0.0], before=[0])
  if change == "damage":
    path.write_bytes(path.read_bytes()[:-40])
  clusters = kmeans.fit(
    features, num_clusters=11, checkpoint=path, log=lines.append, **SETTINGS
  )
  want = "damaged" if change == "damage" else "other features or settings"
  assert want in lines[0] and "starts anew" in lines[0]
  whole = kmeans.fit(features, num_clusters=11, **SETTINGS)
  np.testing.assert_array_equal(clusters.cluster_ids, whole.cluster_ids)


def test_balance_by_hand():
  def clusters(ids):
    return kmeans.KMeans(np.array(ids), np.zeros((4, 1)), 0.0, 1)

  np.testing.assert_array_equal(clusters([0, 3, 3]).sizes, [1, 0, 0, 2])
  np.testing.assert_allclose(clusters([0, 1, 2, 3]).balance, 1, rtol=1e-12)
  # Two of four clusters hold half each: exp(ln 2) / 4.
  np.testing.assert_allclose(clusters([0, 0, 3, 3]).balance, 0.5, rtol=1e-12)
