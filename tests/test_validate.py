"""Wrong values of the configs are refused by name before anything runs."""

import pathlib
import re
import subprocess
import sys

import ml_collections
import pytest

from alignet_jax import artifacts, field_types, parameter_names, validate
from alignet_jax import config as config_lib
from alignet_jax.backbones import families, vit, weights
from alignet_jax.backbones import stage as backbone_stage
from alignet_jax.images import sources, world
from alignet_jax.judgments import stage as judgments_stage
from alignet_jax.judgments.vice import model as vice
from alignet_jax.photos import source as photos_source
from alignet_jax.student import losses
from alignet_jax.student import model as student_model
from alignet_jax.student import settings as student_settings
from alignet_jax.student import stage as student_stage
from alignet_jax.teacher import stage as teacher_stage
from alignet_jax.triplets import batches
from alignet_jax.triplets import stage as triplets_stage

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def _load(name, overrides=()):
  config = config_lib.load(str(CONFIGS / name))
  return config_lib.apply_overrides(config, dict(overrides))


@pytest.mark.parametrize(
  "name",
  [
    "photos_vits14.py",
    "photos_vits14.py:runlocal",
    "quickstart.py",
    "quickstart.py:runlocal",
    "things_teacher.py",
    "things_vice.py",
    "vit_b16.py",
    "vit_b16.py:runlocal",
  ],
)
def test_the_configs_pass(name):
  validate.check(_load(name))


def test_a_config_without_the_fields_passes():
  validate.check(ml_collections.ConfigDict({"seed": 0, "teacher": {}}))


@pytest.mark.parametrize(
  ("field", "value", "sentence"),
  [
    ("seed", "-1", "config.seed is -1; allowed are numbers: 0 to 2147483647."),
    ("world.num_exemplars", "1", "is 1; allowed are numbers: 2 to 32."),
    ("vice.batch_size", "0", "is 0; allowed are numbers: 1 or more."),
    ("judgments.num_train", "0", "is 0; allowed are numbers: 1 or more."),
    ("student.lr", "0", "is 0.0; allowed are numbers: more than 0."),
    ("student.spike_factor", "0.5", "more than 1, or 0 for no limit."),
    ("student.profile", "3", "allowed are two whole numbers, the"),
    ("student.on_bad_loss", "skp", "Did you mean 'skip'[?]"),
    ("student.export", "bets", "Did you mean 'best'[?]"),
    ("student.lr", "inf", "is inf; allowed are numbers: more than 0."),
    ("vice.pi", "0.5,1", "is 1.0; allowed .* more than 0 and less than 1."),
    ("vice.spike", "()", "config.vice.spike is empty; give one value"),
    ("teacher.strengths", "0.1,-1", "is -1.0; allowed are numbers: 0 or more"),
    (
      "judgments.answers_per_repeat",
      "101",
      "is 101; it must be at most config.judgments.people.number, which is 100",
    ),
    (
      "evaluate.num_shots",
      "11",
      "is 11; it must be at most config.world.num_images.support, which is 10.",
    ),
    ("student.warmup_steps", "300", "less than config.student.num_steps"),
    ("student.num_microbatches", "5", "a divisor of config.student.batch_size"),
    ("images.source", "file", "'file', which .* Did you mean 'files'[?]"),
    (
      "teacher.selected",
      "sofd",
      "Did you mean 'soft'[?] There are: hard, soft",
    ),
    (
      "teacher.variants",
      "hard,sofd",
      "'sofd', which .* Did you mean 'soft'[?]",
    ),
    ("teacher.variants", "hard,soft,hard", "'hard' more than once"),
    ("student.variants", "aligned,aligned", "'aligned' more than once"),
    ("judgments.num_drawn", "-1", "is -1; allowed are numbers: 0 or more"),
    ("teacher.num_folds", "1", "is 1, .* allowed are 2 or more, or 0 for none"),
    ("teacher.num_folds", "-1", "is -1; allowed are numbers: 0 or more"),
    ("student.loss", "jds", "'jds', which is not known. Did you mean 'jsd'[?]"),
    ("student.loss", "JSD", "'JSD', which is not known. Did you mean 'jsd'[?]"),
    ("student.temperature", "1e-30", "1e-30; allowed are .* 1e-12 to 1e[+]12;"),
    ("student.temperature", "1e39", "beyond, float32 makes 0 or infinity"),
    ("student.lr", "1e39", "is 1e[+]39; allowed are numbers: 1e-12 to 1e[+]12"),
    ("student.lr", "1e-60", "is 1e-60; allowed are numbers: 1e-12 to 1e[+]12"),
    ("student.decay_to_init", "1e39", "decay_to_init is 1e[+]39; allowed are"),
    ("student.profile", "300,1", "300, 1[)], which are 1 steps .* step is 299"),
    ("student.profile", "298,3", "Let the window end by then"),
    ("student.trainable", "Backbone", "is 'Backbone', which is found in .* no"),
    ("student.trainable", "triplet_head", "the name of no parameter of a stud"),
    ("student.decay_mask", "krnel", "decay_mask is 'krnel', which is found in"),
    ("student.variants", "alined", "Did you mean 'aligned'[?]"),
    ("student.batches", "dens", "'dens', which .* Did you mean 'dense'[?]"),
    ("student.images_per_cluster", "1", "is 1; allowed are numbers: 2 or more"),
    ("student.mesh.fsdp", "0", "fsdp is 0; allowed are numbers: 1 or more"),
    ("student.representation", "pooled", "Did you mean 'pre_logits'[?]|There"),
    (
      "student.representation",
      "cls",
      "pool 'gap' there is no class token; use",
    ),
    ("student.compute_dtype", "float16", "Did you mean 'bfloat16'[?]"),
    ("student.on_error", "skip", "There are: refuse, replace"),
    ("student.trainable", "(", "is '[(]', which is no regular expression"),
    ("student.stop_grad", "true", "head_dim 0: there is nothing to train"),
    ("judgments.source", "thing", "Did you mean 'things'[?]"),
    ("judgments.soft", "none", "'soft', whose targets are not made"),
    ("features.backbone.num_heads", "5", "a divisor of config.features"),
    ("features.backbone.patch_size", "7", "backbone.size, which is 32"),
    ("features.backbone.pool", "", "no name of a family that has one"),
    ("features.backbone.pool", "mapp", "Did you mean 'map'[?]"),
    ("world.size", "64", "size is 32; it must be config.world.size"),
    (
      "student.backbone.source",
      "weights",
      "needs fields that this config lacks: config.student.backbone.name, .*"
      "config.student.backbone.weights",
    ),
  ],
)
def test_a_wrong_value_is_refused_with_field_value_and_what_is_allowed(
  field, value, sentence
):
  with pytest.raises(artifacts.InputError) as info:
    validate.check(_load("quickstart.py", {field: value}))
  assert re.search(sentence, str(info.value)), info.value
  assert "config." in str(info.value)


