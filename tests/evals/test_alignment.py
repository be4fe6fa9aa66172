import numpy as np

from alignet_jax.evals import alignment, human_data, models


def test_what_the_base_lacks_takes_only_the_change(np_rng):
  x = np_rng.normal(size=(7, 3)).astype(np.float32)
  taxonomy = human_data.Taxonomy(
    {"basic": list("aabbccd"), "superordinate": list("vvvvwww")}
  )
  base = models.from_features("base", {"d1": x})
  holed = models.from_features("holed", {"taxonomy": np.full((7, 3), np.nan)})
  other = models.from_features("other", {"taxonomy": x})
  for before, reason in (
    (base, "the model has no features of taxonomy; it has d1"),
    (holed, "features hold NaN"),
  ):
    rows, _ = alignment.run(
      {before.name: before, "other": other}, [taxonomy], base=before.name
    )
    own = [row for row in rows if row.model == before.name]
    assert [row.measure for row in own] == ["all"] and own[0].is_skipped
    *distances, change = [row for row in rows if row.model == "other"]
    assert [row.measure for row in distances] == ["relative_distance"] * 3
    assert all(np.isfinite(row.value) for row in distances)
    assert change.measure == "distance_change" and change.is_skipped
    assert f"the base {before.name} lacks it ({reason}" in change.note
