import csv

import numpy as np
import pytest

from alignet_jax import artifacts, manifest
from alignet_jax.triplets import check, feature_rows, files, make, verify

NUM_ROWS, WIDTH, NUM_TRIPLETS = 211, 13, 5000


@pytest.fixture(name="root")
def _root(tmp_path, np_rng):
  """Features with an index, a transform, and classes of the rows."""
  classes = np_rng.integers(9, size=NUM_ROWS)
  features = np_rng.normal(size=(9, WIDTH))[classes]
  features = features + 0.7 * np_rng.normal(size=(NUM_ROWS, WIDTH)) + 3
  folder = tmp_path / "features"
  folder.mkdir()
  artifacts.write_npy(folder / "features.npy", features.astype(np.float32))
  with (folder / "index.csv").open("w", newline="") as f:
    writer = csv.writer(f)
    writer.writerow(["row", "file", "sha256"])
    writer.writerows([i, f"n{i % 5}/{i}.JPEG", "-"] for i in range(NUM_ROWS))
  record = dict.fromkeys(manifest.Manifest.__dataclass_fields__, 0)
  for name in ("config", "inputs", "external", "outputs", "metrics"):
    record[name] = {}
  record["outputs"] = manifest.describe_outputs(folder)
  artifacts.write_json(folder / "manifest.json", record)
  artifacts.write_npz(
    tmp_path / "soft.npz",
    weights=0.3 * np_rng.normal(size=(WIDTH, WIDTH)).astype(np.float32),
    bias=np_rng.normal(size=WIDTH).astype(np.float32),
    mean=np.float32(3),
    std=np.float32(1.2),
  )
  np.save(tmp_path / "labels.npy", classes)
  return tmp_path


def _make(root, *flags, transform=True):
  argv = [f"--features={root / 'features'}", f"--out={root / 'out'}"]
  argv += [f"--number={NUM_TRIPLETS}", "--num_clusters=7", *flags]
  argv += [f"--transform={root / 'soft.npz'}"] if transform else []
  return make.run(make.parse(argv), log=lambda line: None)


def _check(root, path, *flags, transform=True, features="features"):
  lines = []
  argv = [str(path), f"--features={root / features}", *flags]
  argv += [f"--transform={root / 'soft.npz'}"] if transform else []
  trusted = check.run(check.parse(argv), log=lines.append)
  return trusted, "\n".join(lines)


def _rewrite(path, **arrays):
  stored = artifacts.read_npz(path)
  artifacts.write_npz(path, **(stored | arrays))
  return stored


def _shuffle(path, np_rng, share, column="similarities"):
  """Exchanges an array's rows among a share of them."""
  array = artifacts.read_npz(path)[column].copy()
  rows = np_rng.permutation(len(array))[: round(share * len(array))]
  array[rows] = array[np.roll(rows, 1)]
  _rewrite(path, **{column: array})


def test_file_of_make_is_trusted_with_its_own_features_only(root):
  path = _make(root, "--filenames")
  trusted, said = _check(root, path)
  assert trusted and said.endswith("trusted") and "5000 of 5000" in said
  assert not _check(root, path, transform=False)[0]


@pytest.mark.parametrize("column", ["similarities", "indices"])
def test_one_percent_of_shuffled_rows_is_caught(root, np_rng, column):
  path = _make(root)
  _shuffle(path, np_rng, 0.01, column)
  trusted, said = _check(root, path)
  assert not trusted
  assert "50 of 5000 triplets have other similarities" in said
  assert (
    check.main(
      [str(path), f"--features={root / 'features'}"]
      + [f"--transform={root / 'soft.npz'}"]
    )
    == 1
  )


def test_one_wrong_triplet_is_named_by_its_number(root):
  path = _make(root)
  sims = artifacts.read_npz(path)["similarities"].copy()
  sims[4321, 0] += 0.5
  _rewrite(path, similarities=sims)
  trusted, said = _check(root, path)
  assert not trusted and "1 of 5000" in said and "is triplet 4321: [" in said


def test_features_of_another_model_tell_gross_errors(root, np_rng):
  path = _make(root, "--number=10000")
  features = np.load(root / "features" / "features.npy") - 3
  np.save(root / "other.npy", features[:, :8] - features[:, 8:9] / 2)

  def compare():
    return _check(
      root, path, "--related", transform=False, features="other.npy"
    )

  good = compare()
  assert good[0], good[1]
  kept = path.read_bytes()
  for column in ("similarities", "indices"):
    path.write_bytes(kept)
    _shuffle(path, np_rng, 1.0, column)
    bad = compare()
    assert not bad[0]
    assert "part 1 of 10 goes no better" in bad[1]
  # One tenth of the file only.
  path.write_bytes(kept)
  sims = artifacts.read_npz(path)["similarities"].copy()
  sims[4000:5000] = sims[4999:3999:-1]
  _rewrite(path, similarities=sims)
  bad = compare()
  assert not bad[0]
  assert bad[1].count("NOT trusted") == 1 and "part 5 of 10" in bad[1]


