"""Tiny ImageNet with a third of its THINGS concepts held out, and a teacher.

Held out means: no judgment about these concepts and none of their images is
seen before the evaluation. The teacher is a ViT's features of the other
classes' images, through a map fitted to an embedding's judgments about their
class means.

Usage:
  heldout_concepts.prepare(args)                   # files below args.out
  judged = heldout_concepts.Judged.open(args.out, args.vice_embedding)
  judged.hits(z).mean()
"""

import csv
import dataclasses
import pathlib
import sys
import tarfile

import numpy as np

from alignet_jax import artifacts, features, odd_one_out
from alignet_jax.backbones import features as features_lib
from alignet_jax.evals import bootstrap
from alignet_jax.images import lists
from alignet_jax.judgments import from_embedding, simulated
from alignet_jax.teacher import selection
from alignet_jax.teacher import transform as transform_lib
from alignet_jax.triplets import labels

MODEL = "dinov2_s14"
TEACHER_SIZE = 98  # Pixels.
FIT = {"lr": 3e-3, "lr_decay": "cosine", "batch_size": 16_384, "patience": 0}
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
NUM_JUDGMENTS = 100_000
SEED = 0  # Of the split, the judgments and the triplets of the evaluation.
NUM_SHOWINGS = 3  # Triplets of images for each triple of concepts.
HELD_OUT_PER_CLASS = 10  # Images of val.tar.


@dataclasses.dataclass(frozen=True)
class Split:
  """Classes by their use; wnids, sorted.

  Attributes:
    seen: Class to row of the embedding: concepts of the teacher's fit.
    held_out: The same of those that nothing sees before the evaluation.
    others: Classes that are no THINGS concept; images without judgments.
  """

  seen: dict
  held_out: dict
  others: list


