"""AligNet: a ViT-B/16 that learns the similarities of an aligned SigLIP So400m.

  python -m alignet_jax.main --config=configs/vit_b16.py \
    --config.images.collection=IMAGENET/train --config.images.stimuli=THINGS \
    --config.features.backbone.weights=webli_en_so400m_384_58765454.npz:img \
    --config.student.backbone.weights=B_16.npz \
    --config.things.triplets_train=PATH --config.things.triplets_test=PATH
  python -m alignet_jax.main --config=configs/vit_b16.py:runlocal

Without its inputs the command names every missing one and where to get it.

Settings: paper.md, sections A to C; the optimiser, schedule, batch and loss are
those of the released configuration. Hardware: a TPU pod slice or several GPUs.
Time and results: not measured.

Arguments: `runlocal` takes the same path, shrunk, on the generated world:
under two minutes on two CPU cores.
"""

import ml_collections

from alignet_jax import config as config_lib


def get_config(arg=""):
  """Returns the config; `arg` is described above."""
  args = config_lib.parse_arg(arg, runlocal=False)
  config = ml_collections.ConfigDict()
  config.seed = 42  # As released.
  config.stages = (
    "judgments",
    "features",
    "teacher",
    "clusters",
    "triplets",
    "student",
    "evaluate",
    "report",
  )

  config.images = ml_collections.ConfigDict()
  config.images.source = "folder"
  config.images.collection = ""  # ImageNet-1k train, a folder per class.
  config.images.stimuli = ""  # One image per THINGS object, in order.

  config.things = ml_collections.ConfigDict()
  config.things.num_objects = 1_854
  config.things.triplets_train = ""
  config.things.triplets_test = ""
  config.things.repeats = ""  # Optional: entropy r and KL.
  config.things.vice_embedding = ""  # Used if judgments.soft is "embedding".

  config.judgments = ml_collections.ConfigDict()
  config.judgments.source = "things"
  config.judgments.soft = "vice"  # Our own fit to the training choices.
  config.judgments.own_vice = False  # Beside a given embedding.

  config.vice = ml_collections.ConfigDict()
  config.vice.num_dims = 100
  config.vice.num_epochs = 15
  config.vice.batch_size = 1_024
  config.vice.lr = 0.01
  config.vice.prior = "gaussian"
  # Published defaults. Of several, the best on held-out choices is taken.
  config.vice.spike = (0.25,)
  config.vice.slab = (1.0,)
  config.vice.pi = (0.5,)
  config.vice.search_epochs = 15
  config.vice.val_fraction = 0.1  # Of the training triplets, in a search.
  config.vice.refit_epochs = 5  # Of the kept dimensions, after pruning.
  config.vice.refit_lr = 0.003
  config.vice.num_seeds = 6  # Fits, averaged.
  config.vice.num_samples = 50
  config.vice.checkpoint_every = 10  # Epochs.

  config.features = ml_collections.ConfigDict()
  config.features.source = "backbone"
  config.features.batch_size = 256
  config.features.backbone = ml_collections.ConfigDict()
  config.features.backbone.variant = "So400m/14"
  config.features.backbone.pool = "map"
  config.features.backbone.size = 384
  config.features.backbone.value_range = (-1.0, 1.0)
  config.features.backbone.weights = ""
  config.features.backbone.url = (
    "big_vision/siglip/webli_en_so400m_384_58765454.npz"
  )

  config.teacher = ml_collections.ConfigDict()
  config.teacher.variants = ("hard", "soft")
  config.teacher.selected = "soft"
  config.teacher.strengths = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
  config.teacher.lr = 3e-3
  config.teacher.lr_decay = "cosine"
  config.teacher.batch_size = 16_384
  config.teacher.num_epochs = 10
  config.teacher.patience = 0  # No early stopping.
  # What strengths are selected by: choices about "objects" that the fit did not
  # see, or "triplets" of objects that it saw.
  config.teacher.selection = "objects"
  config.teacher.num_folds = 3
  config.teacher.val_fraction = 0.1  # If selected by triplets.
  config.teacher.rank = 0  # Full; more than 0 for very wide features.
  config.teacher.per_feature = False  # One mean and one std for all.
  config.teacher.local_features = ""  # .npy for "glocal"; "" for the stimuli.
  config.teacher.locality_weight = 0.1
  config.teacher.locality_temperature = 0.1

  config.clusters = ml_collections.ConfigDict()
  config.clusters.num_clusters = 500  # Released: cluster_border_500.
  config.clusters.num_restarts = 1
  config.clusters.num_iters = 25

  config.triplets = ml_collections.ConfigDict()
  config.triplets.sampling = "cluster_border"
  config.triplets.num_train = 10_000_000
  config.triplets.num_val = 10_000
  config.triplets.untransformed_temperature = "match"

  config.student = ml_collections.ConfigDict()
  config.student.variants = ("aligned", "control")
  config.student.backbone = ml_collections.ConfigDict()
  config.student.backbone.source = "weights"
  config.student.backbone.variant = "B/16"
  config.student.backbone.pool = "cls"
  config.student.backbone.size = 224
  # Released students take 0 to 1, whatever their weights were trained with.
  config.student.backbone.value_range = (0.0, 1.0)
  config.student.backbone.weights = ""
  config.student.backbone.url = (
    "vit_models/augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-"
    "sd_0.0--imagenet2012-steps_20k-lr_0.01-res_224.npz"
  )
  config.student.loss = "jsd"
  config.student.temperature = 100.0  # Divides the student's similarities.
  config.student.head_dim = 1_024
  config.student.batch_size = 512  # Triplets.
  config.student.num_microbatches = 1  # More, where memory is short.
  config.student.num_steps = 100_000
  config.student.lr = 3e-5
  config.student.warmup_steps = 5_000
  config.student.decay_to_init = 1.0
  config.student.clip_norm = 0.0  # No clipping.
  config.student.checkpoint_every = 10_000
  config.student.eval_every = 5_000  # Steps, on held-out triplets; 0: never.
  config.student.on_bad_loss = "stop"  # Or "skip" its update, and count.
  config.student.spike_factor = 0.0  # Times the mean loss; 0: no limit.
  config.student.profile = (0, 0)  # First step and number of steps; 0: none.

  config.evaluate = ml_collections.ConfigDict()
  config.evaluate.batch_size = 256
  config.evaluate.num_shots = 5
  config.evaluate.num_draws = 5

  config.report = ml_collections.ConfigDict()
  config.report.title = "AligNet: ViT-B/16"
  config.report.num_examples = 8

  if args.runlocal:
    _shrink(config)
  return config


