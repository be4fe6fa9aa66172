import numpy as np
import pytest
import scipy.special

from alignet_jax import odd_one_out
from alignet_jax.evals import (
  choice_scores,
  level_scores,
  levels,
  triplet_logits,
  uncertainty,
)


@pytest.fixture(scope="module")
def judged():
  np_rng = np.random.default_rng(5)
  x = np_rng.normal(size=(11, 7)).astype(np.float32)
  triplets = np.argsort(np_rng.random((53, 11)), axis=1)[:, :3].astype(np.int32)
  counts = np_rng.integers(1, 9, size=(53, 3)).astype(np.int32)
  return x, choice_scores.Choices(
    "mine",
    triplets,
    (triplets, counts),
    participant=np.arange(53) % 5,
    rt=np_rng.gamma(2.0, size=53),
    categories={"first": np.arange(6)},
  )


@pytest.fixture(scope="module")
def rows(judged):
  made = choice_scores.rows(*judged)
  found = {(row.measure, row.variant): row for row in made}
  assert len(found) == len(made)
  return found


def by_loop(x, triplets, cosine):
  logits = []
  for triplet in triplets:
    a, b, c = x[triplet].astype(np.float64)
    if cosine:
      a, b, c = (v / np.linalg.norm(v) for v in (a, b, c))
    logits.append([b @ c, a @ c, a @ b])
  return np.array(logits)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_numbers_equal_a_loop(judged, rows, similarity):
  x, people = judged
  logits = by_loop(x, people.triplets, similarity == "cosine")
  odd = logits.argmax(axis=1)
  row = rows["accuracy", similarity]
  assert row.value == pytest.approx((odd == 2).mean(), rel=1e-9)
  assert row.chance == pytest.approx(1 / 3) and row.num == 53
  assert row.low < row.value < row.high
  for drawn in ("objects", "people"):
    other = rows["accuracy", f"{similarity}, {drawn} drawn"]
    assert other.value == pytest.approx(row.value, rel=1e-9)
    assert other.low < row.value < other.high
  logprobs = scipy.special.log_softmax(logits, axis=1)
  assert rows["nll", similarity].value == pytest.approx(
    -logprobs[:, 2].mean(), rel=1e-4
  )
  counts = people.repeats[1]
  hits = counts[np.arange(53), odd].sum()
  row = rows["accuracy_repeats", similarity]
  assert row.value == pytest.approx(hits / counts.sum(), rel=1e-9)
  assert row.ceiling_low < row.ceiling_high <= 1
  assert row.num == counts.sum() and row.low < row.value < row.high
  # What bounds repeated triplets bounds no others.
  assert np.isnan(rows["accuracy", similarity].ceiling_high)
  top = counts.max(axis=1, keepdims=True)
  clear = (counts == top).sum(axis=1) == 1
  expected = (odd == counts.argmax(axis=1))[clear].mean()
  row = rows["accuracy_majority", similarity]
  assert row.value == pytest.approx(expected, rel=1e-9)
  assert row.num == clear.sum()
  shares = counts / counts.sum(axis=1, keepdims=True)
  expected = (shares * (np.log(shares) - logprobs)).sum(axis=1).mean()
  assert rows["kl", similarity].value == pytest.approx(expected, rel=1e-3)
  assert rows["kl", f"{similarity}, fitted"].value <= expected + 1e-6
  assert rows["entropy_r", similarity].value == pytest.approx(
    uncertainty.entropy_correlation(logprobs, counts), abs=1e-4
  )
  about = np.isin(people.triplets, np.arange(6)).any(axis=1)
  row = rows["accuracy_by_category", f"{similarity}, first"]
  assert row.value == pytest.approx((odd == 2)[about].mean(), rel=1e-6)
  assert row.num == about.sum()
  assert np.isfinite(rows["reaction_time", similarity].value)


