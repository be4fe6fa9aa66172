"""What the flags of `alignet_jax.evaluate` name: pictures, models, data.

Usage:
  args = flags.parse()
  images = given.open_images(args)
  of_models = given.open_models(args, out)
  data = given.read_data(args)
"""

import argparse
import dataclasses
import pathlib

from alignet_jax import artifacts
from alignet_jax.evals import flags, hierarchy, human_data, models, rsa_scores
from alignet_jax.teacher import transform as transform_lib


def open_images(args):
  """Image set -> path."""
  from alignet_jax.images import opening, preprocess

  return {
    name: opening.open_collection(
      path, preprocess.ALIGNET, data_dir=args.data_dir
    )
    for name, path in flags.pairs("--images", args.images)
  }


def open_models(args, out):
  """Opens every model that the flags name.

  Args:
    args: Of `flags.parse`.
    out: Folder of the results; features of backbones go into it.

  Returns:
    Dict from name to `models.Model`: those of --model in their order, then
    those of --aligned.

  Raises:
    artifacts.InputError: One that cannot be opened; names it.
  """
  made = {}
  for name, path in flags.pairs("--model", args.model):
    kind, _, rest = path.partition(":")
    if kind == "backbone":
      made[name] = _backbone(args, out, name, rest)
    elif kind == "student":
      made[name] = _student(args, out, name, rest)
    else:
      made[name] = models.open_model(name, path)
  for name, text in flags.pairs("--aligned", args.aligned):
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
  for image_set, path in flags.pairs("--images", args.images):
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


def _student(args, out, name, text):
  """A student of a finished run: its weights say all that is needed."""
  from alignet_jax.backbones import load, vit

  folder, _, variant = text.rpartition(":")
  head = pathlib.Path(folder) / f"{variant}.npz"
  path = head.with_name(f"{variant.removesuffix('_head')}.npz")
  if not folder or not path.is_file() or not head.is_file():
    known = sorted(found.stem for found in pathlib.Path(folder).glob("*.npz"))
    raise artifacts.InputError(
      f"--model={name}=student:{text}: expected student:FOLDER:VARIANT, the "
      "folder of the stage student of a finished run and base, aligned or "
      "control, with _head for the triplet head; there is no "
      f"{head if path.is_file() else path}"
      + (f", but {', '.join(known)}." if folder and known else ".")
    )
  text = f"{load.NOTED}:{path}"
  if head == path:
    return _backbone(args, out, name, text)
  transform, output = models.load_head(head)
  if output == vit.CLS_PATCH_MEAN:
    raise artifacts.InputError(
      f"{head} reads {output}, which is two outputs; make features of both with"
      " alignet_jax.features --output=cls,patch_mean."
    )
  args = argparse.Namespace(**{**vars(args), "output": output})
  return models.transformed(name, _backbone(args, out, name, text), transform)


def read_data(args, of_models=None):
  """All human data that the flags name, in one list.

  Args:
    args: Of `flags.parse`.
    of_models: Dict from name to `models.Model`; one of them must have as many
      rows as --categories. None to check that by --embedding only.

  Returns:
    List as `alignment.run` takes it.

  Raises:
    artifacts.InputError: Something cannot be read or does not fit; names it.
  """
  data, sources = [], []
  folders = [("--data", text) for text in args.data]
  folders += [("--levels", args.levels)] if args.levels else []
  for flag, text in folders:
    data += human_data.read_folder(*_named_folder(text))
    sources.append(f"{flag}={text}")
  if args.triplets:
    sources.append(f"--triplets={args.triplets}")
    data.append(
      human_data.read_choices(
        args.triplets,
        args.repeats,
        categories=args.categories,
        column=args.column,
      )
    )
    if args.categories and of_models:
      _check_rows(args.categories, data[-1], of_models)
  if args.embedding:
    sorted_by = {
      "categories": args.categories,
      "category_column": args.column,
    }
    sources.append(f"--embedding={args.embedding}")
    data.append(
      human_data.read_dense(args.embedding, "things_dense", **sorted_by)
    )
    if args.photographs:
      sources.append(f"--photographs={args.photographs}")
      data.append(
        human_data.read_dense(
          args.embedding, "photographs", args.photographs, **sorted_by
        )
      )
  for flag, kind in (("rdm", "dissimilarity"), ("sims", "similarity")):
    for name, path in flags.pairs(f"--{flag}", getattr(args, flag)):
      data.append(human_data.read_rdm(path, name, kind=kind))
      sources.append(f"--{flag}={name}={path}")
  if args.taxonomy:
    sources.append(f"--taxonomy={args.taxonomy}")
    data.append(human_data.Taxonomy(*_taxonomy(args)))
  human_data.check_names(
    zip([people.name for people in data], sources, strict=True)
  )
  return _with_groups(args, data)


def _named_folder(text):
  """(folder, name or None) of DIR or NAME=DIR."""
  name, separator, folder = text.partition("=")
  if not separator or pathlib.Path(text).exists():
    return text, None
  ((name, folder),) = flags.pairs("--data", [text])
  return folder, name


def _check_rows(path, people, of_models):
  """Refuses a table that has a row per item of no model."""
  found = {}
  for name, model in of_models.items():
    try:
      found[name] = len(model.find(people.name).features)
    except models.Missing:
      continue
  if found and people.num_items not in found.values():
    raise artifacts.InputError(
      f"--categories={path} has {people.num_items} rows; expected one per item "
      "of --triplets, as many as a model has: "
      + ", ".join(f"{name} has {num}" for name, num in found.items())
      + "."
    )


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
  groups = dict(flags.pairs("--groups", args.groups))
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
