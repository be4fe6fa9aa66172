"""AligNet: a ViT-B/16 learns similarities from random initial weights.

  python -m alignet_jax.main --config=configs/scratch_b16.py \
    --config.images.collection=IMAGENET/train --config.images.stimuli=THINGS \
    --config.features.backbone.weights=webli_en_so400m_384_58765454.npz:img \
    --config.things.triplets_train=PATH --config.things.triplets_test=PATH
  python -m alignet_jax.main --config=configs/scratch_b16.py:control ...
  python -m alignet_jax.main --config=configs/scratch_b16.py:runlocal

Without its inputs the command names every missing one and where to get it.

Nothing but the teacher's triplets is learnt from, as by the published
Scratch-B. The decay pulls towards the initial weights, here as everywhere;
these are random ones, drawn by the seed. At the released 1.0, with learning
rates that add up to 1.5, it bounds how far a weight can go (paper.md, section
C); whether the published Scratch-B had it is not known. To leave it out:
--config.student.decay_to_init=0.
All else is the recipe of the release (alignet_jax/recipes.py).

Hardware: a TPU pod slice or several GPUs. Time: not measured; the 153.6 million
image passes are some 1.6e19 floating point operations (paper.md, section C; an
estimate), 15 hours at 300 TFLOP/s. Results: not measured.

Arguments: `control` trains the untransformed control instead of the aligned
student; --config.student.variants=aligned,control both, in one run. `runlocal`
takes the same path, shrunk, on the generated world: under a minute on two CPU
cores.
"""

from alignet_jax import config as config_lib
from alignet_jax import recipes


def get_config(arg=""):
  """Returns the config; `arg` is described above."""
  args = config_lib.parse_arg(arg, runlocal=False, control=False)
  config = recipes.distillation()
  config.report.title = "AligNet: ViT-B/16 from scratch"

  student = config.student.backbone
  student.source = "random"  # Initial weights; config.seed draws them.
  student.name = "augreg_b16"
  student.pool = "cls"
  student.size = 224
  # Released students take the whole image, resized by the cubic kernel, in 0 to
  # 1. Or "own".
  student.preprocessing = "alignet"

  if args.control:
    config.student.variants = ("control",)
  if args.runlocal:
    recipes.shrink(config)
  return config
