"""What the tensors of a file do not show of the model that they belong to.

The same tensors give other outputs with another activation, another epsilon, or
another way of resampling positions; and 36 positions are 6 x 6 or 4 x 9. Nor do
they show which pixels they want: a student of DINOv2 may be trained on other
crops than DINOv2. So weights that are saved here say these beside the tensors:
in the comment of the archive, which readers of arrays, big_vision's among them,
do not see.

Usage:
  note = architecture.describe(
    model, family="dinov2", posemb_rule="bicubic", grid=(4, 9),
    preprocessing=preprocess.DINOV2)
  weights.save("a.npz", params, architecture=note)
  note = weights.read_architecture("a.npz")          # None: it does not say
"""

import dataclasses
import json
import math

from alignet_jax import artifacts
from alignet_jax.backbones import big_vision, blocks, posemb, vit
from alignet_jax.images import preprocess

# What the comment begins with: other archives have comments of their own.
_MARK = "alignet_jax architecture 1\n"

# Fields of `vit.ViT` that are one with the tensors; and those that a reader
# takes from the file, as it takes them from config.json.
_STRUCTURE = (
  "patch_size",
  "width",
  "depth",
  "mlp_dim",
  "num_heads",
  "cls_token",
  "num_registers",
  "pre_norm",
  "patch_bias",
  "mlp",
  "layer_scale",
)
_COMPUTED = ("activation", "norm_epsilon")


def _is_count(value, least=1):
  """Whether a value of JSON is a whole number, and large enough."""
  return type(value) is int and value >= least


def _is_grid(value):
  if value is None:
    return True
  return (
    isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))
  )


def _is_epsilon(value):
  return type(value) in (int, float) and 0 < value < math.inf


# What a value of the note must be: in words, and whether one is.
_COUNT = ("a whole number from 1", _is_count)
_FLAG = ("true or false", lambda value: isinstance(value, bool))
_TEXT = ("a text", lambda value: isinstance(value, str))
_GRID = ("rows and columns, two whole numbers from 1, or null", _is_grid)
_TYPES = {
  **dict.fromkeys(
    ("patch_size", "width", "depth", "mlp_dim", "num_heads"), _COUNT
  ),
  **dict.fromkeys(
    ("cls_token", "pre_norm", "patch_bias", "layer_scale"), _FLAG
  ),
  "num_registers": (
    "a whole number from 0",
    lambda value: _is_count(value, least=0),
  ),
  "norm_epsilon": ("a number more than 0", _is_epsilon),
}

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(vit.ViT)}


def describe(
  model,
  *,
  family="",
  posemb_rule="bilinear_corners",
  grid=None,
  preprocessing=None,
):
  """What is to be saved beside the parameters of a model.

  Args:
    model: `vit.ViT`, or the model of big_vision.
    family: Name in `families.FAMILIES`, which preprocessing goes by; "" for
      models of none.
    posemb_rule: How its positions are resampled, a name in `posemb.RULES`.
    grid: Rows and columns of its positions; None leaves them unsaid.
    preprocessing: `preprocess.Preprocessing` of its images; None leaves it
      unsaid, so that a reader takes the family's.

  Returns:
    Dict of JSON values.
  """
  pools = {theirs: ours for ours, theirs in big_vision.POOL_TYPES.items()}
  pool = getattr(model, "pool", None) or pools[model.pool_type]
  fields = _fields({**vars(model), "pool": pool})
  return {
    "family": family,
    "grid": None if grid is None else [int(n) for n in grid],
    "model": {**fields, "pool": pool},
    "posemb_rule": posemb_rule,
    "preprocessing": preprocessing and preprocessing.to_dict(),
  }


def to_comment(note):
  """The comment of an archive that says so."""
  return _MARK + json.dumps(note, sort_keys=True)


