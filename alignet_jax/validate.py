"""What the values of a config may be, checked before anything runs.

A table per kind of rule. A rule is applied only where the config has the field,
so it does not matter which stages an experiment includes. What only the data
can tell, such as whether there are enough images for the clusters, the stages
check. Imports neither JAX nor TensorFlow; names that modules define which do
are repeated here, and a test compares them.

Usage:
  validate.check(config)
"""

import math
import re

from alignet_jax import artifacts, field_types, parameter_names
from alignet_jax import config as config_lib

# The published families of backbones, and their sizes with the patch size.
FAMILIES = {
  "augreg": ("ti16", "s16", "s32", "b8", "b16", "b32", "l16", "l32", "h14"),
  "big_vision": "ti16 s16 s32 b16 b32 l16 so400m14 g14".split(),
  "siglip": ("b16", "l16", "so400m14"),
  "siglip2": ("b16", "b32", "l16", "so400m14", "so400m16", "gopt16"),
  "clip": ("b16", "b32", "l14", "h14", "g14"),
  "dino": ("s8", "s16", "b8", "b16"),
  "dinov2": ("s14", "b14", "l14", "g14"),
  "dinov2_reg": ("s14", "b14", "l14", "g14"),
}
BACKBONES = tuple(
  f"{family}_{member}"
  for family, members in FAMILIES.items()
  for member in members
)

_POOLS = ("cls", "gap", "map", "cls_patch_mean")
_PREPROCESSINGS = ("own", "alignet")

# Field -> names allowed; of a tuple, for each of its items.
CHOICES = {
  "images.source": ("generated", "files"),
  "judgments.source": ("simulated", "things"),
  "judgments.soft": ("none", "embedding", "vice"),
  "vice.prior": ("gaussian", "laplace"),
  "features.source": ("pretrain", "backbone", "file"),
  "features.backbone.name": BACKBONES,
  "features.backbone.pool": ("", *_POOLS),
  "features.backbone.preprocessing": _PREPROCESSINGS,
  "teacher.variants": (
    "hard",
    "soft",
    "soft_own_vice",
    "naive",
    "global",
    "glocal",
  ),
  "teacher.selection": ("objects", "triplets"),
  "teacher.lr_decay": ("constant", "cosine"),
  "triplets.sampling": ("cluster_border", "random"),
  "student.variants": ("aligned", "control"),
  "student.loss": ("jsd", "kl", "contrastive_hard"),
  "student.backbone.source": ("teacher", "weights", "random"),
  "student.backbone.name": BACKBONES,
  "student.backbone.pool": ("", *_POOLS),
  "student.backbone.preprocessing": _PREPROCESSINGS,
  "student.batches": ("triplet", "dense"),
  "student.representation": (
    "pre_logits",
    "head_input",
    "patch_mean",
    "cls",
    "cls_patch_mean",
  ),
  "student.compute_dtype": ("float32", "bfloat16"),
  "student.on_error": ("refuse", "replace"),
  "student.on_bad_loss": ("stop", "skip"),
  "student.export": ("last", "best"),
  "photos.source": ("files", "generated"),
  "photo_teacher.lr_decay": ("constant", "cosine"),
  "photo_student.loss": ("jsd", "kl", "contrastive_hard"),
}

# Fields whose values are results of their own, each made once.
DISTINCT = ("teacher.variants", "student.variants")