@pytest.mark.parametrize(
  ("field", "value", "sentence"),
  [
    ("student.backbone.name", "dinov2_b16", "Did you mean 'dinov2_b14'[?]"),
    ("student.backbone.size", "13", "at least a patch, which is 14 pixels"),
    ("student.backbone.preprocessing", "alignt", "Did you mean 'alignet'[?]"),
    ("features.backbone.name", "siglip_so400m_14", "'siglip_so400m14'[?]"),
    ("features.backbone.size", "0", "allowed are numbers: 1 or more"),
  ],
)
def test_a_wrong_backbone_is_refused(field, value, sentence):
  with pytest.raises(artifacts.InputError, match=sentence):
    validate.check(_load("dinov2_b14.py", {field: value}))


@pytest.mark.parametrize(
  ("field", "value", "sentence"),
  [
    ("num_heads", "5", "a divisor of config.features.backbone.width, which is"),
    ("size", "42", "must be config.world.size, which is 28"),
  ],
)
def test_sizes_of_a_named_backbone_are_checked(field, value, sentence):
  overrides = {f"features.backbone.{field}": value}
  with pytest.raises(artifacts.InputError, match=sentence):
    validate.check(_load("dinov2_b14.py:runlocal", overrides))


def test_a_backbone_without_a_name_needs_all_its_sizes():
  config = config_lib.load(str(CONFIGS / "quickstart.py"))
  with config.unlocked():
    del config.features.backbone.width
  with pytest.raises(artifacts.InputError, match="backbone nor width[.]"):
    validate.check(config)


def test_parts_of_a_dense_batch_are_those_of_its_images():
  dense = {"student.batches": "dense", "student.clusters_per_batch": "3"}
  dense["student.images_per_cluster"] = "5"
  with pytest.raises(
    artifacts.InputError,
    match="is 4; it must be a divisor of .*clusters_per_batch x images_per_"
    "cluster, which is 15",
  ):
    validate.check(_load("quickstart.py", dense))
  validate.check(
    _load("quickstart.py", dense | {"student.num_microbatches": "5"})
  )


def test_a_dense_batch_has_no_more_clusters_than_there_are():
  config = _load("quickstart.py")
  number = config.clusters.num_clusters
  overrides = {"student.batches": "dense", "student.num_microbatches": "1"}
  overrides["student.clusters_per_batch"] = str(number)
  validate.check(_load("quickstart.py", overrides))
  overrides["student.clusters_per_batch"] = str(number + 1)
  with pytest.raises(
    artifacts.InputError,
    match=f"is {number + 1}; it must be at most config.clusters.num_clusters,"
    f" which is {number}",
  ):
    validate.check(_load("quickstart.py", overrides))
  del overrides["student.batches"]  # Nothing reads it.
  validate.check(_load("quickstart.py", overrides))


