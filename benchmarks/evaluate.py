"""Figures of the evaluation: seconds, k-shot beside big_vision, Mur 92.

Usage:
  PYTHONPATH=. python benchmarks/evaluate.py speed
  PYTHONPATH=. python benchmarks/evaluate.py fewshot --tiny_imagenet=DIR \
    [--features=TRAIN.npy,TEST.npy]
  PYTHONPATH=. python benchmarks/evaluate.py mur92 --mat=\
    Kriegeskorte_Neuron2008_supplementalData.mat --rdms=92_behavRDMs.mat \
    --weights=dinov2_vits14.safetensors --photographs=images.csv \
    --vice_embedding=vice.npy --out=DIR [--backbone=NAME=FOLDER]

speed: the alignment suite for a random model of 1,854 objects and 768 features
against 50,000 answers by 500 people, 220 repeated triplets, the similarities of
all pairs of an embedding, 48 and 92 items (16 people), and a taxonomy.

fewshot: the accuracies of `evals.fewshot` on Tiny ImageNet (DIR holds train.tar
and val.tar) beside the least squares of big_vision's evaluator: its own
functions if `big_vision` can be imported, else the same steps written out here,
by an eigendecomposition in float32. Features are those of the files, in the
order of the archives, or pixels averaged to 12 x 12.

mur92: the 92 photographs through the backbone, as they are and through a map
that is fitted on other photographs (those of images.csv with a things_index,
with VICE's similarities), against 16 people with their noise ceiling.
--backbone adds one that is not ours: FOLDER holds mur92 and photographs, each
with features.npy and index.csv, named as in OUT/mur92 and images.csv.
"""

import argparse
import csv
import io
import pathlib
import sys
import tarfile
import time

import numpy as np
import PIL.Image

from alignet_jax import artifacts, evaluate, features
from alignet_jax.evals import (
  choice_scores,
  fewshot,
  human_data,
  models,
  rsa_scores,
  score,
)
from alignet_jax.judgments import from_embedding, mat_file, similarity
from alignet_jax.teacher import selection

SHOTS = (1, 5, 10, 25)

# Of the map for Mur 92; those of benchmarks/photographs.py, with fewer
# strengths and triplets.
FIT = {"lr": 3e-3, "lr_decay": "cosine", "batch_size": 4096, "patience": 0}
STRENGTHS = (0.03, 0.3, 3.0)


