"""big_vision's own `models/vit.py` as a backbone, where it is installed.

Its model has the parameter names of ours and returns the same dict of outputs,
so that all of the package runs with it. Nothing else needs big_vision. Its
repository has neither setup.py nor pyproject.toml at any commit, so pip refuses
it: it is cloned (tried at commit 0127fb6) and named in PYTHONPATH.

Usage:
  model = big_vision.make("B/16", pool="map")     # "big_vision:B/16" by name
"""

from alignet_jax import artifacts

# Before the variant, in the name of a backbone.
PREFIX = "big_vision:"

# Its names of our pools.
POOL_TYPES = {"cls": "tok", "gap": "gap", "map": "map"}


def make(variant, *, pool="map", dtype="float32", scan=False, **fields):
  """Makes big_vision's model.

  Args:
    variant: As big_vision writes it, for example "B/16".
    pool: "cls", "gap" or "map"; see `vit.ViT`.
    dtype: Of matrix products.
    scan: Whether blocks are one loop; big_vision then recomputes them too.
    **fields: Of big_vision's model, with its names.

  Returns:
    flax module, without parameters.

  Raises:
    artifacts.InputError: big_vision is not installed, or has no such variant.
  """
  try:
    from big_vision.models import vit
  except ImportError as error:
    raise artifacts.InputError(
      f"The backbone {PREFIX}{variant} needs big_vision; importing it says: "
      f"{error}. Run `pip install 'alignet_jax[big_vision]'`, then `git clone "
      "https://github.com/google-research/big_vision`, and add that folder to "
      "PYTHONPATH."
    ) from error
  if pool not in POOL_TYPES:
    raise artifacts.InputError(
      f"big_vision has no pool {pool!r}; known are {', '.join(POOL_TYPES)}."
    )
  try:
    return vit.Model(
      variant=variant,
      pool_type=POOL_TYPES[pool],
      dtype_mm=dtype,
      scan=scan,
      **fields,
    )
  except KeyError as error:
    raise artifacts.InputError(
      f"big_vision has no variant {variant!r}; write SIZE/PATCH, such as B/16."
    ) from error
