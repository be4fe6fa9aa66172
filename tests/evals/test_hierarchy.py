import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.evals import hierarchy, rsa

LEVELS = {
  "subordinate": ["beagle", "beagle", "poodle", "tabby", "chair"],
  "basic": ["dog", "dog", "dog", "cat", "chair"],
  "superordinate": ["animal", "animal", "animal", "animal", "furniture"],
}


def test_kinds_by_hand():
  kinds = hierarchy.pair_kinds(LEVELS)
  assert kinds[0, 1] == 0 and kinds[0, 2] == 1
  assert kinds[0, 3] == 2 and kinds[0, 4] == 3
  # What has no name on a level shares it with nobody.
  blank = {"basic": ["", ""], "superordinate": ["animal", "animal"]}
  assert hierarchy.pair_kinds(blank)[0, 1] == 2
  with pytest.raises(ValueError, match="no basic"):
    hierarchy.pair_kinds({"superordinate": ["a"]})


def test_changes_equal_a_loop(np_rng):
  before, after = np_rng.normal(size=(2, 5, 7))
  kinds = hierarchy.pair_kinds(LEVELS)
  rdms = []
  for x in (before, after):
    rdm = rsa.rdm(x)
    pairs = [rdm[i, j] for i in range(5) for j in range(i)]
    rdms.append(rdm / np.mean(pairs))
  found = hierarchy.changes(before, after, kinds)
  for index, name in enumerate(hierarchy.KINDS):
    expected = [
      rdms[1][i, j] - rdms[0][i, j]
      for i in range(5)
      for j in range(i)
      if kinds[i, j] == index
    ]
    assert found[name].value == pytest.approx(np.mean(expected), rel=1e-9)
    assert found[name].num == len(expected)
  still = hierarchy.changes(before, 3 * before, kinds)
  for change in still.values():
    assert change.value == pytest.approx(0, abs=1e-12)


def test_alignment_pulls_concepts_together(np_rng):
  names = np.repeat(np.arange(6), 5)
  levels = {
    "basic": names.astype(str),
    "superordinate": (names // 3).astype(str),
  }
  centre = np_rng.normal(size=(6, 8))[names]
  above = np_rng.normal(size=(2, 8))[names // 3]
  noise = np_rng.normal(size=(30, 8))
  kinds = hierarchy.pair_kinds(levels)
  found = hierarchy.changes(
    noise + 0.3 * centre, 0.5 * noise + centre + 2 * above, kinds
  )
  assert found["same_basic"].high < 0 < found["different_superordinate"].low


def test_taxonomy_of_a_file(tmp_path):
  path = tmp_path / "taxonomy.csv"
  path.write_text(
    "item,superordinate,basic\na.jpg,animal,dog\nb.jpg,tool,saw\n"
  )
  levels, items = hierarchy.load_taxonomy(path)
  assert items == ("a.jpg", "b.jpg") and levels["basic"] == ["dog", "saw"]
  with pytest.raises(artifacts.InputError, match="2 items; expected 3"):
    hierarchy.load_taxonomy(path, num_items=3)


def test_wordnet_by_depth(tmp_path):
  path = tmp_path / "is_a.txt"
  path.write_text("root animal\nanimal dog\ndog beagle\nroot tool\ntool saw\n")
  parents = hierarchy.load_parents(path)
  levels = hierarchy.from_wordnet(
    ["beagle", "saw"], parents, basic_depth=2, superordinate_depth=1
  )
  assert levels["basic"] == ["dog", "saw"]
  assert levels["superordinate"] == ["animal", "tool"]
  with pytest.raises(artifacts.InputError, match="'cat' is not among"):
    hierarchy.from_wordnet(
      ["cat"], parents, basic_depth=2, superordinate_depth=1
    )
  path.write_text("root animal dog\n")
  with pytest.raises(artifacts.InputError, match="line 1"):
    hierarchy.load_parents(path)
