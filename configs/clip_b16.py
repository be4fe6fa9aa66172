"""AligNet: a CLIP B/16 learns an aligned teacher's similarities.

  python -m alignet_jax.main --config=configs/clip_b16.py \
    --config.images.collection=IMAGENET/train --config.images.stimuli=THINGS \
    --config.features.backbone.weights=webli_en_so400m_384_58765454.npz:img \
    --config.student.backbone.weights=openai/clip-vit-base-patch16 \
    --config.things.triplets_train=PATH --config.things.triplets_test=PATH
  python -m alignet_jax.main --config=configs/clip_b16.py:control ...
  python -m alignet_jax.main --config=configs/clip_b16.py:runlocal

Without its inputs the command names every missing one and where to get it.

The weights are those of transformers, with their config.json, which says what
kind of GELU they were trained with. Triplets compare the normed class token
before the projection to the space of texts; what the published CLIP compares is
not known (paper.md, section C).
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
  config.report.title = "AligNet: CLIP B/16"

  student = config.student.backbone
  student.source = "weights"
  student.name = "clip_b16"
  student.pool = "cls"
  student.size = 224
  # Released students take the whole image, resized by the cubic kernel, in 0 to
  # 1, whatever their weights were trained with. Or "own".
  student.preprocessing = "alignet"
  student.weights = ""
  student.url = "openai/clip-vit-base-patch16"

  if args.control:
    config.student.variants = ("control",)
  if args.runlocal:
    recipes.shrink(config)
  return config
