"""Simulated people who judge odd-one-out triplets of the generated world.

A person finds two objects alike to the degree that they share a kind (natural
or made), a superordinate, a basic concept, an exemplar, an outline and a
colour. People weight these differently, answer with the softmax of the three
similarities (the choice model of paper.md, sections A and H) and sometimes
press any button. The average weights come from the config; they are made up.

Usage:
  weights = average_weights({"superordinate": 3.0, "basic": 1.0, ...})
  people = make_people(np_rng, weights, num_people=100, spread=0.3, lapse=0.04)
  odd = answer(world, exemplars[triplets], people, person, np_rng)   # 0, 1, 2
"""

import dataclasses

import numpy as np

# What two objects can share: the order of every axis of weights.
SHARED = ("kind", "superordinate", "basic", "exemplar", "outline", "colour")

# Superordinates of one kind: animal, plant, food against vehicle, tool,
# furniture, in the order of `images.world.SUPERORDINATES`.
KINDS = np.array([0, 1, 0, 1, 0, 1])


@dataclasses.dataclass(frozen=True)
class People:
  """A population.

  Attributes:
    weights: f64[p 6], in the order of `SHARED`, all positive.
    lapse: float in [0, 1), the share of answers that are random.
  """

  weights: np.ndarray
  lapse: float

  def __len__(self):
    return len(self.weights)


def average_weights(weights):
  """Brings a mapping with the names of `SHARED` into their order, f64[6]."""
  if set(weights) != set(SHARED):
    raise ValueError(
      f"The weights name {sorted(weights)}; needed are {sorted(SHARED)}."
    )
  return np.array([weights[name] for name in SHARED], np.float64)


def make_people(np_rng, weights, *, num_people, spread, lapse):
  """Draws a population.

  Args:
    np_rng: numpy generator.
    weights: f64[6], those of the average person.
    num_people: at least 1.
    spread: standard deviation of the logarithm of a person's weights.
    lapse: share of random answers.
  """
  factors = np.exp(spread * np_rng.standard_normal((num_people, len(SHARED))))
  return People(weights * factors, lapse)


def shared(world, first, second):
  """Tells what pairs of exemplars share.

  Args:
    world: `images.world.World`.
    first: int[*b] exemplars.
    second: int[*b] exemplars.

  Returns:
    f64[*b 6] in [0, 1], in the order of `SHARED`. Colour is the cosine of the
    angle between two hues on the circle, at least 0; the others are 0 or 1.
  """

  def same(values):
    return values[first] == values[second]

  turns = (world.look[first] % 8 - world.look[second] % 8) / 8.0
  features = (
    same(KINDS[world.superordinate]),
    same(world.superordinate),
    same(world.basic),
    first == second,
    same(world.outline),
    np.maximum(np.cos(2 * np.pi * turns), 0.0),
  )
  return np.stack(features, axis=-1).astype(np.float64)


def choice_probs(world, triplets, weights, *, lapse=0.0):
  """Probability that each item is called odd.

  Args:
    world: `images.world.World`.
    triplets: int[*b 3] exemplars.
    weights: f64[*b 6] or f64[6], in the order of `SHARED`.
    lapse: share of random answers.

  Returns:
    f64[*b 3]. Entry p belongs to item p.
  """
  pairs = ((1, 2), (0, 2), (0, 1))  # What remains without item 0, 1, 2.
  logits = np.stack(
    [
      np.sum(shared(world, triplets[..., i], triplets[..., j]) * weights, -1)
      for i, j in pairs
    ],
    axis=-1,
  )
  probs = np.exp(logits - logits.max(-1, keepdims=True))
  probs /= probs.sum(-1, keepdims=True)
  return (1 - lapse) * probs + lapse / 3


