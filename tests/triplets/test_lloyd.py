import jax
import numpy as np
import pytest

from alignet_jax.triplets import kmeans, lloyd


def _place(rows, chunk_size, **options):
  mean = np.zeros(rows.shape[1], np.float32)
  return lloyd.place(rows, mean, chunk_size=chunk_size, **options)


def _rows(num_rows=1009, width=7):
  np_rng = np.random.default_rng(0)
  return np_rng.normal(size=(num_rows, width)).astype(np.float32)


@pytest.mark.parametrize(
  ("num_rows", "chunk_size", "num_devices", "want"),
  [
    (4500, 16384, 8, ((1, 1, 4500), 1)),  # One chunk: one device.
    (1_281_167, 16384, 1, ((8, 10, 16128), 1)),
    (1_281_167, 16384, 8, ((8, 10, 16128), 8)),
    (1_281_167, 16384, 6, ((8, 10, 16128), 4)),
    (1_281_167, 16384, 16, ((16, 5, 16128), 16)),
    (100, 13, 3, ((8, 1, 13), 2)),
  ],
)
def test_layout_by_hand(num_rows, chunk_size, num_devices, want):
  got = lloyd.layout(num_rows, chunk_size, num_devices)
  assert got == want
  lanes, chunks, rows = got[0]
  assert rows <= chunk_size and lanes * chunks * rows >= num_rows


@pytest.mark.parametrize("use_one_hot", [False, True])
@pytest.mark.parametrize("chunk_size", [10**4, 140, 37])
def test_pass_equals_a_plain_loop(chunk_size, use_one_hot):
  rows = _rows()
  centroids = rows[:11] + 0.1
  placed = lloyd.place(
    rows + 3,
    np.full(7, 3, np.float32),
    chunk_size=chunk_size,
    use_one_hot=use_one_hot,
  )
  ids, squares, sums, counts = lloyd.assign(placed, centroids)
  distances = np.sum((rows[:, None] - centroids) ** 2, axis=-1)
  want = np.argmin(distances, axis=1)
  np.testing.assert_array_equal(lloyd.flat(placed, ids), want)
  np.testing.assert_allclose(
    lloyd.flat(placed, squares), distances.min(axis=1), rtol=1e-4, atol=1e-5
  )
  for cluster in range(11):
    mine = rows[want == cluster]
    assert counts[cluster] == len(mine)
    np.testing.assert_allclose(
      sums[cluster], mine.sum(axis=0), rtol=1e-4, atol=1e-4
    )


def test_same_bits_on_one_and_on_eight_devices():
  devices, rows = jax.local_devices(), _rows(num_rows=5003, width=29)
  assert len(devices) == 8
  settings = dict(
    num_clusters=41, seed=0, num_iters=9, num_restarts=1, chunk_size=150
  )
  one = kmeans.fit(rows, devices=devices[:1], **settings)
  for num_devices in (4, 8):
    some = kmeans.fit(rows, devices=devices[:num_devices], **settings)
    np.testing.assert_array_equal(some.cluster_ids, one.cluster_ids)
    np.testing.assert_array_equal(some.centroids, one.centroids)
    assert some.inertia == one.inertia
  placed = _place(rows, 150, devices=devices)
  assert len(placed.chunks.addressable_shards) == 8
  assert {s.data.shape[0] for s in placed.chunks.addressable_shards} == {1}


@pytest.mark.parametrize("chunk_size", [5, 2])
def test_cluster_that_loses_all_rows_goes_on_at_the_farthest_row(chunk_size):
  # Centroids 0, 1, 100 own {0, .5}, {1, 1.5, 9} and nothing; the third goes
  # on at 9, which is farthest from its own. The others become .25 and 3.83, so
  # that the second loses all and goes on at 1.5: {0, .5, 1}, {1.5}, {9}.
  rows = np.array([[0.0], [0.5], [1.0], [1.5], [9.0]], np.float32)
  start = np.array([[0.0], [1.0], [100.0]], np.float32)
  ids, centroids, _ = lloyd.run(_place(rows, chunk_size), start, 10)
  np.testing.assert_array_equal(centroids[:, 0], [0.5, 1.5, 9.0])
  np.testing.assert_array_equal(ids, [0, 0, 0, 1, 2])
