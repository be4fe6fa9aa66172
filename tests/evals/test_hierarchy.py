import collections
import sys
import types

import numpy as np
import pytest
import scipy.stats

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


def test_intervals_equal_a_loop_that_leaves_out_items(np_rng):
  before, after = np_rng.normal(size=(2, 11, 3))
  names = np.arange(11) % 4
  levels = {
    "basic": names.astype(str),
    "superordinate": (names // 2).astype(str),
  }
  kinds = hierarchy.pair_kinds(levels)

  def value(x, kept, index):
    rdm = rsa.rdm(x)
    pairs = [(i, j) for i in kept for j in kept if i < j]
    mean = np.mean([rdm[pair] for pair in pairs])
    return np.mean([rdm[p] for p in pairs if kinds[p] == index]) / mean

  moved = hierarchy.changes(before, after, kinds)
  still = hierarchy.mean_distances(after, kinds)
  for index, name in list(enumerate(hierarchy.KINDS))[1:]:
    for found, share in ((moved, 1), (still, 0)):
      left = [
        value(after, np.delete(np.arange(11), item), index)
        - share * value(before, np.delete(np.arange(11), item), index)
        for item in range(11)
      ]
      reach = np.sqrt(10 / 11 * np.sum((left - np.mean(left)) ** 2))
      reach *= scipy.stats.t.ppf(0.975, 10)
      middle, width = found[name].value, found[name].high - found[name].low
      assert width / 2 == pytest.approx(reach, rel=1e-9)
      assert found[name].low == pytest.approx(middle - reach, rel=1e-9)


def test_coverage_over_items():
  # The divisor, the mean of all pairs, is drawn with the items.
  centre = np.random.default_rng(7).normal(size=(5, 3))

  def draw(np_rng, num):
    group = np_rng.integers(5, size=num)
    noise = np_rng.normal(size=(num, 3))
    kinds = hierarchy.pair_kinds(
      {"basic": group.astype(str), "superordinate": group.astype(str)}
    )
    return noise + 0.3 * centre[group], 0.7 * noise + centre[group], kinds

  truth = hierarchy.changes(*draw(np.random.default_rng(0), 900))
  value = hierarchy.mean_distances(*draw(np.random.default_rng(0), 900)[1:])
  hits = collections.Counter()
  for seed in range(300):
    before, after, kinds = draw(np.random.default_rng([1, seed]), 37)
    for what, found, true in (
      ("changed", hierarchy.changes(before, after, kinds), truth),
      ("value", hierarchy.mean_distances(after, kinds), value),
    ):
      for name, one in found.items():
        hits[what, name] += one.low <= true[name].value <= one.high
  assert len(hits) == 4
  for key, num in hits.items():
    assert 0.90 <= num / 300 <= 0.99, (key, num)


def test_pairs_of_one_item_have_no_interval(np_rng):
  kinds = hierarchy.pair_kinds(LEVELS)
  found = hierarchy.mean_distances(np_rng.normal(size=(5, 3)), kinds)
  assert found["same_subordinate"].num == 1
  assert np.isnan(found["same_subordinate"].low)
  assert found["same_basic"].num == 2  # Both with the poodle.
  assert np.isnan(found["same_basic"].low)
  assert np.isfinite(found["same_superordinate"].value)


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


def test_items_without_a_level_keep_their_place(tmp_path):
  path = tmp_path / "taxonomy.csv"
  path.write_text("basic,superordinate\ndog,animal\n,\nsaw,tool\n")
  levels, _ = hierarchy.load_taxonomy(path, num_items=3)
  assert levels["basic"] == ["dog", "", "saw"]
  # Where items have names, a row without any is none.
  path.write_text("item,basic,superordinate\na,dog,animal\n,,\nb,saw,tool\n")
  assert hierarchy.load_taxonomy(path)[1] == ("a", "b")


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


class Synset:
  """As nltk's, of a tiny WordNet: offset, and offsets above it."""

  known = {1: [], 2: [1], 3: [2, 9], 4: [3], 9: [1]}

  def __init__(self, offset):
    self.number = offset
    self.known[offset]  # Another number has none.

  def pos(self):
    return "n"

  def offset(self):
    return self.number

  def hypernyms(self):
    return [] if self.number == 4 else [*map(Synset, self.known[self.number])]

  def instance_hypernyms(self):
    return [*map(Synset, self.known[self.number])]


@pytest.fixture
def nltk(monkeypatch):
  """A module like nltk, so that the package is not needed."""
  wordnet = types.SimpleNamespace(
    ensure_loaded=lambda: None,
    get_version=lambda: "3.0",
    synset_from_pos_and_offset=lambda pos, offset: Synset(offset),
  )
  corpus = types.ModuleType("nltk.corpus")
  corpus.wordnet = wordnet
  monkeypatch.setitem(sys.modules, "nltk", types.ModuleType("nltk"))
  monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)
  return wordnet


def test_wordnet_of_a_table_by_nltk(tmp_path, nltk):
  path = tmp_path / "concepts.tsv"
  path.write_text(
    "item\tWordNet ID\na\tn00000004\nb\tn00000003\nc\t\nd\tn00000009\n"
  )

  def load(path):
    return hierarchy.load_wordnet(
      path, "WordNet ID", "nltk", basic_depth=2, superordinate_depth=1
    )

  levels, items = load(path)
  assert items == ("a", "b", "c", "d")
  # Of two parents the first; an instance has parents, too; none is "".
  assert levels["basic"] == ["n00000003", "n00000003", "", "n00000009"]
  assert levels["superordinate"] == ["n00000002", "n00000002", "", "n00000009"]
  for wnid, message in (("n00000005", "3.0 has no"), ("dog", "is no WordNet")):
    path.write_text(f"WordNet ID\n{wnid}\n")
    where = f"{path.name}, column 'WordNet ID': .*{message}"
    with pytest.raises(artifacts.InputError, match=where):
      load(path)


def test_without_nltk_it_says_how_to_install(tmp_path, monkeypatch, nltk):
  def absent():
    raise LookupError("\n Resource wordnet not found.\nmore")

  nltk.ensure_loaded = absent
  with pytest.raises(
    artifacts.InputError, match="downloader wordnet.*wordnet n"
  ):
    hierarchy.nltk_parents(["n00000004"])
  monkeypatch.setitem(sys.modules, "nltk.corpus", None)
  with pytest.raises(artifacts.InputError, match="pip install nltk"):
    hierarchy.nltk_parents(["n00000004"])


def test_wordnet_of_a_table_by_a_file(tmp_path):
  (tmp_path / "is_a.txt").write_text("root animal\nanimal dog\n")
  (tmp_path / "ids.csv").write_text("id,name\ndog,x\n,y\n")
  levels, items = hierarchy.load_wordnet(
    tmp_path / "ids.csv",
    "id",
    tmp_path / "is_a.txt",
    basic_depth=2,
    superordinate_depth=1,
  )
  # A row with nothing but the other column is an item without an id.
  assert levels["superordinate"] == ["animal", ""] and items == ()
  assert hierarchy.pair_kinds(levels)[0, 1] == 3
  (tmp_path / "ids.csv").write_text("id,name\n,y\n")
  with pytest.raises(artifacts.InputError, match="'id' is empty"):
    hierarchy.load_wordnet(
      tmp_path / "ids.csv",
      "id",
      tmp_path / "is_a.txt",
      basic_depth=2,
      superordinate_depth=1,
    )