def split(rows, *, seed):
  """Divides the classes; two of one concept are on the same side.

  Args:
    rows: Dicts with "wnid" and "things_index", "" where there is none.
    seed: Decides which third of the concepts is held out.

  Returns:
    `Split`.
  """
  concept = {
    row["wnid"]: int(float(row["things_index"]))
    for row in sorted(rows, key=lambda row: row["wnid"])
    if row["things_index"] != ""
  }
  concepts = sorted(set(concept.values()))
  order = np.random.default_rng(seed).permutation(concepts)
  left_out = set(order[: len(concepts) // 3].tolist())
  return Split(
    seen={w: c for w, c in concept.items() if c not in left_out},
    held_out={w: c for w, c in concept.items() if c in left_out},
    others=sorted({row["wnid"] for row in rows} - set(concept)),
  )


def draw_triples(concepts, image_concepts, *, num_showings, seed):
  """All triples of different concepts, each with images drawn for it.

  Args:
    concepts: Sequence of c different concepts.
    image_concepts: int[n] concept of each image; all that there are.
    num_showings: Draws of images for each triple.
    seed: Of the draws.

  Returns:
    int64[t 3] rows of images and int64[t 3] their concepts.
  """
  first, second, third = np.meshgrid(*[np.arange(len(concepts))] * 3)
  ordered = (first < second) & (second < third)
  places = np.stack([first, second, third], axis=-1)[ordered]
  triples = np.tile(np.asarray(concepts)[places], (num_showings, 1))
  np_rng = np.random.default_rng(seed)
  images = np.empty_like(triples)
  for concept in concepts:
    here = triples == concept
    images[here] = np_rng.choice(
      np.flatnonzero(np.asarray(image_concepts) == concept), here.sum()
    )
  return images, triples


def prepare(args):
  """Images, features and the teacher's map; each is made once.

  Returns:
    Path of the map.
  """
  with open(args.tiny_imagenet / "classes.csv", newline="") as f:
    classes = split(list(csv.DictReader(f)), seed=SEED)
  shown = sorted([*classes.seen, *classes.others])
  print(
    f"{len(classes.seen)} classes of seen concepts, {len(classes.held_out)}"
    f" held out, {len(classes.others)} without judgments"
  )
  concept = {**classes.seen, **classes.held_out}
  for name, tar, wnids, number in (
    ("collection", "train.tar", shown, args.images_per_class),
    ("held_out", "val.tar", sorted(classes.held_out), HELD_OUT_PER_CLASS),
  ):
    path = args.out / f"{name}.csv"
    if not path.exists():
      names = unpack(args.tiny_imagenet / tar, args.out, wnids, number)
      rows = [f"{n},{concept.get(n.split('/')[2], '')}" for n in names]
      artifacts.write_text(path, "\n".join(["file,concept", *rows, ""]))
    code = features.main(
      [
        f"--model={MODEL}",
        f"--weights={args.weights}",
        f"--images={path}",
        f"--image_size={TEACHER_SIZE}",
        f"--out={args.out / 'features' / name}",
      ]
    )
    if code:
      sys.exit(code)
  path = args.out / "transform.npz"
  if not path.exists():
    fit_teacher(args, path)
  return path


def unpack(tar, out, wnids, per_class):
  """Writes the first images of some classes; names below `out`, sorted."""
  count, names = dict.fromkeys(wnids, 0), []
  with tarfile.open(tar) as archive:
    for member in archive:
      parts = pathlib.PurePosixPath(member.name).parts
      if not member.isfile() or count.get(parts[0], per_class) >= per_class:
        continue
      count[parts[0]] += 1
      name = pathlib.PurePosixPath("images", tar.stem, *parts)
      data = archive.extractfile(member).read()
      (out / name).parent.mkdir(parents=True, exist_ok=True)
      (out / name).write_bytes(data)
      names.append(str(name))
  return sorted(names)


def fit_teacher(args, path):
  """Fits the map to class means of the seen concepts, and nothing else."""
  x = np.load(args.out / "features" / "collection" / "features.npy")
  concept = concepts_of(args.out / "collection.csv")
  seen = np.unique(concept[concept >= 0])
  means = np.stack([x[concept == c].mean(axis=0) for c in seen])
  embedding = np.load(args.vice_embedding)[seen]
  drawn = from_embedding.draw(embedding, NUM_JUDGMENTS, seed=SEED)
  chosen = selection.by_objects(
    means,
    drawn.triplets,
    target_logprobs=drawn.target_logprobs,
    num_folds=3,
    strengths=STRENGTHS,
    num_epochs=15,
    seed=SEED,
    **FIT,
  )
  for row in chosen.table:
    print("teacher:", row)
  chosen.transform.save(path)


def concepts_of(path):
  """int64[n] concept of each image that a csv lists, -1 for none."""
  column = lists.CsvImages(path).columns["concept"]
  return np.array([int(c) if c else -1 for c in column])


def temperature(out):
  """Where the student's base is as sure of random triplets as its teacher."""
  x = np.load(out / "features" / "collection" / "features.npy")
  z = transform_lib.AffineTransform.load(out / "transform.npz").apply(x)
  triplets = simulated.random_triplets(len(x), 20_000, np.random.default_rng(0))
  entropy = labels.mean_entropy(labels.label(np.asarray(z), triplets)[1])
  return round(labels.match_entropy(labels.label(x, triplets)[1], entropy), 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
  """The held-out concepts, their images, and what people would answer.

  Attributes:
    images: Collection.
    triplets: int64[t 3] rows of images.
    concepts: int64[t 3].
    odd: int[t] position that people call odd.
  """

  images: lists.CsvImages
  triplets: np.ndarray
  concepts: np.ndarray
  odd: np.ndarray

  @classmethod
  def open(cls, out, vice_embedding):
    """Opens what `prepare` made."""
    path = out / "held_out.csv"
    of_image = concepts_of(path)
    triplets, concepts = draw_triples(
      np.unique(of_image), of_image, num_showings=NUM_SHOWINGS, seed=SEED
    )
    embedding = np.load(vice_embedding).astype(np.float32)
    people = from_embedding.logprobs(embedding, concepts)
    return cls(lists.CsvImages(path), triplets, concepts, people.argmax(axis=1))

  def hits(self, z, *, cosine=True):
    """bool[t]: whether features f32[n d] of the images choose as people."""
    scores = odd_one_out.logits_of_rows(z, self.triplets, cosine=cosine)
    return np.asarray(odd_one_out.choose(scores)) == self.odd

  def difference(self, hits, others):
    """How much more often some models are right than others.

    Args:
      hits: List of bool[t], as of `hits`; one per seed.
      others: The same, of the same seeds.

    Returns:
      The mean difference, and its 95% interval over concepts drawn anew.
    """
    gain = np.mean(hits, axis=0) - np.mean(others, axis=0)
    low, high = bootstrap.ratio_over_objects(
      gain, np.ones(len(gain)), self.concepts
    )
    return float(gain.mean()), low, high

  def embed(self, model, params, scaling):
    """Pooled features f32[n d] of the images by a backbone."""
    images = self.images.with_preprocessing(scaling)
    return features_lib.extract(
      model, params, images, batch_size=85, value_range=scaling
    )
