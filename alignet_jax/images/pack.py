"""Resizes a collection once, so that training need not decode it every epoch.

Usage:
  python -m alignet_jax.images.pack --images=imagenet/train --size=224 \
    --out=imagenet_224

--images is a folder (.jpg, .jpeg, .png at any depth), an uncompressed .tar
file, a .csv file with a column file (or path, or image), a .npy file
uint8[n size size 3], or tfds:NAME/SPLIT. What comes out (see `packed`) is given
in its place, to features and to training alike, and has the same pixels. At 224
an image takes 150,528 bytes: the 1,281,167 of ImageNet 193 GB.

The same command goes on where it was stopped; a kill loses --part_size images
at most, and memory holds a few batches. Exit codes: 0 done; 1 the disk failed;
2 something that was given is wrong or missing; 130 stopped by Ctrl-C.
"""

import argparse
import contextlib
import datetime
import fcntl
import importlib.metadata
import pathlib
import shutil
import sys
import time

from alignet_jax import artifacts, commands, manifest, progress
from alignet_jax.images import (
  decoded,
  listing,
  opening,
  options,
  pack_files,
  packed,
  preprocess,
)

# Images decoded in one go.
_BATCH_SIZE = 64


def main(argv=None):
  """Runs the command line; returns the exit code, see the module."""
  return commands.exit_code(lambda: _run(_parser().parse_args(argv)))


def pack(
  out,
  images,
  *,
  on_error="refuse",
  overwrite=False,
  part_size=1024,
  num_threads=4,
):
  """Writes all images, from where an earlier call was stopped.

  Args:
    out: Folder; made if it does not exist.
    images: Collection, with its preprocessing.
    on_error: What to do about an image that cannot be decoded: "refuse", which
      keeps what was written before it, or "skip", which lists it.
    overwrite: Whether to replace what other settings made.
    part_size: Images that a kill can lose at most.
    num_threads: Images decoded at the same time.

  Returns:
    The `manifest.Manifest`, and whether there was anything to do.

  Raises:
    artifacts.InputError: If an image is refused, the folder holds something
      else, or the disk is too small.
  """
  start_time = time.monotonic()
  out = pathlib.Path(out)
  asked = {
    "preprocessing": images.preprocessing.to_dict(),
    "num_images": len(images),
    "images": listing.digest(images),
  }
  made = manifest.read(out) if out.is_dir() else None
  if made is not None and made.stage != packed.STAGE:
    raise artifacts.InputError(
      f"{out} holds the files of {made.stage!r}; give a new folder as --out."
    )
  if made is not None:
    changes = _changes({key: made.config.get(key) for key in asked}, asked)
    if on_error == "refuse" and made.metrics.get("num_skipped"):
      changes.append('on_error "skip" -> "refuse"')
    if damaged := manifest.damaged_output(out, made):
      changes.append(f"{damaged}, which is not as long as written")
    if not changes:
      _remove_traces(out)
      return made, False
    _refuse_unless(overwrite, out, changes)
  run = {**asked, "pillow": importlib.metadata.version("pillow")}
  _begin(out, run, overwrite)
  with _locked(out / packed.RUN, out), pack_files.Writer(out, images) as writer:
    if writer.skipped is not None and on_error == "refuse":
      raise artifacts.InputError(f"{writer.skipped}\n{listing.SKIP_HINT}")
    _refuse_full_disk(out, images, writer.start)
    _write(writer, images, on_error, part_size, num_threads)
    metrics = writer.finish(list_skipped=on_error == "skip")
    made = _manifest(out, run, metrics, time.monotonic() - start_time)
    manifest.write(out, made)
  _remove_traces(out)
  return made, True


def _remove_traces(out):
  """Removes what only unfinished packing needs."""
  for name in (packed.RUN, pack_files.PARTS):
    (out / name).unlink(missing_ok=True)


def _write(writer, images, on_error, part_size, num_threads):
  """Decodes what is not there yet, and writes it part after part."""
  ranges, part_ends = [], set()
  for first in range(writer.start, len(images), part_size):
    end = min(first + part_size, len(images))
    part_ends.add(end)
    ranges += [
      (start, min(start + _BATCH_SIZE, end))
      for start in range(first, end, _BATCH_SIZE)
    ]
  batches = decoded.decode_ahead(
    images, ranges, num_rows=_BATCH_SIZE, num_threads=num_threads
  )
  with (
    progress.Progress(
      len(images), unit="images", label="pack", initial=writer.start
    ) as bar,
    contextlib.closing(batches),
  ):
    for batch in batches:
      if batch.reasons and on_error == "refuse":
        writer.end_part(batch.start)
        raise artifacts.InputError(
          f"{next(iter(batch.reasons.values()))}\n{listing.SKIP_HINT}"
        )
      writer.add(batch)
      if batch.stop in part_ends:
        writer.end_part(batch.stop)
      bar.update(batch.stop - batch.start)


