import numpy as np
import pytest

from alignet_jax.judgments import noise_ceiling


def test_bounds_by_hand():
  # 3, 1, 0: the best fixed answer is right 3 times of 4. Leave one of the three
  # out and 2, 1, 0 remain: right. Leave the other out, 3, 0, 0: wrong. 3/4.
  # 1, 1, 0: the others' only answer is always the wrong one. 0.
  # 2, 2, 0: leaving one out, the other item leads. 0.
  # 2, 1, 1: one of the two left out: three tied, 1/3 each time; one of the
  # others left out: wrong. (1/3 + 1/3) / 4.
  counts = np.array([[3, 1, 0], [0, 1, 1], [2, 0, 2], [1, 1, 2]])
  np.testing.assert_allclose(
    noise_ceiling.lower_by_triplet(counts),
    [3 / 4, 0, 0, 1 / 6],
    rtol=1e-12,
    atol=0,
  )
  np.testing.assert_allclose(
    noise_ceiling.upper_by_triplet(counts),
    [3 / 4, 1 / 2, 1 / 2, 1 / 2],
    rtol=1e-12,
    atol=0,
  )
  lower, upper = noise_ceiling.noise_ceiling(counts)
  assert lower == pytest.approx((3 / 4 + 1 / 6) / 4)
  assert upper == pytest.approx(9 / 16)


def test_lower_bound_equals_a_loop_over_people(np_rng):
  counts = np_rng.integers(0, 5, (31, 3))
  counts[:, 0] += 2
  expected = []
  for row in counts:
    answers = [item for item in range(3) for _ in range(row[item])]
    credit = []
    for person, answer in enumerate(answers):
      others = answers[:person] + answers[person + 1 :]
      votes = [others.count(item) for item in range(3)]
      leaders = [item for item in range(3) if votes[item] == max(votes)]
      credit.append((answer in leaders) / len(leaders))
    expected.append(np.mean(credit))
  met = noise_ceiling.lower_by_triplet(counts)
  np.testing.assert_allclose(met, expected, rtol=1e-12, atol=0)


def test_laws(np_rng):
  counts = np_rng.integers(0, 9, (31, 3)) + [0, 1, 1]
  lower = noise_ceiling.lower_by_triplet(counts)
  upper = noise_ceiling.upper_by_triplet(counts)
  assert (lower <= upper).all()
  assert (upper >= 1 / 3).all()
  swapped = counts[:, [2, 0, 1]]
  np.testing.assert_allclose(
    noise_ceiling.lower_by_triplet(swapped), lower, rtol=1e-12, atol=0
  )
  assert noise_ceiling.noise_ceiling([[5, 0, 0], [0, 2, 0]]) == (1.0, 1.0)


def test_triplets_weigh_alike_however_many_answered():
  lower, upper = noise_ceiling.noise_ceiling([[200, 0, 0], [1, 1, 0]])
  assert (lower, upper) == (0.5, 0.75)


def test_one_answer_leaves_no_others():
  lower, upper = noise_ceiling.noise_ceiling([[1, 0, 0], [4, 0, 0]])
  assert (lower, upper) == (1.0, 1.0)
  lower, upper = noise_ceiling.noise_ceiling([[1, 0, 0]])
  assert np.isnan(lower)
  assert upper == 1.0
  intervals = noise_ceiling.bootstrap_intervals([[1, 0, 0]], num_resamples=3)
  assert np.isnan(intervals["lower"]).all()
  assert intervals["upper"] == (1.0, 1.0)
  # A quarter of the draws has the first triplet only, and no lower bound.
  intervals = noise_ceiling.bootstrap_intervals([[1, 0, 0], [4, 0, 0]])
  assert intervals["lower"] == (1.0, 1.0)


def test_no_triplets():
  empty = np.zeros((0, 3), np.int32)
  assert np.isnan(noise_ceiling.noise_ceiling(empty)).all()
  intervals = noise_ceiling.bootstrap_intervals(empty, num_resamples=3)
  assert np.isnan(intervals["upper"]).all()


def test_intervals_have_the_width_of_the_standard_error(np_rng):
  counts = np_rng.multinomial(19, [0.6, 0.3, 0.1], 400)
  values = noise_ceiling.upper_by_triplet(counts)
  low, high = noise_ceiling.bootstrap_intervals(counts)["upper"]
  assert low < values.mean() < high
  expected = 2 * 1.96 * values.std() / np.sqrt(400)
  np.testing.assert_allclose(high - low, expected, rtol=0.15, atol=0)
  again = noise_ceiling.bootstrap_intervals(counts)
  assert again["upper"] == (low, high)
  assert noise_ceiling.bootstrap_intervals(counts, seed=1) != again


@pytest.mark.parametrize(
  ("counts", "message"),
  [
    ([[1, 2]], r"shape \(1, 2\)"),
    ([[1.0, 2.0, 0.0]], "type float64"),
    ([[1, 2, -1]], "holds -1"),
    ([[1, 2, 0], [0, 0, 0]], "Row 1"),
  ],
)
def test_bad_counts_are_named(counts, message):
  with pytest.raises(ValueError, match=message):
    noise_ceiling.noise_ceiling(counts)


def test_bad_settings_are_named():
  with pytest.raises(ValueError, match="level is 1.5"):
    noise_ceiling.bootstrap_intervals([[1, 1, 1]], level=1.5)
  with pytest.raises(ValueError, match="num_resamples is 0"):
    noise_ceiling.bootstrap_intervals([[1, 1, 1]], num_resamples=0)


def test_repeats_of_things(shared_data):
  with np.load(shared_data / "things" / "repeats.npz") as repeats:
    counts = repeats["odd_counts"]
  lower, upper = noise_ceiling.noise_ceiling(counts)
  # With about 200 people per triplet the bounds nearly meet.
  assert upper == pytest.approx(0.5942, abs=5e-5)
  assert upper - 0.01 < lower < upper
  intervals = noise_ceiling.bootstrap_intervals(counts)
  assert intervals["lower"][0] < lower < intervals["lower"][1]
