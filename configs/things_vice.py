"""VICE of THINGS judgments: what people choose, and how sure they are.

  python -m alignet_jax.main --config=configs/things_vice.py \
    --config.things.triplets_train=PATH --config.things.triplets_test=PATH \
    --config.things.repeats=PATH

Files as in configs/things_teacher.py. The prior is chosen on a tenth of the
training triplets; the test triplets are only scored. Writes the posterior to
WORKDIR/judgments/vice/{parameters,pruned_params}.npz.

Hardware: two CPU cores. Time and the table that it prints: README.
"""

import ml_collections


def get_config(arg=""):
  """Returns the config; takes no argument."""
  if arg:
    raise ValueError(f"This config takes no argument; it was given {arg!r}.")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.stages = ("judgments", "evaluate", "report")

  config.things = ml_collections.ConfigDict()
  config.things.num_objects = 1_854
  config.things.triplets_train = ""
  config.things.triplets_test = ""
  config.things.repeats = ""  # Optional: entropy r, KL, noise ceiling.

  config.judgments = ml_collections.ConfigDict()
  config.judgments.source = "things"
  config.judgments.soft = "vice"
  config.judgments.own_vice = False  # Beside a given embedding.
  config.judgments.num_drawn = 0  # Random triplets with soft targets as well.

  config.vice = ml_collections.ConfigDict()
  config.vice.num_dims = 100
  config.vice.num_epochs = 15
  config.vice.batch_size = 1_024
  config.vice.lr = 0.01
  config.vice.prior = "gaussian"
  # The published values (paper.md, H). The best on held-out choices is taken.
  config.vice.spike = (0.125, 0.25)
  config.vice.slab = (1.0,)
  config.vice.pi = (0.4, 0.5, 0.6)
  config.vice.search_epochs = 15
  config.vice.val_fraction = 0.1  # Of the training triplets, in the search.
  config.vice.refit_epochs = 5  # Of the kept dimensions, after pruning.
  config.vice.refit_lr = 0.003
  config.vice.num_seeds = 6  # Fits, averaged.
  config.vice.num_samples = 50
  config.vice.checkpoint_every = 10  # Epochs.

  config.evaluate = ml_collections.ConfigDict()

  config.report = ml_collections.ConfigDict()
  config.report.title = "VICE of THINGS judgments"
  config.report.num_examples = 0
  return config
