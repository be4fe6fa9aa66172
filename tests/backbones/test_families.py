"""Names of backbones: sizes as published, misspellings answered."""

import math

import pytest

from alignet_jax import artifacts
from alignet_jax.backbones import families, posemb, vit, weights


@pytest.mark.parametrize(
  "name, size, millions",
  [
    # timm's counts of the same models, without classifier. There the class
    # token has a position of its own, `width` numbers, except with registers.
    ("augreg_ti16", 224, 5.52),
    ("siglip_b16", 224, 92.88),
    ("siglip_so400m14", 224, 427.68),
    ("clip_b32", 224, 87.46),
    ("clip_l14", 224, 303.18),
    ("dino_s16", 224, 21.67),
    ("dinov2_s14", 518, 22.06),
    ("dinov2_g14", 518, 1136.48),
    ("dinov2_reg_b14", 518, 86.58),
  ],
)
def test_number_of_parameters(name, size, millions):
  _, fields = families.get(name)
  # As one loop: the blocks are traced once instead of up to 40 times.
  model = vit.ViT(**fields, scan=True)
  shapes = weights.expected_shapes(model, image_size=size)
  count = sum(math.prod(shape) for shape in shapes.values())
  assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("name", families.known_names())
def test_all_known_names_make_a_model(name):
  family, fields = families.get(name)
  model = vit.ViT(**{**fields, "depth": 1})
  assert weights.expected_shapes(model, image_size=224)
  assert name == f"{family.name}_{name.rpartition('_')[2]}"
  assert set(family.posemb) <= set(families.LIBRARIES)
  assert set(family.posemb.values()) <= set(posemb.RULES)
  assert families.is_name(name)


@pytest.mark.parametrize(
  "spelling, name",
  [
    ("dinov2_vits14", "dinov2_s14"),
    ("dinov2_vitg14_reg", "dinov2_reg_g14"),
    ("dino_vitb8", "dino_b8"),
    ("SigLIP_So400m14", "siglip_so400m14"),
  ],
)
def test_spellings_of_torch_hub(spelling, name):
  assert families.get(spelling) == families.get(name)


@pytest.mark.parametrize(
  "name, near",
  [
    ("dinov2_s16", "dinov2_s14"),
    ("siglp_b16", "siglip_b16"),
    ("B/16", "augreg_b16"),
    ("clip_vitb31", "clip_b32"),
    ("", ""),
  ],
)
def test_unknown_names_are_refused_with_the_nearest(name, near):
  assert not families.is_name(name)
  with pytest.raises(
    artifacts.InputError, match=f"Unknown backbone '{name}'.*{near}"
  ) as error:
    families.get(name)
  assert ", ".join(families.known_names()) in str(error.value)
  if near and name != "B/16":
    assert f"did you mean '{near}" in str(error.value)


def test_margins_of_the_crop_grow_with_the_image():
  family, _ = families.get("dinov2_s14")
  assert families.preprocessing(family, 224) == family.preprocessing
  larger = families.preprocessing(family, 448)
  assert (larger.size, larger.short_side) == (448, 512)
  assert larger.mean == family.preprocessing.mean
  family, _ = families.get("clip_l14")
  assert families.preprocessing(family, 336).short_side == 336


def test_timm_has_the_tanh_form_for_new_sizes_of_siglip2_only():
  for name, expected in (
    ("siglip2_b16", {"activation": "gelu"}),
    ("siglip2_so400m14", {"activation": "gelu"}),
    ("siglip2_so400m16", {}),
    ("siglip2_gopt16", {}),
    ("siglip2_b32", {}),
  ):
    family, fields = families.get(name)
    assert families.library_fields(family, fields, "timm") == expected
    assert families.library_fields(family, fields, "npz") == {}
