"""Hard and soft teachers of THINGS judgments, from features given by path.

  python -m alignet_jax.main --config=configs/things_teacher.py \
    --config.things.triplets_train=PATH --config.things.triplets_test=PATH \
    --config.things.repeats=PATH --config.things.features=PATH \
    --config.things.vice_embedding=PATH
  python -m alignet_jax.main --config=configs/things_teacher.py:all ...

Files are .npy or .txt as released: triplets [n 3], 0-based, the odd one last;
features [objects d]; VICE embedding [objects dimensions]; repeats .npz with
triplets and odd_counts (may be left out). Without a VICE embedding,
--config.judgments.soft=vice fits one to the training triplets.

Arguments: `all` adds the transforms of human_alignment and gLocal, soft targets
of an own VICE fit, and accuracy on objects that were left out of the fit; that
takes five times as long or more.

Hardware: two CPU cores. Time and the table that it prints: README.
"""

import ml_collections

from alignet_jax import config as config_lib


def get_config(arg=""):
  """Returns the config; `arg` is described above."""
  args = config_lib.parse_arg(arg, all=False)
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.stages = ("judgments", "features", "teacher", "evaluate", "report")

  config.things = ml_collections.ConfigDict()
  config.things.triplets_train = ""
  config.things.triplets_test = ""
  config.things.repeats = ""  # Optional: entropy r and KL.
  config.things.features = ""
  config.things.vice_embedding = ""
  config.things.num_objects = 0  # As many as there are features.

  config.judgments = ml_collections.ConfigDict()
  config.judgments.source = "things"
  config.judgments.soft = "embedding"  # Or "vice": our own fit; or "none".
  config.judgments.own_vice = False  # Beside the given embedding.
  # Deviation: random triplets of the objects get soft targets beside those
  # judged, so that the map is fitted to more than the few that people saw.
  config.judgments.num_drawn = 1_000_000

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
  config.features.source = "file"

  config.teacher = ml_collections.ConfigDict()
  config.teacher.variants = ("hard", "soft")
  config.teacher.selected = "soft"
  config.teacher.strengths = (1e-3, 3e-3, 1e-2, 3e-2)
  config.teacher.lr = 3e-3
  config.teacher.lr_decay = "cosine"
  config.teacher.batch_size = 16_384
  config.teacher.num_epochs = 10
  config.teacher.patience = 0  # No early stopping.
  # What strengths are selected by: choices about "objects" that the fit did not
  # see, or "triplets" of objects that it saw.
  config.teacher.selection = "triplets"
  config.teacher.num_folds = 0  # Of objects, to judge by those left out.
  config.teacher.val_fraction = 0.1  # If selected by triplets.
  config.teacher.rank = 0  # Full; more than 0 for very wide features.
  config.teacher.per_feature = False  # One mean and one std for all.
  config.teacher.local_features = ""  # .npy for "glocal"; "" for the stimuli.
  config.teacher.locality_weight = 0.1
  config.teacher.locality_temperature = 0.1

  config.evaluate = ml_collections.ConfigDict()

  config.report = ml_collections.ConfigDict()
  config.report.title = "Teachers of THINGS judgments"
  config.report.num_examples = 0

  if args.all:
    config.judgments.own_vice = True
    config.teacher.variants = (
      "naive",
      "global",
      "glocal",
      "hard",
      "soft",
      "soft_own_vice",
    )
    config.teacher.num_folds = 3
  return config
