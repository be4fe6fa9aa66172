"""Sharding: the mesh, the table of rules, places, batches of processes."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax import artifacts, distributed
from alignet_jax.backbones import vit
from alignet_jax.student import model, optimizer, sharding, train

P = jax.sharding.PartitionSpec
TX = optimizer.make_optimizer(lr=0.01, warmup_steps=0, num_steps=100)

pytestmark = pytest.mark.skipif(
  len(jax.devices()) < 8, reason="needs 8 devices"
)


def shapes(scan=False, **fields):
  sizes = {"width": 24, "depth": 2, "mlp_dim": 40, "num_heads": 4}
  backbone = vit.ViT(patch_size=2, scan=scan, **(sizes | fields))
  student = model.Student(backbone=backbone, head_dim=6)
  image = jnp.zeros([1, 4, 4, 3])
  return jax.eval_shape(student.init, jax.random.key(0), image)["params"]


def make_mesh(data, fsdp, tensor):
  devices = jax.devices()[: data * fsdp * tensor]
  return sharding.make_mesh(fsdp=fsdp, tensor=tensor, devices=devices)


def specs(params, mesh):
  placed = sharding.shardings(params, mesh)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): x.spec
    for path, x in jax.tree_util.tree_leaves_with_path(placed)
  }


def test_mesh_has_the_axes_and_the_rest_is_data():
  assert make_mesh(8, 1, 1).shape == {"data": 8, "fsdp": 1, "tensor": 1}
  assert make_mesh(2, 2, 2).shape == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("scan", [False, True])
def test_columns_then_rows_with_and_without_the_layers_axis(scan):
  found = specs(shapes(scan), make_mesh(2, 2, 2))
  block = "backbone/Transformer/encoderblock" + ("/" if scan else "_1/")
  lead = (None,) if scan else ()
  attention = block + "MultiHeadDotProductAttention_0/"
  for name, want in {
    attention + "query/kernel": ("fsdp", "tensor"),
    attention + "key/bias": ("tensor",),
    attention + "out/kernel": ("tensor", None, "fsdp"),
    block + "MlpBlock_0/Dense_0/kernel": ("fsdp", "tensor"),
    block + "MlpBlock_0/Dense_0/bias": ("tensor",),
    block + "MlpBlock_0/Dense_1/kernel": ("tensor", "fsdp"),
  }.items():
    assert found[name] == P(*lead, *want), name
  for name in (
    attention + "out/bias",
    block + "MlpBlock_0/Dense_1/bias",
    block + "LayerNorm_0/scale",
    "triplet_head/bias",
    "backbone/embedding/bias",
    "backbone/MAPHead_0/probe",
  ):
    assert found[name] == P(), name
  assert found["backbone/embedding/kernel"] == P(None, None, None, "fsdp")
  assert found["backbone/pos_embedding"] == P(None, None, "fsdp")
  assert found["triplet_head/kernel"] == P("fsdp")


def test_what_does_not_divide_is_whole_along_that_axis_and_said_so():
  """Four heads, and a width of 24, on eight devices each."""
  params = shapes()
  mesh = make_mesh(1, 1, 8)
  found = specs(params, mesh)
  block = "backbone/Transformer/encoderblock_0/"
  name = block + "MultiHeadDotProductAttention_0/query/kernel"
  assert found[name] == P()
  assert found[block + "MlpBlock_0/Dense_0/kernel"] == P(None, "tensor")
  lines = sharding.table(params, mesh)
  assert lines[0].startswith("mesh data 1 x fsdp 1 x tensor 8: ")
  (line,) = [x for x in lines if "query|key|value)/kernel" in x]
  # Two blocks and the pooling head, three kernels each.
  assert "9 tensors" in line
  assert line.endswith("not cut: no multiple of tensor=8")
  (line,) = [x for x in lines if r"Dense_0/kernel" in x]
  assert "3 tensors" in line and "not cut" not in line


def test_table_counts_every_tensor_and_its_bytes_on_one_device():
  params, mesh = shapes(), make_mesh(1, 4, 2)
  placed = sharding.place(
    jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params), mesh
  )
  total = sum(
    x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(placed)
  )
  lines = sharding.table(params, mesh)
  assert f"{total / 1e6:.1f} MB of parameters on each device" in lines[0]
  counts = [int(line.split(": ")[1].split()[0]) for line in lines[1:]]
  assert sum(counts) == len(jax.tree.leaves(params))


def test_moments_and_anchor_lie_like_their_parameter_with_masks_too():
  mesh = make_mesh(1, 2, 2)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes())
  masked = optimizer.make_optimizer(
    lr=0.01,
    warmup_steps=0,
    num_steps=9,
    trainable="Transformer",
    decay_mask="kernel",
  )
  for tx in (TX, masked):
    state = sharding.place(train.init_state(zeros, tx), mesh)
    found = specs(state, mesh)
    end = "backbone/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"
    same = [name for name in found if name.endswith(end)]
    assert len(same) == 4  # The parameter, two moments, the anchor.
    for name in same:
      assert found[name] == P("fsdp", "tensor")
    for x, where in zip(
      jax.tree.leaves(state),
      jax.tree.leaves(sharding.shardings(state, mesh)),
      strict=True,
    ):
      assert x.sharding == where


def test_what_was_placed_is_gathered_as_it_was(np_rng):
  mesh = make_mesh(2, 2, 2)
  tree = {"triplet_head": {"kernel": np_rng.normal(size=(6, 5))}, "n": 3}
  tree = jax.tree.map(np.float32, tree)
  placed = sharding.place(tree, mesh)
  kernel = placed["triplet_head"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (3, 5)
  gathered = distributed.fetch(placed)
  assert gathered["n"] == 3
  np.testing.assert_array_equal(
    gathered["triplet_head"]["kernel"], tree["triplet_head"]["kernel"]
  )


def test_state_that_was_placed_is_not_the_callers():
  """The step spends its state; the arrays given to `place` stay."""
  params = {"w": jnp.arange(3.0), "v": np.arange(64.0)}
  placed = sharding.place(params, sharding.make_mesh())
  jax.jit(lambda x: jax.tree.map(lambda y: y + 1, x), donate_argnums=0)(placed)
  np.testing.assert_array_equal(params["w"], [0, 1, 2])
  np.testing.assert_array_equal(params["v"], np.arange(64.0))


@pytest.mark.parametrize("settings", [{"fsdp": 3}, {"tensor": 3}, {"fsdp": 0}])
def test_devices_that_cannot_be_arranged_are_refused(settings):
  with pytest.raises(artifacts.InputError, match="devices cannot be arranged"):
    sharding.make_mesh(devices=jax.devices()[:1] * 2, **settings)


def test_batches_are_spread_over_data_and_fsdp(np_rng):
  batch = {"image": np_rng.integers(0, 9, (8, 3, 2)), "x": np.arange(4.0)}
  placed = sharding.shard_batch(batch, make_mesh(2, 2, 2))
  for name, x in batch.items():
    np.testing.assert_array_equal(placed[name], x)
    shards = placed[name].addressable_shards
    assert {s.data.shape[0] for s in shards} == {len(x) // 4}
  with pytest.raises(
    artifacts.InputError, match="of 7 cannot be spread over 2 .*example 8"
  ):
    sharding.shard_batch({"x": np.zeros(7)}, make_mesh(2, 1, 1))


@pytest.mark.parametrize(
  ("processes", "want"),
  [
    # [data fsdp tensor] of who owns each device, and the share of each.
    ([[[0], [0]], [[1], [1]]], [(0, 2), (1, 2)]),
    ([[[0, 1], [0, 1]]], [(0, 1), (0, 1)]),
    ([[[0, 0], [1, 1]], [[2, 2], [3, 3]]], [(i, 4) for i in range(4)]),
    ([[[0, 1]], [[2, 3]]], [(0, 2), (0, 2), (1, 2), (1, 2)]),
  ],
)
def test_processes_share_a_batch_unless_only_tensor_divides_them(
  processes, want
):
  def device(index):
    return types.SimpleNamespace(process_index=int(index))

  owners = np.array(processes)
  mesh = types.SimpleNamespace(
    devices=np.vectorize(device, otypes=[object])(owners),
    shape=dict(zip(sharding.AXES, owners.shape, strict=True)),
  )
  got = [sharding.batch_share(mesh, i) for i in range(owners.max() + 1)]
  assert got == want


def test_processes_that_are_no_block_are_refused():
  owners = [0, 1, 0, 1]
  devices = [types.SimpleNamespace(process_index=i) for i in owners]
  mesh = types.SimpleNamespace(
    devices=np.array(devices, object).reshape(4, 1, 1),
    shape={"data": 4, "fsdp": 1, "tensor": 1},
  )
  with pytest.raises(artifacts.InputError, match="no even share"):
    sharding.batch_share(mesh, 1)
