"""Names of a student's parameters, told without JAX from the config alone.

All that a vision transformer of any family can have; which of them one has, its
weights say. So a pattern that is found in none of these is wrong for certain; a
test compares them with those of `backbones.vit`.

Usage:
  names(depth=12, has_head=True)     # "backbone/embedding/kernel", ...
"""

# More blocks than any published backbone has.
MAX_DEPTH = 64

HEAD = ("triplet_head/kernel", "triplet_head/bias")

_NORM = ("scale", "bias")
_DENSE = ("kernel", "bias")
_ATTENTION = tuple(
  f"MultiHeadDotProductAttention_0/{part}/{name}"
  for part in ("query", "key", "value", "out")
  for name in _DENSE
)
_MLP = tuple(f"MlpBlock_0/Dense_{i}/{name}" for i in (0, 1) for name in _DENSE)
_BLOCK = (
  *(f"LayerNorm_{i}/{name}" for i in (0, 1) for name in _NORM),
  *(f"LayerScale_{i}/scale" for i in (0, 1)),
  *_ATTENTION,
  *_MLP,
)
_POOL = (
  "probe",
  *(f"LayerNorm_0/{name}" for name in _NORM),
  *_ATTENTION,
  *_MLP,
)


def names(*, depth=MAX_DEPTH, has_head):
  """All names that a student's parameters may have.

  Args:
    depth: Number of blocks.
    has_head: Whether there is a triplet head.

  Returns:
    List of str, "/"-joined.
  """
  backbone = (
    *(f"embedding/{name}" for name in _DENSE),
    "pos_embedding",
    "cls",
    "registers",
    *(f"pre_norm/{name}" for name in _NORM),
    *(
      f"Transformer/encoderblock_{i}/{name}"
      for i in range(depth)
      for name in _BLOCK
    ),
    *(f"Transformer/encoder_norm/{name}" for name in _NORM),
    *(f"MAPHead_0/{name}" for name in _POOL),
    *(f"pre_logits/{name}" for name in _DENSE),
  )
  head = HEAD if has_head else ()
  return [*(f"backbone/{name}" for name in backbone), *head]
