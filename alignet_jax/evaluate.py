"""How human-like is a model, and what did alignment cost? One table and page.

Usage:
  python -m alignet_jax.evaluate --model clip=clip.npy --model vice=vice.npy \
    --data data/things --data data/mur92 --out runs/evaluation
  python -m alignet_jax.evaluate --suite usefulness --model b16=features/b16 \
    --classification pets --out runs/pets

--model NAME=PATH is a file or folder of features, or a folder with one of them
per data set (PATH/things, PATH/mur92.npy, PATH/pets/train). A backbone of ours,
NAME=backbone:MODEL:WEIGHTS, and a student of a finished run,
NAME=student:FOLDER:aligned, compute features of the --images (a backbone once,
in OUT/features). --aligned NAME=MODEL:transform.npz adds a model that is
another one, transformed.

Human data are folders of `alignet_jax.judgments.prepare` (--data), or single
files. OUT gets scores.json, scores.csv, scores.parquet (with pyarrow) and
report.html; the table is printed, with --markdown as that of a README. What
could not be measured stands in the table with its reason. --into=README.md#NAME
puts command and table between the lines <!-- evaluation NAME: begin --> and
<!-- evaluation NAME: end --> of that file; --rows says which rows. Exit codes:
0 done; 1 the disk failed; 2 something that was given is wrong or missing; 130
Ctrl-C.

Images of TensorFlow Datasets, --images SET=tfds:NAME/SPLIT, bring their classes
with them; of others, the class is the folder. The WordNet ids of a table make a
taxonomy: --taxonomy=things_concepts.tsv --synsets="WordNet ID" --wordnet=nltk.

In Python:
  rows = evaluate.evaluate({"clip": features, "mine": function}, data)
"""

import argparse
import dataclasses
import pathlib
import re
import sys

from alignet_jax import artifacts, commands, progress
from alignet_jax.evals import (
  alignment,
  breeds,
  corruptions,
  evaluation_report,
  hierarchy,
  human_data,
  models,
  readme_table,
  report,
  rsa_scores,
  score,
  usefulness,
)
from alignet_jax.teacher import compare_inputs
from alignet_jax.teacher import transform as transform_lib


def evaluate(
  of_models,
  data=(),
  *,
  suite="all",
  classification=(),
  images=None,
  base=None,
  rsatoolbox_draws=0,
  log=None,
  **settings,
):
  """Scores models by human data and by their usefulness.

  Args:
    of_models: Dict from name to `models.Model`, an array f[n d] (the same rows
      for every data set that they fit), a dict from image set to arrays, or a
      function u8[b h w 3] -> f[b d], which is given the `images`.
    data: Data sets of people; see `alignment.run`.
    suite: "alignment", "usefulness" or "all".
    classification: Names of data sets with the image sets NAME/train and
      NAME/test.
    images: Dict from image set to a collection or u8[n h w 3].
    base: As of `alignment.run`, and so are the next two.
    rsatoolbox_draws: See `base`.
    log: See `base`.
    **settings: Of `usefulness.run`.

  Returns:
    (rows, seconds): list of `score.Score`, and a dict from (model, data set) to
    seconds.

  Raises:
    artifacts.InputError: Another suite, or no model.
  """
  if suite not in (*score.SUITES, "all"):
    raise artifacts.InputError(
      f"The suite is {suite!r}; expected {', '.join(score.SUITES)} or all."
    )
  if not of_models:
    raise artifacts.InputError("There is no model to evaluate.")
  opened = {
    name: _open(name, model, images or {}) for name, model in of_models.items()
  }
  rows, seconds = [], {}
  if suite != "usefulness":
    made, spent = alignment.run(
      opened, data, base=base, rsatoolbox_draws=rsatoolbox_draws, log=log
    )
    rows, seconds = rows + made, seconds | spent
  # Asked for by "all" and not given: said, and not left out in silence.
  for name, given, what in (
    ("alignment", data, "no human data was given."),
    ("usefulness", classification, "no data set was given (--classification)."),
  ):
    if suite == "all" and not given:
      row = score.skipped(name, name, "all", what)
      rows += [row.of(model) for model in opened]
  if suite != "alignment" and classification:
    made, spent = usefulness.run(
      opened, list(classification), images=images, log=log, **settings
    )
    rows, seconds = rows + made, seconds | spent
  return rows, seconds


def _open(name, model, images):
  if isinstance(model, models.Model):
    return model
  if callable(model):
    return models.from_callable(name, model, images)
  return models.from_features(name, model)


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
  add("--data", action="append", default=[], metavar="DIR", help="prepared")
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


