import numpy as np
import pytest

from alignet_jax import artifacts
from alignet_jax.triplets import files

INDICES = np.array([[0, 1, 2], [4, 2, 6], [5, 3, 1]])
SIMS = np.array([[5.0, 1.0, 2.0], [4.0, 4.0, -1.0], [0.5, 0.1, 0.3]])


def test_round_trip_in_the_released_layout(tmp_path):
  path = files.path_of(tmp_path, "aligned", "train", "cluster_border")
  assert path == tmp_path / "aligned" / "train_cluster_border.npz"
  names = np.array([["a", "bc", "d"]] * 3)
  files.write(path, INDICES, SIMS, filenames=names)
  with np.load(path, allow_pickle=False) as stored:
    assert sorted(stored.files) == ["filenames", "indices", "similarities"]
    assert stored["similarities"].dtype == np.float32
    assert stored["indices"].dtype == np.int64
    np.testing.assert_array_equal(stored["filenames"], names)
  triplets = files.read(path, num_images=7)
  np.testing.assert_array_equal(triplets.indices, INDICES)
  np.testing.assert_array_equal(triplets.pair_sims, SIMS.astype(np.float32))
  # Rows 0 and 2 have s02 < s12; the tie of s01 and s02 in row 1 is sorted.
  assert triplets.num_unsorted == 2


def test_filenames_stay_on_disk(tmp_path):
  # Strings of type object need pickle; to read them would be an error.
  path = tmp_path / "x.npz"
  names = np.array([["a", None, 3]] * 3, dtype=object)
  np.savez(
    path, indices=INDICES, similarities=SIMS.astype("f4"), filenames=names
  )
  assert files.read(path).indices.shape == (3, 3)


@pytest.mark.parametrize(
  ("indices", "sims", "message"),
  [
    (INDICES, SIMS[:, [1, 0, 2]], r"triplet 0 .*\[1\.0, 5\.0, 2\.0\].*2 of 3"),
    (INDICES, SIMS[:, [2, 1, 0]], r"triplet 0 has another largest"),
    (INDICES + [0, 0, 1], SIMS, r"triplet 1 .*of 7 images: \[4, 2, 7\].*1 of"),
    (INDICES - 1, SIMS, r"triplet 0 has an index outside"),
    ([[0, 1, 2], [4, 4, 1], [5, 3, 1]], SIMS, r"triplet 1 holds an image tw"),
    ([[0, 1, 2], [4, 2, 4], [5, 3, 1]], SIMS, r"triplet 1 holds an image tw"),
    ([[0, 1, 2], [4, 2, 2], [5, 3, 1]], SIMS, r"triplet 1 holds an image tw"),
    (INDICES, SIMS + [[0] * 3, [0] * 3, [0, 0, np.nan]], r"triplet 2 .*finite"),
    (INDICES[:2], SIMS, r"'similarities' must be float\[n 3\]"),
    (INDICES[:, :2], SIMS, r"'indices' must be int\[n 3\]"),
    (INDICES * 1.0, SIMS, r"'indices' must be int.*not float64\[3, 3\]"),
    (np.int64(3), SIMS, r"'indices' must be int"),
  ],
)
def test_violations_are_named(tmp_path, indices, sims, message):
  path = tmp_path / "broken.npz"
  np.savez(path, indices=indices, similarities=sims)
  with pytest.raises(artifacts.InputError, match=r"broken\.npz.*" + message):
    files.read(path, num_images=7)


def test_writer_refuses_an_odd_image_that_does_not_stand_last(tmp_path):
  path = tmp_path / "refused.npz"
  with pytest.raises(artifacts.InputError, match="another largest"):
    files.write(path, INDICES, SIMS[:, ::-1])
  assert not path.exists()


