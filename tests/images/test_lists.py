import numpy as np
import pytest
from PIL import Image

from alignet_jax import artifacts
from alignet_jax.images import lists, preprocess

SMALL = preprocess.Preprocessing(5)


@pytest.fixture
def write(tmp_path):
  """Writes a csv file beside two images."""
  (tmp_path / "x").mkdir()
  for i, name in enumerate(("one.png", "x/two.anything")):
    image = Image.fromarray(np.full((7, 9, 3), 50 * (i + 1), np.uint8))
    image.save(tmp_path / name, format="PNG")

  def to_file(text, **options):
    path = tmp_path / "list.csv"
    path.write_text(text, **{"encoding": "utf-8", **options})
    return path

  return to_file


def test_rows_in_their_order_with_the_other_columns(write):
  path = write(
    'concept,file,note\ncat,x/two.anything,"a, b"\n\ndog,one.png,\n'
    "cat,x/two.anything,again\n"
  )
  images = lists.CsvImages(path, preprocessing=SMALL)
  assert images.names == ["x/two.anything", "one.png", "x/two.anything"]
  assert images.columns == {
    "concept": ["cat", "dog", "cat"],
    "note": ["a, b", "", "again"],
  }
  pixels = images.load([0, 1, 2])[:, 0, 0, 0]
  np.testing.assert_array_equal(pixels, [100, 50, 100])
  sizes = [(path.parent / name).stat().st_size for name in images.names]
  assert images.num_bytes(0, 3) == sizes
  assert images.labels is None and images.class_names is None


@pytest.mark.parametrize("column", ["file", "path", "image"])
def test_names_of_the_column_and_a_byte_order_mark(write, column):
  path = write(f"{column}\none.png\n", encoding="utf-8-sig")
  assert lists.CsvImages(path).names == ["one.png"]


def test_file_goes_before_image_and_root_before_the_folder(write, tmp_path):
  path = write("image,file\n1,two.anything\n")
  images = lists.CsvImages(path, root=tmp_path / "x", preprocessing=SMALL)
  assert images.load([0])[0, 0, 0, 0] == 100
  absolute = write(f"file\n{tmp_path / 'one.png'}\n")
  images = lists.CsvImages(absolute, root="/nowhere", preprocessing=SMALL)
  assert images.load([0])[0, 0, 0, 0] == 50


def test_labels(write):
  images = lists.CsvImages(write("file,label\na,7\nb,0\n"))
  np.testing.assert_array_equal(images.labels, np.array([7, 0], np.int32))
  assert images.class_names is None and images.labels.dtype == np.int32
  images = lists.CsvImages(write("file,label\na,dog\nb,7\nc,dog\n"))
  np.testing.assert_array_equal(images.labels, [1, 0, 1])
  assert images.class_names == ["7", "dog"]


def test_a_listed_file_that_is_missing_is_named(write):
  images = lists.CsvImages(write("file\nnowhere.png\n"), preprocessing=SMALL)
  with pytest.raises(artifacts.InputError, match="nowhere.png cannot be read"):
    images.load([0])
  assert images.num_bytes(0, 1) == [-1]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "lists no image"),
    ("name,url\na,b\n", "columns name, url; one must be file or path or image"),
    ("file\n", "lists no image"),
    ("file,a\nx,1\ny\n", "line 3: 1 fields; the header has 2"),
    ("file,a,a\nx,1,2\n", "column twice: file, a, a"),
    ("file,a\n,1\n", "no file in its row 1"),
    ('file\n"x\n', "line 2: unexpected end"),
  ],
)
def test_malformed_lists_are_refused(write, text, message):
  with pytest.raises(artifacts.InputError, match=message):
    lists.CsvImages(write(text))


def test_missing_and_binary_lists_are_refused(tmp_path):
  with pytest.raises(artifacts.InputError, match="no file .*nowhere.csv"):
    lists.CsvImages(tmp_path / "nowhere.csv")
  (tmp_path / "a.csv").write_bytes(b"file\n\xff\xfe\n")
  with pytest.raises(artifacts.InputError, match="not UTF-8"):
    lists.CsvImages(tmp_path / "a.csv")