# (Fields, least, most): inclusive. Of a tuple, for each of its items.
RANGES = (
  # Larger seeds would lose digits in a JAX key.
  (("seed",), 0, 2**31 - 1),
  (("world.size",), 16, math.inf),
  (("world.num_exemplars",), 2, 32),
  (("world.num_heldout_basics",), 1, 6),
  (
    (
      "clusters.num_clusters",
      "student.clusters_per_batch",
      "student.images_per_cluster",
      "photos.num_folds",
    ),
    2,
    math.inf,
  ),
  (("photo_scores.min_photos",), 2, math.inf),
  # Three images are the least triplet; 128 make 341,376.
  (("photo_student.batch_size",), 3, 128),
  (("judgments.people.lapse",), 0, 1),
  (
    (
      "world.num_images.pretrain",
      "world.num_images.collection",
      "world.num_images.support",
      "world.num_images.evaluation",
      "judgments.people.number",
      "judgments.num_train",
      "judgments.num_test",
      "judgments.num_repeats",
      "judgments.answers_per_repeat",
      "judgments.num_levels",
      "judgments.answers_per_level",
      "vice.num_dims",
      "vice.num_epochs",
      "vice.batch_size",
      "vice.search_epochs",
      "vice.num_seeds",
      "vice.num_samples",
      "vice.checkpoint_every",
      "features.batch_size",
      "features.backbone.patch_size",
      "features.backbone.width",
      "features.backbone.depth",
      "features.backbone.mlp_dim",
      "features.backbone.num_heads",
      "features.backbone.size",
      "pretrain.num_steps",
      "pretrain.batch_size",
      "pretrain.num_microbatches",
      "pretrain.checkpoint_every",
      "teacher.batch_size",
      "teacher.num_epochs",
      "clusters.num_restarts",
      "clusters.num_iters",
      "triplets.num_train",
      "triplets.num_val",
      "student.backbone.width",
      "student.backbone.depth",
      "student.backbone.mlp_dim",
      "student.backbone.num_heads",
      "student.backbone.size",
      "student.batch_size",
      "student.num_microbatches",
      "student.num_steps",
      "student.checkpoint_every",
      "student.mesh.fsdp",
      "student.mesh.tensor",
      "evaluate.batch_size",
      "evaluate.num_shots",
      "evaluate.num_draws",
      "photos.teacher_size",
      "photos.student_size",
      "photos.first_block",
      "photos.batch_size",
      "photo_teacher.num_triplets",
      "photo_teacher.batch_size",
      "photo_teacher.num_epochs",
      "photo_student.num_steps",
      "photo_student.checkpoint_every",
      "photo_scores.num_draws",
    ),
    1,
    math.inf,
  ),
  (
    (
      "things.num_objects",
      "judgments.num_drawn",
      "judgments.people.spread",
      "vice.refit_epochs",
      "pretrain.warmup_steps",
      "pretrain.weight_decay",
      "teacher.strengths",
      "teacher.patience",
      "teacher.num_folds",
      "teacher.rank",
      "teacher.locality_weight",
      "student.head_dim",
      "student.warmup_steps",
      "student.decay_to_init",
      "student.clip_norm",
      "student.eval_every",
      "student.profile",
      "report.num_examples",
      "photo_teacher.strengths",
      "photo_student.warmup_steps",
      "photo_student.decay_to_init",
      "photo_student.clip_norm",
    ),
    0,
    math.inf,
  ),
)

# (Fields, between): neither end is allowed. Of a tuple, for each of its items.
OPEN_RANGES = (
  (
    (
      "vice.lr",
      "vice.spike",
      "vice.slab",
      "vice.refit_lr",
      "pretrain.lr",
      "teacher.lr",
      "teacher.locality_temperature",
      "student.temperature",
      "student.lr",
      "photo_teacher.lr",
      "photo_student.lr",
      "photo_student.temperature_factor",
    ),
    0,
    math.inf,
  ),
  (("vice.pi", "vice.val_fraction", "teacher.val_fraction"), 0, 1),
)

# Numbers that devices compute with, in float32: beyond these bounds products
# with others become infinite, or 0. 0 itself is left to the ranges above.
FLOAT32 = (
  "pretrain.lr",
  "pretrain.weight_decay",
  "student.temperature",
  "student.lr",
  "student.decay_to_init",
  "student.clip_norm",
  "student.spike_factor",
  "photo_student.lr",
  "photo_student.temperature_factor",
  "photo_student.decay_to_init",
  "photo_student.clip_norm",
)
FLOAT32_BOUNDS = (1e-12, 1e12)

# What describes a backbone of a published family.
_NAMED = ("name", "pool", "size", "preprocessing")