def run(args, *, log=print):
  """Makes the table and the page.

  Args:
    args: Of `parse`.
    log: Called with the table.

  Raises:
    artifacts.InputError: Something that was given cannot be used; names it.
  """
  into = readme_table.target(args.into) if args.into else None
  if into:
    readme_table.check(*into)
  out = compare_inputs.make_folder(args.out)
  images = _images(args)
  of_models = _models(args, out, images)
  data = read_data(args)
  if args.base and args.base not in of_models:
    raise artifacts.InputError(
      f"--base is {args.base!r}; there are {', '.join(of_models)}."
    )
  if not data and args.suite == "alignment":
    raise artifacts.InputError(
      "There is no human data; give --data, --triplets, --rdm, --embedding or "
      "--taxonomy."
    )
  if not args.classification and args.suite == "usefulness":
    raise artifacts.InputError("There is no data set; give --classification.")
  rows, seconds = evaluate(
    of_models,
    data,
    suite=args.suite,
    classification=args.classification,
    images=images,
    base=args.base,
    rsatoolbox_draws=args.rsatoolbox_draws,
    log=progress.write,
    severities=args.severities,
    imagenet=args.imagenet,
    hierarchy=breeds.load_hierarchy(args.hierarchy) if args.hierarchy else None,
  )
  about = {
    "given": {k: str(v) for k, v in vars(args).items() if v and k != "command"}
  }
  about["seconds"] = {
    f"{name}, {dataset}": f"{value:.1f}"
    for (name, dataset), value in seconds.items()
  }
  _, missing = score.write(
    out / "scores", rows, about={"given": about["given"]}
  )
  if missing:
    progress.write(f"note: {missing}")
  report.write_report(
    out / "report.html",
    evaluation_report.make(
      rows,
      of_models,
      data,
      title=args.title,
      about=about,
      images=images,
      base=args.base,
    ),
  )
  chosen = readme_table.select(rows, args.rows)
  log(
    score.format_markdown(chosen)
    if args.markdown
    else score.format_text(chosen)
  )
  if into:
    readme_table.replace(*into, readme_table.block(chosen, args.command))
    progress.write(f"wrote the table {into[1]} into {into[0]}")
  progress.write(f"wrote {out}/report.html and {out}/scores.csv")


def read_data(args):
  """All human data that the flags name, in one list."""
  data = []
  for folder in (*args.data, *([args.levels] if args.levels else [])):
    data += human_data.read_folder(folder)
  if args.triplets:
    data.append(
      human_data.read_choices(
        args.triplets,
        args.repeats,
        categories=args.categories,
        column=args.column,
      )
    )
  if args.embedding:
    sorted_by = {
      "categories": args.categories,
      "category_column": args.column,
    }
    data.append(
      human_data.read_dense(args.embedding, "things_dense", **sorted_by)
    )
    if args.photographs:
      data.append(
        human_data.read_dense(
          args.embedding, "photographs", args.photographs, **sorted_by
        )
      )
  for flag, kind in (("rdm", "dissimilarity"), ("sims", "similarity")):
    for name, path in _pairs(f"--{flag}", getattr(args, flag)):
      data.append(human_data.read_rdm(path, name, kind=kind))
  if args.taxonomy:
    data.append(human_data.Taxonomy(*_taxonomy(args)))
  return _with_groups(args, data)


def _taxonomy(args):
  """(levels, items) of --taxonomy."""
  if not args.synsets:
    return hierarchy.load_taxonomy(args.taxonomy)
  return hierarchy.load_wordnet(
    args.taxonomy,
    args.synsets,
    args.wordnet,
    basic_depth=args.depths[0],
    superordinate_depth=args.depths[1],
  )


def _with_groups(args, data):
  """The data sets, those of --groups with categories."""
  groups = dict(_pairs("--groups", args.groups))
  sets = [p.name for p in data if isinstance(p, rsa_scores.RdmSet)]
  for name, text in groups.items():
    path, separator, column = text.rpartition(":")
    if not separator or not path or not column or name not in sets:
      raise artifacts.InputError(
        f"--groups={name}={text}: expected SET=TABLE:COLUMN, the set one of "
        f"{', '.join(sets) or 'those of --data, --rdm and --embedding'}."
      )
    groups[name] = path, column
  return [
    dataclasses.replace(
      people, categories=human_data.read_groups(*groups[people.name], people)
    )
    if people.name in groups and people.name in sets
    else people
    for people in data
  ]


