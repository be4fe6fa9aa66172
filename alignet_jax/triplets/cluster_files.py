"""The clusters of a folder of triplets, made once and taken again.

`clusters.npz` holds `cluster_ids` int[n] and `centroids` f32[k d];
`clusters.json`, written last, says what they were made from and the SHA-256 of
that file. They are taken again only if both say so.

Usage:
  cluster_ids, record = cluster_files.take_or_make(
    folder, features, settings=settings, source=source, log=log)
"""

import pathlib

from alignet_jax import artifacts


def take_or_make(folder, features, *, settings, source, log):
  """Clusters of the rows of features.

  Args:
    folder: Where the files are, or shall be; it must exist.
    features: f32[n d].
    settings: Dict of the keywords of `kmeans.fit` that the result depends on:
      num_clusters, num_iters, num_restarts, seed.
    source: Dict of what else it depends on, such as digests of files.
    log: Called with each line.

  Returns:
    int[n] clusters in [0, k), and the record, a dict.

  Raises:
    artifacts.InputError: More clusters than rows, or less than two.
    ValueError: Of `kmeans.fit`.
  """
  num_clusters, folder = settings["num_clusters"], pathlib.Path(folder)
  if not 2 <= num_clusters <= len(features):
    raise artifacts.InputError(
      f"--num_clusters is {num_clusters}; it must be between 2 and"
      f" {len(features)}, the number of rows."
    )
  path, record = folder / "clusters.npz", folder / "clusters.json"
  if path.is_file() and record.is_file():
    try:
      found = _take(path, record, len(features), settings, source)
    except artifacts.InputError as error:
      log(f"{error} The clusters are made anew.")
    else:
      log(f"taking the clusters of {path}")
      return found
  # Here, because it imports JAX.
  from alignet_jax.triplets import kmeans

  clusters = kmeans.fit(
    features,
    **settings,
    checkpoint=folder / "kmeans_checkpoint.npz",
    log=log,
  )
  sizes = clusters.sizes
  # The record last: it says that the other is whole and of these settings.
  record.unlink(missing_ok=True)
  artifacts.write_npz(
    path, cluster_ids=clusters.cluster_ids, centroids=clusters.centroids
  )
  made = {
    **settings,
    **source,
    "inertia": clusters.inertia,
    "updates": clusters.num_iters,
    "smallest": int(sizes.min()),
    "largest": int(sizes.max()),
    "balance": clusters.balance,
    "sha256": artifacts.sha256_file(path),
  }
  artifacts.write_json(record, made)
  return clusters.cluster_ids, made


def _take(path, record, num_rows, settings, source):
  """What `take_or_make` returns; `InputError` if it cannot be taken again."""
  made = artifacts.read_json(record)
  if not isinstance(made, dict):
    raise artifacts.InputError(f"{record} is no record of clusters.")
  if not {**settings, **source}.items() <= made.items():
    raise artifacts.InputError(f"{path} holds clusters of something else.")
  if ("transform_sha256" in made) != ("transform_sha256" in source):
    raise artifacts.InputError(f"{path} holds clusters of something else.")
  if made.get("sha256") != artifacts.sha256_file(path):
    raise artifacts.InputError(f"{path} is not as its record was written.")
  ids = artifacts.read_npz(path, required=("cluster_ids",))["cluster_ids"]
  most = settings["num_clusters"] - 1
  if (
    ids.dtype.kind not in "iu"
    or ids.shape != (num_rows,)
    or not 0 <= ids.min() <= ids.max() <= most
  ):
    raise artifacts.InputError(
      f"{path}: cluster_ids must be int[{num_rows}] in [0, {most}], not"
      f" {ids.dtype}{list(ids.shape)} or with other numbers."
    )
  return ids, made
