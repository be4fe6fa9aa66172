"""The stage "judgments": what people said, and how sure they were.

Two sources give the same artefact: simulated people of the generated world and
the files of THINGS. Whatever the source, the choices of the training triplets
become soft targets, either through our own VICE fit or through an embedding
given by path ("uncertainty distillation", paper.md, section A).
"""

import functools
import zlib

import jax
import numpy as np

from alignet_jax import artifacts
from alignet_jax.evals import levels as levels_lib
from alignet_jax.images import sources
from alignet_jax.images import world as world_lib
from alignet_jax.judgments import from_embedding, simulated, things
from alignet_jax.judgments.vice import model as vice
from alignet_jax.judgments.vice import stage as vice_stage


def run_judgments(context):
  """Reads or simulates judgments and turns choices into soft targets.

  Writes `train.npz` and `test.npz` (triplets int32[n 3], odd item last),
  `stimuli.json` (names of the objects), where there are such, `repeats.npz`
  (triplets int32[m 3], odd_counts int32[m 3]) and `levels.npz` (the same and
  level int32[m]; rows of the evaluation images), `soft.npz` (target_logprobs
  f32[n 3] of the training triplets, entry p for item p; `soft_own_vice.npz`
  for those of an own fit beside given ones), `drawn.npz` if
  `config.judgments.num_drawn` asks for random triplets of the same objects
  (triplets int32[m 3], and under the name of each of these files their targets
  f32[m 3]) and, if VICE was fitted, the folder `vice` (`vice_stage.fit_vice`).

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
  return _write_soft(context, judged["train"]["triplets"], len(names))


def _write_soft(context, triplets, num_objects):
  """Writes soft targets as the config says; returns the metrics of VICE."""
  settings = context.config.judgments
  if settings.num_drawn < 0:
    raise artifacts.InputError(
      f"config.judgments.num_drawn is {settings.num_drawn}; expected how many "
      "random triplets get soft targets as well, or 0."
    )
  makers = {"soft": _SOFT[settings.soft]}
  if settings.own_vice and settings.soft != "vice":
    makers["soft_own_vice"] = _soft_vice
  drawn, metrics = {}, {}
  if settings.num_drawn:
    np_rng = np.random.default_rng([context.config.seed, zlib.crc32(b"drawn")])
    drawn["triplets"] = simulated.random_triplets(
      num_objects, settings.num_drawn, np_rng
    )
  for name, make in makers.items():
    target_fn, found = make(context, triplets, num_objects)
    metrics |= found
    if target_fn is None:
      continue
    artifacts.write_npz(
      context.out / f"{name}.npz",
      target_logprobs=np.asarray(target_fn(triplets), np.float32),
    )
    if drawn:
      drawn[name] = np.asarray(target_fn(drawn["triplets"]), np.float32)
  if len(drawn) > 1:
    artifacts.write_npz(context.out / "drawn.npz", **drawn)
  return metrics


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
  num_objects = paths.num_objects
  if not num_objects:
    num_objects = len(things.load_features(paths.features))
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
  return None, {}


def _soft_embedding(context, triplets, num_objects):
  """Takes the probabilities of an embedding given by path."""
  del triplets
  path = context.config.things.vice_embedding
  embedding = things.load_embedding(path)
  if len(embedding) != num_objects:
    raise artifacts.InputError(
      f"{path} has {len(embedding)} rows; the judgments are of {num_objects} "
      "objects."
    )
  return functools.partial(from_embedding.logprobs, embedding), {}


def _soft_vice(context, triplets, num_objects):
  """Fits VICE to the training choices.

  To all of them: also to those that the teacher holds out to choose a strength
  by. So what it scores on these, fitted to such targets, is too good; the test
  choices are never seen.
  """
  posteriors, metrics = vice_stage.fit_vice(context, triplets, num_objects)
  target_fn = functools.partial(
    vice.mixture_logprobs,
    jax.random.key(context.config.seed),
    posteriors,
    num_samples=context.config.vice.num_samples,
  )
  return target_fn, metrics


_SOURCES = {"simulated": _simulate, "things": _read_things}
# Each makes a function from triplets to log probabilities, and metrics.
_SOFT = {
  "none": _soft_none,
  "embedding": _soft_embedding,
  "vice": _soft_vice,
}
