import ml_collections

from alignet_jax import inputs


def test_local_features_of_the_teacher_are_an_input_that_may_be_unset():
  config = ml_collections.ConfigDict()
  config.teacher = {"local_features": "photographs.npy"}
  [found] = inputs.external_inputs("teacher", config)
  assert found.field == "teacher.local_features"
  assert found.path == "photographs.npy" and found.optional
