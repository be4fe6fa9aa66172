"""One table of many models: as they are, and aligned in every published way.

For each file of features and each variant: accuracy on test triplets with its
bootstrap interval, gain over the untouched features of the same model with its
paired interval, negative log likelihood, and, if there are repeated triplets,
how well uncertainty agrees with people's. "New objects" is the accuracy on
training triplets whose objects were held out of the fit, at the strength that
is best on them, so a little optimistic. The transform that the other numbers
are of has the strength that `--selection` says.

Zero-shot choices are by cosine. Their probabilities are those at the
temperature that is nearest to the soft targets of the training triplets, or to
the choices where there are no soft targets; a transform has temperature 1.

Every model and variant is saved as soon as it is done, in `OUT/models/
NAME/`: `VARIANT.npz`, the transform, and `VARIANT.json`. A second run fits only
what is missing, or whose inputs or settings changed. The table is in
`OUT/table.csv`, `.json`, `.svg` and `.png`.

Usage:
  python -m alignet_jax.teacher.compare --features clip=clip.npy dino=dino.npy \
    --triplets_train train_90.txt --triplets_test test_10.txt \
    --repeats repeats.npz --vice_embedding vice.npy --out runs/compare
"""

import argparse
import math
import re
import sys

from alignet_jax import artifacts
from alignet_jax.judgments import noise_ceiling
from alignet_jax.teacher import (
  compare_inputs,
  compare_rows,
  compare_table,
  stage,
)

_DEFAULT_VARIANTS = ("zero_shot", "naive", "global", "glocal", "hard", "soft")


def parse(argv=None):
  """The flags, checked as far as they can be without reading a file.

  Args:
    argv: Arguments; those of the process by default.

  Returns:
    `argparse.Namespace`. A wrong one ends the process with exit code 2.
  """
  parser = argparse.ArgumentParser(
    prog="python -m alignet_jax.teacher.compare",
    description="Compares models as they are and aligned in published ways.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--features", nargs="+", required=True, metavar="NAME=PATH", help="[n d]")
  add("--triplets_train", required=True, metavar="PATH", help="odd item last")
  add("--triplets_test", required=True, metavar="PATH", help="odd item last")
  add("--repeats", metavar="PATH", help=".npz of triplets and odd_counts")
  add("--vice_embedding", metavar="PATH", help="[n k], for the variant soft")
  add(
    "--variants",
    metavar="A,B",
    help=f"some of {', '.join(compare_rows.VARIANTS)}",
  )
  add("--out", required=True, metavar="DIR", help="made if it does not exist")
  # Defaults are those of configs/things_teacher.py:all.
  at_least = _at_least
  strengths = [1e-3, 3e-3, 1e-2, 3e-2]
  add("--strengths", nargs="+", type=at_least(0.0), default=strengths)
  add("--lr", type=at_least(0.0, open_end=True), default=3e-3)
  add("--lr_decay", choices=("constant", "cosine"), default="cosine")
  add("--batch_size", type=at_least(1), default=16384)
  add("--num_epochs", type=at_least(1), default=10)
  add(
    "--num_drawn",
    type=at_least(0),
    default=1_000_000,
    help="random triplets with soft targets, beside those judged; for soft",
  )
  add("--patience", type=at_least(0), default=0, help="0: no early stopping")
  add("--num_folds", type=at_least(2), default=3, help="of objects")
  add(
    "--selection",
    choices=stage.SELECTIONS,
    default="triplets",
    help="of the strength: by triplets or objects held out of training",
  )
  add(
    "--val_fraction", type=at_least(0.0, open_end=True, below=1.0), default=0.1
  )
  add("--seed", type=at_least(0), default=0)
  add("--rank", type=at_least(0), default=0, help="0: full")
  add("--per_feature", action="store_true", help="standardise each feature")
  add(
    "--local_features",
    nargs="+",
    default=[],
    metavar="NAME=PATH",
    help="items whose neighbours glocal keeps, instead of the objects",
  )
  add("--locality_weight", type=at_least(0.0, below=1.0), default=0.1)
  add("--locality_temperature", type=at_least(0.0, open_end=True), default=0.1)
  add(
    "--temperature",
    type=_temperature_flag,
    default="fit",
    help="of zero_shot, or fit",
  )
  add("--num_resamples", type=at_least(1), default=1000)
  add("--level", type=at_least(0.0, open_end=True, below=1.0), default=0.95)
  args = parser.parse_args(argv)
  try:
    args.features = _named_paths("--features", args.features)
    args.local_features = _named_paths("--local_features", args.local_features)
    args.variants = _variants(args.variants, args.vice_embedding)
  except artifacts.InputError as error:
    parser.error(str(error))
  return args