# (Field, value) -> fields that this value needs.
NEEDS = {
  ("images.source", "generated"): ("world",),
  ("images.source", "files"): ("images.stimuli", "images.collection"),
  ("judgments.source", "simulated"): (
    "world",
    "judgments.people",
    "judgments.num_drawn",
  ),
  ("judgments.source", "things"): (
    "judgments.num_drawn",
    "things.num_objects",
    "things.triplets_train",
    "things.triplets_test",
    "things.repeats",
  ),
  ("judgments.soft", "embedding"): ("things.vice_embedding",),
  ("judgments.soft", "vice"): ("vice",),
  ("judgments.own_vice", True): ("vice",),
  ("features.source", "pretrain"): ("pretrain", "features.backbone"),
  ("features.source", "backbone"): tuple(
    f"features.backbone.{name}" for name in (*_NAMED, "weights", "url")
  ),
  ("features.source", "file"): ("things.features",),
  ("student.batches", "dense"): (
    "student.clusters_per_batch",
    "student.images_per_cluster",
  ),
  ("photos.source", "generated"): ("world",),
  ("photos.source", "files"): tuple(
    f"photos.{name}"
    for name in ("images", "index", "vice_embedding", "concepts", "category")
  ),
  ("student.backbone.source", "weights"): tuple(
    f"student.backbone.{name}" for name in (*_NAMED, "weights", "url")
  ),
  ("student.backbone.source", "random"): tuple(
    f"student.backbone.{name}" for name in _NAMED
  ),
}

# (Field, other field, whether a pair of values is fine, what that is called).
_AT_MOST = (lambda x, y: x <= y, "at most")
_LESS = (lambda x, y: x < y, "less than")
_DIVIDES = (lambda x, y: y % x == 0, "a divisor of")
RELATIONS = (
  ("judgments.answers_per_repeat", "judgments.people.number", *_AT_MOST),
  ("judgments.answers_per_level", "judgments.people.number", *_AT_MOST),
  ("evaluate.num_shots", "world.num_images.support", *_AT_MOST),
  ("pretrain.warmup_steps", "pretrain.num_steps", *_LESS),
  ("student.warmup_steps", "student.num_steps", *_LESS),
  ("photo_student.warmup_steps", "photo_student.num_steps", *_LESS),
  ("pretrain.num_microbatches", "pretrain.batch_size", *_DIVIDES),
)

_MISSING = field_types.MISSING
_get = field_types.get


def check(config):
  """Refuses values that no stage could use.

  Args:
    config: ConfigDict of an experiment.

  Raises:
    artifacts.InputError: Names the field, the value met and those allowed.
  """
  field_types.check(config)
  for field, known in CHOICES.items():
    for value in _items(config, field):
      if value not in known:
        raise artifacts.InputError(
          f"config.{field} is {value!r}, which is not known."
          f"{config_lib.did_you_mean(str(value), known)}"
        )
  for field in DISTINCT:
    values = _items(config, field)
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
      raise artifacts.InputError(
        f"config.{field} holds {twice[0]!r} more than once; name each once."
      )
  for fields, least, most in RANGES:
    text = f"{least} or more" if most == math.inf else f"{least} to {most}"
    for field, value in _numbers(config, fields, text):
      if not least <= value <= most:
        raise _not_allowed(field, value, text)
  for fields, low, high in OPEN_RANGES:
    text = f"more than {low}"
    text += "" if high == math.inf else f" and less than {high}"
    for field, value in _numbers(config, fields, text):
      if not low < value < high:
        raise _not_allowed(field, value, text)
  least, most = FLOAT32_BOUNDS
  text = f"{least:g} to {most:g}; beyond, float32 makes 0 or infinity of them"
  for field, value in _numbers(config, FLOAT32, text):
    if value != 0 and not least <= value <= most:
      raise _not_allowed(field, value, text)
  for (field, value), needed in NEEDS.items():
    if _get(config, field) == value:
      missing = [name for name in needed if _get(config, name) is _MISSING]
      if missing:
        raise artifacts.InputError(
          f"config.{field} is {value!r}, which needs fields that this config"
          f" lacks: {', '.join(f'config.{name}' for name in missing)}. Take"
          " them over from a config that has them."
        )
  for field, other, holds, words in RELATIONS:
    value, bound = _get(config, field), _get(config, other)
    if _MISSING not in (value, bound) and not holds(value, bound):
      raise artifacts.InputError(
        f"config.{field} is {value}; it must be {words} config.{other}, which"
        f" is {bound}."
      )
  _check_backbones(config)
  _check_teacher(config)
  _check_student(config)
  _check_loop(config)


def _items(config, field):
  """The value of a field, or those of its tuple; none if there is no field."""
  value = _get(config, field)
  if value is _MISSING:
    return ()
  if not isinstance(value, (tuple, list)):
    return (value,)
  if not value:
    raise artifacts.InputError(
      f"config.{field} is empty; give one value, or several with commas."
    )
  return value


