"""Which files a run needs, which need no file, and what is said of them."""

import json

import ml_collections
import pytest

from alignet_jax import artifacts, inputs
from alignet_jax.backbones import safetensors_file


def test_local_features_of_the_teacher_are_an_input_that_may_be_unset():
  config = ml_collections.ConfigDict()
  config.teacher = {"local_features": "photographs.npy"}
  [found] = inputs.external_inputs("teacher", config)
  assert found.field == "teacher.local_features"
  assert found.path == "photographs.npy" and found.optional


def student_config(weights="", url="", collection="c", packed=""):
  return ml_collections.ConfigDict(
    {
      "images": {"source": "files", "collection": collection},
      "student": {
        "collection": packed,
        "backbone": {
          "source": "weights",
          "name": "dinov2_b14",
          "size": 224,
          "weights": weights,
          "url": url,
        },
      },
    }
  )


def paths(config):
  found = inputs.external_inputs("student", config)
  return {item.field: item.path for item in found}


@pytest.mark.parametrize(
  ("weights", "path"),
  [
    ("w.npz:img", "w.npz"),
    ("w.npz", "w.npz"),
    ("folder/w.safetensors", "folder/w.safetensors"),
    ("/folder/of/weights", "/folder/of/weights"),
    ("", ""),
    ("facebook/dinov2-base", None),  # Fetched from the hub.
  ],
)
def test_weights_are_files_unless_they_are_on_the_hub(weights, path):
  assert paths(student_config(weights)).get("student.backbone.weights") == path


def test_a_folder_that_is_there_is_no_hub_id(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "facebook" / "dinov2-base").mkdir(parents=True)
  found = paths(student_config("facebook/dinov2-base"))
  assert found["student.backbone.weights"] == "facebook/dinov2-base"


@pytest.mark.parametrize(
  "name", ["a/b", "a/b.npz", "a/b.safetensors", "a/b/c", "a", "a/b.json"]
)
def test_what_a_hub_id_is_the_loader_sees_alike(name):
  is_listed = "student.backbone.weights" in paths(student_config(name))
  assert is_listed is not safetensors_file.is_hub_id(name)


def test_shards_count_as_inputs(tmp_path):
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"x": "2.st", "y": "1.st"}}))
  found = inputs.external_inputs("student", student_config(str(index)))
  assert [item.path for item in found if item.field.endswith("weights")] == [
    str(index),
    str(tmp_path / "1.st"),
    str(tmp_path / "2.st"),
  ]


@pytest.mark.parametrize(
  ("url", "sentence"),
  [
    ("https://host/w.npz:img", "https://host/w.npz, with :img behind its path"),
    ("https://host/w.npz", "wget https://host/w.npz"),
    ("facebook/x", "--config.student.backbone.weights=facebook/x"),
    ("", "an id of the Hugging Face hub"),
  ],
)
def test_missing_weights_come_with_the_place_that_has_them(url, sentence):
  found = inputs.external_inputs("student", student_config(url=url))
  assert found[0].remedy.startswith("weights of dinov2_b14: .npz of big_vision")
  assert found[0].remedy.endswith(sentence)


def test_what_tfds_keeps_is_no_file_of_ours():
  tfds = "tfds:imagenet2012/train"
  for config in (
    student_config("w.npz", collection=tfds),
    student_config("w.npz", packed=tfds),
  ):
    assert paths(config) == {"student.backbone.weights": "w.npz"}


def test_the_student_needs_its_own_collection_where_it_has_one():
  assert paths(student_config("w.npz"))["images.collection"] == "c"
  found = paths(student_config("w.npz", packed="p"))
  assert found == {
    "student.backbone.weights": "w.npz",
    "student.collection": "p",
  }


@pytest.mark.parametrize("field", ["images.collection", "student.collection"])
def test_packed_images_of_another_size_are_refused_at_once(tmp_path, field):
  content = {"stage": "packed_images", "config": {"preprocessing": {"size": 9}}}
  (tmp_path / "manifest.json").write_text(json.dumps(content))
  argument = "collection" if field == "images.collection" else "packed"
  config = student_config("w.npz", **{argument: str(tmp_path)})
  with pytest.raises(artifacts.InputError) as info:
    inputs.external_inputs("student", config)
  assert f"config.{field} is {tmp_path}, whose images" in str(info.value)
  assert "packed at 9 pixels; the model takes 224" in str(info.value)
  assert "images.pack --size=224" in str(info.value)
  also = "goes into config.student.collection." in str(info.value)
  assert also is (field == "images.collection")
  config.student.backbone.size = 9
  assert field in paths(config)
