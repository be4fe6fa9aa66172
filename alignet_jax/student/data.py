"""What a student is trained on and judged by, as the config says.

Batches of triplets (`triplets/dataset.py`) or dense ones
(`triplets/dense_batches.py`), each process making its share; held-out triplets
for both.

Usage:
  examples = data.open_examples(context, "aligned", images, mesh)
  for batch in examples.batches(start_step=0): ...
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

from alignet_jax import artifacts
from alignet_jax.student import sharding
from alignet_jax.triplets import batches as batches_lib
from alignet_jax.triplets import (
  dataset,
  dense,
  dense_batches,
  dense_files,
  files,
)


@dataclasses.dataclass(frozen=True)
class Examples:
  """Sources of batches.

  Attributes:
    batches: Function from a step to an iterator over the batches from there to
      the last step, on the devices.
    describe: Function from a step to {"images": int[...], and of triplets
      "triplets" int[b]}: what the whole batch consists of.
    held_out: Function to an iterator over held-out triplets with a "mask", on
      the devices.
    units_per_step: Name -> how many a step takes: images and triplets.
  """

  batches: Callable
  describe: Callable
  held_out: Callable
  units_per_step: Mapping[str, int]


def open_examples(context, transform, images, mesh):
  """Opens what the stage "triplets" made.

  Args:
    context: `pipeline.StageContext` of the student.
    transform: Whose similarities: a folder of that stage.
    images: The collection, as the student takes it.
    mesh: As of `sharding.make_mesh`.

  Returns:
    `Examples`.
  """
  settings = context.config.student
  host_index, num_hosts = sharding.batch_share(mesh)
  hosts = {"host_index": host_index, "num_hosts": num_hosts}
  seed = {"seed": context.config.seed}
  folder = context.inputs["triplets"]

  def placed(batches, *fields):
    for batch in batches:
      yield sharding.shard_batch({name: batch[name] for name in fields}, mesh)

  @functools.cache  # Once, and not for each evaluation.
  def labelled(split):
    path = files.path_of(
      folder, transform, split, context.config.triplets.sampling
    )
    read = files.read(path, num_images=len(images))
    return read.indices, read.pair_sims, images

  size = {"batch_size": settings.batch_size}
  if settings.batches == "dense":
    drawing = {
      "clusters_per_batch": settings.clusters_per_batch,
      "images_per_cluster": settings.images_per_cluster,
    }
    units = {
      "images": settings.clusters_per_batch * settings.images_per_cluster,
      "triplets": dense.num_triplets(**drawing),
    }
    teacher = dense_files.read(folder / transform)
    features = artifacts.read_npy(
      context.inputs["features"] / "collection.npy", mmap=True
    )
    given = teacher.cluster_ids, features, images
    fixed = {
      "transform": teacher.transform,
      "temperature": teacher.temperature,
      **drawing,
      **seed,
    }
    make, plan = dense_batches.make_dataset, dense_batches.DenseBatches
    fields = "image", "teacher_sims"
  else:
    units = {"images": 3 * settings.batch_size, "triplets": settings.batch_size}
    given, fixed = labelled("train"), {**size, **seed}
    make, plan = dataset.make_dataset, batches_lib.Batches
    fields = "image", "target_logprobs"

  def batches(start_step):
    made = make(
      *given,
      start_step=start_step,
      num_steps=settings.num_steps - start_step,
      on_error=settings.on_error,
      **fixed,
      **hosts,
    )
    return placed(made, *fields)

  def describe(step):
    items, rest = plan(*given, **fixed).plan(step)
    if settings.batches == "dense":
      return {"images": items}
    return {"triplets": rest["index"], "images": items}

  def held_out():
    epoch = dataset.make_epoch(*labelled("val"), **size, **seed, **hosts)
    return placed(epoch, "image", "target_logprobs", "mask")

  if settings.eval_every:
    labelled("val")  # What is wrong with it is told before the first step.
  return Examples(batches, describe, held_out, units)