def test_odd_image_that_does_not_stand_last_is_not_trusted(root):
  path = _make(root)
  _rewrite(path, similarities=artifacts.read_npz(path)["similarities"][:, ::-1])
  trusted, said = _check(root, path)
  assert not trusted and "another largest similarity" in said
  assert check.main([str(path)]) == 1


def test_indices_of_another_order_are_found_by_their_names(root, np_rng):
  path = _make(root, "--filenames")
  order = np_rng.permutation(NUM_ROWS)
  row_of = np.argsort(order)
  indices = artifacts.read_npz(path)["indices"]
  _rewrite(path, indices=row_of[indices])
  trusted, said = _check(root, path)
  assert not trusted and "other file names" in said
  trusted, said = _check(root, path, "--by=filenames")
  assert trusted, said


def test_control_is_checked_at_its_temperature(root):
  path = _make(root, "--match_entropy=0.79", transform=False)
  record = artifacts.read_json(path.with_suffix(".json"))
  np.testing.assert_allclose(record["target_entropy"], 0.79, atol=1e-6)
  given = f"--temperature={record['temperature']}"
  assert _check(root, path, given, transform=False)[0]
  assert _check(root, path, "--temperature=fit", transform=False)[0]
  assert not _check(root, path, transform=False)[0]


def test_part_of_a_file_is_compared_if_asked(root):
  path = _make(root)
  sims = artifacts.read_npz(path)["similarities"].copy()
  sims[[50, 4000], 0] += 1
  _rewrite(path, similarities=sims)
  trusted, said = _check(root, path, "--num_checked=100")
  assert not trusted and "2 of 100" in said and "is triplet 50:" in said
  assert _check(root, path, "--num_checked=7")[0]


def test_exact_differences_by_hand():
  features = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]], np.float32)
  # Dots 2, 0, 3; norms 2, 1.41, 3. The second is off by .6 of norms 6.
  found = verify.compare_exactly(
    features, np.array([[0, 1, 2]]), np.array([[1.0, 0.3, 1.5]]), temperature=2
  )
  assert (found.number, found.num_checked, found.first) == (1, 1, 0)
  np.testing.assert_allclose(found.largest, 0.1, rtol=1e-5)
  assert found.found == [2.0, 0.0, 3.0]
  nan = np.full((1, 3), np.nan)
  assert verify.compare_exactly(features, np.array([[0, 1, 2]]), nan).number


@pytest.mark.parametrize("transform", [True, False])
@pytest.mark.parametrize("scheme", ["class_border", "random"])
def test_made_file_has_the_scheme_and_the_similarities(root, scheme, transform):
  by_class = scheme == "class_border"
  flags = [f"--labels={root / 'labels.npy'}"] if by_class else []
  path = _make(root, f"--sampling={scheme}", *flags, transform=transform)
  name = "aligned" if transform else "untransformed"
  assert path == root / "out" / name / f"train_{scheme}.npz"
  triplets = files.read(path, num_images=NUM_ROWS)
  assert len(triplets.indices) == NUM_TRIPLETS and not triplets.num_unsorted
  if by_class:
    classes = np.load(root / "labels.npy")[triplets.indices]
    assert {len(set(row)) for row in classes.tolist()} == {2}
  assert _check(root, path, transform=transform)[0]


def test_clusters_are_taken_again_only_if_they_are_the_same(root):
  path = _make(root)
  clusters = path.parent / "clusters.npz"
  ids = artifacts.read_npz(clusters)["cluster_ids"]
  in_files = ids[files.read(path).indices]
  assert {len(set(row)) for row in in_files.tolist()} == {2}
  made = clusters.stat().st_mtime_ns
  val = _make(root, "--split=val")
  assert clusters.stat().st_mtime_ns == made
  assert np.any(files.read(val).indices != files.read(path).indices)
  _make(root, "--num_clusters=8", "--overwrite")
  assert clusters.stat().st_mtime_ns != made


def test_wrong_input_ends_with_a_sentence_and_two(root, capsys):
  assert check.main([str(root / "no.npz")]) == 2
  assert "no.npz does not exist" in capsys.readouterr().err
  (root / "features" / "manifest.json").unlink()
  common = [f"--features={root / 'features'}", f"--out={root}", "--number=9"]
  assert make.main(common) == 2
  assert "no manifest.json" in capsys.readouterr().err
  common[0] += "/features.npy"
  assert make.main(common) == 2
  assert "--num_clusters is 500; it must be between 2 and 211" in (
    capsys.readouterr().err
  )
  np.save(root / "labels.npy", np.zeros(5))
  flags = ["--sampling=within_class", f"--labels={root / 'labels.npy'}"]
  assert make.main([*common, *flags]) == 2
  assert "must be int[211]" in capsys.readouterr().err


