"""Tests of benchmarks.heldout_concepts: nothing that is held out leaks."""

import io
import tarfile

import numpy as np

from benchmarks import heldout_concepts

# 13 concepts, of which "a0" and "b0" show the same one, and 3 classes without.
ROWS = [
  *[{"wnid": f"a{i}", "things_index": str(7 * i)} for i in range(13)],
  {"wnid": "b0", "things_index": "0.0"},
  *[{"wnid": f"c{i}", "things_index": ""} for i in range(3)],
]


def test_split_holds_out_a_third_of_the_concepts_whatever_the_order():
  made = heldout_concepts.split(ROWS, seed=1)
  assert len(set(made.held_out.values())) == 4
  assert len(set(made.seen.values())) == 9
  assert made.others == ["c0", "c1", "c2"]
  assert heldout_concepts.split(ROWS[::-1], seed=1) == made


def test_split_shares_neither_classes_nor_concepts():
  sides_of_the_double = set()
  for seed in range(11):
    made = heldout_concepts.split(ROWS, seed=seed)
    assert not set(made.seen.values()) & set(made.held_out.values())
    classes = [*made.seen, *made.held_out, *made.others]
    assert sorted(classes) == sorted(row["wnid"] for row in ROWS)
    sides_of_the_double.add("b0" in made.held_out)
  assert sides_of_the_double == {True, False}


def test_triples_are_of_different_held_out_concepts_with_their_own_images():
  concepts = [70, 3, 11, 29, 5]
  image_concepts = np.repeat(concepts, [2, 3, 5, 7, 4])
  images, triples = heldout_concepts.draw_triples(
    concepts, image_concepts, num_showings=3, seed=0
  )
  assert images.shape == triples.shape == (30, 3)  # 3 times 5 over 3.
  np.testing.assert_array_equal(image_concepts[images], triples)
  different = {frozenset(triple) for triple in triples.tolist()}
  assert len(different) == 10
  assert {len(triple) for triple in different} == {3}
  assert len(np.unique(images)) > 5  # Not always the first of each.


def test_unpack_takes_the_asked_classes_and_no_more_images(tmp_path):
  with tarfile.open(tmp_path / "some.tar", "w") as archive:
    for name in ("a0/z.jpg", "a1/y.jpg", "a0/x.jpg", "a2/w.jpg", "a0/v.jpg"):
      member = tarfile.TarInfo(name)
      member.size = len(name)
      archive.addfile(member, io.BytesIO(name.encode()))
  names = heldout_concepts.unpack(
    tmp_path / "some.tar", tmp_path, ["a0", "a2"], 2
  )
  assert names == [
    "images/some/a0/x.jpg",
    "images/some/a0/z.jpg",
    "images/some/a2/w.jpg",
  ]
  assert (tmp_path / names[0]).read_bytes() == b"a0/x.jpg"
  assert not (tmp_path / "images/some/a1").exists()


def test_concepts_of_a_list_are_minus_one_where_there_is_none(tmp_path):
  path = tmp_path / "list.csv"
  path.write_text("file,concept\nx.jpg,17\ny.jpg,\nz.jpg,0\n")
  np.testing.assert_array_equal(heldout_concepts.concepts_of(path), [17, -1, 0])


def test_hits_count_peoples_odd_one_and_no_tie():
  judged = heldout_concepts.Judged(
    images=None,
    triplets=np.array([[0, 1, 2], [0, 1, 2], [1, 1, 1]]),
    concepts=None,
    odd=np.array([2, 0, 0]),
  )
  z = np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]], np.float32)
  assert judged.hits(z).tolist() == [True, False, False]


def test_difference_is_that_of_the_means_over_seeds():
  concepts = np.array([[0, 1, 2], [0, 1, 3], [2, 3, 4], [1, 3, 4], [0, 2, 4]])
  judged = heldout_concepts.Judged(None, None, concepts, None)
  ours = [np.array([1, 1, 1, 0, 1], bool), np.array([1, 0, 1, 1, 0], bool)]
  theirs = [np.array([1, 0, 0, 0, 1], bool), np.array([0, 0, 1, 1, 0], bool)]
  gain, low, high = judged.difference(ours, theirs)
  np.testing.assert_allclose(gain, 0.3, rtol=1e-12, atol=0)  # .7 - .4
  assert low < gain < high
  assert judged.difference(ours, ours) == (0.0, 0.0, 0.0)
