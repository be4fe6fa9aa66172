"""The student: a backbone, and the head whose outputs the triplets compare.

Usage:
  student = model.Student(vit.from_variant("B/16", pool="map"), head_dim=1024)
  params = model.init_params(rng, student, backbone_params, image_size=224)
  z, out = student.apply({"params": params}, image)
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from alignet_jax import artifacts
from alignet_jax.backbones import vit, weights

# Vectors that a ViT has for an image; the last two with a class token only.
REPRESENTATIONS = (
  "pre_logits",
  "head_input",
  "patch_mean",
  "cls",
  vit.CLS_PATCH_MEAN,
)


class Student(nn.Module):
  """Backbone with a linear triplet head (paper.md, section C).

  Its parameters are {"backbone": those of the backbone, "triplet_head":
  {"kernel" f32[d e], "bias" f32[e]}}. The bias takes part in the dot products,
  as in the released model, so similarities are not invariant to shifts.

  Attributes:
    backbone: Module that maps images to (x, dict of named outputs), such as
      `vit.ViT`.
    head_dim: Size e of the embedding, 1024 in the paper. 0 is no head: the
      representation itself is compared. `Deviation:` for backbones so small
      that a head alone can learn the teacher's transform, which would leave
      the backbone as it was.
    representation: The output of the backbone, f32[b d], that the head reads;
      "cls_patch_mean" is "cls" and "patch_mean", one after the other.
    stop_grad: Whether the gradient ends at the head, so that nothing else is
      trained, as with the released flag of that name.
  """

  backbone: nn.Module
  head_dim: int
  representation: str = "pre_logits"
  stop_grad: bool = False

  @nn.compact
  def __call__(self, image):
    """Embeds images.

    Args:
      image: f32[b h w 3], in the value range of the backbone.

    Returns:
      f32[b e] embeddings, not normalised, and the backbone's outputs with
      "triplet_logits" added, which is what the release calls them.
    """
    _, out = self.backbone(image)
    x = self._represent(out).astype(jnp.float32)
    if self.stop_grad:
      x = jax.lax.stop_gradient(x)
    z = nn.Dense(self.head_dim, name="triplet_head")(x) if self.head_dim else x
    return z, {**out, "triplet_logits": z}

  def _represent(self, out):
    """The vectors that are compared, of any float type."""
    if self.representation == vit.CLS_PATCH_MEAN and "cls" in out:
      return jnp.concatenate([out["cls"], out["patch_mean"]], axis=-1)
    x = out.get(self.representation)
    if x is not None and x.ndim == 2:
      return x
    vectors = [
      name for name, value in out.items() if getattr(value, "ndim", 0) == 2
    ]
    if "cls" in vectors:
      vectors.append(vit.CLS_PATCH_MEAN)
    problem = "there is none of this name"
    if x is not None:
      problem = (
        f"it has shape {list(x.shape)}, and the triplet head needs one vector"
        " per image"
      )
    raise artifacts.InputError(
      f"The backbone has no output {self.representation!r} to compare:"
      f" {problem}. Those that can be compared are {', '.join(vectors)}."
    )


def init_params(
  rng: Any, student: Student, backbone_params: Any, *, image_size: Any
):
  """Puts pretrained weights under a new triplet head.

  The head starts as the official one does: kernel drawn with variance 1/d,
  bias zero. It is an anchor of the decay as well (paper.md, section C).

  Args:
    rng: Key for the head.
    student: The model.
    backbone_params: Tree of the backbone's parameters.
    image_size: Height and width in pixels, or a pair of them.

  Returns:
    Tree of f32 arrays.

  Raises:
    artifacts.InputError: The parameters do not fit the backbone.
  """
  shapes = weights.expected_shapes(student, image_size=image_size)
  backbone = weights.flatten({"backbone": backbone_params})
  head = {
    name: shape
    for name, shape in shapes.items()
    if name.startswith("triplet_head/")
  }
  weights.check(
    backbone,
    {name: shape for name, shape in shapes.items() if name not in head},
    path="The backbone's weights",
  )
  flat = {name: jnp.asarray(x, jnp.float32) for name, x in backbone.items()}
  if head:
    kernel_init = nn.initializers.lecun_normal()
    flat["triplet_head/kernel"] = kernel_init(rng, head["triplet_head/kernel"])
    flat["triplet_head/bias"] = jnp.zeros(head["triplet_head/bias"])
  return jax.tree.map(jnp.asarray, weights.unflatten(flat))
