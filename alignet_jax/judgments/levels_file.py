"""Reader of the Levels data set: three images of ImageNet, one named odd.

The release (gin.g-node.org/fborn/Dataset_Levels, `pruned_dataset.pkl`) is a
pickle of a dict from participant to a list of trials, each a dict (paper.md,
section D). It is read without running it, see `plain_pickle`.

Usage:
  judged = levels_file.load_levels("pruned_dataset.pkl")   # records.Judgments
  coarse = judged.take(judged.level == judged.levels.index("coarse"))
"""

import ntpath
import posixpath

import numpy as np

from alignet_jax import artifacts
from alignet_jax.judgments import plain_pickle, records, tables

# The names of the release, and ours; the order is that of evals.levels.NAMES.
LEVELS = {
  "between_class": "coarse",
  "within_class": "fine",
  "class_border": "boundary",
}

# Experimental trials of the release: 123,043 in all.
PUBLISHED_COUNTS = {"coarse": 49_045, "fine": 49_606, "boundary": 24_392}

EXPERIMENTAL = "exp_trial"

_IMAGES = ("image1Path", "image2Path", "image3Path")

# Only these are cut off, so that a dot in a name is not taken for one.
_EXTENSIONS = (
  ".jpeg",
  ".jpg",
  ".png",
  ".bmp",
  ".gif",
  ".webp",
  ".tif",
  ".tiff",
)


def load_levels(path, *, check_counts=True, rt_field=None, rt_unit="ms"):
  """Reads the experimental trials of the Levels data set.

  Args:
    path: Pickle of plain containers: {participant: [trial, ...]}. A trial has
      image1Path, image2Path, image3Path, selected_image (the odd one, trap 15
      of paper.md), triplet_type and exp_trial_type; all but those of type
      "exp_trial" (practice, catch trials) are left out.
    check_counts: Whether each level must have as many trials as the release;
      False for other files of this form.
    rt_field: Field with reaction times, which may be None in a trial; or None
      to read none. The name in the release is not known to us.
    rt_unit: "ms" or "s", the unit of `rt_field`.

  Returns:
    `records.Judgments` with `levels` as the values of `LEVELS`. Stimuli are the
    sorted base names of the images, without folder and extension, and
    participants are in sorted order. Rows are in the order of the file.

  Raises:
    artifacts.InputError: If the file is missing, damaged, no plain pickle, of
      another form, or has other counts.
  """
  people = plain_pickle.read(path)
  if type(people) is not dict:
    raise artifacts.InputError(
      f"{path} is {tables.shown(people)}; expected a dict from participant to "
      "a list of trials."
    )
  stimuli, triplets, participant, level, rt = {}, [], [], [], []
  types = set()
  known = [_participant(path, key) for key in people]
  for row, (key, trials) in enumerate(zip(known, people.values(), strict=True)):
    if type(trials) not in (list, tuple):
      raise artifacts.InputError(
        f"{path}, participant {tables.shown(key)}: expected a list of trials, "
        f"and it is {tables.shown(trials)}."
      )
    for number, trial in enumerate(trials, start=1):
      where = f"{path}, participant {tables.shown(key)}, trial {number}"
      if type(trial) is not dict:
        raise artifacts.InputError(
          f"{where}: it is {tables.shown(trial)}; expected a dict."
        )
      kind = trial.get("exp_trial_type")
      if kind != EXPERIMENTAL:
        types.add(tables.shown(kind))
        continue
      images, odd, name = _read_trial(where, trial)
      rows = [stimuli.setdefault(image, len(stimuli)) for image in images]
      rows.append(rows.pop(odd))
      triplets.append(rows)
      participant.append(row)
      level.append(list(LEVELS.values()).index(name))
      if rt_field is not None:
        rt.append(_reaction_time(where, trial, rt_field))
  if not triplets:
    raise artifacts.InputError(
      f"{path} holds no trial whose exp_trial_type is {EXPERIMENTAL!r}; it has "
      f"{', '.join(sorted(types)[:10]) or 'none'}."
    )
  if len(set(known)) != len(known):
    raise artifacts.InputError(
      f"{path}: two participants have the same name once numbers are text."
    )
  if check_counts:
    _check_counts(path, np.bincount(level, minlength=len(LEVELS)))
  names, rows = tables.sorted_rows(tuple(stimuli), triplets)
  people, participant = tables.sorted_rows(tuple(known), participant)
  return records.Judgments(
    rows,
    names,
    participant,
    people,
    rt=tables.check_seconds(f"{path}, {rt_field}", rt, unit=rt_unit)
    if rt_field is not None
    else None,
    level=np.array(level, np.int32),
    levels=tuple(LEVELS.values()),
  )


def base_name(image):
  """The name of an image without its folder and its extension.

  Args:
    image: Path with slashes or backslashes, such as
      "train/n01440764/n01440764_10026.JPEG".

  Returns:
    Such as "n01440764_10026".
  """
  name = ntpath.basename(posixpath.basename(image))
  stem, extension = posixpath.splitext(name)
  return stem if extension.lower() in _EXTENSIONS else name


def _participant(path, key):
  if not isinstance(key, (str, int)) or isinstance(key, bool) or key == "":
    raise artifacts.InputError(
      f"{path}: a participant is {tables.shown(key)}; expected a name or a "
      "whole number."
    )
  return str(key)


def _read_trial(where, trial):
  """The three images, the position of the odd one, and the level."""
  values = {}
  for field in (*_IMAGES, "selected_image", "triplet_type"):
    value = trial.get(field)
    if not isinstance(value, str) or not value:
      met = tables.shown(value) if field in trial else "missing"
      raise artifacts.InputError(f"{where}: {field} is {met}; expected a name.")
    values[field] = value
  images = [base_name(values[field]) for field in _IMAGES]
  if not all(images) or len(set(images)) < 3:
    raise artifacts.InputError(
      f"{where}: the images are {tables.shown(', '.join(images))}; expected "
      "three different names."
    )
  odd = base_name(values["selected_image"])
  if odd not in images:
    raise artifacts.InputError(
      f"{where}: selected_image is {tables.shown(odd)}; expected one of "
      f"{tables.shown(', '.join(images))}."
    )
  if values["triplet_type"] not in LEVELS:
    raise artifacts.InputError(
      f"{where}: triplet_type is {tables.shown(values['triplet_type'])}; "
      f"expected {', '.join(LEVELS)}."
    )
  return images, images.index(odd), LEVELS[values["triplet_type"]]


def _reaction_time(where, trial, field):
  if field not in trial:
    raise artifacts.InputError(
      f"{where}: there is no {field!r}; it has "
      f"{tables.shown(', '.join(map(str, trial)))}."
    )
  return tables.number_or_none(where, field, trial[field])


def _check_counts(path, counts):
  met = dict(zip(LEVELS.values(), counts.tolist(), strict=True))
  if met != PUBLISHED_COUNTS:
    table = ", ".join(
      f"{name} {met[name]:,} (published {count:,})"
      for name, count in PUBLISHED_COUNTS.items()
    )
    raise artifacts.InputError(
      f"{path} has {sum(met.values()):,} experimental trials, and the release "
      f"has {sum(PUBLISHED_COUNTS.values()):,}: {table}. It is another version "
      "or incomplete; --no_check_counts (check_counts=False) reads it."
    )
