import jax.numpy as jnp
import numpy as np
import pytest

from alignet_jax.evals import levels, triplet_logits


def make_levels(m, *, num_items=11, seed=0, num_people=7):
  np_rng = np.random.default_rng(seed)
  triplets = np.stack(
    [np_rng.choice(num_items, size=3, replace=False) for _ in range(m)]
  ).astype(np.int32)
  odd_counts = np_rng.multinomial(num_people, [0.2, 0.3, 0.5], size=m)
  level = np.arange(m, dtype=np.int32) % 3
  return levels.Levels(triplets, odd_counts.astype(np.int32), level)


def test_per_trial_and_majority_differ_as_by_hand():
  # Items 0 and 1 point the same way, item 2 away: item 2 is the model's choice
  # wherever it stands.
  embeddings = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], np.float32)
  answers = levels.Levels(
    triplets=np.array([[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 1, 2]]),
    # Model: position 2, 0, 1, 2.
    odd_counts=np.array([[1, 1, 3], [2, 3, 0], [0, 4, 1], [1, 2, 2]]),
    level=np.array([0, 0, 0, 0]),
    names=("coarse",),
  )
  score = levels.score_levels(embeddings, answers, num_resamples=3)["coarse"]
  # Answers equal to the model's: 3 + 2 + 4 + 2 = 11 of 20.
  assert score["per_trial"] == pytest.approx(11 / 20)
  # Majorities: item 2 yes, item 1 no, item 1 yes, tied left out: 2 of 3.
  assert score["majority"] == pytest.approx(2 / 3)
  assert score["num_tied_majority"] == 1
  assert score["num_triplets"] == 4
  assert score["num_answers"] == 20
  assert score["num_tied_model"] == 0


def test_levels_are_scored_apart():
  embeddings = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], np.float32)
  answers = levels.Levels(
    triplets=np.array([[0, 1, 2]] * 3),
    odd_counts=np.array([[0, 0, 5], [0, 4, 1], [5, 0, 0]]),
    level=np.array([1, 2, 0]),
  )
  scores = levels.score_levels(embeddings, answers, num_resamples=3)
  assert [scores[name]["per_trial"] for name in levels.NAMES] == [0.0, 1.0, 0.2]


def test_equal_to_a_plain_loop():
  answers = make_levels(61)
  embeddings = np.random.default_rng(1).normal(size=(11, 5)).astype(np.float32)
  scores = levels.score_levels(embeddings, answers, num_resamples=2)
  unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
  for index, name in enumerate(levels.NAMES):
    hits = answered = right = clear = 0
    for row in np.flatnonzero(answers.level == index):
      i, j, k = answers.triplets[row]
      counts = answers.odd_counts[row]
      sims = [unit[j] @ unit[k], unit[i] @ unit[k], unit[i] @ unit[j]]
      odd = int(np.argmax(sims))
      hits += counts[odd]
      answered += counts.sum()
      if np.sum(counts == counts.max()) == 1:
        clear += 1
        right += int(np.argmax(counts) == odd)
    assert scores[name]["per_trial"] == pytest.approx(hits / answered)
    assert scores[name]["majority"] == pytest.approx(right / clear)


def test_permuting_positions_changes_nothing():
  answers = make_levels(37)
  embeddings = np.random.default_rng(2).normal(size=(11, 5)).astype(np.float32)
  order = [2, 0, 1]
  permuted = levels.Levels(
    answers.triplets[:, order], answers.odd_counts[:, order], answers.level
  )
  assert levels.score_levels(embeddings, answers) == levels.score_levels(
    embeddings, permuted
  )


def test_numpy_and_jax_arrays_give_the_same():
  answers = make_levels(37)
  embeddings = np.random.default_rng(2).normal(size=(11, 5)).astype(np.float32)
  as_jax = levels.Levels(
    jnp.asarray(answers.triplets),
    jnp.asarray(answers.odd_counts),
    jnp.asarray(answers.level),
  )
  assert levels.score_levels(
    embeddings, answers, num_resamples=5
  ) == levels.score_levels(jnp.asarray(embeddings), as_jax, num_resamples=5)