def main():
  """Runs one of the parts."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("part", choices=("speed", "fewshot", "mur92"))
  parser.add_argument("--tiny_imagenet", type=pathlib.Path)
  parser.add_argument("--features")
  parser.add_argument("--mat")
  parser.add_argument("--rdms")
  parser.add_argument("--weights")
  parser.add_argument("--photographs", type=pathlib.Path)
  parser.add_argument("--vice_embedding")
  parser.add_argument("--model", default="dinov2_s14")
  parser.add_argument("--output", default="cls")
  parser.add_argument("--backbone", action="append", default=[])
  parser.add_argument("--out", type=pathlib.Path)
  args = parser.parse_args()
  {"speed": speed, "fewshot": few_shot, "mur92": mur92}[args.part](args)
  return 0


def speed(args):
  """Prints seconds per data set and measure."""
  del args
  np_rng = np.random.default_rng(0)
  x = np_rng.normal(size=(1854, 768)).astype(np.float32)
  human = np_rng.gamma(1.0, size=(1854, 40)).astype(np.float32)
  drawn = from_embedding.draw(human, 50_220, seed=0)
  triplets = drawn.triplets[:50_000]
  repeats = drawn.triplets[50_000:]
  counts = np_rng.integers(1, 100, (220, 3))
  groups = np_rng.integers(0, 27, 1854)
  levels = {
    "basic": [f"basic{i // 9}" for i in range(1854)],
    "superordinate": [f"super{g}" for g in groups],
  }
  persons = np.stack(
    [
      rsa_scores.model_rdm(np_rng.normal(size=(92, 30)), "cosine")
      for _ in range(16)
    ]
  )
  data = [
    choice_scores.Choices(
      "things",
      triplets,
      (repeats, counts),
      participant=np_rng.integers(0, 500, 50_000),
      rt=np_rng.gamma(2.0, size=50_000),
      categories={
        f"category{g}": np.flatnonzero(groups == g) for g in range(27)
      },
    ),
    rsa_scores.dense("things_dense", human),
    rsa_scores.RdmSet("rdm48", rsa_scores.model_rdm(human[:48], "cosine")),
    rsa_scores.RdmSet("mur92", persons.mean(axis=0), persons),
    human_data.Taxonomy(levels),
  ]
  of_models = {
    "random": {
      "things": x,
      "things_dense": x,
      "rdm48": x[:48],
      "mur92": x[:92],
      "taxonomy": x,
    }
  }
  start, used = time.monotonic(), time.process_time()
  rows, seconds = [], {}
  for people in data:
    before = time.process_time()
    made, spent = evaluate.evaluate(of_models, [people], suite="alignment")
    rows, seconds = rows + made, seconds | spent
    print(
      f"{people.name}: {time.process_time() - before:.1f} CPU-seconds",
      flush=True,
    )
  for (_, dataset), value in seconds.items():
    print(f"{dataset:<14} {value:7.2f} s")
  skipped = sum(row.is_skipped for row in rows)
  print(
    f"{len(rows)} scores, {skipped} skipped, in "
    f"{time.monotonic() - start:.1f} s ({time.process_time() - used:.1f} "
    "CPU-seconds)",
  )


def few_shot(args):
  """Prints accuracies of both implementations and their difference."""
  if args.features:
    paths = args.features.split(",")
    labels = [_read_tar(args.tiny_imagenet / f"{s}.tar")[1] for s in _SPLITS]
    x = [artifacts.read_npy(path).astype(np.float32) for path in paths]
  else:
    read = [_read_tar(args.tiny_imagenet / f"{s}.tar") for s in _SPLITS]
    x, labels = zip(*read, strict=True)
  classes, train_ids = np.unique(labels[0], return_inverse=True)
  test_ids = np.searchsorted(classes, labels[1])
  fit, what = _big_vision()
  print(
    f"{len(train_ids)} training and {len(test_ids)} test images of "
    f"{len(classes)} classes, {x[0].shape[1]} features; beside {what}"
  )
  worst = 0.0
  for num_shots in SHOTS:
    _, ours = fewshot.k_shot_accuracy(
      x[0], train_ids, x[1], test_ids, num_shots=num_shots, seed=None
    )
    theirs = []
    for seed in range(len(ours)):
      rng = np.random.default_rng(seed)
      shuffled = [
        rng.permutation(np.where(train_ids == label)[0])
        for label in range(len(classes))
      ]
      rows = np.concatenate([one[:num_shots] for one in shuffled])
      theirs.append(
        fit(x[0][rows], train_ids[rows], x[1], test_ids, len(classes))
      )
    gap = np.abs(ours - theirs).max()
    worst = max(worst, gap)
    print(
      f"{num_shots:>2}-shot: ours {np.round(ours, 5).tolist()}, theirs "
      f"{np.round(theirs, 5).tolist()}, largest difference {gap:.1e}"
    )
  print(f"largest difference in all: {worst:.1e}")


_SPLITS = ("train", "val")


def _read_tar(path):
  """Pixels averaged to 12 x 12, f32[n 432], and the class of each image."""
  x, labels = [], []
  with tarfile.open(path) as archive:
    for member in archive:
      if member.isfile():
        data = archive.extractfile(member).read()
        image = PIL.Image.open(io.BytesIO(data)).convert("RGB")
        small = image.resize((12, 12), PIL.Image.Resampling.BOX)
        x.append(np.asarray(small, np.float32).ravel() / 255)
        labels.append(pathlib.PurePosixPath(member.name).parent.name)
  return np.stack(x), np.array(labels)


def _big_vision():
  """Function to an accuracy, and whose it is."""
  try:
    from big_vision.evaluators import fewshot_lsr as theirs
  except ImportError:
    return _eigen, "the same steps, written out (no big_vision here)"

  def run(x, ids, test, test_ids, num_classes):
    cache = theirs._precompute_cache(x, ids, num_classes)
    return float(theirs._eig_fewshot_acc_fn(cache, test, test_ids, fewshot.L2))

  return run, "big_vision's own functions"


def _eigen(x, ids, test, test_ids, num_classes):
  """Ridge regression by the eigenvectors of the Gram matrix, in float32."""
  mean = x.mean(axis=0, keepdims=True)
  std = x.std(axis=0, keepdims=True) + np.float32(1e-5)

  def prepare(raw):
    constant = ((0, 0), (0, 1))
    return np.pad((raw - mean) / std, constant, constant_values=100.0)

  x = prepare(x)
  y = np.where(ids[:, None] == np.arange(num_classes), 1.0, -1.0)
  y = y.astype(np.float32)
  if x.shape[0] >= x.shape[1]:
    values, vectors = np.linalg.eigh(x.T @ x)
    left, right = vectors, vectors.T @ (x.T @ y)
  else:
    values, vectors = np.linalg.eigh(x @ x.T)
    left, right = x.T @ vectors, vectors.T @ y
  weights = (left / (values + np.float32(fewshot.L2))) @ right
  return float(np.mean((prepare(test) @ weights).argmax(axis=1) == test_ids))


def mur92(args):
  """Prints the table of the base and the aligned models."""
  shown = args.out / "mur92"
  shown.mkdir(parents=True, exist_ok=True)
  names = []
  for number, entry in enumerate(mat_file.read(args.mat)["stimuli_92objs"]):
    names.append(f"{number:02d}.png")
    PIL.Image.fromarray(entry["image"]).save(shown / names[-1])
  with open(args.photographs, newline="", encoding="utf-8") as f:
    rows = [row for row in csv.DictReader(f) if row["things_index"]]
  index = args.out / "photographs.csv"
  index.write_text("\n".join(["file", *(row["file"] for row in rows), ""]))
  folders = {"mur92": shown, "photographs": index}
  extra = {"photographs": [f"--root={args.photographs.parent / 'images'}"]}
  for name, path in folders.items():
    code = features.main(
      [
        f"--model={args.model}",
        f"--weights={args.weights}",
        f"--images={path}",
        f"--out={args.out / 'features' / name}",
        f"--output={args.output}",
        *extra.get(name, ()),
      ]
    )
    if code:
      sys.exit(code)
  concepts = [int(float(row["things_index"])) for row in rows]
  embedding = np.load(args.vice_embedding)[concepts]
  drawn = from_embedding.draw(embedding, 20_000, seed=0)
  of_models = {}
  others = [text.split("=", 1) for text in args.backbone]
  for name, folder in [(args.model, args.out / "features"), *others]:
    base = models.open_model(f"{name} base", folder)
    x = models.rows_of(base, "photographs", items=[row["file"] for row in rows])
    transform = selection.by_objects(
      x,
      drawn.triplets,
      target_logprobs=drawn.target_logprobs,
      num_folds=3,
      strengths=STRENGTHS,
      num_epochs=25,
      seed=0,
      **FIT,
    ).transform
    transform.save(args.out / f"{name}_transform.npz")
    of_models[base.name] = base
    aligned = f"{name} aligned"
    of_models[aligned] = models.transformed(aligned, base, transform)
  data = similarity.load_mur92(args.rdms)
  people = rsa_scores.RdmSet("mur92", data.rdm, data.per_person, tuple(names))
  found, _ = evaluate.evaluate(of_models, [people], suite="alignment")
  print(score.format_text(found))
  print(score.format_markdown(found))


if __name__ == "__main__":
  sys.exit(main())
