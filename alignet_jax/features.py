"""Features of a collection of images: one row per image, with an index.

Usage:
  python -m alignet_jax.features --model=augreg_b16 --weights=b16.npz \
    --images=imagenet/train --out=features/b16
  python -m alignet_jax.features --model=dinov2_s14 --weights=DIR \
    --images=train.tar --out=features/dinov2 --output=cls,block05
  python -m alignet_jax.features --model=noted \
    --weights=runs/quickstart/student/aligned.npz --images=DIR --out=features/q

--images is a folder (.jpg, .jpeg, .png at any depth), an uncompressed .tar
file, a .csv file with a column file (or path, or image), a .npy file
uint8[n size size 3], or tfds:NAME/SPLIT. Size, resizing, crop and scaling
belong to the weights and come with them.

OUT holds `features.npy` [images, d] (with several outputs features_NAME.npy),
`index.csv` (row, file, sha256), with --on_error=skip `skipped.csv` (file,
reason), and `manifest.json`, which is written last. An output for every token
or patch is [images, tokens, d].

The same command goes on where it was stopped, and the files are the same to the
last bit. When nothing is left to do it says so. Exit codes: 0 done; 1 the disk
failed; 2 something that was given is wrong or missing; 130 stopped by Ctrl-C.

To share the work, start it several times with the same --out, each with
--process_count=N and another --process_index: on N machines that see the
folder, or in turn. Whichever makes the last part joins all of them.
"""

import argparse
import hashlib
import pathlib
import sys

from alignet_jax import artifacts, commands, progress
from alignet_jax.images import opening, options, preprocess

# Same names as in backbones/feature_files.py, which imports JAX.
_DTYPES = ("float32", "float16")
# And as in backbones/blocks.py, which imports flax.
_ACTIVATIONS = ("gelu_tanh", "gelu", "quick_gelu")


def main(argv=None, *, load=None):
  """Runs the command line.

  Args:
    argv: The arguments after the program's name; `sys.argv[1:]` if None.
    load: Function like `backbones.load.load`, which it is by default.

  Returns:
    The exit code; see the module.
  """
  return commands.exit_code(lambda: _run(_parser().parse_args(argv), load))


def _parser():
  parser = argparse.ArgumentParser(
    prog="python -m alignet_jax.features",
    description="Writes one row of features per image, and what row is what.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add(
    "--model",
    required=True,
    metavar="NAME",
    help="name of the backbone; noted for whichever a student of this package,"
    " or another file that it saved, says that it is",
  )
  add("--weights", required=True, metavar="PATH", help="file, folder, or id")
  options.add_images(parser)
  add("--out", required=True, metavar="DIR", help="made if it does not exist")
  add(
    "--output",
    default="pre_logits",
    metavar="NAME[,NAME]",
    help="pre_logits (pooled), cls, patch_mean, block00 and so on; a wrong name"
    " lists those that the model has",
  )
  add(
    "--batch_size", type=commands.whole(1), default=64, help="images per step"
  )
  add("--dtype", choices=_DTYPES, default="float32", help="of features.npy")
  add(
    "--compute_dtype",
    choices=("float32", "bfloat16"),
    help="of the matrix products, if not the model's own",
  )
  add(
    "--image_size",
    type=commands.whole(1),
    help="pixels, if not as in the weights",
  )
  add(
    "--preprocessing",
    choices=tuple(preprocess.PRESETS),
    help="of pixels, if not that of the weights: alignet for models that were"
    " aligned as in the paper, of files that do not say so; students of this"
    " package say it",
  )
  add(
    "--activation",
    choices=_ACTIVATIONS,
    help="of the model, if not as in the weights; CLIP's without config.json"
    " need it",
  )
  add("--pool", help="how tokens become one vector, if not as in the weights")
  options.add_errors(parser)
  options.add_work(parser, part_size=2048)
  add(
    "--process_count",
    type=commands.whole(1),
    default=1,
    help="who share the work",
  )
  add("--process_index", type=commands.whole(0), default=0, help="from 0")
  return parser


