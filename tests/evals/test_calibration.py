import numpy as np
import pytest
import scipy.stats
import sklearn.calibration

from alignet_jax.evals import calibration


def draw_with_truth(np_rng, num, answers, power):
  people = np.exp(np_rng.normal(size=(num, 3)))
  people /= people.sum(axis=1, keepdims=True)
  model = people**power
  model /= model.sum(axis=1, keepdims=True)
  return np.log(model), np_rng.multinomial(answers, people), people


def draw(np_rng, num, answers):
  return draw_with_truth(np_rng, num, answers, 1.7)[:2]


def test_by_hand():
  # Sure by .5 and right 3 times of 4; sure by .9 and right once of 4.
  logprobs = np.log([[0.5, 0.3, 0.2], [0.05, 0.05, 0.9]])
  counts = np.array([[3, 1, 0], [2, 1, 1]])
  bins = calibration.reliability(logprobs, counts, num_bins=2)
  np.testing.assert_allclose(bins.confidence, [0.5, 0.9], rtol=1e-6, atol=0)
  np.testing.assert_allclose(bins.accuracy, [0.75, 0.25], rtol=1e-6, atol=0)
  np.testing.assert_array_equal(bins.count, [4, 4])
  error = calibration.expected_error(bins)
  assert error == pytest.approx((0.25 + 0.65) / 2, rel=1e-6)


def test_a_tie_is_never_right():
  bins = calibration.reliability(np.log(np.full((1, 3), 1 / 3)), [[5, 0, 0]])
  assert bins.accuracy[0] == 0 and bins.count.sum() == 5


def test_bins_equal_sklearn(np_rng):
  logprobs, counts = draw(np_rng, 200, 1)
  confidence = np.exp(logprobs.max(axis=1))
  right = counts[np.arange(200), logprobs.argmax(axis=1)]
  # Its bins are those of [0, 1]; 30 of them are 20 of ours and 10 empty ones.
  expected = sklearn.calibration.calibration_curve(right, confidence, n_bins=30)
  bins = calibration.reliability(logprobs, counts, num_bins=20)
  filled = bins.count > 0
  np.testing.assert_allclose(
    bins.accuracy[filled], expected[0], rtol=1e-9, atol=1e-12
  )
  np.testing.assert_allclose(
    bins.confidence[filled], expected[1], rtol=1e-9, atol=1e-12
  )


@pytest.mark.parametrize(
  "power, num, answers",
  [
    (1, 151, 20),
    (1.1, 307, 1),
    (1.1, 151, 20),
    (1.7, 151, 40),
  ],
)
def test_coverage_of_the_error(power, num, answers):
  # 1 is a calibrated model, whose error is 0 but never measured as that.
  np_rng = np.random.default_rng(0)
  logprobs, _, people = draw_with_truth(np_rng, 50_000, 1, power)
  truth = calibration.expected_error(calibration.reliability(logprobs, people))
  hits = 0
  for seed in range(300):
    logprobs, counts, _ = draw_with_truth(np_rng, num, answers, power)
    low, high = calibration.expected_error_interval(
      logprobs, counts, num_resamples=100, seed=seed
    )
    hits += low <= (truth if power > 1 else 0) <= high
  assert 0.90 <= hits / 300 <= 0.99


def test_error_by_chance(np_rng):
  found, expected = [], []
  for _ in range(100):
    logprobs, counts, _ = draw_with_truth(np_rng, 211, 7, 1)
    bins = calibration.reliability(logprobs, counts)
    found.append(calibration.expected_error(bins))
    expected.append(calibration.error_by_chance(logprobs, counts))
  assert np.mean(expected) == pytest.approx(np.mean(found), rel=0.1)
  one = calibration.expected_error_interval(logprobs[:1], counts[:1])
  assert np.isnan(one).all()


def test_reaction_times(np_rng):
  logprobs, _ = draw(np_rng, 40, 1)
  triplets = np.stack([np.arange(40), np.arange(40) + 1, np.arange(40) + 2], 1)
  rt = np_rng.gamma(2.0, size=40)
  found = calibration.reaction_time_correlation(logprobs, triplets, rt)
  entropy = -(np.exp(logprobs) * logprobs).sum(axis=1)
  expected = scipy.stats.spearmanr(entropy, rt).statistic
  assert found.value == pytest.approx(expected, abs=1e-6)
  assert found.low < found.value < found.high and found.num == 40
  # The same three items in another order are one triplet: the median counts.
  # An unknown time is left out. Spreads differ, so that neither of the two
  # times alone has the ranks of the median.
  spread = np_rng.gamma(2.0, size=40)
  twice = calibration.reaction_time_correlation(
    np.concatenate([logprobs, logprobs[:, [1, 2, 0]], logprobs]),
    np.concatenate([triplets, triplets[:, [1, 2, 0]], triplets]),
    np.concatenate([rt - spread, rt + spread, np.full(40, np.nan)]),
  )
  assert twice.value == pytest.approx(expected, abs=1e-6)
  assert twice.num == 40
  few = calibration.reaction_time_correlation(
    logprobs[:2], triplets[:2], rt[:2]
  )
  assert np.isnan(few.value)


def test_bad_input():
  with pytest.raises(ValueError, match="0 bins"):
    calibration.reliability(np.zeros((1, 3)), np.ones((1, 3)), num_bins=0)


def test_a_bin_begins_at_its_edge():
  # Of four bins from 1/3 to 1 the second begins at 1/2, exact in floats.
  logprobs = np.log([[0.5, 0.25, 0.25]])
  bins = calibration.reliability(logprobs, np.array([[3, 1, 0]]), num_bins=4)
  assert bins.count.tolist() == [0, 4, 0, 0]
