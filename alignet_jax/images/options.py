"""Flags of the commands that read a collection: said once, meant alike.

Usage:
  options.add_images(parser)
  options.add_errors(parser)
  options.add_work(parser, part_size=1024)
"""

import os

from alignet_jax import commands
from alignet_jax.images import opening

# What to do about an image that cannot be decoded.
ON_ERROR = ("refuse", "skip")


def add_images(parser):
  """Adds --images, --root and --data_dir: which images, see `opening`."""
  add = parser.add_argument
  add("--images", required=True, metavar="PATH", help=opening.KINDS)
  add("--root", metavar="DIR", help="of the paths in a csv; its own folder")
  add("--data_dir", metavar="DIR", help="of TFDS; its own default")


def add_errors(parser):
  """Adds --on_error and --overwrite."""
  parser.add_argument(
    "--on_error",
    choices=ON_ERROR,
    default="refuse",
    help="what to do about an image that cannot be decoded: stop and name it,"
    " or leave it out and list it in skipped.csv",
  )
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="replace what other settings made in --out",
  )


def add_work(parser, *, part_size):
  """Adds --part_size, with its default, and --num_threads."""
  parser.add_argument(
    "--part_size",
    type=commands.whole(1),
    default=part_size,
    help="images that a kill can lose at most",
  )
  parser.add_argument(
    "--num_threads",
    type=commands.whole(1),
    default=min(os.cpu_count() or 1, 16),
    help="images decoded at the same time",
  )
