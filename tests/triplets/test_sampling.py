import itertools

import numpy as np
import pytest
from scipy import stats

from alignet_jax.triplets import sampling

# Sizes 1, 2, 3, 5 and a number without an image: 11 images in 4 groups.
GROUPS = np.array([4, 0, 1, 4, 2, 1, 4, 2, 4, 2, 4])
SIZES = {0: 1, 1: 2, 2: 3, 4: 5}
NUM = 20_000
ALL = sorted(sampling.SAMPLERS)


def _probabilities_of_border():
  """By the definition in words, one triplet at a time."""
  probs = {}
  large = [group for group, size in SIZES.items() if size >= 2]
  for i, j, k in itertools.permutations(range(len(GROUPS)), 3):
    pair, third = GROUPS[i], GROUPS[k]
    if GROUPS[j] == pair and third != pair:
      in_pair = 1 / len(large) / (SIZES[pair] * (SIZES[pair] - 1))
      probs[i, j, k] = in_pair / (len(SIZES) - 1) / SIZES[third]
  return probs


def _probabilities_within():
  probs = {}
  large = [group for group, size in SIZES.items() if size >= 3]
  for i, j, k in itertools.permutations(range(len(GROUPS)), 3):
    size = SIZES[GROUPS[i]]
    if GROUPS[i] == GROUPS[j] == GROUPS[k]:
      probs[i, j, k] = 1 / len(large) / (size * (size - 1) * (size - 2))
  return probs


def _probabilities_between():
  probs = {}
  for some in itertools.permutations(range(len(GROUPS)), 3):
    groups = [GROUPS[i] for i in some]
    if len(set(groups)) == 3:
      sizes = np.prod([SIZES[group] for group in groups])
      probs[some] = 1 / (4 * 3 * 2) / sizes
  return probs


def _probabilities_of_random():
  triples = list(itertools.permutations(range(len(GROUPS)), 3))
  return dict.fromkeys(triples, 1 / len(triples))


PROBABILITIES = {
  "cluster_border": _probabilities_of_border,
  "class_border": _probabilities_of_border,
  "within_class": _probabilities_within,
  "between_class": _probabilities_between,
  "random": _probabilities_of_random,
}


@pytest.mark.parametrize("name", ALL)
def test_every_ordered_triplet_has_the_documented_probability(name):
  # Chi-square over all ordered triplets covers groups, pairs and positions.
  probs = PROBABILITIES[name]()
  assert abs(sum(probs.values()) - 1) < 1e-12
  triplets = sampling.get_sampler(name)(GROUPS, NUM, seed=7)
  counts = dict.fromkeys(probs, 0)
  for triplet in map(tuple, triplets.tolist()):
    counts[triplet] += 1  # KeyError: a triplet that cannot be.
  expected = [probs[triplet] * NUM for triplet in probs]
  assert min(expected) > 5  # Below it chi-square does not hold.
  assert stats.chisquare(list(counts.values()), expected).pvalue > 1e-4


def _pvalues(triplets, groups):
  """Of clusters of the pair, of the third, and places of images in both."""
  counts = np.bincount(groups)
  place = np.empty(len(groups), np.int64)
  for group in range(len(counts)):
    place[groups == group] = np.arange(counts[group])
  first, second, third = triplets.T
  size = counts[0]
  pairs = np.zeros((size, size))
  np.add.at(pairs, (place[first], place[second]), 1)
  # Groups of equal size, so that everything is uniform.
  tables = {
    "pair's cluster": np.bincount(groups[first]),
    "third's cluster": np.bincount(groups[third]),
    "pair": pairs[~np.eye(size, dtype=bool)],
    "place of the third": np.bincount(place[third]),
  }
  return {name: stats.chisquare(t).pvalue for name, t in tables.items()}


def test_chi_square_passes_our_sampler_and_fails_biased_ones():
  num_groups, size, number = 29, 11, 200_000
  groups = np.random.default_rng(0).permutation(
    np.repeat(np.arange(num_groups), size)
  )
  triplets = sampling.cluster_border(groups, number, seed=0)
  assert min(_pvalues(triplets, groups).values()) > 1e-4
  rows = np.arange(number)
  wrong = {}
  # A pair sorted instead of in random order.
  sorted_pair = triplets.copy()
  sorted_pair[:, :2].sort(axis=1)
  wrong["pair"] = sorted_pair
  # One in ten pairs of one of 29 clusters is not taken.
  dropped = (groups[triplets[:, 0]] == 3) & (rows % 10 == 0)
  wrong["pair's cluster"] = triplets[~dropped]
  # One triplet in twenty has the first image of cluster 5 (or 6) as its third.
  skewed = triplets.copy()
  moved = rows % 20 == 0
  by_group = np.argsort(groups, kind="stable").reshape(num_groups, size)
  skewed[moved, 2] = by_group[np.where(groups[skewed[moved, 0]] == 5, 6, 5), 0]
  wrong["third's cluster"] = skewed
  wrong["place of the third"] = skewed
  for name, biased in wrong.items():
    assert _pvalues(biased, groups)[name] < 1e-6, name


@pytest.mark.parametrize("name", ALL)
def test_triplet_depends_on_seed_and_index_only(name, monkeypatch):
  sample = sampling.get_sampler(name)
  many = sample(GROUPS, 1000, seed=5)
  assert many.dtype == np.int64 and many.shape == (1000, 3)
  np.testing.assert_array_equal(sample(GROUPS, 13, seed=5), many[:13])
  later = sample(GROUPS, 17, seed=5, start=900)
  np.testing.assert_array_equal(later, many[900:917])
  monkeypatch.setattr(sampling, "CHUNK_SIZE", 71)
  np.testing.assert_array_equal(sample(GROUPS, 1000, seed=5), many)
  assert np.mean(sample(GROUPS, 1000, seed=6) == many) < 0.5
  assert np.mean(sample(GROUPS, 1000, seed=(5, 1)) == many) < 0.5


def test_huge_numbers_of_groups_need_no_memory():
  groups = np.array([7, 10**15, 7, 10**15, 2**62])
  found = sampling.Groups(groups)
  np.testing.assert_array_equal(found.counts, [2, 2, 1])
  np.testing.assert_array_equal(
    found.member(np.array([0, 1, 1, 2]), np.array([1, 0, 1, 0])), [2, 1, 3, 4]
  )


def test_unknown_scheme_lists_the_known_ones():
  with pytest.raises(ValueError, match="'clusterborder'.*cluster_border, ran"):
    sampling.get_sampler("clusterborder")


@pytest.mark.parametrize(
  ("name", "groups"),
  [
    ("cluster_border", [0, 1, 2]),  # No pair.
    ("cluster_border", [3, 3, 3]),  # No other cluster.
    ("within_class", [0, 0, 1, 1]),
    ("between_class", [0, 0, 1, 1]),
    ("random", [0, 0]),
    ("cluster_border", [0, 0, -1]),
    ("cluster_border", []),
  ],
)
def test_groups_that_allow_no_triplet_are_refused(name, groups):
  with pytest.raises(ValueError, match="[Tt]riplets .*need|Groups of images"):
    sampling.get_sampler(name)(np.array(groups, np.int64), 5, seed=0)