def test_rows_that_are_not_finite_are_left_out(judged):
  x, people = judged
  holed = x.copy()
  holed[3] = np.nan
  kept = (people.triplets != 3).all(axis=1)
  part = choice_scores.Choices("mine", people.triplets[kept], num_items=11)
  whole = choice_scores.Choices("mine", people.triplets)
  for expected, actual in zip(
    choice_scores.rows(x, part, similarities=("dot",)),
    choice_scores.rows(holed, whole, similarities=("dot",)),
    strict=True,
  ):
    assert actual.value == pytest.approx(expected.value, rel=1e-6)
    assert actual.num == expected.num
  rows = choice_scores.rows(np.full_like(x, np.nan), whole)
  assert all(row.is_skipped for row in rows)


def test_repeats_of_unknown_items_are_left_out(judged):
  x, people = judged
  holed = x.copy()
  holed[3] = np.nan
  triplets, counts = people.repeats
  kept = (triplets != 3).all(axis=1)
  assert 0 < kept.sum() < len(kept)
  part, whole = (
    choice_scores.Choices("mine", people.triplets, repeats, num_items=11)
    for repeats in ((triplets[kept], counts[kept]), people.repeats)
  )
  for expected, actual in zip(
    choice_scores.rows(x, part, similarities=("dot",))[3:],
    choice_scores.rows(holed, whole, similarities=("dot",))[3:],
    strict=True,
  ):
    assert expected.measure == actual.measure
    assert actual.value == pytest.approx(expected.value, rel=1e-6)
    assert actual.num == expected.num


def test_what_a_guess_has(judged):
  x, people = judged
  chance = {
    row.measure: row.chance
    for row in choice_scores.rows(x, people, similarities=("dot",))
  }
  assert chance["accuracy"] == chance["accuracy_repeats"] == 1 / 3
  assert chance["nll"] == pytest.approx(np.log(3))
  assert chance["entropy_r"] == 0


def test_ties_are_wrong():
  same = np.ones((4, 3), np.float32)
  people = choice_scores.Choices("mine", np.array([[0, 1, 2], [1, 2, 3]]))
  row = choice_scores.rows(same, people, similarities=("dot",))[0]
  assert row.value == 0 and row.note.startswith("over triplets; 2 ties")


def test_no_number_without_a_reason(judged):
  _, people = judged
  triplets, counts = people.repeats
  # The same three numbers, in other orders: people are as unsure everywhere.
  alike = np.random.default_rng(0).permuted(
    np.tile([1, 3, 9], (len(counts), 1)), axis=1
  )
  few = np.full(len(triplets), np.nan)
  few[:2] = 1.0
  for x, odd_counts, rt, reason in (
    (np.ones((11, 7)), counts, people.rt, "all entropies of the model"),
    (judged[0], alike, few, "all entropies of people"),
  ):
    rows = choice_scores.rows(
      x,
      choice_scores.Choices("mine", triplets, (triplets, odd_counts), rt=rt),
      similarities=("dot",),
    )
    assert not any(np.isnan(row.value) and not row.is_skipped for row in rows)
    notes = {row.measure: row.note for row in rows if row.variant == "dot"}
    assert f"{reason} are equal" in notes["entropy_r"]
    assert notes["reaction_time"].startswith("skipped: ")
  assert "2 triplets have a known time; it takes 3" in notes["reaction_time"]


def test_bad_sizes(judged):
  x, people = judged
  with pytest.raises(ValueError, match="10 rows for 11 items"):
    choice_scores.rows(x[:10], people)
  with pytest.raises(ValueError, match="hold item 2; there are 2"):
    choice_scores.Choices("mine", np.array([[0, 1, 2]]), num_items=2)


def test_levels_per_trial_and_majority_differ_by_hand():
  # Items 0 and 1 are alike, 2 is apart; so the model names 2, and on the second
  # level, of items 3, 4 and 5, it names 5.
  x = np.array([[1, 0], [1, 0.1], [0, 1]] * 2, np.float32)
  answers = (
    [[0, 1, 2]] * 3
    + [[0, 2, 1]] * 2  # 3 of 5 name 2
    + [[3, 4, 5], [5, 4, 3], [5, 4, 3]]  # 1 of 3 names 5
  )
  people = level_scores.LevelAnswers(
    np.array(answers, np.int32),
    np.array([0] * 5 + [1] * 3),
    ("coarse", "fine"),
    participant=np.array([0, 1, 2, 3, 4, 0, 1, 2]),
  )
  rows = {(r.measure, r.variant): r.value for r in level_scores.rows(x, people)}
  assert rows["accuracy", "cosine, coarse"] == pytest.approx(3 / 5)
  assert rows["accuracy_majority", "cosine, coarse"] == 1
  assert rows["accuracy", "cosine, fine"] == pytest.approx(1 / 3)
  assert rows["accuracy_majority", "cosine, fine"] == 0
  assert rows["accuracy", "cosine, fine, people drawn"] == pytest.approx(1 / 3)