def main(argv=None):
  """Makes the table; returns the exit code.

  Args:
    argv: Arguments; those of the process by default.

  Returns:
    0, or 2 if something that was given is wrong.
  """
  args = parse(argv)
  settings = {name: getattr(args, name) for name in compare_rows.SETTINGS}
  try:
    out = compare_inputs.make_folder(args.out)
    inputs = compare_inputs.read(
      args.features,
      triplets_train=args.triplets_train,
      triplets_test=args.triplets_test,
      repeats=args.repeats,
      vice_embedding=args.vice_embedding,
      local_features=args.local_features,
    )
    num_shared = compare_inputs.num_shared(inputs.train, inputs.test)
    if num_shared:
      _log(
        f"warning: {num_shared} of {len(inputs.test)} test triplets are also "
        f"in {args.triplets_train}; their accuracy says nothing about new ones."
      )
    ceiling = None
    if inputs.repeats is not None:
      bounds = noise_ceiling.noise_ceiling(
        inputs.repeats[1], num_resamples=1, num_splits=1
      )
      ceiling = bounds["lower"].value, bounds["upper"].value
    rows = compare_rows.make(
      inputs, args.variants, settings, out / "models", log=_log
    )
    about = {
      "settings": settings,
      "sha256": inputs.digests,
      "num_objects": len(next(iter(inputs.features.values()))),
      "num_train": len(inputs.train),
      "num_test": len(inputs.test),
      "num_test_also_in_train": num_shared,
    }
    compare_table.write(out, rows, about=about, ceiling=ceiling)
  except artifacts.InputError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  print(compare_table.format_text(rows, ceiling=ceiling))
  return 0


def _log(line):
  print(line, file=sys.stderr, flush=True)


def _named_paths(flag, values):
  """Dict from name to path of NAME=PATH."""
  paths = {}
  for value in values:
    name, separator, path = value.partition("=")
    if not separator or not path:
      raise artifacts.InputError(
        f"{flag} holds {value!r}; expected NAME=PATH, such as clip={value}"
      )
    if not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
      raise artifacts.InputError(
        f"{flag} holds the name {name!r}, which becomes a folder; expected "
        "letters, digits and _ . + -, the first a letter or digit."
      )
    if name in paths:
      raise artifacts.InputError(f"{flag} holds the name {name!r} twice.")
    paths[name] = path
  return paths


def _variants(text, vice_embedding):
  """Names of variants; by default all that the inputs allow."""
  if text is None:
    if not vice_embedding:
      _log("Without --vice_embedding, the variant soft is left out.")
    return tuple(
      name
      for name in _DEFAULT_VARIANTS
      if vice_embedding or not compare_rows.needs_targets(name)
    )
  names = tuple(text.split(","))
  for name in names:
    if name not in compare_rows.VARIANTS:
      raise artifacts.InputError(
        f"--variants holds {name!r}; known are "
        f"{', '.join(compare_rows.VARIANTS)}."
      )
    if names.count(name) > 1:
      raise artifacts.InputError(f"--variants holds {name!r} twice.")
    if compare_rows.needs_targets(name) and not vice_embedding:
      raise artifacts.InputError(
        f"The variant {name!r} needs soft targets; give --vice_embedding, or "
        f"--variants without {name!r}."
      )
  return names


def _at_least(least, *, open_end=False, below=math.inf):
  """A flag's type: a number of the kind of `least`, in a range."""
  kind = type(least)

  def convert(text):
    allowed = f"{'more than' if open_end else 'at least'} {least:g}"
    allowed += f" and less than {below:g}" if below < math.inf else ""
    what = "a whole number" if kind is int else "a number"
    message = f"it is {text!r}; expected {what}, {allowed}."
    try:
      value = kind(text)
    except ValueError:
      raise argparse.ArgumentTypeError(message) from None
    if not least <= value < below or (open_end and value == least):
      raise argparse.ArgumentTypeError(message)
    return value

  return convert


def _temperature_flag(text):
  return text if text == "fit" else _at_least(0.0, open_end=True)(text)


if __name__ == "__main__":
  sys.exit(main())