def _numbers(config, fields, allowed):
  """Pairs of field and finite number; refuses all other values."""
  for field in fields:
    for value in _items(config, field):
      is_number = isinstance(value, (int, float)) and math.isfinite(value)
      if not is_number or isinstance(value, bool):
        raise _not_allowed(field, value, allowed)
      yield field, value


def _not_allowed(field, value, allowed):
  return artifacts.InputError(
    f"config.{field} is {value!r}; allowed are numbers: {allowed}."
  )


def _check_backbones(config):
  """Sizes of vision transformers: of a family, or one by one."""
  for group in ("features.backbone", "student.backbone"):
    size = _get(config, f"{group}.size")
    if size is _MISSING:
      continue
    pixels = _get(config, "world.size")
    if _get(config, "images.source") == "generated" and size != pixels:
      raise artifacts.InputError(
        f"config.{group}.size is {size}; it must be config.world.size, which"
        f" is {pixels}."
      )
    name = _get(config, f"{group}.name")
    given = {
      field: _get(config, f"{group}.{field}")
      for field in ("width", "depth", "mlp_dim", "num_heads", "patch_size")
    }
    lacking = [field for field in given if given[field] is _MISSING]
    if name is _MISSING:
      if _get(config, f"{group}.pool") == "":
        raise artifacts.InputError(
          f"config.{group}.pool is empty, and config.{group} has no name of a"
          f" family that has one; allowed are {', '.join(_POOLS)}."
        )
      if lacking:
        raise artifacts.InputError(
          f"config.{group} has neither the name of a published backbone nor"
          f" {', '.join(lacking)}."
        )
    elif given["patch_size"] is _MISSING:
      given["patch_size"] = int(re.search("[0-9]+$", name)[0])
    if given["patch_size"] > size:
      raise artifacts.InputError(
        f"config.{group}.size is {size}; it must be at least a patch, which is"
        f" {given['patch_size']} pixels."
      )
    for field, whole, other in (
      ("num_heads", given["width"], "width"),
      # The published ones leave the last pixels out: 378 of 384 for patch 14.
      ("patch_size", size if name is _MISSING else _MISSING, "size"),
    ):
      part = given[field]
      if _MISSING not in (part, whole) and whole % part:
        raise artifacts.InputError(
          f"config.{group}.{field} is {part}; it must be a divisor of"
          f" config.{group}.{other}, which is {whole}."
        )


def _check_teacher(config):
  """The selected teacher is fitted, and its targets are made."""
  variants = _get(config, "teacher.variants")
  if variants is _MISSING:
    return
  selected = _get(config, "teacher.selected")
  if selected is not _MISSING and selected not in variants:
    raise artifacts.InputError(
      f"config.teacher.selected is {selected!r}; it must be one of"
      f" config.teacher.variants.{config_lib.did_you_mean(selected, variants)}"
    )
  selection, num_folds = (
    _get(config, f"teacher.{name}") for name in ("selection", "num_folds")
  )
  if num_folds == 1 or (num_folds == 0 and selection == "objects"):
    also = ", or 0 for none" if selection != "objects" else ""
    raise artifacts.InputError(
      f"config.teacher.num_folds is {num_folds}, with config.teacher.selection"
      f" {selection!r}; allowed are 2 or more{also}."
    )
  soft, own_vice = (
    _get(config, f"judgments.{name}") for name in ("soft", "own_vice")
  )
  for variant, is_made in (
    ("soft", soft != "none"),
    ("soft_own_vice", own_vice is True and soft != "vice"),
  ):
    if variant in variants and soft is not _MISSING and not is_made:
      raise artifacts.InputError(
        f"config.teacher.variants holds {variant!r}, whose targets are not made"
        f" with config.judgments.soft {soft!r} and config.judgments.own_vice"
        f" {own_vice}. Change these, or leave {variant!r} out."
      )


