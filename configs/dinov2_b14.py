"""AligNet: a DINOv2 B/14 learns an aligned teacher's similarities.

  python -m alignet_jax.main --config=configs/dinov2_b14.py \
    --config.images.collection=IMAGENET/train --config.images.stimuli=THINGS \
    --config.features.backbone.weights=webli_en_so400m_384_58765454.npz:img \
    --config.student.backbone.weights=facebook/dinov2-base \
    --config.things.triplets_train=PATH --config.things.triplets_test=PATH
  python -m alignet_jax.main --config=configs/dinov2_b14.py:control ...
  python -m alignet_jax.main --config=configs/dinov2_b14.py:runlocal

Without its inputs the command names every missing one and where to get it.

Which layer the published DINOv2 compares triplets by is not known. Released
outputs have 768 to 1,536 numbers (paper.md, section C), the latter probably
class token and mean patch, which it is here. The position embeddings, of 518
pixels, are resampled to 224 as the library that wrote the weights does.
All else is the recipe of the release (alignet_jax/recipes.py).

Hardware: a TPU pod slice or several GPUs. Time: not measured; 256 patches take
some 1.3 times as long as the 196 of a B/16 (configs/vit_b16.py). Results: not
measured.

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
  config.report.title = "AligNet: DINOv2 B/14"

  student = config.student.backbone
  student.source = "weights"
  student.name = "dinov2_b14"
  student.pool = "cls_patch_mean"
  student.size = 224
  # Released students take the whole image, resized by the cubic kernel, in 0 to
  # 1, whatever their weights were trained with. Or "own".
  student.preprocessing = "alignet"
  student.weights = ""
  student.url = "facebook/dinov2-base"

  if args.control:
    config.student.variants = ("control",)
  if args.runlocal:
    recipes.shrink(config, size=28)
  return config