def _shrink(config):
  """Replaces images, people and sizes by those of a small generated world."""
  del config.things
  config.images = ml_collections.ConfigDict()
  config.images.source = "generated"

  config.world = ml_collections.ConfigDict()
  config.world.size = 32
  config.world.num_exemplars = 2
  config.world.num_heldout_basics = 3
  config.world.num_images = ml_collections.ConfigDict()
  config.world.num_images.pretrain = 6
  config.world.num_images.collection = 6
  config.world.num_images.support = 6
  config.world.num_images.evaluation = 4

  config.judgments.source = "simulated"
  config.judgments.people = ml_collections.ConfigDict()
  config.judgments.people.number = 20
  config.judgments.people.spread = 0.3  # Of the logarithm of their weights.
  config.judgments.people.lapse = 0.04  # Share of random answers.
  # What sharing a thing adds to the similarity of two objects; made up.
  config.judgments.people.weights = ml_collections.ConfigDict()
  config.judgments.people.weights.kind = 0.3
  config.judgments.people.weights.superordinate = 3.0
  config.judgments.people.weights.basic = 1.0
  config.judgments.people.weights.exemplar = 2.5
  config.judgments.people.weights.outline = 0.7
  config.judgments.people.weights.colour = 0.7
  config.judgments.num_train = 4_000
  config.judgments.num_test = 300
  config.judgments.num_repeats = 50
  config.judgments.answers_per_repeat = 20
  config.judgments.num_levels = 60
  config.judgments.answers_per_level = 5
  config.vice.num_dims = 20
  config.vice.num_epochs = 60
  config.vice.num_seeds = 1
  config.vice.refit_epochs = 0
  config.vice.batch_size = 256
  config.vice.lr = 0.02

  small = ml_collections.ConfigDict()
  small.variant = ""
  small.patch_size = 8
  small.width = 32
  small.depth = 2
  small.mlp_dim = 64
  small.num_heads = 2
  small.pool = "map"
  small.size = 32
  small.value_range = (-1.0, 1.0)
  config.features.source = "pretrain"
  config.features.backbone = small
  config.pretrain = ml_collections.ConfigDict()
  config.pretrain.num_steps = 20
  config.pretrain.batch_size = 64
  config.pretrain.num_microbatches = 2
  config.pretrain.lr = 2e-3
  config.pretrain.warmup_steps = 5
  config.pretrain.weight_decay = 1e-2
  config.pretrain.checkpoint_every = 10

  config.teacher.num_epochs = 5
  config.teacher.batch_size = 512
  config.clusters.num_clusters = 8
  config.triplets.num_train = 2_000
  config.triplets.num_val = 200
  config.student.backbone = ml_collections.ConfigDict()
  config.student.backbone.source = "teacher"
  config.student.head_dim = 64
  config.student.batch_size = 16
  config.student.num_steps = 12
  config.student.warmup_steps = 2
  config.student.checkpoint_every = 5
  config.evaluate.num_draws = 2
  config.report.num_examples = 3
