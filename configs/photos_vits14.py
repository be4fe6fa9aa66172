"""A ViT-S/14 that learns people's similarities, on a thousand photographs.

  python -m alignet_jax.main --config=configs/photos_vits14.py \
    --config.photos.images=FOLDER --config.photos.index=images.csv \
    --config.photos.vice_embedding=vice_embedding.npy \
    --config.photos.concepts=things_concepts.tsv \
    --config.photos.backbone.weights=dinov2_vits14.safetensors
  python -m alignet_jax.main --config=configs/photos_vits14.py:runlocal

images.csv has the columns file (below FOLDER) and things_index, the 0-based row
of the THINGS concept that the photograph shows, or nothing. Judgments are drawn
from the VICE embedding. Held out are folds of concepts; see
alignet_jax/photos/stage.py for what the numbers are.

Arguments: `runlocal` takes the same path, shrunk, on the generated world, with
random weights: seconds.

Hardware: two CPU cores. Time and results: README.
"""

import ml_collections

from alignet_jax import config as config_lib


def get_config(arg=""):
  """Returns the config; `arg` is described above."""
  args = config_lib.parse_arg(arg, runlocal=False)
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.stages = (
    "photo_features",
    "photo_teachers",
    "photo_students",
    "photo_scores",
  )

  config.photos = ml_collections.ConfigDict()
  config.photos.source = "files"  # Or "generated".
  config.photos.images = ""
  config.photos.index = ""
  config.photos.vice_embedding = ""
  config.photos.concepts = ""
  config.photos.category = "Top-down Category (WordNet)"
  config.photos.num_folds = 5
  config.photos.teacher_size = 224  # Pixels, of a side of 256.
  config.photos.student_size = 98  # Pixels, of a side of 112.
  # Blocks before this one are frozen, and what they give is computed once.
  config.photos.first_block = 11
  config.photos.batch_size = 50
  config.photos.backbone = ml_collections.ConfigDict()
  config.photos.backbone.name = "dinov2_s14"
  config.photos.backbone.weights = ""
  config.photos.backbone.fields = ml_collections.ConfigDict()  # As named.

  config.photo_teacher = ml_collections.ConfigDict()
  config.photo_teacher.num_triplets = 100_000
  config.photo_teacher.strengths = (0.03, 0.1, 0.3, 1.0, 3.0)
  config.photo_teacher.lr = 3e-3
  config.photo_teacher.lr_decay = "cosine"
  config.photo_teacher.batch_size = 16_384
  config.photo_teacher.num_epochs = 15

  config.photo_student = ml_collections.ConfigDict()
  config.photo_student.loss = "kl"
  config.photo_student.batch_size = 64  # Images: 41,664 triplets.
  config.photo_student.num_steps = 60
  config.photo_student.lr = 3e-4
  config.photo_student.warmup_steps = 5
  config.photo_student.decay_to_init = 1.0
  config.photo_student.clip_norm = 0.0  # No clipping.
  # Of the temperature at which the base model is as sure as its teacher.
  config.photo_student.temperature_factor = 1.0
  # Whether students of a fold see its photographs, without any judgment.
  config.photo_student.show_heldout = False
  config.photo_student.checkpoint_every = 60

  config.photo_scores = ml_collections.ConfigDict()
  config.photo_scores.min_photos = 5  # That a category needs.
  config.photo_scores.num_draws = 200

  if args.runlocal:
    _shrink(config)
  return config


def _shrink(config):
  """Replaces photographs and backbone by small ones that are made here."""
  config.world = ml_collections.ConfigDict()
  config.world.size = 32
  config.world.num_exemplars = 2
  config.world.num_heldout_basics = 3
  config.world.num_images = ml_collections.ConfigDict()
  config.world.num_images.evaluation = 2
  config.photos.source = "generated"
  config.photos.num_folds = 2
  config.photos.teacher_size = 32
  config.photos.student_size = 24
  config.photos.first_block = 1
  config.photos.backbone.fields = ml_collections.ConfigDict(
    {
      "patch_size": 8,
      "width": 32,
      "depth": 2,
      "mlp_dim": 64,
      "num_heads": 2,
      "layer_scale": False,
    }
  )
  config.photo_teacher.num_triplets = 5_000
  config.photo_teacher.strengths = (0.1, 1.0)
  config.photo_teacher.batch_size = 512
  config.photo_teacher.num_epochs = 3
  config.photo_student.batch_size = 11
  config.photo_student.num_steps = 6
  config.photo_student.warmup_steps = 2
  config.photo_student.checkpoint_every = 4
  config.photo_scores.num_draws = 5
