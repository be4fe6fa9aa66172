"""AligNet: a SigLIP So400m/14, as large as the teacher, is the student.

  python -m alignet_jax.main --config=configs/so400m.py \
    --config.images.collection=IMAGENET/train --config.images.stimuli=THINGS \
    --config.features.backbone.weights=webli_en_so400m_384_58765454.npz:img \
    --config.student.backbone.weights=webli_en_so400m_384_58765454.npz:img \
    --config.things.triplets_train=PATH --config.things.triplets_test=PATH
  python -m alignet_jax.main --config=configs/so400m.py:control ...
  python -m alignet_jax.main --config=configs/so400m.py:runlocal

Without its inputs the command names every missing one and where to get it.

Not among the published students, which are all B: it asks what remains of the
gain where the student need not be smaller. It starts from the teacher's own
weights, at 224 pixels instead of 384, with position embeddings resampled.
All else is the recipe of the release (alignet_jax/recipes.py).

Hardware: a TPU pod slice; parameters, anchor and the moments of Adam are four
times 1.7 GB. Time and results: not measured.

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
  config.report.title = "AligNet: SigLIP So400m/14"

  student = config.student.backbone
  student.source = "weights"
  student.name = "siglip_so400m14"
  student.pool = "map"
  student.size = 224
  # Released students take the whole image, resized by the cubic kernel, in 0 to
  # 1, whatever their weights were trained with. Or "own".
  student.preprocessing = "alignet"
  student.weights = ""
  student.url = (
    "https://storage.googleapis.com/big_vision/siglip/"
    "webli_en_so400m_384_58765454.npz:img"
  )

  if args.control:
    config.student.variants = ("control",)
  if args.runlocal:
    recipes.shrink(config, size=28)
  return config