def test_the_profile_may_end_with_the_last_step():
  validate.check(_load("quickstart.py", {"student.profile": "297,3"}))
  validate.check(_load("quickstart.py", {"student.profile": "1000,0"}))


@pytest.mark.parametrize(
  ("overrides", "sentence"),
  [
    ({"stop_grad": "true", "trainable": "backbone"}, "'backbone', which leave"),
    ({"trainable": "backbone", "decay_mask": "head"}, "'backbone', lets train"),
    ({"stop_grad": "true", "trainable": "head"}, None),
    ({"stop_grad": "true", "trainable": "bias"}, None),
    ({"trainable": "encoderblock_11", "decay_mask": "Dense_1/kernel"}, None),
  ],
)
def test_there_is_something_to_train_and_to_decay(overrides, sentence):
  overrides = {f"student.{name}": text for name, text in overrides.items()}
  config = _load("vit_b16.py", overrides)
  if sentence is None:
    validate.check(config)
  else:
    with pytest.raises(artifacts.InputError, match=sentence):
      validate.check(config)


def test_the_names_of_parameters_are_those_of_the_model():
  """Of every kind of vision transformer there is, with a head and without."""
  found = set()
  for fields in (
    {"pool": "map", "layer_scale": True},
    {"pool": "gap", "pre_norm": True, "rep_size": 3},
    {"pool": "cls", "num_registers": 2, "mlp": "swiglu"},
    {"pool": "cls_patch_mean", "patch_bias": False},
  ):
    backbone = vit.ViT(
      patch_size=2, width=4, depth=2, mlp_dim=3, num_heads=2, **fields
    )
    student = student_model.Student(backbone, head_dim=3)
    found |= set(weights.expected_shapes(student, image_size=4))
  assert found == set(parameter_names.names(depth=2, has_head=True))
  without = {name for name in found if not name.startswith("triplet_head")}
  assert without == set(parameter_names.names(depth=2, has_head=False))
  depths = [depth for _, depth, *_ in vit.VARIANTS.values()]
  assert max(depths) < parameter_names.MAX_DEPTH


def _changed(name, field, value):
  """A config with a field of any value, or without it if that is None."""
  config = _load(name).copy_and_resolve_references().unlock()
  *parents, leaf = field.split(".")
  group = config
  for parent in parents:
    group = group[parent]
  del group[leaf]
  if value is not None:
    group[leaf] = value
  return config


@pytest.mark.parametrize(
  ("field", "name"),
  [
    (f"{section}.{field}", example.removeprefix("configs/"))
    for section, (example, fields) in field_types.SECTIONS.items()
    for field in fields
  ],
)
def test_each_field_of_a_section_is_needed_and_has_its_type(field, name):
  validate.check(_changed(name, field, validate._get(_load(name), field)))
  with pytest.raises(artifacts.InputError) as info:
    validate.check(_changed(name, field, None))
  section = field.partition(".")[0]
  assert str(info.value).startswith(f"config.{section} lacks fields: config.")
  assert f"config.{field}." in str(info.value)
  with pytest.raises(artifacts.InputError) as info:
    validate.check(_changed(name, field, b"x"))
  assert str(info.value).startswith(f"config.{field} is b'x'; allowed are ")


@pytest.mark.parametrize(
  ("field", "value", "sentence"),
  [
    ("student.mesh.fsdp", 1.0, "is 1.0; allowed are whole numbers"),
    ("student.mesh", 1, "lacks fields: config.student.mesh.fsdp, config.stud"),
    ("student.trainable", ("a", "b"), r"is \('a', 'b'\); allowed are texts"),
    ("student.remat", "no", "is 'no'; allowed are True and False"),
    ("student.stop_grad", "yes", "is 'yes'; allowed are True and False"),
    ("student.lr", True, "is True; allowed are numbers"),
    ("student.batch_size", True, "is True; allowed are whole numbers"),
    ("student.variants", "aligned", "'aligned'; allowed are tuples of names"),
    ("student.profile", (1, 2.0), r"\(1, 2.0\); allowed are two whole"),
    ("student.images_per_cluster", 2.5, "is 2.5; allowed are whole numbers"),
  ],
)
def test_what_a_config_file_may_hold_by_mistake(field, value, sentence):
  with pytest.raises(artifacts.InputError, match=sentence):
    validate.check(_changed("quickstart.py", field, value))


def test_a_whole_number_may_stand_for_any():
  validate.check(_changed("quickstart.py", "student.lr", 1))
  validate.check(_changed("quickstart.py", "student.profile", [10, 5]))


