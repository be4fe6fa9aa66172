"""What happens to the pixels of an image before a model sees them.

Size, resizing, crop and scaling belong to the weights: another choice gives
other features without any error (paper.md, section J7). The geometry works on
bytes, as the published pipelines do; `mean` and `std` are applied on the
device, after the bytes 0 to 255 became 0 to 1.

Usage:
  dinov2 = preprocess.Preprocessing(
    size=224, resize="short_side", short_side=256, interpolation="bicubic",
    mean=preprocess.IMAGENET_MEAN, std=preprocess.IMAGENET_STD)
"""

import dataclasses

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

RESIZES = ("squash", "short_side")
INTERPOLATIONS = ("cubic_no_antialias", "bicubic", "bilinear")


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


# As the released AligNet students were trained (paper.md, section C).
ALIGNET = Preprocessing(size=224)
