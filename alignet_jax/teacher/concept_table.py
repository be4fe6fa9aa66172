"""Which human concepts a model represents well, as one command.

With --dimensions (VICE or SPoSE): how well each interpretable dimension can be
predicted from the features of objects that the ridge regression never saw, and
the odd-one-out accuracy of the predicted dimensions. With --categories: the
accuracy of the features on the triplets about each category; --transform
applies a teacher first. See `concepts`.

Writes `dimensions.csv`, `categories.csv` and `concepts.json` into --out.

Usage:
  python -m alignet_jax.teacher.concept_table --features clip.npy \
    --triplets test_10.txt --dimensions vice.npy \
    --categories things_concepts.tsv --column "Top-down Category (WordNet)" \
    --transform soft.npz --out runs/concepts
"""

import argparse
import csv
import io
import sys

import numpy as np

from alignet_jax import artifacts, commands, odd_one_out
from alignet_jax.judgments import things
from alignet_jax.teacher import (
  compare_inputs,
  compare_table,
  concepts,
  zero_shot,
)
from alignet_jax.teacher import transform as transform_lib

# Rows of each kind that are printed; the files have all.
_NUM_PRINTED = 5


def parse(argv=None):
  """The flags; a wrong one ends the process with exit code 2."""
  parser = argparse.ArgumentParser(
    prog="python -m alignet_jax.teacher.concept_table",
    description="Says which human concepts a model represents well.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--features", required=True, metavar="PATH", help="[n d]")
  add("--triplets", required=True, metavar="PATH", help="odd item last")
  add("--dimensions", metavar="PATH", help="[n k], such as VICE's")
  add("--categories", metavar="PATH", help="table with a row per object")
  add("--column", metavar="NAME", help="of --categories")
  add(
    "--membership",
    choices=concepts.MEMBERSHIPS,
    default="any",
    help="which items of a triplet must be of the category",
  )
  add("--transform", metavar="PATH", help=".npz of a teacher, for --categories")
  add("--num_folds", type=commands.whole(2), default=5, help="of objects")
  add("--seed", type=commands.whole(0), default=0)
  add("--out", required=True, metavar="DIR", help="made if it does not exist")
  args = parser.parse_args(argv)
  if not args.dimensions and not args.categories:
    parser.error("give --dimensions, --categories, or both.")
  if bool(args.categories) != bool(args.column):
    parser.error("--categories and --column belong together.")
  if args.transform and not args.categories:
    parser.error("--transform is for --categories only.")
  return args


def run(args, *, log=print):
  """Makes the tables.

  Args:
    args: Of `parse`.
    log: Called with each line that is printed.

  Raises:
    artifacts.InputError: A file that cannot be used; names it.
  """
  out = compare_inputs.make_folder(args.out)
  features = compare_inputs.read_features(args.features)
  triplets = things.load_triplets(args.triplets, num_objects=len(features))
  summary = {"chance": odd_one_out.CHANCE}
  try:
    if args.dimensions:
      dimensions = things.load_embedding(
        args.dimensions, num_objects=len(features)
      )
      summary["dimensions"] = _dimensions(
        features, dimensions, triplets, args, out, log
      )
    if args.categories:
      summary["categories"] = _categories(features, triplets, args, out, log)
  except artifacts.InputError:
    raise
  except ValueError as error:
    raise artifacts.InputError(f"{args.features}: {error}") from error
  artifacts.write_json(out / "concepts.json", summary)


def _dimensions(features, dimensions, triplets, args, out, log):
  found = concepts.regress(
    features, dimensions, triplets, num_folds=args.num_folds, seed=args.seed
  )
  rows = [
    {"dimension": index, "r2": float(r2)} for index, r2 in enumerate(found.r2)
  ]
  _write_csv(out / "dimensions.csv", rows)
  if not found.num_triplets:
    log(
      f"warning: no triplet has all its objects in one of {args.num_folds} "
      "folds; use fewer folds or more triplets for an accuracy."
    )
  value, low, high = found.accuracy
  log(
    f"{dimensions.shape[1]} dimensions of held-out objects: mean R2 "
    f"{np.nanmean(found.r2):.4f}; accuracy of the predicted ones {value:.4f} "
    f"[{low:.4f}, {high:.4f}], of the given ones {found.target_accuracy:.4f} "
    f"({found.num_triplets} triplets)"
  )
  known = [row for row in rows if not np.isnan(row["r2"])]
  known.sort(key=lambda row: -row["r2"])
  for title, part in (
    ("best", known[:_NUM_PRINTED]),
    ("worst", known[-_NUM_PRINTED:]),
  ):
    shown = ", ".join(f"{row['dimension']} ({row['r2']:.3f})" for row in part)
    log(f"  {title} dimensions (R2): {shown}")
  return compare_table.without_nan(
    {
      "r2_mean": float(np.nanmean(found.r2)),
      "accuracy": value,
      "accuracy_low": low,
      "accuracy_high": high,
      "accuracy_of_given": found.target_accuracy,
      "num_triplets": found.num_triplets,
    }
  )


def _categories(features, triplets, args, out, log):
  categories = concepts.load_categories(
    args.categories, args.column, num_objects=len(features)
  )
  if args.transform:
    transform = transform_lib.AffineTransform.load(args.transform)
    logits = zero_shot.logits(
      transform.apply(features), triplets, similarity="dot"
    )
  else:
    logits = zero_shot.logits(features, triplets)
  correct = np.asarray(odd_one_out.choose(logits)) == 2
  scores = concepts.by_category(
    correct, triplets, categories, membership=args.membership, seed=args.seed
  )
  _write_csv(out / "categories.csv", [score._asdict() for score in scores])
  log(f"accuracy {correct.mean():.4f}, by category:")
  for score in scores:
    log(
      f"  {score.name:<24} {score.accuracy:.4f} [{score.low:.4f}, "
      f"{score.high:.4f}]  {score.num_triplets} triplets, "
      f"{score.num_objects} objects"
    )
  return {"accuracy": float(correct.mean()), "membership": args.membership}


def _write_csv(path, rows):
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
  writer.writeheader()
  for row in rows:
    writer.writerow(compare_table.without_nan(row))  # Empty where unknown.
  artifacts.write_text(path, text.getvalue())


def main(argv=None):
  """Runs the command; returns the exit code."""
  return commands.exit_code(lambda: run(parse(argv)))


if __name__ == "__main__":
  sys.exit(main())
