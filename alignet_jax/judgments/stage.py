"""The stage "judgments": what people said, and how sure they were.

Two sources give the same artefact: simulated people of the generated world and
the files of THINGS. Whatever the source, the choices of the training triplets
become soft targets, either through our own VICE fit or through an embedding
given by path ("uncertainty distillation", paper.md, section A).
"""

import zlib

import jax
import numpy as np

from alignet_jax import artifacts, odd_one_out, progress
from alignet_jax.evals import levels as levels_lib
from alignet_jax.images import sources
from alignet_jax.images import world as world_lib
from alignet_jax.judgments import simulated, things, vice


def run_judgments(context):
  """Reads or simulates judgments and turns choices into soft targets.

  Writes `train.npz` and `test.npz` (triplets int32[n 3], odd item last),
  `stimuli.json` (names of the objects), where there are such, `repeats.npz`
  (triplets int32[m 3], odd_counts int32[m 3]) and `levels.npz` (the same and
  level int32[m]; rows of the evaluation images), `soft.npz` (target_logprobs
  f32[n 3] of the training triplets, entry p for item p) and `vice.npz` (loc,
  scale) if VICE was fitted.

  Args:
    context: `pipeline.StageContext`; reads config.judgments, and config.things
      or config.world, and config.vice.

  Returns:
    Metrics of the own VICE fit, if there is one.
  """
  settings = context.config.judgments
  if settings.source not in _SOURCES:
    raise artifacts.InputError(
      f"config.judgments.source is {settings.source!r}; known are "
      f"{', '.join(_SOURCES)}."
    )
  if settings.soft not in _SOFT:
    raise artifacts.InputError(
      f"config.judgments.soft is {settings.soft!r}; known are "
      f"{', '.join(_SOFT)}."
    )
  names, judged = _SOURCES[settings.source](context)
  artifacts.write_json(context.out / "stimuli.json", {"names": names})
  for name, arrays in judged.items():
    artifacts.write_npz(context.out / f"{name}.npz", **arrays)
  context.log(
    f"{len(names)} objects, {len(judged['train']['triplets'])} training and "
    f"{len(judged['test']['triplets'])} test triplets"
  )
  return _SOFT[settings.soft](context, judged["train"]["triplets"], len(names))


def _simulate(context):
  """Asks simulated people about the stimuli and the evaluation images."""
  config, settings = context.config, context.config.judgments
  world = sources.make_world(config)
  np_rng = np.random.default_rng([config.seed, zlib.crc32(b"people")])
  people = simulated.make_people(
    np_rng,
    simulated.average_weights(settings.people.weights),
    num_people=settings.people.number,
    spread=settings.people.spread,
    lapse=settings.people.lapse,
  )
  stimuli = world_lib.exemplars_of(world, "stimuli", config.world.num_images)

  def sample(num, answers):
    triplets = simulated.random_triplets(len(stimuli), num, np_rng)
    counts = simulated.count_answers(
      world, stimuli[triplets], people, answers, np_rng
    )
    return triplets, counts

  judged = {}
  for split in ("train", "test"):
    triplets, counts = sample(settings[f"num_{split}"], 1)
    judged[split] = {
      "triplets": simulated.odd_last(triplets, np.argmax(counts, axis=1))
    }
  triplets, counts = sample(settings.num_repeats, settings.answers_per_repeat)
  judged["repeats"] = {"triplets": triplets, "odd_counts": counts}

  shown = world_lib.exemplars_of(world, "evaluation", config.world.num_images)
  per_level = [
    simulated.level_triplets(world, shown, level, settings.num_levels, np_rng)
    for level in levels_lib.NAMES
  ]
  triplets = np.concatenate(per_level)
  judged["levels"] = {
    "triplets": triplets,
    "odd_counts": simulated.count_answers(
      world, shown[triplets], people, settings.answers_per_level, np_rng
    ),
    "level": np.repeat(
      np.arange(len(per_level), dtype=np.int32), settings.num_levels
    ),
  }
  return [world.name(exemplar) for exemplar in stimuli], judged


def _read_things(context):
  """Reads the files of THINGS that the config names."""
  paths = context.config.things
  num_objects = len(things.load_embedding(paths.features))
  judged = {
    split: {
      "triplets": things.load_triplets(
        paths[f"triplets_{split}"], num_objects=num_objects
      )
    }
    for split in ("train", "test")
  }
  if paths.repeats:
    triplets, counts = things.load_repeats(
      paths.repeats, num_objects=num_objects
    )
    judged["repeats"] = {"triplets": triplets, "odd_counts": counts}
  return [str(row) for row in range(num_objects)], judged


def _soft_none(context, triplets, num_objects):
  """Leaves the choices hard."""
  del context, triplets, num_objects
  return {}


def _soft_embedding(context, triplets, num_objects):
  """Takes the probabilities of an embedding given by path."""
  path = context.config.things.vice_embedding
  embedding = things.load_embedding(path)
  if len(embedding) != num_objects:
    raise artifacts.InputError(
      f"{path} has {len(embedding)} rows; the judgments are of {num_objects} "
      "objects."
    )
  logits = odd_one_out.logits_of_rows(embedding, triplets)
  _write_soft(context, odd_one_out.log_probs(logits))
  return {}


def _soft_vice(context, triplets, num_objects):
  """Fits VICE to the training choices."""
  settings = context.config.vice
  with progress.Progress(
    settings.num_epochs, unit="epoch", label="VICE"
  ) as bar:
    fit = vice.fit(
      triplets,
      num_objects=num_objects,
      num_dims=settings.num_dims,
      num_epochs=settings.num_epochs,
      batch_size=settings.batch_size,
      lr=settings.lr,
      spike=settings.spike,
      slab=settings.slab,
      pi=settings.pi,
      seed=context.config.seed,
      callback=lambda epoch, metrics: bar.update(nll=metrics["nll"]),
    )
  loc, scale = vice.prune(fit.loc, fit.scale)
  if not loc.shape[1]:
    raise artifacts.InputError(
      f"VICE kept none of its {settings.num_dims} dimensions: there are too "
      "few choices, or config.vice.num_epochs or lr is too small."
    )
  artifacts.write_npz(context.out / "vice.npz", loc=loc, scale=scale)
  context.log(f"VICE keeps {loc.shape[1]} of {settings.num_dims} dimensions")
  rng = jax.random.key(context.config.seed)
  _write_soft(
    context,
    vice.choice_logprobs(
      rng, loc, scale, triplets, num_samples=settings.num_samples
    ),
  )
  return {"vice/num_dimensions": loc.shape[1]}


def _write_soft(context, target_logprobs):
  target_logprobs = np.asarray(target_logprobs, np.float32)
  artifacts.write_npz(context.out / "soft.npz", target_logprobs=target_logprobs)


_SOURCES = {"simulated": _simulate, "things": _read_things}
_SOFT = {
  "none": _soft_none,
  "embedding": _soft_embedding,
  "vice": _soft_vice,
}