def test_missing_files_and_arrays_are_named(tmp_path):
  with pytest.raises(artifacts.InputError, match=r"absent\.npz does not exi"):
    files.read(tmp_path / "absent.npz")
  np.savez(tmp_path / "half.npz", indices=INDICES)
  with pytest.raises(
    artifacts.InputError, match=r"half\.npz has no array 'similarities'; .*ind"
  ):
    files.read(tmp_path / "half.npz")
  (tmp_path / "cut.npz").write_bytes((tmp_path / "half.npz").read_bytes()[:-30])
  with pytest.raises(artifacts.InputError, match=r"cut\.npz cannot be read"):
    files.read(tmp_path / "cut.npz")


def test_mapped_arrays_are_those_that_are_loaded(tmp_path):
  path = tmp_path / "x.npz"
  files.write(path, INDICES, SIMS)
  mapped = files.read(path, num_images=7, mmap=True)
  loaded = files.read(path, num_images=7)
  for array, want in (
    (mapped.indices, loaded.indices),
    (mapped.pair_sims, loaded.pair_sims),
  ):
    assert isinstance(array, np.memmap) and not array.flags.writeable
    np.testing.assert_array_equal(array, want)
    assert array.dtype == want.dtype
  assert mapped.num_unsorted == 2


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_files_of_numpy_are_mapped_or_loaded(tmp_path, save):
  path = tmp_path / "x.npz"
  names = np.array([["a", None, 3]] * 3, dtype=object)
  sims = np.asfortranarray(SIMS.astype("f2"))
  save(path, filenames=names, indices=INDICES.astype("i4"), similarities=sims)
  triplets = files.read(path, mmap=True)
  np.testing.assert_array_equal(triplets.indices, INDICES)
  np.testing.assert_array_equal(triplets.pair_sims, sims)
  is_mapped = isinstance(triplets.indices, np.memmap)
  assert is_mapped == (save is np.savez)


def test_mapped_file_that_is_cut_off_or_wrong_is_refused(tmp_path):
  path = tmp_path / "x.npz"
  files.write(path, INDICES, SIMS)
  data = path.read_bytes()
  path.write_bytes(data[:-30])
  with pytest.raises(artifacts.InputError, match=r"x\.npz cannot be read"):
    files.read(path, mmap=True)
  np.savez(path, indices=INDICES, similarities=SIMS[:, ::-1])
  with pytest.raises(artifacts.InputError, match=r"triplet 0 .*3 of 3"):
    files.read(path, mmap=True)


@pytest.mark.parametrize("chunk_size", [1, 2, 10])
def test_violations_are_counted_over_chunks(tmp_path, monkeypatch, chunk_size):
  monkeypatch.setattr(files, "CHUNK_SIZE", chunk_size)
  indices = np.array([[0, 1, 2], [4, 4, 6], [5, 3, 1], [7, 2, 7]])
  sims = np.array([[5, 1, 2], [4, 4, -1], [0.1, 0.5, 0.3], [1, 2, 0]])
  found = files.find_violations(indices, sims, num_images=7)
  assert [(bad.number, bad.first, bad.example) for bad in found] == [
    (1, 3, [7, 2, 7]),
    (2, 1, [4, 4, 6]),
    (2, 2, [0.1, 0.5, 0.3]),
  ]
  assert files.count_unsorted(sims) == 1
  assert files.find_violations(INDICES, SIMS) == []


def test_file_names_are_made_while_they_are_written(tmp_path, monkeypatch):
  monkeypatch.setattr(files, "CHUNK_SIZE", 2)
  names = np.array(["a", "bb", "c", "dd", "e", "f", "g.jpeg"])
  files.write(tmp_path / "x.npz", INDICES, SIMS, image_names=names)
  files.write(tmp_path / "y.npz", INDICES, SIMS, filenames=names[INDICES])
  both = [(tmp_path / name).read_bytes() for name in ("x.npz", "y.npz")]
  assert both[0] == both[1]
  _, _, mapped = files.open_arrays(tmp_path / "x.npz", with_filenames=True)
  np.testing.assert_array_equal(mapped, names[INDICES])
  with pytest.raises(artifacts.InputError, match="of 6 images"):
    files.write(tmp_path / "z.npz", INDICES, SIMS, image_names=names[:6])
