"""The whole road on a generated world, in minutes, without a download.

  python -m alignet_jax.main --config=configs/quickstart.py
  python -m alignet_jax.main --config=configs/quickstart.py:runlocal

Hardware: two CPU cores. Time and the table that it prints: README.
The world is made so that the misalignment is there (alignet_jax/images/world.py
says how). A gain measured here shows that the code works, not how large it is
on photographs.

Arguments: `runlocal` shrinks everything to a smoke test of under a minute.
"""

import ml_collections

from alignet_jax import config as config_lib


def get_config(arg=""):
  """Returns the config; `arg` is described above."""
  args = config_lib.parse_arg(arg, runlocal=False)
  config = ml_collections.ConfigDict()
  config.seed = 0
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
  config.images.source = "generated"

  config.world = ml_collections.ConfigDict()
  config.world.size = 32  # Pixels.
  config.world.num_exemplars = 6  # Per basic concept, of which there are 48.
  config.world.num_heldout_basics = 3  # Of 8, per superordinate.
  config.world.num_images = ml_collections.ConfigDict()  # Per exemplar.
  config.world.num_images.pretrain = 40
  config.world.num_images.collection = 25
  config.world.num_images.support = 10
  config.world.num_images.evaluation = 20

  config.judgments = ml_collections.ConfigDict()
  config.judgments.source = "simulated"
  config.judgments.soft = "vice"  # Our own fit to the training choices.
  config.judgments.own_vice = False  # Beside a given embedding.
  config.judgments.num_drawn = 0  # Random triplets with soft targets as well.
  config.judgments.people = ml_collections.ConfigDict()
  config.judgments.people.number = 100
  config.judgments.people.spread = 0.3  # Of the logarithm of their weights.
  config.judgments.people.lapse = 0.02  # Share of random answers.
  # What sharing a thing adds to the similarity of two objects; made up.
  config.judgments.people.weights = ml_collections.ConfigDict()
  config.judgments.people.weights.kind = 0.3
  config.judgments.people.weights.superordinate = 4.0
  config.judgments.people.weights.basic = 1.0
  config.judgments.people.weights.exemplar = 2.5
  config.judgments.people.weights.outline = 0.7
  config.judgments.people.weights.colour = 1.0
  config.judgments.num_train = 30_000  # Triplets, one answer each.
  config.judgments.num_test = 3_000
  config.judgments.num_repeats = 200  # Triplets that many people judge.
  config.judgments.answers_per_repeat = 40
  config.judgments.num_levels = 1_500  # Evaluation triplets per level.
  config.judgments.answers_per_level = 5  # About that of Levels.

  config.vice = ml_collections.ConfigDict()
  config.vice.num_dims = 40
  config.vice.num_epochs = 60
  config.vice.batch_size = 512
  config.vice.lr = 0.02
  config.vice.prior = "gaussian"
  # Published defaults. Of several, the best on held-out choices is taken.
  config.vice.spike = (0.25,)
  config.vice.slab = (1.0,)
  config.vice.pi = (0.5,)
  config.vice.search_epochs = 20
  config.vice.val_fraction = 0.1  # Of the training triplets, in a search.
  config.vice.refit_epochs = 0  # Of the kept dimensions, after pruning.
  config.vice.refit_lr = 0.003
  config.vice.num_seeds = 1
  config.vice.num_samples = 50
  config.vice.checkpoint_every = 10  # Epochs.

  config.features = ml_collections.ConfigDict()
  config.features.source = "pretrain"  # Train the backbone in this run.
  config.features.batch_size = 256
  config.features.backbone = ml_collections.ConfigDict()
  config.features.backbone.patch_size = 8
  config.features.backbone.width = 96
  config.features.backbone.depth = 4
  config.features.backbone.mlp_dim = 192
  config.features.backbone.num_heads = 3
  config.features.backbone.pool = "gap"
  config.features.backbone.size = 32
  config.features.backbone.value_range = (0.0, 1.0)

  config.pretrain = ml_collections.ConfigDict()
  config.pretrain.num_steps = 600
  config.pretrain.batch_size = 128
  config.pretrain.num_microbatches = 4  # Faster on a CPU: its cache holds 32.
  config.pretrain.lr = 2e-3
  config.pretrain.warmup_steps = 50
  config.pretrain.weight_decay = 1e-2
  config.pretrain.checkpoint_every = 100

  config.teacher = ml_collections.ConfigDict()
  config.teacher.variants = ("hard", "soft")
  config.teacher.selected = "soft"
  # One strength: a choice by held-out judgments about the same objects favours
  # the weakest (paper.md, trap 21), which keeps little of the local structure.
  config.teacher.strengths = (1e-1,)
  config.teacher.lr = 3e-3
  config.teacher.batch_size = 2_048
  config.teacher.num_epochs = 30
  config.teacher.patience = 0  # No early stopping, for the same reason.
  config.teacher.lr_decay = "constant"
  config.teacher.selection = "triplets"
  config.teacher.val_fraction = 0.1  # Of the training triplets.
  config.teacher.num_folds = 0  # Of objects, to judge by those left out.
  config.teacher.rank = 0  # Full; more than 0 for very wide features.
  config.teacher.per_feature = False  # One mean and one std for all.
  config.teacher.local_features = ""  # .npy for "glocal"; "" for the stimuli.
  config.teacher.locality_weight = 0.1
  config.teacher.locality_temperature = 0.1

  config.clusters = ml_collections.ConfigDict()
  # Half the exemplars, as 500 for the 1,000 classes of ImageNet.
  config.clusters.num_clusters = 90
  config.clusters.num_restarts = 3
  config.clusters.num_iters = 50

  config.triplets = ml_collections.ConfigDict()
  config.triplets.sampling = "cluster_border"
  config.triplets.num_train = 100_000
  config.triplets.num_val = 1_000
  config.triplets.untransformed_temperature = "match"

  config.student = ml_collections.ConfigDict()
  config.student.variants = ("aligned", "control")
  config.student.backbone = ml_collections.ConfigDict()
  # Starts from the teacher's backbone, as it was before the transform.
  # Deviation: paper's students are smaller than the teacher's backbone.
  config.student.backbone.source = "teacher"
  config.student.loss = "jsd"  # Released default.
  config.student.temperature = 80.0  # 100 at width 768; divides similarities.
  config.student.head_dim = 0  # None; Deviation: see student/model.py.
  # "dense" uses all cluster-border triplets of clusters_per_batch x
  # images_per_cluster images a step; "triplet" draws each, as the paper does.
  config.student.batches = "triplet"
  config.student.clusters_per_batch = 12  # Images as with triplets.
  config.student.images_per_cluster = 16
  config.student.batch_size = 64  # Triplets.
  config.student.num_microbatches = 4  # 48 images each; see pretrain.
  config.student.num_steps = 300
  config.student.lr = 1e-3
  config.student.warmup_steps = 25
  # Released: 1.0, over a sum of learning rates of 1.5. The sum is about .15
  # here, so the pull of the whole run is the same at 10 (paper.md, C).
  config.student.decay_to_init = 10.0
  config.student.clip_norm = 0.0  # No clipping, as released.
  config.student.representation = "pre_logits"  # What the head reads.
  config.student.stop_grad = False  # Whether to train the head only.
  # Patterns of names of parameters: what is updated, what decays to its start.
  config.student.trainable = ".*"
  config.student.decay_mask = ".*"
  config.student.compute_dtype = "float32"  # Of matrix products, or bfloat16.
  config.student.remat = False  # Compute blocks twice, to save memory.
  config.student.on_error = "refuse"  # Or "replace" what cannot be decoded.
  config.student.mesh = ml_collections.ConfigDict()
  config.student.mesh.fsdp = 1  # Devices that share one copy of the weights.
  config.student.mesh.tensor = 1  # Devices that share each matrix product.
  config.student.checkpoint_every = 50
  config.student.eval_every = 100  # Steps, on held-out triplets; 0: never.
  # Weights of the last step, as released, or of the "best" evaluation, which
  # takes a checkpoint for every evaluation that is better than those before.
  config.student.export = "last"
  config.student.on_bad_loss = "stop"  # Or "skip" its update, and count.
  config.student.spike_factor = 0.0  # Times the mean loss; 0: no limit.
  config.student.profile = (0, 0)  # First step and number of steps; 0: none.

  config.evaluate = ml_collections.ConfigDict()
  config.evaluate.batch_size = 256
  config.evaluate.num_shots = 5
  config.evaluate.num_draws = 5

  config.report = ml_collections.ConfigDict()
  config.report.title = "Quickstart: aligning a model in a generated world"
  config.report.num_examples = 8

  if args.runlocal:
    config.world.num_exemplars = 2
    config.world.num_images.pretrain = 6
    config.world.num_images.collection = 6
    config.world.num_images.support = 6
    config.world.num_images.evaluation = 4
    config.judgments.num_train = 3_000
    config.judgments.num_test = 300
    config.judgments.num_repeats = 50
    config.judgments.num_levels = 60
    config.vice.num_dims = 20
    config.vice.num_epochs = 60
    config.features.backbone.width = 32
    config.features.backbone.depth = 2
    config.features.backbone.mlp_dim = 64
    config.features.backbone.num_heads = 2
    config.pretrain.num_steps = 20
    config.pretrain.batch_size = 64
    config.pretrain.warmup_steps = 5
    config.pretrain.checkpoint_every = 10
    config.teacher.num_epochs = 5
    config.clusters.num_clusters = 8
    config.clusters.num_restarts = 1
    config.triplets.num_train = 2_000
    config.triplets.num_val = 200
    config.student.batch_size = 16
    config.student.clusters_per_batch = 4
    config.student.images_per_cluster = 4
    config.student.num_steps = 12
    config.student.warmup_steps = 2
    config.student.checkpoint_every = 5
    config.student.eval_every = 6
    config.evaluate.num_draws = 2
    config.report.num_examples = 3
  return config
