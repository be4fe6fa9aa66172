"""AligNet: a SigLIP B/16, the student of the released configuration.

  python -m alignet_jax.main --config=configs/siglip_b16.py \
    --config.images.collection=IMAGENET/train --config.images.stimuli=THINGS \
    --config.features.backbone.weights=webli_en_so400m_384_58765454.npz:img \
    --config.student.backbone.weights=webli_en_b16_224_63724782.npz:img \
    --config.things.triplets_train=PATH --config.things.triplets_test=PATH
  python -m alignet_jax.main --config=configs/siglip_b16.py:control ...
  python -m alignet_jax.main --config=configs/siglip_b16.py:runlocal

Without its inputs the command names every missing one and where to get it.

The student, its weights and its representation (the output of the MAP head)
are those of the release. SigLIP was trained with pixels of -1 to 1; students
take 0 to 1, as released (paper.md, trap 6).
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
  config.report.title = "AligNet: SigLIP B/16"

  student = config.student.backbone
  student.source = "weights"
  student.name = "siglip_b16"
  student.pool = "map"
  student.size = 224
  # Released students take the whole image, resized by the cubic kernel, in 0 to
  # 1, whatever their weights were trained with. Or "own".
  student.preprocessing = "alignet"
  student.weights = ""
  student.url = (
    "https://storage.googleapis.com/big_vision/siglip/"
    "webli_en_b16_224_63724782.npz:img"
  )

  if args.control:
    config.student.variants = ("control",)
  if args.runlocal:
    recipes.shrink(config)
  return config
