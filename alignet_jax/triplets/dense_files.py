"""What dense batches need of the teacher, as a file beside the triplets.

The features themselves are those of the features stage; here is what is done to
them: the transform, the temperature, and the clusters. So a student that learns
from dense batches reads no more stages than one that learns from triplets.

Usage:
  dense_files.write(folder, cluster_ids=ids, transform=transform)
  teacher = dense_files.read(folder)               # teacher.cluster_ids, ...
"""

import dataclasses
import pathlib

import numpy as np

from alignet_jax import artifacts
from alignet_jax.teacher import transform as transform_lib

FILE = "dense.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class DenseTeacher:
  """How similarities follow from the features of the collection.

  Attributes:
    cluster_ids: int32[n] cluster of each image.
    transform: `AffineTransform` of the features, or None for raw ones.
    temperature: Positive; divides the dot products.
  """

  cluster_ids: np.ndarray
  transform: transform_lib.AffineTransform | None
  temperature: float


def write(folder, *, cluster_ids, transform=None, temperature=1.0):
  """Writes `dense.npz`; the arguments are the fields of `DenseTeacher`."""
  arrays = {} if transform is None else dataclasses.asdict(transform)
  artifacts.write_npz(
    pathlib.Path(folder) / FILE,
    cluster_ids=np.asarray(cluster_ids, np.int32),
    temperature=np.float64(temperature),
    **arrays,
  )


def read(folder):
  """Reads `dense.npz` of a folder.

  Args:
    folder: That of one representation in the artefact of the triplets stage.

  Returns:
    `DenseTeacher`.

  Raises:
    artifacts.InputError: There is no such file, or it lacks something.
  """
  arrays = artifacts.read_npz(
    pathlib.Path(folder) / FILE, required=("cluster_ids", "temperature")
  )
  cluster_ids = arrays.pop("cluster_ids")
  temperature = float(arrays.pop("temperature"))
  transform = transform_lib.AffineTransform(**arrays) if arrays else None
  return DenseTeacher(cluster_ids, transform, temperature)
