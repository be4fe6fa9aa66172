"""The fitted transform: a few arrays and one line of numpy.

Row vectors, as in gLocal's released files: `((x - mean) / std) @ weights +
bias`. The mean and the standard deviation are those of the features that the
transform was fitted on, and are stored with it, because features of any other
data must be standardised by the same numbers (paper.md, sections A and F).
Nothing here needs JAX.

Usage:
  teacher = transform.AffineTransform.load("clip_transform.npz")
  embedding = teacher.apply(features)               # f32[n e]
"""

import dataclasses

import numpy as np

from alignet_jax import artifacts


@dataclasses.dataclass(frozen=True, eq=False)
class AffineTransform:
  """An affine map from features to embeddings whose dot products are used.

  Whatever the arrays are given as, they are kept as float32 of numpy.

  Attributes:
    weights: f32[d e].
    bias: f32[e].
    mean: f32[] or f32[d], subtracted first.
    std: f32[] or f32[d], positive, divided by next.
  """

  weights: np.ndarray
  bias: np.ndarray
  mean: np.ndarray
  std: np.ndarray

  def __post_init__(self):
    for field in dataclasses.fields(self):
      array = np.asarray(getattr(self, field.name), np.float32)
      if not np.isfinite(array).all():
        raise ValueError(f"{field.name} holds NaN or infinity.")
      object.__setattr__(self, field.name, array)
    if self.weights.ndim != 2:
      raise ValueError(
        f"weights have shape {self.weights.shape}; expected two axes,"
        " (features, embedding)."
      )
    num_features, num_embedding = self.weights.shape
    if self.bias.shape != (num_embedding,):
      raise ValueError(
        f"bias has shape {self.bias.shape}; expected {(num_embedding,)} for"
        f" weights of shape {self.weights.shape}."
      )
    for name in ("mean", "std"):
      shape = getattr(self, name).shape
      if shape not in ((), (num_features,)):
        raise ValueError(
          f"{name} has shape {shape}; expected one number or"
          f" {(num_features,)} for weights of shape {self.weights.shape}."
        )
    if not (self.std > 0).all():
      raise ValueError(f"std holds {self.std.min()}; it must be positive.")

  def apply(self, features):
    """Maps features of any data to embeddings.

    Args:
      features: f32[*b d], not standardised.

    Returns:
      f32[*b e]. Compare them by dot product, temperature 1.

    Raises:
      ValueError: The features do not have the width of the transform.
    """
    features = np.asarray(features, np.float32)
    width = features.shape[-1] if features.ndim else None
    if width != len(self.weights):
      raise ValueError(
        f"features have shape {features.shape}; this transform expects"
        f" {len(self.weights)} features in the last axis."
      )
    return ((features - self.mean) / self.std) @ self.weights + self.bias

  def save(self, path, *, with_bias=True):
    """Writes the arrays under their names as `.npz`, atomically.

    gLocal's code reads the file too, if `mean` and `std` are single numbers.

    Args:
      path: Where to write.
      with_bias: Whether to write the bias. Some files of gLocal have none,
        which means zero.

    Raises:
      ValueError: The bias is not to be written, and is not zero.
    """
    arrays = dataclasses.asdict(self)
    if not with_bias and arrays.pop("bias").any():
      raise ValueError(
        f"{path}: the transform has a bias that is not zero; a file without it "
        "would hold another transform. Fit one without a bias "
        "(steps.Objective(use_bias=False))."
      )
    artifacts.write_npz(path, **arrays)

  @classmethod
  def load(cls, path):
    """Reads a file of `save` or one of gLocal's released transforms.

    Args:
      path: A `.npz` file with `weights`, `mean`, `std` and perhaps `bias`;
        without it the bias is zero. Other arrays are ignored.

    Returns:
      An `AffineTransform`.

    Raises:
      artifacts.InputError: The file is missing, damaged, lacks an array, or
        its arrays do not fit together; names it.
    """
    arrays = artifacts.read_npz(path, required=("weights", "mean", "std"))
    weights = arrays["weights"]
    bias = arrays.get("bias", np.zeros(weights.shape[-1:], np.float32))
    try:
      return cls(weights, bias, arrays["mean"], arrays["std"])
    except ValueError as error:
      raise artifacts.InputError(f"{path}: {error}") from error
