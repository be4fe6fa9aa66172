"""Training one student of photographs, from tokens to embeddings.

Usage:
  temperature = students.matched_temperature(base[rows], targets[rows], seed=0)
  params, history = students.train(
    model, tx, start, tokens, targets, rows=rows, temperature=temperature,
    settings=config.photo_student, seed=0, checkpoint_dir=None, label="student")
  z = students.embed(model, params, tokens)                       # f32[n d]
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from alignet_jax import loop, progress
from alignet_jax.photos import train as train_lib
from alignet_jax.student import losses, optimizer
from alignet_jax.student import train as student_train
from alignet_jax.triplets import labels

# Triplets by which the sharpness of two models is compared.
NUM_TRIPLETS = 20_000

# Images per call outside of training.
_BATCH_SIZE = 100


def as_sharp(features, targets, *, seed):
  """Scales features so that their choices are as sure as those of others.

  Dot products of raw features are too large or too small for a softmax at
  temperature 1; the control would differ from the aligned student in sharpness
  before anything else (see `triplets.stage`).

  Args:
    features: f32[n d].
    targets: f32[n e], the same images.
    seed: Of the triplets by which they are compared.

  Returns:
    f32[n d], `features` times a positive number.
  """
  scale = matched_temperature(features, targets, seed=seed) ** -0.5
  return features * np.float32(scale)


def matched_temperature(features, targets, *, seed):
  """Temperature at which features' choices have the entropy of others'.

  Args:
    features: f32[n d].
    targets: f32[n e] of the same images; dot products at temperature 1.
    seed: Of the random triplets by which they are compared.

  Returns:
    float > 0.
  """
  np_rng = np.random.default_rng(seed)
  triplets = np.stack(
    [
      np_rng.choice(len(features), 3, replace=False)
      for _ in range(NUM_TRIPLETS)
    ]
  )
  entropy = labels.mean_entropy(labels.pair_similarities(targets, triplets))
  return labels.match_entropy(
    labels.pair_similarities(features, triplets), entropy
  )


def make_optimizer(settings):
  """The optimiser of all students of a run: one, so that a step compiles once.

  Args:
    settings: Mapping with lr, warmup_steps, num_steps, decay_to_init and
      clip_norm.

  Returns:
    `optax.GradientTransformation`.
  """
  return optimizer.make_optimizer(
    lr=settings["lr"],
    warmup_steps=settings["warmup_steps"],
    num_steps=settings["num_steps"],
    decay_to_init=settings["decay_to_init"],
    clip_norm=settings["clip_norm"],
  )


def train(
  model,
  tx,
  start,
  tokens,
  targets,
  *,
  rows,
  temperature,
  settings,
  seed,
  checkpoint_dir,
  label,
  log=progress.write,
):
  """Trains the last blocks of a student.

  Args:
    model: `tail.Tail`.
    tx: As of `make_optimizer`.
    start: Tree of its parameters, which the optimiser decays towards.
    tokens: f32[n t d], its input for every image.
    targets: f32[n e]; dot products are the similarities to learn.
    rows: int[r] images that it may see; no other row is read.
    temperature: Divides the student's similarities.
    settings: Mapping with loss, num_steps, batch_size and checkpoint_every.
    seed: Decides which images make up a step.
    checkpoint_dir: Of `loop.train`.
    label: What the progress is called.
    log: Prints a line.

  Returns:
    The parameters, and the metrics of each step.
  """
  triplets = jnp.asarray(train_lib.all_triplets(settings["batch_size"]))
  step_fn = functools.partial(
    train_lib.train_step,
    model=model,
    tx=tx,
    loss_fn=losses.get_loss(settings["loss"]),
  )

  def make_batches(start_step):
    for step in range(start_step, settings["num_steps"]):
      shown = train_lib.batch_rows(
        rows, batch_size=settings["batch_size"], seed=seed, step=step
      )
      yield {
        "tokens": jnp.asarray(tokens[shown]),
        "teacher": jnp.asarray(targets[shown]),
        "triplets": triplets,
        "temperature": jnp.float32(temperature),
      }

  state, history = loop.train(
    student_train.init_state(start, tx),
    step_fn,
    make_batches,
    num_steps=settings["num_steps"],
    checkpoint_dir=checkpoint_dir,
    checkpoint_every=settings["checkpoint_every"],
    label=label,
    log=log,
  )
  return jax.device_get(state.params), history


def embed(model, params, tokens):
  """Embeds images whose tokens were kept.

  Args:
    model: `tail.Tail`.
    params: Tree of its parameters.
    tokens: f32[n t d].

  Returns:
    f32[n d].
  """
  params = jax.device_put(params)
  n = len(tokens)
  z = []
  for start in range(0, n, _BATCH_SIZE):
    # The last batch begins early, so that the model is compiled once.
    first = max(0, min(start, n - _BATCH_SIZE))
    x = _embed(params, tokens[first : first + _BATCH_SIZE], model=model)
    z.append(np.asarray(x)[start - first :])
  return np.concatenate(z)


@functools.partial(jax.jit, static_argnames="model")
def _embed(params, tokens, *, model):
  return model.apply({"params": params}, tokens).astype(jnp.float32)
