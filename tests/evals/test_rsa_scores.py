import builtins
import importlib.metadata

import numpy as np
import pytest
import scipy.stats

from alignet_jax import artifacts
from alignet_jax.evals import rdm_compare, rsa_scores


@pytest.fixture
def people(np_rng):
  x = np_rng.normal(size=(13, 5))
  persons = np.stack(
    [
      rsa_scores.model_rdm(x + np_rng.normal(size=x.shape), "cosine")
      for _ in range(7)
    ]
  )
  return x, rsa_scores.RdmSet("mine", persons.mean(axis=0), persons)


def test_rows_equal_scipy(people):
  x, data = people
  rows = {(r.measure, r.variant): r for r in rsa_scores.rows(x, data)}
  assert len(rows) == 3 * 3 * 2
  i = np.triu_indices(13, 1)
  for metric in rsa_scores.METRICS:
    mine = rsa_scores.model_rdm(x, metric)[i]
    row = rows["spearman", metric]
    expected = scipy.stats.spearmanr(mine, data.rdm[i]).statistic
    assert row.value == pytest.approx(expected, rel=1e-9)
    assert row.low < row.value < row.high
    row = rows["pearson", f"{metric}, single people"]
    expected = np.mean(
      [scipy.stats.pearsonr(mine, p[i]).statistic for p in data.per_person]
    )
    assert row.value == pytest.approx(expected, rel=1e-9)
    assert row.ceiling_low < row.ceiling_high <= 1


def notes(x, data):
  rows = rsa_scores.rows(x, data)
  assert not any(np.isnan(row.value) and not row.is_skipped for row in rows)
  return {(row.measure, row.variant): row.note for row in rows}


def test_constant_features_have_a_reason(people, np_rng):
  x, data = people
  found = set(notes(np.ones_like(x), data).values())
  assert found == {"skipped: all distances of the model are equal."}
  # Of one direction: cosines differ by rounding alone, dot products do not.
  found = notes(np_rng.random((13, 1)) * x[:1], data)
  assert "the model are equal" in found["spearman", "cosine"]
  assert "the model are equal" in found["pearson", "cosine, single people"]
  assert found["spearman", "dot"] == "over items"
  rows = rsa_scores.rows(x[:2], rsa_scores.RdmSet("two", data.rdm[:2, :2]))
  assert {row.note for row in rows} == {
    "skipped: there are 2 items; a correlation of distances takes 3."
  }


def test_constant_people_have_a_reason(people):
  x, data = people
  same = 0.1 * (1 - np.eye(13))
  found = notes(x, rsa_scores.RdmSet("mine", same))
  assert set(found.values()) == {"skipped: all distances of people are equal."}
  persons = data.per_person.copy()
  persons[4] = same
  # The suite takes warnings for errors: numpy divided by 0 here.
  found = notes(x, rsa_scores.RdmSet("mine", data.rdm, persons))
  for method in rdm_compare.METHODS:
    assert found[method, "cosine"] == "over items"
    assert found[method, "cosine, single people"] == (
      "skipped: all distances of person 5 of 7 are equal."
    )
  assert np.isnan(rdm_compare.noise_ceiling(persons, "pearson")).all()


def test_intervals_of_very_few_items_are_qualified(people):
  x, data = people
  few = rsa_scores.RdmSet("few", data.rdm[:7, :7])
  (row,) = rsa_scores.rows(x[:7], few, metrics=("dot",), methods=("pearson",))
  assert row.note == "over items; intervals were tried from 12 items on"
  (row, _) = rsa_scores.rows(x, data, metrics=("dot",), methods=("pearson",))
  assert row.note == "over items"


def test_dense_is_the_dot_product(np_rng):
  x = np_rng.normal(size=(11, 3))
  rdm = rsa_scores.dense("vice", x).rdm
  i = np.triu_indices(11, 1)
  expected = scipy.stats.rankdata(-(x @ x.T)[i])
  np.testing.assert_array_equal(scipy.stats.rankdata(rdm[i]), expected)


def test_too_many_pairs_for_kendall_are_named(monkeypatch, people):
  monkeypatch.setattr(rsa_scores, "_MAX_KENDALL_PAIRS", 10)
  x, data = people
  rows = rsa_scores.rows(x, data, methods=("kendall_tau_a",))
  assert [row.is_skipped for row in rows] == [True]


def test_equals_rsatoolbox(people):
  pytest.importorskip("rsatoolbox", reason="needs the extra rsa")
  x, data = people
  ours = {(r.measure, r.variant): r for r in rsa_scores.rows(x, data)}
  rows = rsa_scores.rsatoolbox_rows(
    x, data, num_draws=3, methods=rdm_compare.METHODS
  )
  for row in rows:
    single = ours[row.measure, "cosine, single people"]
    for name in ("value", "ceiling_low", "ceiling_high"):
      np.testing.assert_allclose(
        getattr(row, name), getattr(single, name), rtol=0, atol=1e-6
      )
  alone = rsa_scores.RdmSet("mine", data.rdm)
  (row,) = rsa_scores.rsatoolbox_rows(
    x, alone, num_draws=3, methods=("spearman",)
  )
  assert row.value == pytest.approx(ours["spearman", "cosine"].value, abs=1e-6)


def test_rsatoolbox_is_not_asked_about_constant_matrices(people, monkeypatch):
  x, data = people
  monkeypatch.setattr(rsa_scores, "load_rsatoolbox", lambda: None)
  monkeypatch.setattr(importlib.metadata, "version", lambda name: "0")
  rows = rsa_scores.rsatoolbox_rows(np.ones_like(x), data, num_draws=3)
  assert [(row.variant, row.is_skipped) for row in rows] == [
    ("cosine, rsatoolbox", True)
  ] * 2


def test_without_rsatoolbox_the_extra_is_named(monkeypatch):
  original = builtins.__import__

  def refuse(name, *args, **kwargs):
    if name.startswith("rsatoolbox"):
      raise ImportError(f"No module named {name!r}")
    return original(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", refuse)
  with pytest.raises(artifacts.InputError, match=r"alignet_jax\[rsa\]"):
    rsa_scores.load_rsatoolbox()