def test_the_best_needs_an_evaluation():
  best = {"student.export": "best"}
  validate.check(_load("quickstart.py", best))
  with pytest.raises(
    artifacts.InputError, match="export is 'best', but .*eval_every is 0, so"
  ):
    validate.check(_load("quickstart.py", {**best, "student.eval_every": "0"}))


def test_a_student_without_a_field_is_told_which():
  config = _load("quickstart.py").copy_and_resolve_references().unlock()
  del config.student.mesh
  with pytest.raises(artifacts.InputError, match="lacks .*config.student.mesh"):
    validate.check(config)


@pytest.mark.parametrize("name", ["quickstart.py", "things_teacher.py"])
def test_a_config_of_before_triplets_were_drawn_is_told_what_it_lacks(name):
  config = _load(name).copy_and_resolve_references().unlock()
  del config.judgments.num_drawn
  with pytest.raises(
    artifacts.InputError, match="lacks: .*config.judgments.num_drawn"
  ):
    validate.check(config)


def test_selection_by_objects_needs_folds():
  overrides = {"teacher.num_folds": "0", "teacher.selection": "objects"}
  with pytest.raises(artifacts.InputError, match="'objects'; .* 2 or more[.]"):
    validate.check(_load("quickstart.py", overrides))


def test_every_rule_is_about_a_field_of_some_config():
  configs = [_load(path.name) for path in CONFIGS.glob("*.py")]
  configs.append(_load("scratch_b16.py:runlocal"))
  fields = [
    *validate.CHOICES,
    *validate.DISTINCT,
    *validate.FLOAT32,
    *field_types.OPTIONAL,
    *(field for fields, _, _ in validate.RANGES for field in fields),
    *(field for fields, _, _ in validate.OPEN_RANGES for field in fields),
    *(field for field, _ in validate.NEEDS),
    *(field for needed in validate.NEEDS.values() for field in needed),
    *(field for pair in validate.RELATIONS for field in pair[:2]),
  ]
  for field in fields:
    assert any(
      validate._get(config, field) is not validate._MISSING
      for config in configs
    ), field


def test_the_names_are_those_of_the_modules():
  choices = validate.CHOICES
  assert choices == {
    "images.source": sources.SOURCES,
    "judgments.source": tuple(judgments_stage._SOURCES),
    "judgments.soft": tuple(judgments_stage._SOFT),
    "vice.prior": vice.PRIORS,
    "features.source": backbone_stage.SOURCES,
    "features.backbone.name": tuple(families.known_names()),
    "features.backbone.pool": ("", *vit.POOLS, vit.CLS_PATCH_MEAN),
    "features.backbone.preprocessing": backbone_stage.PREPROCESSINGS,
    "teacher.variants": tuple(teacher_stage.VARIANTS),
    "teacher.selection": teacher_stage.SELECTIONS,
    "teacher.lr_decay": ("constant", "cosine"),
    "triplets.sampling": triplets_stage.SAMPLING,
    "student.variants": tuple(student_stage.TRANSFORMS),
    "student.loss": tuple(losses.LOSSES),
    "student.backbone.source": ("teacher", "weights", "random"),
    "student.backbone.name": tuple(families.known_names()),
    "student.backbone.pool": ("", *vit.POOLS, vit.CLS_PATCH_MEAN),
    "student.backbone.preprocessing": backbone_stage.PREPROCESSINGS,
    "student.batches": student_settings.BATCHES,
    "student.representation": student_model.REPRESENTATIONS,
    "student.compute_dtype": student_settings.COMPUTE_DTYPES,
    "student.on_error": batches.ON_ERROR,
    "student.on_bad_loss": ("stop", "skip"),
    "student.export": ("last", "best"),
    "photos.source": tuple(photos_source.SOURCES),
    "photo_teacher.lr_decay": ("constant", "cosine"),
    "photo_student.loss": tuple(losses.LOSSES),
  }


def test_the_ranges_of_the_world_are_those_of_the_world():
  for num_exemplars in (2, 32):
    for num_heldout in (1, 6):
      world.make_world(
        seed=0, num_exemplars=num_exemplars, num_heldout_basics=num_heldout
      )
  for num_exemplars, num_heldout in ((1, 1), (33, 1), (2, 0), (2, 7)):
    with pytest.raises(ValueError, match="allowed are"):
      world.make_world(
        seed=0, num_exemplars=num_exemplars, num_heldout_basics=num_heldout
      )


def test_it_imports_neither_jax_nor_tensorflow():
  code = "import sys, alignet_jax.validate; print(*sys.modules)"
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=CONFIGS.parent,
    capture_output=True,
    text=True,
    check=True,
  )
  assert "alignet_jax.validate" in done.stdout.split()
  assert not {"jax", "tensorflow"} & set(done.stdout.split())