def test_levels_leave_out_what_the_model_does_not_have(judged):
  x, of_choices = judged
  triplets = of_choices.triplets.copy()
  triplets[2::3] = [3, 4, 5]
  people = level_scores.LevelAnswers(
    triplets,
    np.arange(53) % 3,
    participant=of_choices.participant,
    rt=of_choices.rt,
    items=tuple(map(str, range(11))),
  )
  holed = x.copy()
  holed[4] = np.nan  # Of all triplets of the third level, and of some others.
  kept = ~np.isin(triplets, [4]).any(axis=1)
  part = level_scores.LevelAnswers(
    triplets[kept],
    people.level[kept],
    ("coarse", "fine"),
    participant=people.participant[kept],
    rt=people.rt[kept],
    items=people.items,
  )
  skipped, *actual = level_scores.rows(holed, people, similarities=("dot",))
  assert skipped.is_skipped and skipped.variant == "dot, boundary"
  expected = level_scores.rows(x, part, similarities=("dot",))
  for one, other in zip(expected, actual, strict=True):
    key = one.measure, one.variant, one.num
    assert key == (other.measure, other.variant, other.num)
    for name in ("value", "low", "high", "ceiling_low", "ceiling_high"):
      np.testing.assert_allclose(
        getattr(other, name), getattr(one, name), rtol=1e-9, atol=0
      )
  notes = {(row.measure, row.variant): row.note for row in actual}
  out = int((~kept & (people.level == 0)).sum())
  assert out and notes["accuracy", "dot, coarse"].endswith(
    f"; {out} triplets of unknown items left out"
  )
  assert f"; {out} triplets" in notes["accuracy_majority", "dot, coarse"]
  rows = level_scores.rows(np.full_like(x, np.nan), people)
  assert len(rows) == 6 and all(row.is_skipped for row in rows)
  with pytest.raises(ValueError, match="10 rows for 11 items"):
    level_scores.rows(x[:10], people)


def test_tied_majorities_alone_are_a_skipped_row(judged):
  x, _ = judged
  triplets = np.array([[0, 1, 2], [0, 2, 1]], np.int32)
  answers = level_scores.LevelAnswers(triplets, np.zeros(2, int), ("coarse",))
  repeats = triplets, np.array([[0, 1, 1], [2, 2, 2]])
  for rows in (
    level_scores.rows(x, answers, similarities=("dot",)),
    choice_scores.rows(
      x,
      choice_scores.Choices("mine", triplets, repeats, num_items=11),
      similarities=("dot",),
    ),
  ):
    (row,) = (row for row in rows if row.measure == "accuracy_majority")
    assert row.is_skipped and "tied in every triplet" in row.note


def test_the_ceiling_is_over_the_triplets_that_are_scored(judged):
  x, _ = judged
  # People agree about 0, 1, 2 and not about 3, 4, 5.
  triplets = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
  counts = np.array([[0, 0, 7], [3, 3, 2]], np.int32)
  people = choice_scores.Choices(
    "mine", triplets, (triplets, counts), num_items=11
  )

  def repeats(embedding):
    rows = choice_scores.rows(embedding, people, similarities=("dot",))
    return {r.measure: r for r in rows if r.variant == "dot"}

  row = repeats(x)["accuracy_repeats"]
  assert row.ceiling_high == pytest.approx(10 / 15) and row.num == 15
  holed = x.copy()
  holed[4] = np.nan
  found = repeats(holed)
  row = found["accuracy_repeats"]
  assert (row.ceiling_low, row.ceiling_high, row.num) == (1, 1, 7)
  for measure in ("accuracy_repeats", "accuracy_majority", "kl"):
    assert "1 triplets of unknown items left out" in found[measure].note
  holed[0] = np.nan
  row = repeats(holed)["accuracy_repeats"]
  assert row.is_skipped and "no triplet of items" in row.note