def answer(world, triplets, people, person, np_rng):
  """Draws one answer per triplet.

  Args:
    world: `images.world.World`.
    triplets: int[*b 3] exemplars.
    people: `People`.
    person: int[*b], who answers.
    np_rng: numpy generator.

  Returns:
    int32[*b], the position of the item called odd.
  """
  probs = choice_probs(
    world, triplets, people.weights[person], lapse=people.lapse
  )
  threshold = np_rng.random(person.shape)[..., None]
  odd = np.sum(np.cumsum(probs, axis=-1) < threshold, axis=-1)
  return np.minimum(odd, 2).astype(np.int32)


def odd_last(triplets, odd):
  """Reorders triplets so that the odd item is last, the others in order.

  Args:
    triplets: int[n 3].
    odd: int[n], 0, 1 or 2.

  Returns:
    int32[n 3].
  """
  orders = np.array([[1, 2, 0], [0, 2, 1], [0, 1, 2]])
  return np.take_along_axis(triplets, orders[odd], axis=1).astype(np.int32)


def count_answers(world, triplets, people, num_answers, np_rng):
  """Asks different people about each triplet.

  Args:
    world: `images.world.World`.
    triplets: int[m 3] exemplars.
    people: `People`, at least `num_answers` of them.
    num_answers: how many people judge each triplet.
    np_rng: numpy generator.

  Returns:
    int32[m 3]: how many called each item odd.
  """
  person = np.argsort(np_rng.random((len(triplets), len(people))), axis=1)
  person = person[:, :num_answers]
  repeated = np.repeat(triplets[:, None], num_answers, axis=1)
  odd = answer(world, repeated, people, person, np_rng)
  return np.sum(odd[..., None] == np.arange(3), axis=1).astype(np.int32)


def random_triplets(num_items, num, np_rng):
  """Draws triplets of three distinct items, uniform over ordered triples.

  Args:
    num_items: at least 3.
    num: number of triplets.
    np_rng: numpy generator.

  Returns:
    int32[num 3].
  """
  first = np_rng.integers(num_items, size=num)
  second = np_rng.integers(num_items - 1, size=num)
  second += second >= first
  third = np_rng.integers(num_items - 2, size=num)
  for taken in (np.minimum(first, second), np.maximum(first, second)):
    third += third >= taken
  return np.stack([first, second, third], axis=1).astype(np.int32)


def level_triplets(world, exemplars, level, num, np_rng):
  """Draws triplets of one level of abstraction, in the manner of Levels.

  The levels (paper.md, section D; what a class is there is a basic concept
  here):
    coarse: three basic concepts, two of them of one superordinate.
    fine: one basic concept, two pictures of one exemplar, one of another.
    boundary: two exemplars of one basic concept, one of another basic concept.

  Args:
    world: `images.world.World`.
    exemplars: int[n], what each picture shows.
    level: one of the three.
    num: number of triplets.
    np_rng: numpy generator.

  Returns:
    int32[num 3] rows of `exemplars`, positions shuffled. The first picture is
    uniform; the others are uniform over those that the level allows.
  """
  rules = {"coarse": _coarse, "fine": _fine, "boundary": _boundary}
  alike, different = rules[level](world, exemplars)
  firsts = np_rng.integers(len(exemplars), size=num)
  triplets = np.empty((num, 3), np.int32)
  for row, first in enumerate(firsts):
    second = np_rng.choice(np.flatnonzero(alike(first)))
    third = np_rng.choice(np.flatnonzero(different(first, second)))
    triplets[row] = np_rng.permutation([first, second, third])
  return triplets


def _coarse(world, exemplars):
  upper, basic = world.superordinate[exemplars], world.basic[exemplars]
  return (
    lambda a: (upper == upper[a]) & (basic != basic[a]),
    lambda a, b: upper != upper[a],
  )


def _fine(world, exemplars):
  basic = world.basic[exemplars]
  others = np.arange(len(exemplars))
  return (
    lambda a: (exemplars == exemplars[a]) & (others != a),
    lambda a, b: (basic == basic[a]) & (exemplars != exemplars[a]),
  )


def _boundary(world, exemplars):
  basic = world.basic[exemplars]
  return (
    lambda a: (basic == basic[a]) & (exemplars != exemplars[a]),
    lambda a, b: basic != basic[a],
  )