def _pairs(flag, values):
  """(name, rest) of each NAME=REST, names different."""
  pairs = []
  for value in values:
    name, separator, rest = value.partition("=")
    if not separator or not rest or not re.fullmatch(r"\w[\w.+/-]*", name):
      raise artifacts.InputError(
        f"{flag} is {value!r}; expected NAME=PATH, the name of letters, digits "
        "and _ . + -"
      )
    if name in dict(pairs):
      raise artifacts.InputError(f"{flag} holds the name {name!r} twice.")
    pairs.append((name, rest))
  return pairs


def _images(args):
  """Image set -> path."""
  from alignet_jax.images import opening, preprocess

  return {
    name: opening.open_collection(
      path, preprocess.ALIGNET, data_dir=args.data_dir
    )
    for name, path in _pairs("--images", args.images)
  }


def _models(args, out, images):
  """Name -> `models.Model`, in the order of the flags."""
  made = {}
  for name, path in _pairs("--model", args.model):
    kind, _, rest = path.partition(":")
    if kind == "backbone":
      made[name] = _backbone(args, out, name, rest)
    elif kind == "student":
      made[name] = _student(args, name, rest)
    else:
      made[name] = models.open_model(name, path)
  for name, text in _pairs("--aligned", args.aligned):
    of, separator, path = text.partition(":")
    if not separator or of not in made or name in made:
      raise artifacts.InputError(
        f"--aligned={name}={text}: expected NAME=MODEL:FILE.npz, a new name "
        f"and one of the models {', '.join(made)}."
      )
    transform = transform_lib.AffineTransform.load(path)
    made[name] = models.transformed(name, made[of], transform)
  return made


def _backbone(args, out, name, text):
  """A backbone of ours: features of all --images, by `alignet_jax.features`."""
  from alignet_jax import features

  model, separator, weights = text.partition(":")
  if not separator or not args.images:
    raise artifacts.InputError(
      f"--model={name}=backbone:{text}: expected backbone:MODEL:WEIGHTS, and "
      "--images for it."
    )
  folder = out / "features" / name
  for image_set, path in _pairs("--images", args.images):
    (folder / image_set).mkdir(parents=True, exist_ok=True)
    code = features.main(
      [
        f"--model={model}",
        f"--weights={weights}",
        f"--images={path}",
        f"--out={folder / image_set}",
        f"--output={args.output}",
        f"--batch_size={args.batch_size}",
        *([f"--data_dir={args.data_dir}"] if args.data_dir else []),
        *([f"--image_size={args.image_size}"] if args.image_size else []),
      ]
    )
    if code:
      raise artifacts.InputError(
        f"--model={name}: no features of --images={image_set}; see above."
      )
  opened = models.open_model(name, folder)
  if not args.classification:
    return opened
  return _with_embed(opened, model, weights, args.output, args.image_size)


def _with_embed(opened, model, weights, output, image_size):
  """The same model, able to embed pictures that are corrupted."""
  from alignet_jax.backbones import features, load

  backbone = load.load(model, weights, image_size=image_size)

  def embed(image):
    (x,) = features.forward(
      backbone.params,
      image,
      model=backbone.model,
      scaling=backbone.preprocessing,
      outputs=(output,),
    )
    return x

  return dataclasses.replace(
    opened, embed=embed, preprocessing=backbone.preprocessing
  )


def _student(args, name, text):
  """A student of a finished run, embedding the --images."""
  from alignet_jax.images import opening, preprocess
  from alignet_jax.student import stage

  folder, _, variant = text.rpartition(":")
  folder = pathlib.Path(folder)
  if not (folder / "backbone.json").is_file():
    raise artifacts.InputError(
      f"--model={name}=student:{text}: expected student:FOLDER:VARIANT, the "
      "folder of the stage student of a finished run, with backbone.json in it."
    )
  embedder = stage.Embedder(folder)
  if not embedder.has(variant):
    raise artifacts.InputError(
      f"{folder} has no student {variant!r}; known are base, aligned, control."
    )
  paths = dict(_pairs("--images", args.images))

  def find(image_set):
    if image_set not in paths:
      raise models.Missing(f"there are no --images of {image_set}.")
    shown = opening.open_collection(
      paths[image_set],
      dataclasses.replace(preprocess.ALIGNET, size=embedder.size),
      data_dir=args.data_dir,
    )
    x = embedder(variant, shown, batch_size=args.batch_size)
    return models.Rows(x, tuple(shown.names))

  held = {}

  def once(image_set):
    if image_set not in held:
      held[image_set] = find(image_set)
    return held[image_set]

  return models.Model(name, once)


def main(argv=None):
  """Runs the command; returns the exit code."""
  return commands.exit_code(lambda: run(parse(argv)))


if __name__ == "__main__":
  sys.exit(main())