def test_people_drawn_are_the_people_who_answered(np_rng):
  x = np_rng.normal(size=(7, 3)).astype(np.float32)
  triplets = np.argsort(np_rng.random((83, 7)), axis=1)[:, :3]
  person = np_rng.integers(5, size=83)
  level = np_rng.integers(2, size=83)
  people = level_scores.LevelAnswers(
    triplets, level, ("coarse", "fine"), participant=person
  )
  rows = {row.variant: row for row in level_scores.rows(x, people)}
  correct = by_loop(x, triplets, True).argmax(axis=1) == 2
  for index, name in enumerate(("coarse", "fine")):
    row = rows[f"cosine, {name}, people drawn"]
    here = level == index
    value = correct[here].mean()
    assert row.note == "over 5 people"
    # Student's t of the five sums of deviations from the mean.
    sums = [(correct[here & (person == p)] - value).sum() for p in range(5)]
    error = np.sqrt(5 / 4 * np.sum(np.square(sums))) / here.sum()
    reach = 2.776445 * error
    assert row.low == pytest.approx(max(value - reach, 0), abs=1e-6)
    assert row.high == pytest.approx(min(value + reach, 1), abs=1e-6)


def test_the_calibration_error_says_what_is_chance(rows):
  plain = rows["calibration_error", "dot"]
  assert "a calibrated model would have 0." in plain.note
  fitted = rows["calibration_error", "dot, fitted"]
  assert fitted.note.startswith("over triplets; temperature ")
  assert "by chance" in fitted.note


@pytest.mark.parametrize(
  "change",
  [
    lambda x: x * np.float32(1e19),
    lambda x: x * np.float32(1e-30),
    lambda x: np.concatenate([x, np.full((11, 1), 1e3, np.float32)], axis=1),
  ],
  ids=["huge", "tiny", "far"],
)
@pytest.mark.parametrize("limit", [4096, 0], ids=["at_once", "blocks"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_choices_of_any_scale(judged, change, limit, similarity, monkeypatch):
  x, people = judged
  monkeypatch.setattr(triplet_logits, "_MAX_ITEMS", limit)
  monkeypatch.setattr(triplet_logits, "_BLOCK", 23)
  x = change(x)
  expected = by_loop(x, people.triplets, similarity == "cosine")
  scores = choice_scores.logits(x, people.triplets, similarity)
  odd = np.asarray(odd_one_out.choose(scores))
  np.testing.assert_array_equal(odd, expected.argmax(axis=1))
  assert np.isfinite(np.asarray(odd_one_out.log_probs(scores))).all()
  expected -= expected.max(axis=1, keepdims=True)
  small = np.abs(expected) < 1e30
  np.testing.assert_allclose(
    scores[small], expected[small], rtol=1e-5, atol=1e-12
  )
  levels_choice = levels.choices(
    x, people.triplets, cosine=similarity == "cosine"
  )
  np.testing.assert_array_equal(levels_choice, odd)


@pytest.mark.parametrize("limit", [4096, 0], ids=["at_once", "blocks"])
def test_equal_items_are_tied_whatever_their_place(limit, np_rng, monkeypatch):
  monkeypatch.setattr(triplet_logits, "_MAX_ITEMS", limit)
  # Of one direction exactly; their cosines differ by rounding alone.
  x = np_rng.integers(-9, 9, 37) * np.arange(1, 24)[:, None]
  x = x.astype(np.float32)
  x[0] = 0  # Its cosine with all others is 0.
  triplets = np.argsort(np_rng.random((211, 23)), axis=1)[:, :3]
  odd = levels.choices(x, triplets)
  with_zero = triplets == 0
  expected = np.where(with_zero.any(axis=1), with_zero.argmax(axis=1), -1)
  np.testing.assert_array_equal(odd, expected)
  x[5] = np.nan
  assert (levels.choices(x, triplets)[(triplets == 5).any(axis=1)] == -1).all()
