"""Lloyd's algorithm over rows that lie in chunks on one or more devices.

The rows are divided into lanes, a lane into chunks. A device goes through its
lanes chunk by chunk, so that f32[chunk k] distances are held at a time; the
sums of the lanes are then added in the order of the lanes on every device.
That order, and the shape of every product, depend on the number of rows alone,
as long as the number of devices divides `NUM_LANES`. So on CPU 1, 2, 4 and 8
devices give the same bits.

Usage:
  placed = lloyd.place(features, mean, chunk_size=16384)
  ids, centroids, num_updates = lloyd.run(placed, centroids, num_iters=25)
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

P = jax.sharding.PartitionSpec

# Lanes of what does not fit into one chunk, if there are no more devices.
NUM_LANES = 8

# Rows whose distances a device holds at once, by default: on a CPU what its
# caches hold, elsewhere what keeps it busy. Measured on two AVX2 cores with
# 100,000 x 256 rows, k = 500: 2,048 took .74 of the time of 12,544.
CHUNK_SIZE = {"cpu": 2048}
OTHER_CHUNK_SIZE = 16384

# Rows of a chunk are a multiple of this where there are several: products of
# such shapes need no padding on an accelerator.
ROW_MULTIPLE = 128

# Full float32 products on accelerators that would round to bfloat16 or TF32.
PRECISION = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
  """Rows about their mean, on devices.

  Attributes:
    chunks: f32[g m c d], g lanes of m chunks; zeros after the last row.
    firsts: int32[g m] number of the first row of each chunk.
    features: [n d] as they were given, on the host.
    mean: f32[d], subtracted from them.
    mesh: The devices, along the axis "lane".
    use_one_hot: Whether rows are summed by a product with their one-hot
      cluster, the faster and deterministic way on accelerators.
  """

  chunks: jax.Array
  firsts: jax.Array
  features: np.ndarray
  mean: np.ndarray
  mesh: jax.sharding.Mesh
  use_one_hot: bool

  def take(self, numbers):
    """Some real rows, f32[m d], from the host."""
    return np.asarray(self.features[numbers], np.float32) - self.mean


def default_chunk_size(devices=None):
  """Rows of a chunk where the caller does not say; `devices` as of `place`."""
  devices = jax.local_devices() if devices is None else list(devices)
  return CHUNK_SIZE.get(devices[0].platform, OTHER_CHUNK_SIZE)


def layout(num_rows, chunk_size, num_devices):
  """Divides rows into lanes and chunks.

  Args:
    num_rows: n, at least 1.
    chunk_size: Most rows of a chunk.
    num_devices: How many there are.

  Returns:
    (g, m, c) lanes, chunks per lane and rows per chunk; and how many devices
    share the lanes: 1 if all rows fit into one chunk, else the most that
    divides g.
  """
  if num_rows <= chunk_size:
    return (1, 1, num_rows), 1
  num_lanes = max(NUM_LANES, num_devices)
  per_lane = -(-num_rows // num_lanes)
  num_chunks = -(-per_lane // chunk_size)
  rows = -(-per_lane // num_chunks)
  rows = min(-(-rows // ROW_MULTIPLE) * ROW_MULTIPLE, chunk_size)
  used = max(i for i in range(1, num_devices + 1) if num_lanes % i == 0)
  return (num_lanes, num_chunks, rows), used


def place(features, mean, *, chunk_size, devices=None, use_one_hot=None):
  """Moves rows to the devices; the host holds one device's share at a time.

  Args:
    features: [n d] numbers; may be mapped from a file.
    mean: f32[d], subtracted.
    chunk_size: Most rows whose distances are held at once.
    devices: Devices of this process; all if None.
    use_one_hot: See `Placed`; by the kind of device if None.

  Returns:
    `Placed`.
  """
  devices = jax.local_devices() if devices is None else list(devices)
  (num_lanes, num_chunks, size), used = layout(
    len(features), chunk_size, len(devices)
  )
  mesh = jax.sharding.Mesh(np.array(devices[:used]), ("lane",))
  sharding = jax.sharding.NamedSharding(mesh, P("lane"))
  width = features.shape[1]

  def make_lanes(index):
    start, stop, _ = index[0].indices(num_lanes)
    first, last = start * num_chunks * size, stop * num_chunks * size
    real = np.asarray(features[first:last])
    lanes = np.zeros((last - first, width), np.float32)
    lanes[: len(real)] = real
    lanes[: len(real)] -= mean
    return lanes.reshape(stop - start, num_chunks, size, width)

  chunks = jax.make_array_from_callback(
    (num_lanes, num_chunks, size, width), sharding, make_lanes
  )
  firsts = np.arange(num_lanes * num_chunks, dtype=np.int32) * size
  if use_one_hot is None:
    use_one_hot = devices[0].platform != "cpu"
  return Placed(
    chunks=chunks,
    firsts=jax.device_put(firsts.reshape(num_lanes, num_chunks), sharding),
    features=features,
    mean=mean,
    mesh=mesh,
    use_one_hot=use_one_hot,
  )


def assign(placed, centroids):
  """One pass over the rows.

  Args:
    placed: `Placed`.
    centroids: f32[k d], about the same mean.

  Returns:
    int32[g m c] nearest centroid, k after row n; f32[g m c] squared distance to
    it, without meaning after row n; f32[k d] sums and f32[k] numbers of the
    rows of each centroid.
  """
  return _assign(
    placed.chunks,
    placed.firsts,
    len(placed.features),
    centroids,
    mesh=placed.mesh,
    use_one_hot=placed.use_one_hot,
  )


def run(
  placed, centroids, num_iters, *, before=None, num_updates=0, on_update=None
):
  """Alternates assignment and update until no row changes its cluster.

  A centroid without rows continues at the row farthest from its own centroid.

  Args:
    placed: `Placed`.
    centroids: f32[k d] to start from.
    num_iters: Most updates.
    before: int32[n] clusters at the last update, to go on with a run.
    num_updates: Updates that were made already, to go on with a run.
    on_update: Called as f(num_updates, centroids, ids) after each update, or
      None; `flat(placed, ids)` is what `before` takes.

  Returns:
    int32[n] nearest centroids, f32[k d] centroids and the number of updates.
  """
  if before is not None:
    padded = np.full(placed.chunks.shape[:3], len(centroids), np.int32)
    padded.reshape(-1)[: len(before)] = before
    before = padded
  while True:
    ids, squares, sums, counts = assign(placed, centroids)
    settled = before is not None and bool(jnp.array_equal(ids, before))
    if settled or num_updates >= num_iters:
      return flat(placed, ids), np.asarray(centroids), num_updates
    before = ids
    centroids = sums / jnp.maximum(counts, 1)[:, None]
    empty = np.flatnonzero(np.asarray(counts) == 0)
    if empty.size:
      farthest = np.argsort(-flat(placed, squares), kind="stable")
      rows = placed.take(farthest[: empty.size])
      centroids = centroids.at[empty].set(rows)
    num_updates += 1
    if on_update:
      on_update(num_updates, centroids, before)


def flat(placed, values):
  """Values of the chunks, [g m c], as those of the rows, [n] on the host."""
  return np.asarray(values).reshape(-1)[: len(placed.features)]


@functools.partial(jax.jit, static_argnames=("mesh", "use_one_hot"))
def _assign(chunks, firsts, num_rows, centroids, *, mesh, use_one_hot):
  def lanes_of_device(chunks, firsts, num_rows, centroids):
    per_lane = functools.partial(
      _assign_lane, num_rows, centroids, use_one_hot=use_one_hot
    )
    ids, squares, sums, counts = jax.lax.map(per_lane, (chunks, firsts))
    # Not psum, whose order of addition depends on the number of devices.
    sums, counts = jax.lax.all_gather((sums, counts), "lane", tiled=True)
    sums, counts = (functools.reduce(jnp.add, x) for x in (sums, counts))
    return ids, squares, sums, counts

  return jax.shard_map(
    lanes_of_device,
    mesh=mesh,
    in_specs=(P("lane"), P("lane"), P(), P()),
    out_specs=(P("lane"), P("lane"), P(), P()),
    check_vma=False,  # It cannot tell that what is gathered is equal.
  )(chunks, firsts, num_rows, centroids)


def _assign_lane(num_rows, centroids, chunks_and_firsts, *, use_one_hot):
  """`assign` for the chunks f32[m c d] of one lane."""
  num_clusters = len(centroids)
  half_norms = jnp.sum(centroids**2, axis=-1) / 2

  def add_chunk(state, chunk_and_first):
    sums, counts = state
    chunk, first = chunk_and_first
    # A row's distances stand in a column, and the nearest is found by equality:
    # XLA on CPU does neither reductions along rows nor argmax with vectors.
    products = jnp.einsum("kd,cd->kc", centroids, chunk, precision=PRECISION)
    closeness = products - half_norms[:, None]
    largest = jnp.max(closeness, axis=0)
    numbers = jnp.arange(num_clusters, dtype=jnp.int32)[:, None]
    is_nearest = closeness == largest[None]
    ids = jnp.min(jnp.where(is_nearest, numbers, num_clusters), axis=0)
    squares = jnp.sum(chunk**2, axis=-1) - 2 * largest
    # Rows of padding go to no cluster: the number k is dropped.
    real = first + jnp.arange(len(chunk)) < num_rows
    owner = jnp.where(real, ids, num_clusters)
    if use_one_hot:
      one_hot = jax.nn.one_hot(owner, num_clusters)
      sums += jnp.einsum("ck,cd->kd", one_hot, chunk, precision=PRECISION)
      counts += jnp.sum(one_hot, axis=0)
    else:
      ones = jnp.ones(len(chunk))
      sums += jax.ops.segment_sum(chunk, owner, num_clusters)
      counts += jax.ops.segment_sum(ones, owner, num_clusters)
    return (sums, counts), (owner, jnp.maximum(squares, 0))

  start = (jnp.zeros_like(centroids), jnp.zeros(num_clusters))
  (sums, counts), (owner, squares) = jax.lax.scan(
    add_chunk, start, chunks_and_firsts
  )
  return owner, squares, sums, counts
