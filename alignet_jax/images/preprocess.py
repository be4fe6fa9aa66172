"""What happens to the pixels of an image before a model sees them.

Size, resizing, crop and scaling belong to the weights: another choice gives
other features without any error (paper.md, section J7). The geometry works on
bytes, as the published pipelines do; `mean` and `std` are applied on the
device, after the bytes 0 to 255 became 0 to 1.

Usage:
  dinov2 = preprocess.Preprocessing(
    size=224, resize="short_side", short_side=256, interpolation="bicubic",
    mean=preprocess.IMAGENET_MEAN, std=preprocess.IMAGENET_STD)
  square = dinov2.apply(image)                   # uint8[224 224 3]
  x = dinov2.normalise(square[None])             # f32[1 224 224 3]
"""

import dataclasses
import math

import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import resize as resize_lib

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

RESIZES = ("squash", "short_side")
INTERPOLATIONS = ("cubic_no_antialias", "bicubic", "bilinear")

# Pixels that an image may have, before and after it is resized: PIL's own
# limit. Three bytes each, so 268 MB in every thread that decodes.
MAX_PIXELS = 2**30 // 4 // 3


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """The way from an image of any size to what a model takes.

  Attributes:
    size: Height and width in pixels that the model takes.
    resize: "squash": the whole image becomes a square, aspect not kept.
      "short_side": the short side becomes `short_side`, aspect kept, and the
      square of `size` in the middle is cut out.
    short_side: In pixels, at least `size`; 0 for `size`. Not read by "squash".
    interpolation: "cubic_no_antialias", the kernel of OpenCV, or "bicubic" or
      "bilinear" with the antialiasing of PIL.
    mean: Of red, green and blue in 0 to 1; subtracted.
    std: Of the same; divided by.
  """

  size: int
  resize: str = "squash"
  short_side: int = 0
  interpolation: str = "cubic_no_antialias"
  mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
  std: tuple[float, float, float] = (1.0, 1.0, 1.0)

  def __post_init__(self):
    """Refuses fields that no preprocessing can have."""
    for field, known in (
      ("resize", RESIZES),
      ("interpolation", INTERPOLATIONS),
    ):
      if getattr(self, field) not in known:
        raise artifacts.InputError(
          f"The preprocessing has {field} {getattr(self, field)!r}; known are"
          f" {', '.join(known)}."
        )
    for field in ("size", "short_side"):
      value = getattr(self, field)
      if not isinstance(value, int) or isinstance(value, bool):
        raise artifacts.InputError(
          f"The preprocessing has {field} {value!r}; expected whole pixels."
        )
    if not 1 <= self.size <= math.isqrt(MAX_PIXELS):
      raise artifacts.InputError(
        f"The preprocessing has size {self.size}; expected 1 to"
        f" {math.isqrt(MAX_PIXELS)} pixels."
      )
    if self.short_side and self.short_side < self.size:
      raise artifacts.InputError(
        f"The preprocessing has short_side {self.short_side}; expected 0 or at"
        f" least its size, {self.size}, which is cut out of it."
      )
    for field in ("mean", "std"):
      # Lists of a JSON file become tuples: the class must stay hashable.
      values = tuple(float(value) for value in getattr(self, field))
      if len(values) != 3 or not all(math.isfinite(value) for value in values):
        raise artifacts.InputError(
          f"The preprocessing has {field} {getattr(self, field)!r}; expected"
          " three finite numbers, for red, green and blue."
        )
      if field == "std" and min(values) <= 0:
        raise artifacts.InputError(
          f"The preprocessing has std {values}; expected more than 0 each."
        )
      object.__setattr__(self, field, values)

  def apply(self, image):
    """Resizes and crops one image.

    Sizes are rounded as torchvision does: the long side of "short_side" is cut
    down to whole pixels, the corner of the crop rounded half to even.
    (transformers has the same sides but rounds the corner down: where the
    margin is odd, its crop may begin one pixel earlier.)

    Args:
      image: uint8[h w 3], h and w at least 1.

    Returns:
      uint8[size size 3].

    Raises:
      artifacts.InputError: If the image is so long and thin that it would have
        more than `MAX_PIXELS` pixels once its short side is resized.
    """
    if self.resize == "squash":
      return self._resize(image, self.size, self.size)
    height, width = image.shape[:2]
    short = self.short_side or self.size
    if height < width:
      new_height, new_width = short, int(short * width / height)
    else:
      new_height, new_width = int(short * height / width), short
    if new_height * new_width > MAX_PIXELS:
      raise artifacts.InputError(
        f"it has {width} x {height} pixels, and would have {new_width} x"
        f" {new_height} with a short side of {short}; at most {MAX_PIXELS} are"
        " allowed"
      )
    image = self._resize(image, new_height, new_width)
    top = round((new_height - self.size) / 2)
    left = round((new_width - self.size) / 2)
    return image[top : top + self.size, left : left + self.size]

  def _resize(self, image, height, width):
    if self.interpolation == "cubic_no_antialias":
      return resize_lib.resize_cubic(image, (height, width))
    from PIL import Image

    if image.shape[:2] == (height, width):
      return image
    kernel = Image.Resampling[self.interpolation.upper()]
    resized = Image.fromarray(image).resize((width, height), kernel)
    return np.asarray(resized)

  def normalise(self, images):
    """Turns bytes into what the model takes, on the device.

    Args:
      images: uint8[*b size size 3].

    Returns:
      f32[*b size size 3], (images / 255 - mean) / std.
    """
    import jax.numpy as jnp

    x = jnp.asarray(images, jnp.float32)
    per_channel = (1,) * (x.ndim - 1) + (3,)
    mean = jnp.asarray(self.mean, jnp.float32).reshape(per_channel)
    std = jnp.asarray(self.std, jnp.float32).reshape(per_channel)
    return (x / 255.0 - mean) / std

  def at_size(self, size):
    """The same for another resolution; margins of the crop in proportion.

    Args:
      size: Height and width in pixels.

    Returns:
      `Preprocessing`.
    """
    short_side = round(self.short_side * size / self.size)
    return dataclasses.replace(self, size=size, short_side=short_side)

  def to_dict(self):
    """The fields as values of JSON."""
    fields = dataclasses.asdict(self)
    return {**fields, "mean": list(self.mean), "std": list(self.std)}


def from_dict(values):
  """Reads what `Preprocessing.to_dict` gave, for example from a JSON file.

  Args:
    values: Mapping with the field `size`; others have their defaults.

  Returns:
    `Preprocessing`.

  Raises:
    artifacts.InputError: A field is missing, not known or wrong.
  """
  known = [field.name for field in dataclasses.fields(Preprocessing)]
  for name in values:
    if name not in known:
      raise artifacts.InputError(
        f"A preprocessing has no field {name!r}; it has {', '.join(known)}."
      )
  if "size" not in values:
    raise artifacts.InputError("A preprocessing needs the field size.")
  return Preprocessing(**values)


# As the released AligNet students were trained (paper.md, section C).
ALIGNET = Preprocessing(size=224)

# As DINO and DINOv2 were evaluated by their authors.
DINOV2 = Preprocessing(
  size=224,
  resize="short_side",
  short_side=256,
  interpolation="bicubic",
  mean=IMAGENET_MEAN,
  std=IMAGENET_STD,
)

PRESETS = {"alignet": ALIGNET, "dinov2": DINOV2}
