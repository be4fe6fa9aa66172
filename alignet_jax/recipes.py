"""What the full-size experiments have in common: the published recipe.

Each file in `configs/` that distils the aligned teacher starts from it and
shows what is special about its student. The numbers are those of paper.md,
sections A to C; the optimiser, schedule, batch and loss are those of the
released configuration, for whichever student (that of the others than SigLIP
B/16 is not published).

Usage:
  config = recipes.distillation()
  config.student.backbone.name = "siglip_b16"
"""

import ml_collections


def distillation():
  """Returns all of the experiment but the student's backbone.

  From THINGS judgments and a SigLIP So400m to the triplets of ImageNet, and the
  settings under which a student learns them.

  Returns:
    ConfigDict, not locked; `config.student.backbone` is empty.
  """
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
  config.images.source = "files"  # What they are, `images.opening` sees.
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
  config.judgments.num_drawn = 0  # Random triplets with soft targets as well.

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
  config.features.backbone.name = "siglip_so400m14"
  config.features.backbone.pool = ""  # The family's: map.
  config.features.backbone.size = 384
  config.features.backbone.preprocessing = "own"
  config.features.backbone.weights = ""
  config.features.backbone.url = (
    "https://storage.googleapis.com/big_vision/siglip/"
    "webli_en_so400m_384_58765454.npz:img"
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
  config.student.variants = ("aligned",)  # Or "control", or both.
  # config.images.collection packed at 224 pixels (images/pack.py), so that the
  # student need not decode it again in every epoch; "" for the former itself.
  config.student.collection = ""
  config.student.backbone = ml_collections.ConfigDict()
  config.student.loss = "jsd"
  config.student.temperature = 100.0  # Divides the student's similarities.
  config.student.head_dim = 1_024
  # "dense" uses all cluster-border triplets of clusters_per_batch x
  # images_per_cluster images a step; "triplet" draws each, as the paper does.
  config.student.batches = "triplet"
  config.student.clusters_per_batch = 48  # Images as with triplets.
  config.student.images_per_cluster = 32
  config.student.batch_size = 512  # Triplets.
  config.student.num_microbatches = 1  # More, where memory is short.
  config.student.num_steps = 100_000
  config.student.lr = 3e-5
  config.student.warmup_steps = 5_000
  config.student.decay_to_init = 1.0
  config.student.clip_norm = 0.0  # No clipping.
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
  config.student.checkpoint_every = 10_000
  config.student.eval_every = 5_000  # Steps, on held-out triplets; 0: never.
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
  config.report.title = "AligNet"
  config.report.num_examples = 8
  return config


def shrink(config, *, size=32):
  """Makes an experiment small enough for a minute on two CPU cores.

  Images, people and judgments become those of a small generated world. The
  backbone keeps its family: patch size, pooling, norms, layer scale; its width
  and depth become tiny, and it is trained in the run, once for the teacher and
  the student, since there are no public weights of that size.

  Args:
    config: As of `distillation`, with the student's backbone; is changed.
    size: Of images, in pixels; two patches or more.
  """
  del config.things
  config.images = ml_collections.ConfigDict()
  config.images.source = "generated"

  config.world = ml_collections.ConfigDict()
  config.world.size = size
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
  config.vice.num_epochs = 20
  config.vice.num_seeds = 1
  config.vice.refit_epochs = 0
  config.vice.batch_size = 256
  config.vice.lr = 0.02

  small = ml_collections.ConfigDict()
  small.name = config.student.backbone.name
  small.pool = config.student.backbone.pool
  small.width = 32
  small.depth = 2
  small.mlp_dim = 64
  small.num_heads = 2
  small.size = size
  small.preprocessing = config.student.backbone.preprocessing
  config.features.source = "pretrain"
  config.features.backbone = small
  if config.student.backbone.source == "random":
    config.student.backbone = ml_collections.ConfigDict(small.to_dict())
    config.student.backbone.source = "random"
  else:
    config.student.backbone = ml_collections.ConfigDict()
    config.student.backbone.source = "teacher"

  config.pretrain = ml_collections.ConfigDict()
  config.pretrain.num_steps = 20
  config.pretrain.batch_size = 64
  config.pretrain.num_microbatches = 2
  config.pretrain.lr = 2e-3
  config.pretrain.warmup_steps = 5
  config.pretrain.weight_decay = 1e-2
  config.pretrain.checkpoint_every = 10

  config.teacher.variants = ("soft",)
  config.teacher.strengths = (1e-2, 1e-1)
  config.teacher.num_folds = 2
  config.teacher.num_epochs = 5
  config.teacher.batch_size = 512
  config.clusters.num_clusters = 8
  config.triplets.num_train = 2_000
  config.triplets.num_val = 200
  config.student.head_dim = 64
  config.student.batch_size = 16
  config.student.clusters_per_batch = 4
  config.student.images_per_cluster = 4
  config.student.num_steps = 12
  config.student.warmup_steps = 2
  config.student.checkpoint_every = 5
  config.student.eval_every = 6
  config.evaluate.num_draws = 2
  config.report.num_examples = 3
