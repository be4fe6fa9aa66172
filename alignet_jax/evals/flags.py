"""The flags of `alignet_jax.evaluate`, and their values by themselves.

Usage:
  args = flags.parse(["--model=clip=clip.npy", "--out=runs/evaluation"])
  flags.pairs("--model", args.model)        # [("clip", "clip.npy")]
"""

import argparse
import re
import sys

from alignet_jax import artifacts, commands
from alignet_jax.evals import corruptions, score


def parse(argv=None):
  """The flags; a wrong one ends the process with exit code 2."""
  parser = argparse.ArgumentParser(
    prog="python -m alignet_jax.evaluate",
    description="Says how human-like models are, and how useful.",
    epilog="See the module's text for what --model takes.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--model", action="append", required=True, metavar="NAME=PATH")
  add("--aligned", action="append", default=[], metavar="NAME=MODEL:FILE.npz")
  add("--suite", choices=(*score.SUITES, "all"), default="all")
  add("--out", required=True, metavar="DIR", help="made if it does not exist")
  add(
    "--data",
    action="append",
    default=[],
    metavar="[NAME=]DIR",
    help="prepared; with a name of its own where two have the same",
  )
  add("--triplets", metavar="PATH", help="odd item last")
  add("--repeats", metavar="PATH", help=".npz of triplets and odd_counts")
  add(
    "--categories",
    metavar="PATH",
    help="table, a row per item of --triplets and of --embedding",
  )
  add("--column", metavar="NAME", help="of --categories")
  add("--levels", metavar="DIR", help="prepared; the same as --data")
  add(
    "--embedding",
    metavar="PATH",
    help="of people, such as VICE's: its dot products as similarities of all"
    " pairs",
  )
  add(
    "--photographs",
    metavar="CSV",
    help="with the columns file and things_index: --embedding's similarities"
    " of these pictures, too",
  )
  add(
    "--rdm",
    action="append",
    default=[],
    metavar="NAME=PATH",
    help="dissimilarities of your own; --sims the same of similarities",
  )
  add("--sims", action="append", default=[], metavar="NAME=PATH")
  add(
    "--groups",
    action="append",
    default=[],
    metavar="SET=TABLE:COLUMN",
    help="categories that the matrices of a set, such as mur92, are sorted by",
  )
  add(
    "--taxonomy", metavar="CSV", help="item, subordinate, basic, superordinate"
  )
  add(
    "--synsets",
    metavar="COLUMN",
    help="of WordNet ids in --taxonomy, instead of its levels",
  )
  add(
    "--wordnet",
    metavar="FILE",
    help="lines PARENT CHILD, or nltk for that package's WordNet",
  )
  add(
    "--depths",
    metavar="BASIC,SUPERORDINATE",
    default="9,6",
    help="steps below WordNet's root; it does not say which level is basic",
  )
  add("--base", metavar="NAME", help="model that others are compared with")
  add("--classification", action="append", default=[], metavar="NAME")
  add("--imagenet", metavar="NAME", help="which --classification is ImageNet")
  add("--hierarchy", metavar="DIR", help="of classes, for BREEDS")
  add(
    "--images",
    action="append",
    default=[],
    metavar="SET=PATH",
    help="pictures of an image set, such as mur92 or pets/train",
  )
  add("--data_dir", metavar="DIR", help="of TFDS; its own default")
  add("--output", default="pre_logits", help="of a backbone, such as cls")
  add(
    "--image_size",
    type=commands.whole(1),
    help="pixels that a backbone takes, if not those of its family",
  )
  add(
    "--severities",
    metavar="N,N",
    default="1,2,3,4,5",
    help="of corrupted pictures",
  )
  add("--batch_size", type=commands.whole(1), default=64)
  add("--rsatoolbox_draws", type=commands.whole(0), default=0)
  add("--title", default="Evaluation")
  add("--markdown", action="store_true", help="print the table of a README")
  add(
    "--rows",
    action="append",
    default=[],
    metavar="PATTERN",
    help="of that table: MEASURE, MEASURE/VARIANT or DATA/MEASURE/VARIANT, with"
    " * for any, separated by commas; the files and the page have all",
  )
  add(
    "--into",
    metavar="FILE[#NAME]",
    help="Markdown file that the table is put into, see above",
  )
  args = parser.parse_args(argv)
  args.command = sys.argv[1:] if argv is None else list(argv)
  if bool(args.categories) != bool(args.column):
    parser.error("--categories and --column belong together.")
  if args.repeats and not args.triplets:
    parser.error("--repeats needs --triplets.")
  if args.photographs and not args.embedding:
    parser.error("--photographs needs --embedding.")
  if bool(args.synsets) != bool(args.wordnet):
    parser.error("--synsets and --wordnet belong together.")
  if args.synsets and not args.taxonomy:
    parser.error("--synsets needs --taxonomy, the table of the column.")
  for flag, least in (("depths", 0), ("severities", 1)):
    setattr(args, flag, _whole_numbers(parser, args, flag, least))
  if len(args.depths) != 2 or args.depths[0] <= args.depths[1]:
    parser.error("--depths takes two numbers, the first one larger.")
  if not set(args.severities) <= set(corruptions.SEVERITIES):
    parser.error("--severities are 1 to 5.")
  if args.imagenet and args.imagenet not in args.classification:
    parser.error("--imagenet must be one of --classification.")
  return args


def _whole_numbers(parser, args, flag, least):
  """The numbers of a flag, separated by commas."""
  convert = commands.whole(least)
  try:
    return tuple(convert(text) for text in getattr(args, flag).split(","))
  except argparse.ArgumentTypeError as error:
    parser.error(f"argument --{flag}: {error}")


def pairs(flag, values):
  """Splits the values of a flag.

  Args:
    flag: Its name, for the error.
    values: Texts NAME=REST.

  Returns:
    List of (name, rest).

  Raises:
    artifacts.InputError: A text of another form, or a name that comes twice.
  """
  found = []
  for value in values:
    name, separator, rest = value.partition("=")
    if not separator or not rest or not re.fullmatch(r"\w[\w.+/-]*", name):
      raise artifacts.InputError(
        f"{flag} is {value!r}; expected NAME=PATH, the name of letters, digits "
        "and _ . + -"
      )
    if name in dict(found):
      raise artifacts.InputError(f"{flag} holds the name {name!r} twice.")
    found.append((name, rest))
  return found
