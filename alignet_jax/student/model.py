"""The student: a backbone and the triplet head that the loss sees.

Parameters are {"backbone": the backbone's own tree, "triplet_head": a dense
layer}. The head is new and random; the backbone brings its weights. What is
evaluated and exported is the backbone alone (paper.md, section C).

Usage:
  student = Student(backbone=vit.from_variant("B/16"), head_dim=1024)
  params = init_params(rng, student, backbone_params, image_size=224)
  z, out = student.apply({"params": params}, image)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Student(nn.Module):
  """Maps images to the embeddings whose dot products are trained.

  Attributes:
    backbone: module that returns (x, dict of named outputs).
    head_dim: size of the embedding; 1024 in the released configuration.
    representation: name of the backbone's output that the head takes.
  """

  backbone: nn.Module
  head_dim: int
  representation: str = "pre_logits"

  @nn.compact
  def __call__(self, image):
    """Encodes images.

    Args:
      image: f32[b h w 3] in the backbone's value range.

    Returns:
      z f32[b head_dim], not normalised, and the backbone's outputs.
    """
    _, out = self.backbone(image)
    if self.representation not in out:
      raise ValueError(
        f"The backbone has no output {self.representation!r}; it has "
        f"{', '.join(out)}."
      )
    x = out[self.representation].astype(jnp.float32)
    return nn.Dense(self.head_dim, name="triplet_head")(x), out


def init_params(rng, student, backbone_params, *, image_size):
  """Joins pretrained backbone weights with a random head.

  Args:
    rng: key.
    student: `Student`.
    backbone_params: tree of the backbone's parameters.
    image_size: height and width in pixels.

  Returns:
    Tree of f32 arrays.
  """
  image = jnp.zeros([1, image_size, image_size, 3])
  shapes = jax.eval_shape(student.init, rng, image)["params"]
  width = shapes["triplet_head"]["kernel"].shape[0]
  head = nn.Dense(student.head_dim).init(rng, jnp.zeros([1, width]))["params"]
  mismatch = [
    f"{jax.tree_util.keystr(path)} is {given.shape}, needed is {needed.shape}"
    for (path, given), (_, needed) in zip(
      jax.tree_util.tree_leaves_with_path(backbone_params),
      jax.tree_util.tree_leaves_with_path(shapes["backbone"]),
      strict=True,
    )
    if given.shape != needed.shape
  ]
  if mismatch:
    raise ValueError(f"The weights do not fit: {'; '.join(mismatch)}.")
  backbone = jax.tree.map(jnp.asarray, backbone_params)
  return {"backbone": backbone, "triplet_head": head}
