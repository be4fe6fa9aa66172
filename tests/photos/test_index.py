"""Lists of photographs and their categories; wrong ones are refused."""

import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.photos import index


def write(path, text):
  path.write_text(text, encoding="utf-8")
  return path


def test_reads_which_concept_a_photograph_shows(tmp_path):
  path = write(
    tmp_path / "images.csv",
    "file,things_index\na.png,\nb.png,16\nc.png,3.0\nd.png,\n",
  )
  photos = index.read(path, num_objects=17)
  assert photos.names == ["a.png", "b.png", "c.png", "d.png"]
  np.testing.assert_array_equal(photos.concepts, [-1, 16, 3, -1])
  np.testing.assert_array_equal(photos.matched, [1, 2])


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("file\na.png\n", "has no column things_index"),
    ("file,things_index\na.png,17\n", "'17' in its row 1; .* from 0 to 16"),
    ("file,things_index\na.png,-1\n", "'-1' in its row 1"),
    ("file,things_index\na.png,3\nb.png,3\n", "3 again in its row 2"),
  ],
)
def test_wrong_lists_are_refused(tmp_path, text, sentence):
  with pytest.raises(artifacts.InputError, match=sentence):
    index.read(write(tmp_path / "images.csv", text), num_objects=17)


def test_a_concept_of_several_categories_has_none(tmp_path):
  path = write(
    tmp_path / "concepts.tsv",
    "Word\tKind\ncat\tanimal\ncup\t\n"
    'ship\t"container, vehicle"\ncar\tvehicle\n',
  )
  found = index.categories(path, "Kind", np.array([3, 2, -1, 1, 0]))
  assert found == ["vehicle", "", "", "", "animal"]
  with pytest.raises(artifacts.InputError, match="no column 'kind'; it has"):
    index.categories(path, "kind", np.array([0]))
  with pytest.raises(artifacts.InputError, match="4 concepts; .* concept 4"):
    index.categories(path, "Kind", np.array([4]))
  with pytest.raises(artifacts.InputError, match="There is no file"):
    index.categories(tmp_path / "none.tsv", "Kind", np.array([0]))


def test_images_need_their_folder(tmp_path):
  path = write(tmp_path / "images.csv", "file,things_index\na.png,\n")
  with pytest.raises(artifacts.InputError, match="There is no folder"):
    index.open_images(path, tmp_path / "none", None)