def _begin(out, run, overwrite):
  """Makes the folder ready for this run, or refuses it."""
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise artifacts.InputError(
      f"{out} cannot be made a folder: {error.strerror}."
    ) from error
  about = out / packed.RUN
  if about.exists():
    changes = _changes(artifacts.read_json(about), run)
    if not changes:
      return
    _refuse_unless(overwrite, out, changes)
  elif manifest.read(out) is None and any(out.iterdir()):
    raise artifacts.InputError(
      f"{out} holds other files; give a new folder as --out."
    )
  # The journal first: it must never be taken for one of the new settings.
  (out / pack_files.PARTS).unlink(missing_ok=True)
  artifacts.write_json(about, run)
  for name in (
    manifest.FILE,
    packed.INDEX,
    packed.SKIPPED,
    packed.IMAGES,
    pack_files.PIXELS,
  ):
    (out / name).unlink(missing_ok=True)


def _refuse_unless(overwrite, out, changes):
  if not overwrite:
    raise artifacts.InputError(
      f"{out} holds images packed with other settings. What differs:"
      f" {'; '.join(changes)}. Give another --out, or --overwrite to replace"
      " them."
    )


def _changes(old, new):
  """Which settings differ, without the "config." in front."""
  changes = manifest.config_changes(manifest.plain(old), manifest.plain(new))
  return [change.removeprefix("config.") for change in changes]


def _refuse_full_disk(out, images, start):
  needed = (len(images) - start) * 3 * images.size**2
  free = shutil.disk_usage(out).free
  if needed > free:
    raise artifacts.InputError(
      f"{out} needs {needed / 1e9:.1f} GB more for the pixels; its disk has"
      f" {free / 1e9:.1f} GB free."
    )


@contextlib.contextmanager
def _locked(path, out):
  """Keeps other processes from packing into the same folder."""
  with open(path, "rb") as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise artifacts.InputError(
        f"{out} is being written by another process; let it finish."
      ) from None
    yield


def _manifest(out, run, metrics, seconds):
  names = [packed.IMAGES, packed.INDEX]
  if (out / packed.SKIPPED).exists():
    names.append(packed.SKIPPED)
  outputs = {
    name: {
      "bytes": (out / name).stat().st_size,
      "sha256": artifacts.sha256_file(out / name),
    }
    for name in names
  }
  return manifest.Manifest(
    stage=packed.STAGE,
    config=run,
    config_hash=manifest.hash_json(run),
    inputs={},
    external={},
    outputs=outputs,
    digest=manifest.hash_json(outputs),
    versions=manifest.versions(),
    seed=0,
    seconds=seconds,
    created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    metrics=metrics,
  )


def _parser():
  parser = argparse.ArgumentParser(
    prog="python -m alignet_jax.images.pack",
    description="Resizes images once and writes their pixels into one file.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  options.add_images(parser)
  add("--size", required=True, type=int, help="height and width in pixels")
  add("--out", required=True, metavar="DIR", help="made if it does not exist")
  add(
    "--resize",
    choices=preprocess.RESIZES,
    default="squash",
    help="to a square, or the short side with a crop",
  )
  add("--short_side", type=int, default=0, help="for short_side; 0: the size")
  add(
    "--interpolation",
    choices=preprocess.INTERPOLATIONS,
    default="cubic_no_antialias",
    help="the default is that of the released students",
  )
  options.add_errors(parser)
  options.add_work(parser, part_size=1024)
  return parser


def _run(args):
  images = opening.open_collection(
    args.images,
    preprocess.Preprocessing(
      size=args.size,
      resize=args.resize,
      short_side=args.short_side,
      interpolation=args.interpolation,
    ),
    root=args.root,
    data_dir=args.data_dir,
  )
  progress.write(f"{len(images)} images in {args.images}")
  made, is_new = pack(
    args.out,
    images,
    on_error=args.on_error,
    overwrite=args.overwrite,
    part_size=args.part_size,
    num_threads=args.num_threads,
  )
  if not is_new:
    progress.write(f"{args.out} is up to date")
    return
  if made.metrics["num_skipped"]:
    progress.write(
      f"{made.metrics['num_skipped']} images were left out; see"
      f" {args.out}/{packed.SKIPPED}"
    )
  progress.write(f"wrote {args.out}, {made.metrics['num_rows']} images")


if __name__ == "__main__":
  sys.exit(main())