def test_index_of_another_length_is_refused(root):
  with (root / "features" / "index.csv").open("a") as f:
    f.write("1,x.jpg,-\n")
  with pytest.raises(artifacts.InputError, match="212 rows; the features ha"):
    feature_rows.load(root / "features" / "features.npy")


def test_a_part_is_related_only_if_all_three_marks_say_so(np_rng):
  def judge(number, rho, offset=100.0):
    """Similarities that go with `given` to rho; image 2 odd by the offset."""
    given = np_rng.normal(size=(number, 3))
    noise = np_rng.normal(size=(number, 3))
    sims = rho * given + np.sqrt(1 - rho**2) * noise
    sims[:, 0] += offset
    return verify._judge(7, sims, given)

  good = judge(1000, 0.5)
  assert good.is_related and (good.first, good.num_checked) == (7, 1000)
  assert good.agreement == 1.0 and 0.4 < good.correlation < 0.6
  # Another image is odd; as alike as may be, but not surely; hardly alike.
  assert not judge(1000, 0.5, -100.0).is_related
  few = judge(300, 0.2)
  assert few.correlation > verify.LEAST_CORRELATION and not few.is_related
  weak = judge(20_000, 0.06)
  assert weak.correlation > 5 / np.sqrt(20_000) and not weak.is_related
  constant = verify._judge(0, np_rng.normal(size=(9, 3)), np.ones((9, 3)))
  assert constant.correlation == 0 and not constant.is_related


def test_no_triplet_is_compared_twice():
  features, indices = np.eye(3, dtype=np.float32), np.array([[0, 1, 2]] * 5)
  found = verify.compare_exactly(
    features, indices, np.zeros((5, 3)), num_checked=99
  )
  assert (found.number, found.num_checked) == (0, 5)


def test_similarities_that_are_no_multiple_are_not_trusted(root):
  path = _make(root, transform=False)
  _rewrite(path, similarities=np.full((NUM_TRIPLETS, 3), -1, np.float32))
  trusted, said = _check(root, path, "--temperature=fit", transform=False)
  assert not trusted and "no multiple of the dot products" in said


def test_names_are_compared_triplet_by_triplet(root):
  path = _make(root, "--filenames")
  names = artifacts.read_npz(path)["filenames"]
  other = names.copy()
  other[1234, 1] = other[1234, 0]
  _rewrite(path, filenames=other)
  trusted, said = _check(root, path)
  assert not trusted and "1 of 5000 triplets have other file names" in said
  other[1234, 1] = "n0/x.JPEG"
  _rewrite(path, filenames=other)
  with pytest.raises(artifacts.InputError, match=r"1 of 15000 .* is x\.JPEG"):
    _check(root, path, "--by=filenames")
  _rewrite(path, filenames=names)
  index = root / "features" / "index.csv"
  index.write_text(index.read_text().replace("n1/6.JPEG", "n1/7.JPEG"))
  with pytest.raises(artifacts.InputError, match="the same file name"):
    _check(root, path, "--by=filenames", features="features/features.npy")


def test_how_many_are_compared_where_names_are_read(root, monkeypatch):
  """Strings are many: without a number, 100,000 of the triplets."""
  path = _make(root, "--filenames")
  asked = []
  monkeypatch.setattr(
    check, "_rows_by_name", lambda args, rows, names: asked.append(len(names))
  )
  monkeypatch.setattr(check, "_exact", lambda *args: [])
  indices = np.lib.stride_tricks.as_strided(
    np.zeros(3, np.int64), (250_000, 3), (0, 8)
  )
  names = np.broadcast_to(np.array("n0/0.JPEG"), indices.shape)
  rows = feature_rows.load(root / "features")
  args = check.parse(
    [str(path), f"--features={root / 'features'}", "--by=filenames"]
  )
  check._compare(args, rows, indices, indices, names, lambda line: None)
  assert asked == [100_000]


def test_what_cannot_be_checked_is_not_called_untrusted(root, monkeypatch):
  for error in (OSError("the disk is gone"), MemoryError()):

    def fail(*args, error=error, **keywords):
      raise error

    monkeypatch.setattr(files, "open_arrays", fail)
    assert check.main([str(root / "x.npz")]) == 2


@pytest.mark.parametrize("tolerance", ["nan", "inf", "-1"])
def test_tolerance_is_a_number_that_can_be_met(tolerance, capsys):
  with pytest.raises(SystemExit):
    check.parse(["x.npz", f"--tolerance={tolerance}"])
  assert "must be finite and >= 0" in capsys.readouterr().err


def test_temperature_is_fitted_to_finite_quotients():
  features = np.array([[2.0], [3.0], [5.0], [np.nan]], np.float32)
  indices = np.array([[0, 1, 2], [0, 1, 3], [0, 1, 2]])
  sims = np.array([[3.0, 5.0, 7.5]] * 3)
  np.testing.assert_allclose(
    verify.fit_temperature(features, indices, sims), 2, rtol=1e-6
  )