def _check_student(config):
  """Batches can be cut, something is trained, and there is what is compared."""
  student = {
    name: _get(config, f"student.{name}")
    for name in (
      "batches",
      "batch_size",
      "clusters_per_batch",
      "images_per_cluster",
      "num_microbatches",
      "representation",
    )
  }
  size, what = student["batch_size"], "config.student.batch_size"
  if student["batches"] == "dense":
    size = student["clusters_per_batch"] * student["images_per_cluster"]
    what = "config.student.clusters_per_batch x images_per_cluster"
    num_clusters = _get(config, "clusters.num_clusters")
    if num_clusters is not _MISSING and (
      student["clusters_per_batch"] > num_clusters
    ):
      raise artifacts.InputError(
        "config.student.clusters_per_batch is"
        f" {student['clusters_per_batch']}; it must be at most"
        f" config.clusters.num_clusters, which is {num_clusters}."
      )
  num_parts = student["num_microbatches"]
  if _MISSING not in (size, num_parts) and size % num_parts:
    raise artifacts.InputError(
      f"config.student.num_microbatches is {num_parts}; it must be a divisor of"
      f" {what}, which is {size}."
    )
  _check_patterns(config)
  group = "student"
  if _get(config, "student.backbone.source") == "teacher":
    group = "features"
  pool = _get(config, f"{group}.backbone.pool")
  representation = student["representation"]
  if representation in ("cls", "cls_patch_mean") and pool in ("gap", "map"):
    raise artifacts.InputError(
      f"config.student.representation is {representation!r}, but with"
      f" config.{group}.backbone.pool {pool!r} there is no class token; use"
      " pre_logits, head_input or patch_mean."
    )


def _check_patterns(config):
  """There are parameters that are trained, and of these, some that decay."""
  trainable, decay_mask, stop_grad, head_dim = (
    _get(config, f"student.{name}")
    for name in ("trainable", "decay_mask", "stop_grad", "head_dim")
  )
  if trainable is _MISSING:
    return
  patterns = {"trainable": trainable, "decay_mask": decay_mask}
  for name, pattern in patterns.items():
    try:
      re.compile(pattern)
    except re.error as error:
      raise artifacts.InputError(
        f"config.student.{name} is {pattern!r}, which is no regular expression:"
        f" {error}. Use '.*' for all parameters."
      ) from error
  if stop_grad and head_dim == 0:
    raise artifacts.InputError(
      "config.student.stop_grad is True and config.student.head_dim 0: there is"
      " nothing to train. Set stop_grad to False, or head_dim to 1 or more."
    )
  names = parameter_names.names(has_head=head_dim != 0)
  trained = [name for name in names if re.search(trainable, name)]
  decaying = [name for name in trained if re.search(decay_mask, name)]
  for name, found, whose in (
    ("trainable", trained, "no parameter of a student"),
    ("decay_mask", decaying, f"none that trainable, {trainable!r}, lets train"),
  ):
    if not found:
      raise artifacts.InputError(
        f"config.student.{name} is {patterns[name]!r}, which is found in the"
        f" name of {whose}. Use '.*' for all; there are"
        " backbone/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"
        f"{', triplet_head/kernel' if head_dim else ''} and others."
      )
  if stop_grad and not set(trained) & set(parameter_names.HEAD):
    raise artifacts.InputError(
      "config.student.stop_grad is True, so only the triplet head is trained,"
      f" and config.student.trainable is {trainable!r}, which leaves it out:"
      " there is nothing to train. Set stop_grad to False, or trainable to '.*'"
      " or 'triplet_head'."
    )


def _check_loop(config):
  """What a single range cannot say of the training loop."""
  factor = _get(config, "student.spike_factor")
  if factor is not _MISSING:
    text = "more than 1, or 0 for no limit"
    for _, value in _numbers(config, ("student.spike_factor",), text):
      if value != 0 and not value > 1:
        raise _not_allowed("student.spike_factor", value, text)
  if _get(config, "student.export") == "best" and not _get(
    config, "student.eval_every"
  ):
    raise artifacts.InputError(
      "config.student.export is 'best', but config.student.eval_every is 0, so"
      " there is no evaluation to be best by. Set eval_every to 1 or more, or"
      " export to 'last'."
    )
  window = _get(config, "student.profile")
  if window is not _MISSING:
    first, number = window
    num_steps = _get(config, "student.num_steps")
    if number > 0 and first + number > num_steps:
      raise artifacts.InputError(
        f"config.student.profile is {window!r}, which are {number} steps from"
        f" step {first} on; config.student.num_steps is {num_steps}, so the"
        f" last step is {num_steps - 1}. Let the window end by then."
      )