def test_constant_embeddings_are_always_wrong():
  answers = make_levels(30)
  scores = levels.score_levels(np.full((11, 7), 0.3, np.float32), answers)
  for score in scores.values():
    assert score["per_trial"] == 0.0
    assert score["majority"] == 0.0
    assert score["num_tied_model"] == 10


def test_random_embeddings_are_at_chance():
  # Everyone answers alike at random, so each triplet is one coin of three
  # sides: the standard error at 3000 triplets is .0086.
  np_rng = np.random.default_rng(3)
  answers = make_levels(3000, num_items=600)
  odd_counts = 5 * np.eye(3, dtype=np.int32)[np_rng.integers(3, size=3000)]
  answers = levels.Levels(
    answers.triplets, odd_counts, np.zeros(3000), names=("all",)
  )
  embeddings = np_rng.normal(size=(600, 13)).astype(np.float32)
  score = levels.score_levels(embeddings, answers)["all"]
  assert score["per_trial"] == pytest.approx(1 / 3, abs=0.03)
  low, high = score["per_trial_interval"]
  assert low < score["per_trial"] < high
  # 2 x 1.96 standard errors.
  assert high - low == pytest.approx(0.0337, abs=0.004)


def test_cosine_and_dot_differ_by_length():
  # By cosine items 0 and 1 are alike. Dot products of the pairs 01, 02, 12 are
  # 1, 0 and 0.2 * 20 = 4: length draws item 1 to item 2, and item 0 is odd.
  embeddings = np.array([[1.0, 0.0], [1.0, 0.2], [0.0, 20.0]], np.float32)
  triplets = np.array([[0, 1, 2]])
  assert levels.choices(embeddings, triplets, cosine=True).tolist() == [2]
  assert levels.choices(embeddings, triplets, cosine=False).tolist() == [0]


def test_blocks_do_not_show(monkeypatch):
  answers = make_levels(23)
  embeddings = np.random.default_rng(4).normal(size=(11, 5)).astype(np.float32)
  whole = levels.choices(embeddings, answers.triplets)
  monkeypatch.setattr(triplet_logits, "_MAX_ITEMS", 0)
  monkeypatch.setattr(triplet_logits, "_BLOCK", 25)
  np.testing.assert_array_equal(
    levels.choices(embeddings, answers.triplets), whole
  )


def test_only_tied_majorities_give_nan():
  answers = levels.Levels(
    np.array([[0, 1, 2]]), np.array([[2, 2, 0]]), np.array([0]), ("all",)
  )
  score = levels.score_levels(np.eye(3, dtype=np.float32), answers)["all"]
  assert np.isnan(score["majority"])
  assert np.isnan(score["majority_interval"]).all()
  assert score["num_tied_majority"] == 1


@pytest.mark.parametrize(
  "change, message",
  [
    (dict(triplets=np.zeros((2, 3), int)), "odd_counts has shape"),
    (dict(odd_counts=np.zeros((3, 3), int)), "Triplet 0 has no answer"),
    (dict(odd_counts=np.full((3, 3), -1)), "counts are >= 0"),
    (dict(level=np.array([0, 1, 3])), r"level holds \[0, 1, 3\]"),
    (dict(level=np.array([0, 1, 1])), "Drop the name"),
  ],
)
def test_wrong_answers_are_refused(change, message):
  arrays = dict(
    triplets=np.array([[0, 1, 2]] * 3),
    odd_counts=np.ones((3, 3), int),
    level=np.array([0, 1, 2]),
  )
  with pytest.raises(ValueError, match=message):
    levels.Levels(**(arrays | change))


@pytest.mark.parametrize("row", [-1, 4])
def test_rows_out_of_range_are_refused(row):
  with pytest.raises(ValueError, match="embeddings have rows 0 to 3"):
    levels.choices(np.eye(4, dtype=np.float32), np.array([[0, 1, row]]))
