"""Of the sections that a training loop reads: which fields, of which types.

A config file is Python, so a field may be missing in it or hold anything; what
the command line sets has the type of what was there before (`typed`). Imports
neither JAX nor TensorFlow.

Usage:
  field_types.check(config)
"""

from alignet_jax import artifacts


def _is_int(value):
  return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
  return _is_int(value) or isinstance(value, float)


def _is_text(value):
  return isinstance(value, str)


def _is_sequence(value):
  return isinstance(value, (tuple, list))


# Whether a value is one, and what that is called.
INT = (_is_int, "whole numbers, such as 1")
NUMBER = (_is_number, "numbers")
BOOL = (lambda value: isinstance(value, bool), "True and False")
TEXT = (_is_text, "texts")
NAMES = (
  lambda value: _is_sequence(value) and all(map(_is_text, value)),
  "tuples of names, such as ('aligned',)",
)
WINDOW = (
  lambda value: (
    _is_sequence(value) and len(value) == 2 and all(map(_is_int, value))
  ),
  "two whole numbers, the first step and how many, such as (10, 5); (0, 0) for"
  " none",
)

# Section -> a config that has all of it, and field -> type. A section that a
# config has must have all fields: nothing has a default outside the configs.
SECTIONS = {
  "pretrain": (
    "configs/quickstart.py",
    {
      "num_steps": INT,
      "batch_size": INT,
      "num_microbatches": INT,
      "lr": NUMBER,
      "warmup_steps": INT,
      "weight_decay": NUMBER,
      "checkpoint_every": INT,
    },
  ),
  "student": (
    "configs/vit_b16.py",
    {
      "variants": NAMES,
      "backbone.source": TEXT,
      "loss": TEXT,
      "temperature": NUMBER,
      "head_dim": INT,
      "batches": TEXT,
      "batch_size": INT,
      "num_microbatches": INT,
      "num_steps": INT,
      "lr": NUMBER,
      "warmup_steps": INT,
      "decay_to_init": NUMBER,
      "clip_norm": NUMBER,
      "representation": TEXT,
      "stop_grad": BOOL,
      "trainable": TEXT,
      "decay_mask": TEXT,
      "compute_dtype": TEXT,
      "remat": BOOL,
      "on_error": TEXT,
      "mesh.fsdp": INT,
      "mesh.tensor": INT,
      "checkpoint_every": INT,
      "eval_every": INT,
      "export": TEXT,
      "on_bad_loss": TEXT,
      "spike_factor": NUMBER,
      "profile": WINDOW,
    },
  ),
  "photo_student": (
    "configs/photos_vits14.py",
    {
      "loss": TEXT,
      "batch_size": INT,
      "num_steps": INT,
      "lr": NUMBER,
      "warmup_steps": INT,
      "decay_to_init": NUMBER,
      "clip_norm": NUMBER,
      "temperature_factor": NUMBER,
      "show_heldout": BOOL,
      "checkpoint_every": INT,
    },
  ),
}

# Fields that a section may lack.
OPTIONAL = {
  "student.collection": TEXT,
  "student.clusters_per_batch": INT,
  "student.images_per_cluster": INT,
}

MISSING = object()


def check(config):
  """Refuses a section that lacks a field, or has one of another type.

  Args:
    config: ConfigDict of an experiment.

  Raises:
    artifacts.InputError: Names the fields that are missing; or the field, the
      value met and those allowed.
  """
  for section, (example, fields) in SECTIONS.items():
    if get(config, section) is MISSING:
      continue
    fields = {f"{section}.{name}": kind for name, kind in fields.items()}
    missing = [name for name in fields if get(config, name) is MISSING]
    if missing:
      raise artifacts.InputError(
        f"config.{section} lacks fields:"
        f" {', '.join(f'config.{name}' for name in missing)}. Take them over"
        f" from {example}."
      )
    for name, kind in fields.items():
      _check_type(name, get(config, name), kind)
  for name, kind in OPTIONAL.items():
    if get(config, name) is not MISSING:
      _check_type(name, get(config, name), kind)


def get(config, field):
  """The value of a dotted field, or `MISSING`."""
  for name in field.split("."):
    if not hasattr(config, "keys") or name not in config:
      return MISSING
    config = config[name]
  return config


def _check_type(field, value, kind):
  holds, allowed = kind
  if not holds(value):
    raise artifacts.InputError(
      f"config.{field} is {value!r}; allowed are {allowed}."
    )
