"""Features of images by the students of a finished stage.

Usage:
  embed = embedder.Embedder(folder)                # what the stage wrote
  x = embed("aligned", images, batch_size=64)      # f32[n d]
"""

from alignet_jax import artifacts
from alignet_jax.backbones import stage as backbone_stage
from alignet_jax.backbones import weights


class Embedder:
  """Computes pooled features with the students of a finished stage."""

  def __init__(self, directory):
    """Reads the architecture; `directory` is the artefact of the stage."""
    self._directory = directory
    self._backbone = artifacts.read_json(directory / "backbone.json")
    self._model = backbone_stage.make_model(self._backbone)

  @property
  def size(self):
    """Height and width in pixels that the students take."""
    return self._backbone["size"]

  def has(self, name):
    """Whether there is a student "base", "aligned" or "control"."""
    return (self._directory / f"{name}.npz").exists()

  def __call__(self, name, images, *, batch_size):
    """Returns f32[n d] for a collection of images."""
    path = self._directory / f"{name}.npz"
    params = weights.unflatten(weights.read(path))
    return backbone_stage.extract(
      self._model,
      params,
      images,
      backbone=self._backbone,
      batch_size=batch_size,
      label=f"{name}: {len(images)} images",
    )
