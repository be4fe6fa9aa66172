"""The stage "student": the aligned model and the untransformed control.

Both start from the same weights and differ in nothing but whose similarities
they learn: the transformed teacher's or the raw one's.
"""

import functools

import jax
import numpy as np

from alignet_jax import artifacts, loop
from alignet_jax.backbones import stage as backbone_stage
from alignet_jax.backbones import weights as weights_lib
from alignet_jax.images import sources
from alignet_jax.student import embedder, sharding
from alignet_jax.student import model as model_lib
from alignet_jax.student import settings as settings_lib
from alignet_jax.triplets import dataset, dense_batches, dense_files, files

# Where evaluations look for it.
Embedder = embedder.Embedder

# Name of the student to the folder of its triplets.
TRANSFORMS = {"aligned": "aligned", "control": "untransformed"}


def run_student(context):
  """Fine-tunes one student per variant.

  Writes `base.npz` (the backbone before) and, for each variant,
  `<variant>.npz` (the backbone after, names of big_vision) and, if there is
  one, `<variant>_head.npz`, `backbone.json` (the architecture) and `losses.csv`
  (variant, step and the metrics of `train.train_step`).

  Args:
    context: `pipeline.StageContext`; reads config.student and config.triplets,
      and what opens the images.

  Returns:
    Metrics `student/{loss,accuracy}/<variant>`, means over the last tenth of
    the steps.
  """
  settings = context.config.student
  unknown = set(settings.variants) - set(TRANSFORMS)
  if unknown:
    raise artifacts.InputError(
      f"config.student.variants names {sorted(unknown)}; known are "
      f"{', '.join(TRANSFORMS)}."
    )
  mesh = settings_lib.make_mesh(settings)
  settings_lib.check_batches(settings, mesh)
  backbone, params = _base(context)
  size = backbone["size"]
  student = settings_lib.make_student(
    backbone_stage.make_model(backbone), settings, image_size=size
  )
  tx = settings_lib.make_optimizer(settings)
  # One for all variants, so that the step is compiled once.
  step_fn = settings_lib.make_step(
    settings,
    student,
    tx,
    value_range=backbone_stage.scaling(backbone),
    mesh=mesh,
  )
  weights_lib.save(context.out / "base.npz", params)
  artifacts.write_json(context.out / "backbone.json", backbone)
  images = _open_collection(context, backbone)
  params = model_lib.init_params(
    jax.random.key(context.config.seed), student, params, image_size=size
  )
  for line in sharding.table(params, mesh):
    context.log(line)
  metrics, rows = {}, []
  for variant in settings.variants:
    state = settings_lib.make_state(params, tx, settings, mesh)
    trained, history = _train(context, variant, state, step_fn, images, mesh)
    weights_lib.save(context.out / f"{variant}.npz", trained["backbone"])
    if "triplet_head" in trained:
      weights_lib.save(
        context.out / f"{variant}_head.npz", trained["triplet_head"]
      )
    rows += [
      {"variant": variant, "step": step, **row}
      for step, row in enumerate(history)
    ]
    tail = history[-max(1, len(history) // 10) :]
    for name in ("loss", "accuracy"):
      metrics[f"student/{name}/{variant}"] = float(
        np.mean([row[name] for row in tail])
      )
  _write_csv(context.out / "losses.csv", rows)
  return metrics


def _base(context):
  """The architecture and weights that students start from."""
  settings = context.config.student.backbone
  if settings.source == "teacher":
    directory = context.inputs["features"]
    path = directory / "backbone.npz"
    if not path.exists():
      raise artifacts.InputError(
        "config.student.backbone.source is 'teacher', but the features stage "
        "trained no backbone; set it to 'weights' and give a path."
      )
    backbone = artifacts.read_json(directory / "backbone.json")
    return backbone, weights_lib.unflatten(weights_lib.read(path))
  if settings.source in ("weights", "random"):
    seed = context.config.seed if settings.source == "random" else None
    return backbone_stage.load(settings.to_dict(), context.log, seed=seed)
  raise artifacts.InputError(
    f"config.student.backbone.source is {settings.source!r}; known are "
    "teacher, weights, random."
  )


def _open_collection(context, backbone):
  """The images that triplets refer to, as the student takes them."""
  images = sources.open_images(
    context.config,
    sources.STUDENT_COLLECTION,
    preprocessing=backbone_stage.preprocessing(backbone),
  )
  if sources.has_student_collection(context.config):
    features = artifacts.read_json(context.inputs["features"] / "images.json")
    sources.check_same(images, features["collection"])
  return images


def _train(context, variant, state, step_fn, images, mesh):
  """Trains one student; returns its parameters and history."""
  settings = context.config.student
  open_batches, fields = _open_batches(context, variant, images, mesh)

  def make_batches(start_step):
    batches = open_batches(
      start_step=start_step, num_steps=settings.num_steps - start_step
    )
    for batch in batches:
      yield sharding.shard_batch({k: batch[k] for k in fields}, mesh)

  state, history = loop.train(
    state,
    step_fn,
    make_batches,
    num_steps=settings.num_steps,
    checkpoint_dir=context.scratch / variant,
    checkpoint_every=settings.checkpoint_every,
    label=f"student {variant}",
    log=context.log,
  )
  return sharding.gather(state.params), history


def _open_batches(context, variant, images, mesh):
  """What makes the batches of some steps, and the fields that a step takes."""
  settings = context.config.student
  host_index, num_hosts = sharding.batch_share(mesh)
  common = {
    "seed": context.config.seed,
    "host_index": host_index,
    "num_hosts": num_hosts,
    "on_error": settings.on_error,
  }
  folder = context.inputs["triplets"]
  if settings.batches == "dense":
    teacher = dense_files.read(folder / TRANSFORMS[variant])
    features = artifacts.read_npy(
      context.inputs["features"] / "collection.npy", mmap=True
    )
    open_batches = functools.partial(
      dense_batches.make_dataset,
      teacher.cluster_ids,
      features,
      images,
      transform=teacher.transform,
      temperature=teacher.temperature,
      clusters_per_batch=settings.clusters_per_batch,
      images_per_cluster=settings.images_per_cluster,
      **common,
    )
    return open_batches, ("image", "teacher_sims")
  labelled = files.read(
    files.path_of(
      folder,
      TRANSFORMS[variant],
      "train",
      context.config.triplets.sampling,
    ),
    num_images=len(images),
  )
  open_batches = functools.partial(
    dataset.make_dataset,
    labelled.indices,
    labelled.pair_sims,
    images,
    batch_size=settings.batch_size,
    **common,
  )
  return open_batches, ("image", "target_logprobs")


def _write_csv(path, rows):
  """Writes dicts of one form as a table; floats exactly."""
  names = list(rows[0])
  lines = [",".join(names)]
  lines += [",".join(str(row[name]) for name in names) for row in rows]
  artifacts.write_text(path, "\n".join(lines) + "\n")