def _run(args, load):
  out = pathlib.Path(args.out)
  images = opening.open_collection(
    args.images, root=args.root, data_dir=args.data_dir
  )
  progress.write(f"{len(images)} images in {args.images}")
  if num_links := getattr(images, "num_links", 0):
    progress.write(f"note: {num_links} links are left out")
  # Later, so that a mistyped path is told at once.
  from alignet_jax.backbones import feature_files

  fields = {
    "image_size": args.image_size,
    "pool": args.pool,
    "dtype": args.compute_dtype,
    "activation": args.activation,
  }
  fields = {name: value for name, value in fields.items() if value}
  model = {"name": args.model, "weights_sha256": _digest(args.weights)}
  if args.preprocessing:
    model["preprocessing"] = args.preprocessing
  asked = feature_files.settings(
    {**model, **fields},
    images,
    args.output.split(","),
    batch_size=args.batch_size,
    dtype=args.dtype,
  )
  how = {"on_error": args.on_error, "overwrite": args.overwrite}
  made = feature_files.is_finished(out, asked, images, **how)
  if made is not None:
    progress.write(f"{out} is up to date")
    return
  feature_files.check_writable(out)
  if load is None:
    from alignet_jax.backbones import load as load_lib

    load = load_lib.load
  try:
    backbone = load(args.model, args.weights, **fields)
  except artifacts.InputError:
    raise
  except ValueError as error:  # Of the model: a pool or size it cannot have.
    raise artifacts.InputError(f"--model={args.model}: {error}") from error
  if backbone.report is not None:
    progress.write(str(backbone.report))
  try:
    made = feature_files.extract(
      out,
      backbone.model,
      backbone.params,
      images.with_preprocessing(_preprocessing(args, backbone)),
      asked,
      **how,
      part_size=args.part_size,
      num_threads=args.num_threads,
      process_index=args.process_index,
      process_count=args.process_count,
      sources={
        args.images: asked["images"]["names_sha256"],
        args.weights: asked["model"]["weights_sha256"],
      },
    )
  except MemoryError as error:
    raise artifacts.InputError(
      f"The memory is too small for --num_threads={args.num_threads} and"
      f" --batch_size={args.batch_size}; give less of them. What is done stays."
    ) from error
  if made is not None:
    _tell(out, made)


def _preprocessing(args, backbone):
  """That of the weights, or the preset asked for, at the model's size."""
  if not args.preprocessing:
    return backbone.preprocessing
  preset = preprocess.PRESETS[args.preprocessing]
  return preset.at_size(backbone.preprocessing.size)


def _tell(out, made):
  rows, skipped = made.metrics["num_rows"], made.metrics["num_skipped"]
  if skipped:
    progress.write(f"{skipped} images were left out; see {out}/skipped.csv")
  for name in made.outputs:
    if name.endswith(".npy"):
      shape = list(artifacts.read_npy(out / name, mmap=True).shape)
      progress.write(f"wrote {out / name} {shape}")
  progress.write(f"wrote {out}/index.csv, {rows} rows")


def _digest(weights):
  """SHA-256 of all files that decide what the weights are."""
  from alignet_jax.backbones import safetensors_file

  path, part = pathlib.Path(weights).expanduser(), ""
  if not path.exists() and ":" in weights:  # FILE.npz:PART
    file, _, part = weights.rpartition(":")
    path = pathlib.Path(file)
  if not path.exists() and not safetensors_file.is_hub_id(weights):
    raise artifacts.InputError(f"There are no weights {weights}.")
  if path.is_file() and path.suffix not in (".safetensors", ".json"):
    return artifacts.sha256_file(path) + (f":{part}" if part else "")
  digest = hashlib.sha256()
  for file in safetensors_file.files(weights):
    digest.update(f"{file.name} {artifacts.sha256_file(file)}\n".encode())
  return digest.hexdigest()


if __name__ == "__main__":
  sys.exit(main())
