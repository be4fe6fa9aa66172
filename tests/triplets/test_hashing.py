import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from alignet_jax.triplets import hashing


@hypothesis.given(n=st.integers(1, 400), seed=st.integers(0, 2**70))
def test_permutation_is_a_bijection(n, seed):
  places = hashing.permute(hashing.key(seed), np.arange(n), n)
  np.testing.assert_array_equal(np.sort(places), np.arange(n))


@pytest.mark.parametrize("n", [2**20 - 1, 2**20, 2**20 + 1])
def test_permutation_of_a_large_domain_is_a_bijection(n):
  places = hashing.permute(hashing.key(3), np.arange(n), n)
  seen = np.zeros(n, bool)
  seen[places] = True
  assert np.all(seen)
  # 20 % of a uniform order lie in each fifth; no trace of the input order.
  low = places[: n // 5] < n // 5
  np.testing.assert_allclose(np.mean(low), 0.2, rtol=0, atol=0.005)


def test_permutation_works_for_the_domain_of_any_release():
  n = 10**15
  places = hashing.permute(hashing.key(1), np.arange(n - 1000, n), n)
  assert len(set(places.tolist())) == 1000
  assert places.min() >= 0 and places.max() < n


@pytest.mark.parametrize("n", [2, 5, 7])
def test_all_orders_are_equally_likely_where_that_can_be_counted(n):
  keys = hashing.fold_in(hashing.key(11), np.arange(6000))
  places = hashing.permute(keys[:, None], np.arange(n)[None], n)
  for index in range(n):
    counts = np.bincount(places[:, index], minlength=n)
    assert stats.chisquare(counts).pvalue > 1e-4
  # The places of two neighbours: n * (n - 1) ordered pairs.
  pairs = places[:, 0] * n + places[:, 1]
  counts = np.bincount(pairs, minlength=n * n)
  assert np.all(counts[:: n + 1] == 0)
  counts = np.delete(counts, np.arange(0, n * n, n + 1))
  assert stats.chisquare(counts).pvalue > 1e-4


def test_numbers_below_a_bound_are_uniform_and_unrelated():
  first = hashing.below(hashing.key(0, 0), np.arange(20000), 7)
  second = hashing.below(hashing.key(0, 1), np.arange(20000), 7)
  table = np.bincount(first * 7 + second, minlength=49)
  assert stats.chisquare(table).pvalue > 1e-4
  # Neighbouring counters of one key, likewise.
  table = np.bincount(first[:-1] * 7 + first[1:], minlength=49)
  assert stats.chisquare(table).pvalue > 1e-4


def test_numbers_are_those_of_splitmix64():
  # First outputs of SplitMix64 for the state 1234567, as published with the
  # generator's reference implementation and on Rosetta Code.
  want = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
  ]
  got = hashing.bits(np.uint64(1234567), np.arange(5))
  np.testing.assert_array_equal(got, np.array(want, np.uint64))


def test_different_words_give_different_keys():
  words = [(), (0,), (0, 0), (1,), (0, 1), (1, 0), (-1,), (2**32,), (2**63,)]
  assert len({int(hashing.key(*some)) for some in words}) == len(words)