def from_comment(text, path):
  """Inverse of `to_comment`.

  Args:
    text: Comment of an archive.
    path: The archive, for the error.

  Returns:
    What `describe` gave, or None if the comment says nothing of the kind.

  Raises:
    artifacts.InputError: It does, but not as `describe` does.
  """
  if not text.startswith(_MARK):
    return None
  try:
    note = json.loads(text.removeprefix(_MARK))
    fields = (*_STRUCTURE, *_COMPUTED, "pool")
    lacks = [field for field in fields if field not in note["model"]]
    known = {
      "posemb_rule": (note["posemb_rule"], tuple(posemb.RULES)),
      "activation": (
        note["model"].get("activation"),
        tuple(blocks.ACTIVATIONS),
      ),
      "pool": (note["model"].get("pool"), (*vit.POOLS, vit.CLS_PATCH_MEAN)),
    }
    types = {"family": (note["family"], _TEXT)}
    # Files of before there was a grid do not say it.
    types["grid"] = (note.get("grid"), _GRID)
    for field in fields:
      types[field] = (note["model"].get(field), _TYPES.get(field, _TEXT))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise artifacts.InputError(
      f"{path}: the note on the architecture in the comment of the archive is"
      f" damaged: {error!r}. Save the weights again."
    ) from error
  if lacks:
    raise artifacts.InputError(
      f"{path}: the note on the architecture lacks {', '.join(lacks)}. Save the"
      " weights again."
    )
  for field, (value, (words, is_fine)) in types.items():
    if not is_fine(value):
      raise artifacts.InputError(
        f"{path}: the note on the architecture has {field} {value!r}; expected"
        f" {words}. Save the weights again."
      )
  for field, (value, values) in known.items():
    if value not in values:
      raise artifacts.InputError(
        f"{path}: the note on the architecture has {field} {value!r}; known are"
        f" {', '.join(values)}."
      )
  preprocessing_of(note, path)
  return note


def preprocessing_of(note, path):
  """How the images of a model are prepared.

  Args:
    note: As of `describe`.
    path: The file, for the error.

  Returns:
    `preprocess.Preprocessing`, or None if the file does not say.

  Raises:
    artifacts.InputError: It says what cannot be.
  """
  # Files of before there was a preprocessing do not say it.
  values = note.get("preprocessing")
  if values is None:
    return None
  try:
    return preprocess.from_dict(values)
  except (artifacts.InputError, TypeError, ValueError) as error:
    raise artifacts.InputError(
      f"{path}: the note on the architecture has a preprocessing that cannot"
      f" be: {error} Save the weights again."
    ) from error


def decided(note, base, asked, *, family, path):
  """Fields of the model that the file decides; refuses another architecture.

  Args:
    note: As of `describe`.
    base: Fields of `vit.ViT` that the name stands for.
    asked: Those that were asked for besides; they win over the file.
    family: Name of the family that was asked for.
    path: The file, for the error.

  Returns:
    Dict of activation, epsilon and pool, without what was asked for.

  Raises:
    artifacts.InputError: The file is of another family or structure.
  """
  wrong = []
  if note["family"] not in ("", family):
    wrong.append(f"family is {note['family']}, the name says {family}")
  wanted = _fields({**base, "pool": note["model"]["pool"], **asked})
  wrong += _differences(note, wanted, _STRUCTURE, "the name says")
  _refuse(wrong, path)
  fields = {name: note["model"][name] for name in (*_COMPUTED, "pool")}
  return {k: v for k, v in fields.items() if k not in asked}


def check(note, model, *, path):
  """Raises `artifacts.InputError` if the file is of another model.

  Args:
    note: As of `describe`.
    model: `vit.ViT`, or the model of big_vision; its pool may be another one.
    path: The file, for the error.
  """
  wanted = describe(model)["model"]
  names = (*_STRUCTURE, *_COMPUTED)
  _refuse(_differences(note, wanted, names, "the model has"), path)


def _fields(values):
  """Fields of a model as values of JSON; those it lacks as in big_vision."""
  fields = {}
  for name in (*_STRUCTURE, *_COMPUTED):
    fields[name] = values.get(name, _DEFAULTS[name])
  if isinstance(fields["patch_size"], tuple | list):
    fields["patch_size"] = fields["patch_size"][0]
  if fields["mlp_dim"] is None:
    fields["mlp_dim"] = 4 * fields["width"]
  if fields["cls_token"] is None:
    fields["cls_token"] = values.get("pool") in ("cls", vit.CLS_PATCH_MEAN)
  return fields


def _differences(note, wanted, names, word):
  return [
    f"{name} is {note['model'][name]}, {word} {wanted[name]}"
    for name in names
    if note["model"][name] != wanted[name]
  ]


def _refuse(wrong, path):
  if wrong:
    raise artifacts.InputError(
      f"{path} was saved from another architecture: {'; '.join(wrong)}. Ask for"
      " the model that it is of."
    )
