"""Same outputs as the PyTorch implementations, on the same weights and pixels.

The models are drawn at random, saved by their own library as safetensors, and
read here. transformers and timm are extras: `pip install -e ".[test,parity]"`.
"""

import jax
import numpy as np
import pytest

from alignet_jax.backbones import load, posemb, weights
from alignet_jax.images import opening

torch = pytest.importorskip("torch", reason="parity needs torch: [parity]")
torch_nn = torch.nn.functional

pytestmark = [
  pytest.mark.parity,
  # Of the libraries, when they are imported and when they make models.
  pytest.mark.filterwarnings("ignore"),
]

# As the issue of these models asks: of the last hidden state and of the
# pooled output, in float32.
TOLERANCE = 1e-4

WIDTH, DEPTH, MLP_DIM, NUM_HEADS = 36, 2, 52, 3
SMALL = {
  "width": WIDTH,
  "depth": DEPTH,
  "mlp_dim": MLP_DIM,
  "num_heads": NUM_HEADS,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
  before = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(before)


@pytest.fixture(scope="module")
def transformers():
  return pytest.importorskip(
    "transformers", reason="parity needs transformers: [parity]"
  )


@pytest.fixture(scope="module")
def timm():
  return pytest.importorskip("timm", reason="parity needs timm: [parity]")


def shaken(model, scale=0.15):
  """The model with every parameter moved, so that none stays at 0 or 1."""
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      parameter.add_(scale * noise)
  return model.eval()


def make_image(np_rng, size, batch=2):
  return np_rng.normal(size=(batch, *size, 3)).astype(np.float32)


def as_torch(image):
  return torch.from_numpy(image.transpose(0, 3, 1, 2).copy())


def run(backbone, image):
  apply = jax.jit(backbone.model.apply)
  return apply({"params": backbone.params}, image)[1]


def assert_close(ours, theirs):
  theirs = theirs.detach().numpy()
  assert ours.shape == theirs.shape
  difference = np.max(np.abs(np.asarray(ours) - theirs))
  assert np.max(np.abs(theirs)) > 0.5  # else the tolerance says nothing
  assert difference <= TOLERANCE
  print(f"max difference {difference:.1e} of {np.max(np.abs(theirs)):.1f}")


def make_transformers(transformers, family, patch, edge, sizes):
  """A random model of the family, and arguments of its forward pass."""
  shared = {
    "hidden_size": sizes["width"],
    "num_hidden_layers": sizes["depth"],
    "num_attention_heads": sizes["num_heads"],
    "image_size": patch * edge,
    "patch_size": patch,
  }
  mlp = {"intermediate_size": sizes["mlp_dim"]}
  if family in ("augreg", "dino"):
    config = transformers.ViTConfig(**shared, **mlp)
    return transformers.ViTModel(config)
  if family in ("siglip", "siglip2"):
    config = transformers.SiglipVisionConfig(**shared, **mlp)
    return transformers.SiglipVisionModel(config)
  if family == "clip":
    config = transformers.CLIPVisionConfig(**shared, **mlp)
    return transformers.CLIPVisionModel(config)
  ratio = {"mlp_ratio": sizes["mlp_dim"] / sizes["width"]}
  if family == "dinov2_swiglu":
    # Two thirds of it, in steps of 8, is the hidden size.
    ratio = {"mlp_ratio": 4, "use_swiglu_ffn": True}
  if family == "dinov2_reg":
    config = transformers.Dinov2WithRegistersConfig(**shared, **ratio)
    return transformers.Dinov2WithRegistersModel(config)
  config = transformers.Dinov2Config(**shared, **ratio)
  return transformers.Dinov2Model(config)


FAMILIES = {
  "augreg": "augreg_s16",
  "siglip": "siglip_b16",
  "siglip2": "siglip2_b32",
  "clip": "clip_b16",
  "dino": "dino_s8",
  "dinov2": "dinov2_s14",
  "dinov2_swiglu": "dinov2_g14",
  "dinov2_reg": "dinov2_reg_s14",
}


def compare_transformers(model, backbone, family, image, *, resize):
  arguments = {}
  if resize:
    arguments["interpolate_pos_encoding"] = True
    if family.startswith("dinov2"):
      arguments = {}  # always does
  with torch.no_grad():
    theirs = model(pixel_values=as_torch(image), **arguments)
  ours = run(backbone, image)
  last = ours["encoded"]
  if family == "clip":
    last = ours[f"block{backbone.model.depth - 1:02d}"]
  assert_close(last, theirs.last_hidden_state)
  pooled = ours["pre_logits"]
  if family == "dino":  # DINO's own files have no such layer.
    assert_close(pooled, theirs.last_hidden_state[:, 0])
  else:
    assert_close(pooled, theirs.pooler_output)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("resize", [False, True])
def test_transformers(transformers, np_rng, tmp_path, family, resize):
  name = FAMILIES[family]
  patch = int(name[-2:].lstrip("_sb"))
  torch.manual_seed(0)
  model = shaken(make_transformers(transformers, family, patch, 5, SMALL))
  model.save_pretrained(tmp_path, safe_serialization=True)
  edge = 7 if resize else 5
  fields = dict(SMALL)
  if family == "augreg":
    fields["rep_size"] = WIDTH
  if family == "dinov2_swiglu":
    fields["mlp_dim"] = 96
  backbone = load.load(name, tmp_path, image_size=edge * patch, **fields)
  image = make_image(np_rng, (edge * patch,) * 2)
  compare_transformers(model, backbone, family, image, resize=resize)
  assert backbone.report.resampled == (("pos_embedding",) if resize else ())


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_transformers_two_towers_in_shards(
  transformers, np_rng, tmp_path, family
):
  """The image model of a pair; an image that is not square; many files."""
  classes = {
    "siglip": (transformers.SiglipConfig, transformers.SiglipModel),
    "clip": (transformers.CLIPConfig, transformers.CLIPModel),
  }
  sizes = {
    "hidden_size": WIDTH,
    "intermediate_size": MLP_DIM,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": NUM_HEADS,
  }
  make_config, make_model = classes[family]
  config = make_config(
    text_config={**sizes, "vocab_size": 11, "projection_size": WIDTH},
    vision_config={**sizes, "image_size": 80, "patch_size": 16},
  )
  model = shaken(make_model(config))
  model.save_pretrained(tmp_path, max_shard_size="40KB")
  assert len(list(tmp_path.glob("*.safetensors"))) > 2
  backbone = load.load(f"{family}_b16", tmp_path, image_size=(48, 96), **SMALL)
  image = make_image(np_rng, (48, 96))
  compare_transformers(model.vision_model, backbone, family, image, resize=True)


@pytest.mark.parametrize("edge", [5, 3])
def test_transformers_naflex(transformers, np_rng, tmp_path, edge):
  config = transformers.Siglip2VisionConfig(
    hidden_size=WIDTH,
    intermediate_size=MLP_DIM,
    num_hidden_layers=DEPTH,
    num_attention_heads=NUM_HEADS,
    num_patches=25,
    patch_size=16,
  )
  model = shaken(transformers.Siglip2VisionModel(config))
  model.save_pretrained(tmp_path)
  image = make_image(np_rng, (edge * 16,) * 2)
  patches = image.reshape(2, edge, 16, edge, 16, 3).transpose(0, 1, 3, 2, 4, 5)
  with torch.no_grad():
    theirs = model(
      torch.from_numpy(patches.reshape(2, edge**2, -1).copy()),
      pixel_attention_mask=torch.ones(2, edge**2),
      spatial_shapes=torch.tensor([[edge, edge]] * 2),
    )
  backbone = load.load("siglip2_b16", tmp_path, image_size=edge * 16, **SMALL)
  ours = run(backbone, image)
  assert_close(ours["encoded"], theirs.last_hidden_state)
  assert_close(ours["pre_logits"], theirs.pooler_output)


TIMM = {
  "augreg_s16": "vit_small_patch16_224",
  "siglip_b16": "vit_base_patch16_siglip_224",
  "siglip2_b32": "vit_base_patch32_siglip_256",
  "clip_b32": "vit_base_patch32_clip_quickgelu_224",
  "clip_b16": "vit_base_patch16_clip_224",
  "dino_s8": "vit_small_patch8_224",
  "dinov2_s14": "vit_small_patch14_dinov2",
  "dinov2_g14": "vit_giant_patch14_dinov2",
  "dinov2_reg_s14": "vit_small_patch14_reg4_dinov2",
}


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("resize", [False, True])
def test_timm(timm, np_rng, tmp_path, name, resize):
  safetensors_torch = pytest.importorskip("safetensors.torch")
  patch = int(name[-2:].lstrip("_sb"))
  settings = {
    "img_size": 5 * patch,
    "embed_dim": WIDTH,
    "depth": DEPTH,
    "num_heads": NUM_HEADS,
    "num_classes": 0,
  }
  model = shaken(timm.create_model(TIMM[name], **settings))
  path = tmp_path / "model.safetensors"
  safetensors_torch.save_file(model.state_dict(), path)
  edge = 7 if resize else 5
  if resize:
    model.set_input_size(img_size=edge * patch)
  fields = {**SMALL, "mlp_dim": model.blocks[0].mlp.fc2.in_features}
  if name.startswith("clip"):  # No config.json is beside the file.
    quick = "quickgelu" in TIMM[name]
    fields["activation"] = "quick_gelu" if quick else "gelu"
  backbone = load.load(name, path, image_size=edge * patch, **fields)
  image = make_image(np_rng, (edge * patch,) * 2)
  with torch.no_grad():
    last = model.forward_features(as_torch(image))
    pooled = model.forward_head(last)
  ours = run(backbone, image)
  assert_close(ours["encoded"], last)
  assert_close(ours["pre_logits"], pooled)


@pytest.mark.parametrize(
  "rule, mode, antialias",
  [
    ("bicubic", "bicubic", False),
    ("bicubic_antialias", "bicubic", True),
    ("bilinear_antialias", "bilinear", True),
  ],
)
@pytest.mark.parametrize("grid", [(3, 4), (7, 7), (16, 9), (37, 2), (1, 20)])
def test_resampling_equals_torch(np_rng, rule, mode, antialias, grid):
  x = np_rng.normal(size=(1, 81, 5)).astype(np.float32)
  expected = torch_nn.interpolate(
    torch.from_numpy(x.reshape(1, 9, 9, 5).transpose(0, 3, 1, 2).copy()),
    size=grid,
    mode=mode,
    align_corners=False,
    antialias=antialias,
  )
  expected = expected.numpy().transpose(0, 2, 3, 1).reshape(1, -1, 5)
  ours = posemb.resample(x, grid, rule=rule)
  np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("edge", [5, 16, 40])
def test_offset_resampling_equals_torch(np_rng, edge):
  x = np_rng.normal(size=(1, 37 * 37, 5)).astype(np.float32)
  expected = torch_nn.interpolate(
    torch.from_numpy(x.reshape(1, 37, 37, 5).transpose(0, 3, 1, 2).copy()),
    scale_factor=((edge + 0.1) / 37,) * 2,
    mode="bicubic",
  )
  expected = expected.numpy().transpose(0, 2, 3, 1).reshape(1, -1, 5)
  ours = posemb.resample(x, (edge, edge), rule="bicubic_offset")
  # torch computes the places in float32: at 37 of them, an error of 1e-6.
  np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize(
  "num_images", [8, pytest.param(1000, marks=pytest.mark.slow)]
)
def test_real_dinov2(transformers, shared_data, num_images):
  """Cosine of every photograph's features on the same pixels, at 224 of 518."""
  import safetensors.torch

  path = shared_data / "weights" / "dinov2_vits14.safetensors"
  config = transformers.Dinov2Config(
    hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518
  )
  model = transformers.Dinov2Model(config).eval()
  state = safetensors.torch.load_file(path)
  missing, unexpected = model.load_state_dict(
    {name: x.float() for name, x in state.items()}, strict=False
  )
  assert missing == ["embeddings.mask_token"] and not unexpected
  backbone = load.load("dinov2_s14", path)
  assert backbone.preprocessing.size == 224
  images = opening.open_collection(
    shared_data / "imagenet_samples" / "images.csv",
    backbone.preprocessing,
    root=shared_data / "imagenet_samples" / "images",
  )
  cosines = []
  for start in range(0, num_images, 8):
    image = backbone.preprocessing.normalise(
      images.load(np.arange(start, start + 8))
    )
    image = np.asarray(image)
    with torch.no_grad():
      theirs = model(as_torch(image)).pooler_output.numpy()
    ours = np.asarray(run(backbone, image)[backbone.output])
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines.extend((ours * theirs).sum(axis=1) / norms)
  print(f"smallest cosine of {len(cosines)}: {min(cosines):.8f}")
  assert len(cosines) == num_images and min(cosines) >= 0.99999


@pytest.mark.slow
@pytest.mark.parametrize("family", ["augreg", "siglip", "clip", "dino"])
@pytest.mark.parametrize("edge", [14, 16])
def test_transformers_b16(transformers, np_rng, tmp_path, family, edge):
  """At full size; that of DINOv2 is B/14, in the next test."""
  compare_base(transformers, np_rng, tmp_path, family, 16, 14, edge)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dinov2", "dinov2_reg"])
@pytest.mark.parametrize("edge", [37, 16])
def test_transformers_b14(transformers, np_rng, tmp_path, family, edge):
  compare_base(transformers, np_rng, tmp_path, family, 14, 37, edge)


def compare_base(transformers, np_rng, tmp_path, family, patch, native, edge):
  sizes = {"width": 768, "depth": 12, "mlp_dim": 3072, "num_heads": 12}
  torch.manual_seed(0)
  model = make_transformers(transformers, family, patch, native, sizes)
  shaken(model, 0.01).save_pretrained(tmp_path)
  fields = {"rep_size": 768} if family == "augreg" else {}
  backbone = load.load(
    f"{family}_b{patch}", tmp_path, image_size=edge * patch, **fields
  )
  image = make_image(np_rng, (edge * patch,) * 2, batch=1)
  compare_transformers(model, backbone, family, image, resize=edge != native)


def test_saved_weights_give_the_same_outputs(transformers, np_rng, tmp_path):
  """DINOv2 through our own npz: registers, layer scale, positions."""
  model = shaken(make_transformers(transformers, "dinov2_reg", 14, 5, SMALL))
  model.save_pretrained(tmp_path)
  first = load.load("dinov2_reg_s14", tmp_path, image_size=70, **SMALL)
  weights.save(tmp_path / "a.npz", first.params)
  second = load.load(
    "dinov2_reg_s14", tmp_path / "a.npz", image_size=70, scan=True, **SMALL
  )
  image = make_image(np_rng, (70, 70))
  np.testing.assert_allclose(
    run(first, image)["pre_logits"],
    run(second, image)["pre_logits"],
    rtol=1e-5,
    atol=1e-5,
  )
