"""Random numbers that are functions of a place instead of a state.

Triplet 7,000,000 of seed 3 and the batch of step 12,345 must not depend on what
was drawn before them. So each random number here is a hash of (key, counter):
the output function of SplitMix64 (Steele, Lea and Flood, 2014), whose counter
can be put anywhere in O(1).

Usage:
  key = hashing.key(seed, 2)                       # one stream of a seed
  hashing.below(key, np.arange(5), 10)             # int64[5] in [0, 10)
  hashing.permute(key, np.arange(10), 10)          # a bijection of 0..9
"""

import math

import numpy as np

# 2^64 divided by the golden ratio, made odd: the step of SplitMix64.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

# Rounds of the Feistel network in `permute`. Four are what theory asks of large
# domains; the further ones cost little and mix domains of a few elements.
NUM_ROUNDS = 8


@np.errstate(over="ignore")
def key(*words):
  """Mixes whole numbers, taken modulo 2^64, into one key, uint64[].

  Different sequences of words give unrelated streams, (0,) and (0, 0) too.
  """
  mixed = np.uint64(0)
  for word in words:
    mixed = fold_in(mixed, np.uint64(int(word) % 2**64))
  return mixed


@np.errstate(over="ignore")
def fold_in(keys, data):
  """Derives keys from keys and whole numbers, as `jax.random.fold_in` does.

  Args:
    keys: uint64[*b].
    data: int[*b], broadcast against `keys`.

  Returns:
    uint64[*b].
  """
  return _mix(_mix(keys + GOLDEN) + np.asarray(data).astype(np.uint64))


@np.errstate(over="ignore")
def bits(keys, counter):
  """Gives 64 random bits for each counter.

  Args:
    keys: uint64[*b].
    counter: int[*b], at least 0, broadcast against `keys`.

  Returns:
    uint64[*b].
  """
  counter = np.asarray(counter).astype(np.uint64)
  return _mix(keys + (counter + np.uint64(1)) * GOLDEN)


def below(keys, counter, bound):
  """Draws whole numbers in [0, bound), uniform to one part in 2^64 / bound.

  Args:
    keys: uint64[*b].
    counter: int[*b], at least 0, broadcast against `keys`.
    bound: int[*b], at least 1, broadcast too.

  Returns:
    int64[*b].
  """
  remainder = bits(keys, counter) % np.asarray(bound).astype(np.uint64)
  return remainder.astype(np.int64)


def permute(keys, index, num_items):
  """Gives places in a random order of 0..n-1 without holding that order.

  A Feistel network with modular addition on an a x a grid, a the smallest
  with a * a >= n; what falls outside [0, n) goes through again (cycle walking),
  a share below 2 / sqrt(n). Costs O(1) per index.

  Args:
    keys: uint64[*b]; each key is one order.
    index: int[*b] in [0, n), broadcast against `keys`.
    num_items: n, at least 1.

  Returns:
    int64[*b] in [0, n); for one key a bijection of the indices.
  """
  keys, index = np.broadcast_arrays(np.asarray(keys, np.uint64), index)
  side = np.uint64(math.isqrt(num_items - 1) + 1)
  place = index.astype(np.uint64).reshape(-1)
  keys = keys.reshape(-1)
  pending = np.arange(place.size)
  while pending.size:
    place[pending] = _feistel(keys[pending], place[pending], side)
    pending = pending[place[pending] >= num_items]
  return place.reshape(index.shape).astype(np.int64)


@np.errstate(over="ignore")
def _feistel(keys, place, side):
  """One bijection of [0, side * side) per key."""
  left, right = place // side, place % side
  for counter in range(NUM_ROUNDS):
    shift = fold_in(fold_in(keys, counter), right) % side
    left, right = right, (left + shift) % side
  return left * side + right


def _mix(state):
  """The output function of SplitMix64, a bijection of uint64."""
  state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return state ^ (state >> np.uint64(31))
