"""Teachers of photographs: what they understand, and what they leave in place.

  python benchmarks/photographs.py --features=F.npy --images=images.csv \
    --vice_embedding=V.npy [--out=DIR]

F holds a row per line of images.csv, whose column `things_index` says which
row of the VICE embedding shows the same concept (empty: none). Judgments about
the matched concepts are drawn from the embedding.

Held-out RSA: of five folds of concepts each is left out once; the strength is
selected, and the map fitted, by the other four. Spearman correlation of the
left-out concepts' similarities with VICE's dot products, over pairs in the same
fold, mean of the folds; cosines for the features as they are, and for the map
both dot products, which it is fitted by, and cosines. Folds are drawn anew
--repeats times.

Trade-off: for each variant and strength, odd-one-out accuracy on concepts that
were left out of the fit (3 folds), and the share of the 10 nearest neighbours
that the map leaves among one half of the photographs; gLocal's locality loss
sees the other half only. --out gets the figure.
"""

import argparse
import csv
import dataclasses
import pathlib
import sys

import numpy as np

from alignet_jax import artifacts
from alignet_jax.evals import neighbours, plots, rsa
from alignet_jax.judgments import from_embedding
from alignet_jax.teacher import fit, selection, stage

FIT = {
  "lr": 3e-3,
  "lr_decay": "cosine",
  "batch_size": 16_384,
  "patience": 0,
}
NUM_TRIPLETS = 100_000
STRENGTHS = tuple(float(x) for x in np.geomspace(1e-3, 10.0, 9))
LOCALITY_WEIGHTS = (0.01, 0.03, 0.1, 0.25)


def main():
  """Prints both tables."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--features", required=True)
  parser.add_argument("--images", required=True)
  parser.add_argument("--vice_embedding", required=True)
  parser.add_argument("--out", type=pathlib.Path)
  parser.add_argument("--num_folds", type=int, default=5)
  parser.add_argument("--num_epochs", type=int, default=25)
  parser.add_argument("--per_feature", action="store_true")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--only", choices=("rsa", "trade_off"))
  args = parser.parse_args()
  features = np.load(args.features).astype(np.float32)
  with open(args.images, newline="", encoding="utf-8") as f:
    index = [row["things_index"] for row in csv.DictReader(f)]
  matched = np.array([i for i, value in enumerate(index) if value != ""])
  concepts = np.array([int(float(index[i])) for i in matched])
  embedding = np.load(args.vice_embedding)[concepts]
  print(f"{len(features)} photographs, {len(matched)} of them matched")
  if args.only != "trade_off":
    held_out_rsa(features[matched], embedding, args)
  if args.only != "rsa":
    trade_off(features, matched, embedding, args)
  return 0


def held_out_rsa(x, embedding, args):
  """RSA of concepts that neither the fit nor the selection saw."""
  people = -(embedding @ embedding.T)
  print(f"base, all pairs: {rsa.spearman(rsa.rdm(x), people):.4f}")
  for repeat in range(args.repeats):
    order = np.random.default_rng(args.seed + repeat).permutation(len(x))
    scores = {"base": [], "soft, dot": [], "soft, cosine": []}
    for fold in np.array_split(order, args.num_folds):
      z = fit_others(x, embedding, fold, args).apply(x[fold])
      here = people[np.ix_(fold, fold)]
      for name, rdm in (
        ("base", rsa.rdm(x[fold])),
        ("soft, dot", -z @ z.T),
        ("soft, cosine", rsa.rdm(z)),
      ):
        scores[name].append(rsa.spearman(rdm, here))
    for name, values in scores.items():
      shown = " ".join(f"{value:.3f}" for value in values)
      print(
        f"held-out RSA, {name}: {np.mean(values):.4f} ({shown})", flush=True
      )


def fit_others(x, embedding, fold, args):
  """The map that is selected and fitted without a fold of concepts."""
  seen = np.setdiff1d(np.arange(len(x)), fold)
  drawn = from_embedding.draw(embedding[seen], NUM_TRIPLETS, seed=args.seed)
  return selection.by_objects(
    x[seen],
    drawn.triplets,
    target_logprobs=drawn.target_logprobs,
    num_folds=3,
    strengths=STRENGTHS,
    num_epochs=args.num_epochs,
    per_feature=args.per_feature,
    seed=args.seed,
    **FIT,
  ).transform


def trade_off(features, matched, embedding, args):
  """Accuracy on new concepts against neighbours kept, of every variant."""
  drawn = from_embedding.draw(embedding, NUM_TRIPLETS, seed=args.seed)
  order = np.random.default_rng(args.seed).permutation(len(features))
  seen, judged = np.array_split(features[order], 2)
  curves = {}
  for name, weight in (
    ("naive", 0.0),
    ("global", 0.0),
    *(("glocal", weight) for weight in LOCALITY_WEIGHTS),
  ):
    objective = stage.VARIANTS[name].objective
    fixed = {
      "objective": dataclasses.replace(objective, locality_weight=weight),
      "local_features": seen,
      "strengths": STRENGTHS,
      "num_epochs": args.num_epochs,
      "seed": args.seed,
      **FIT,
    }
    x = features[matched]
    table = selection.by_objects(x, drawn.triplets, num_folds=3, **fixed).table
    whole = fit.fit_transform(
      x, drawn.triplets, val_triplets=drawn.triplets[:1000], **fixed
    )
    for row, transform in zip(table, whole.transforms, strict=True):
      row["neighbours_kept"] = neighbours.kept(transform, judged)
    label = f"{name} {weight:g}" if weight else name
    curves[label] = table
    for row in table:
      print(
        f"{label:<12} strength {row['strength']:<8.3g} accuracy"
        f" {row['val_accuracy']:.4f}, neighbours kept"
        f" {row['neighbours_kept']:.4f}",
        flush=True,
      )
  print_at_equal_accuracy(curves)
  if args.out:
    args.out.mkdir(parents=True, exist_ok=True)
    selections = [
      plots.Selection.from_table(label, table)
      for label, table in curves.items()
    ]
    artifacts.write_text(
      args.out / "trade_off.svg", plots.draw_trade_off(selections)
    )


def print_at_equal_accuracy(curves, tolerance=0.003):
  """For each naive map, the gLocal one as accurate that keeps most."""
  glocal = [
    row
    for label, table in curves.items()
    if label.startswith("glocal")
    for row in table
  ]
  for row in curves["naive"]:
    as_good = [
      other
      for other in glocal
      if abs(other["val_accuracy"] - row["val_accuracy"]) <= tolerance
    ]
    best = max(as_good, key=lambda r: r["neighbours_kept"], default=None)
    shown = "none" if best is None else f"{best['neighbours_kept']:.3f}"
    print(
      f"naive {row['val_accuracy']:.4f} keeps {row['neighbours_kept']:.3f}; "
      f"glocal as accurate (within {tolerance}) keeps {shown}"
      + (f" at {best['val_accuracy']:.4f}" if best else "")
    )


if __name__ == "__main__":
  sys.exit(main())
