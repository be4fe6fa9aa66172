"""The stages "clusters" and "triplets": from features to training files.

Both run twice: for the teacher's transformed features ("aligned") and for the
raw ones ("untransformed"), from which the control student learns. Whether
AligNet clusters transformed or raw features is left open by its sources
(paper.md, section B); here each representation has clusters of its own.
"""

import numpy as np

from alignet_jax import artifacts
from alignet_jax.teacher import transform as transform_lib
from alignet_jax.triplets import dense_files, files, kmeans, labels, sampling

REPRESENTATIONS = ("aligned", "untransformed")

# Schemes that need nothing but clusters.
SAMPLING = ("cluster_border", "random")


def run_clusters(context):
  """Clusters the collection's features by k-means.

  Reads `features/collection.npy` and `teacher/transform.npz`; writes
  `aligned.npz` and `untransformed.npz` with cluster_ids int32[n], centroids
  f32[k d] and inertia f64[].

  Args:
    context: `pipeline.StageContext`; `config.clusters` has num_clusters,
      num_restarts and num_iters.

  Returns:
    Metrics: inertia, updates made, sizes of the smallest and largest cluster
    and balance (`kmeans.KMeans`) of each representation.
  """
  settings = context.config.clusters
  metrics = {}
  for name in REPRESENTATIONS:
    features = _features(context, name)
    if not 2 <= settings.num_clusters <= len(features):
      raise artifacts.InputError(
        f"config.clusters.num_clusters is {settings.num_clusters}; it must be"
        f" between 2 and {len(features)}, the number of images."
      )
    context.log(
      f"{name}: {len(features)} x {features.shape[1]} features into"
      f" {settings.num_clusters} clusters"
    )
    clusters = kmeans.fit(
      features,
      num_clusters=settings.num_clusters,
      seed=context.config.seed,
      num_iters=settings.num_iters,
      num_restarts=settings.num_restarts,
      checkpoint=context.scratch / f"kmeans_{name}.npz",
      log=context.log,
    )
    artifacts.write_npz(
      context.out / f"{name}.npz",
      cluster_ids=clusters.cluster_ids,
      centroids=clusters.centroids,
      inertia=np.float64(clusters.inertia),
    )
    sizes = clusters.sizes
    metrics[f"clusters/inertia/{name}"] = clusters.inertia
    metrics[f"clusters/num_iters/{name}"] = clusters.num_iters
    metrics[f"clusters/smallest/{name}"] = int(sizes.min())
    metrics[f"clusters/largest/{name}"] = int(sizes.max())
    metrics[f"clusters/balance/{name}"] = clusters.balance
  return metrics


def run_triplets(context):
  """Draws triplets and labels them with the teacher's similarities.

  Reads `features`, `teacher` and `clusters`; writes, for both representations,
  `{representation}/{train,val}_{sampling}.npz` (see `files.py`) and
  `{representation}/dense.npz` (see `dense_files.py`).

  `Deviation:` the released control takes raw dot products as they are. With
  most backbones these are far too large or too small for a softmax at
  temperature 1, so that its targets would differ from the aligned ones in
  sharpness before anything else. "match" therefore divides them, in the files,
  by the one temperature at which their mean entropy is that of the aligned
  targets. A temperature of 1 gives the released control.

  Args:
    context: `pipeline.StageContext`; `config.triplets` has sampling (one of
      `SAMPLING`), num_train, num_val and untransformed_temperature ("match" or
      a positive number).

  Returns:
    Metrics: mean entropy in nats of the training targets of each
    representation (that of people is about .79 to .80; paper.md, J5) and the
    temperature of the untransformed ones.
  """
  settings = context.config.triplets
  if settings.sampling not in SAMPLING:
    raise artifacts.InputError(
      f"config.triplets.sampling is {settings.sampling!r}; the pipeline draws"
      f" {' or '.join(SAMPLING)}."
    )
  metrics, aligned_entropy = {}, None
  for name in REPRESENTATIONS:
    features = _features(context, name)
    clusters = artifacts.read_npz(
      context.inputs["clusters"] / f"{name}.npz", required=("cluster_ids",)
    )
    labelled = {}
    for stream, split in enumerate(("train", "val")):
      triplets = sampling.get_sampler(settings.sampling)(
        clusters["cluster_ids"],
        settings[f"num_{split}"],
        seed=(context.config.seed, stream),
      )
      labelled[split] = labels.label(features, triplets)
    train_sims = labelled["train"][1][: labels.MATCHED_TRIPLETS]
    temperature = 1.0
    if name == "untransformed":
      temperature = _control_temperature(settings, train_sims, aligned_entropy)
      metrics["triplets/untransformed_temperature"] = temperature
    entropy = labels.mean_entropy(train_sims, temperature=temperature)
    metrics[f"triplets/target_entropy/{name}"] = entropy
    if name == "aligned":
      aligned_entropy = entropy
    for split, (indices, pair_sims) in labelled.items():
      path = files.path_of(context.out, name, split, settings.sampling)
      files.write(path, indices, pair_sims / np.float32(temperature))
    dense_files.write(
      context.out / name,
      cluster_ids=clusters["cluster_ids"],
      transform=_transform(context) if name == "aligned" else None,
      temperature=temperature,
    )
    context.log(
      f"{name}: {settings.num_train} + {settings.num_val}"
      f" {settings.sampling} triplets, mean target entropy {entropy:.3f} nats"
      f" (people: about 0.79) at temperature {temperature:.4g}"
    )
  return metrics


def _features(context, representation):
  """The collection's features f32[n d], transformed if "aligned"."""
  features = artifacts.read_npy(context.inputs["features"] / "collection.npy")
  if representation == "untransformed":
    return features
  return np.asarray(_transform(context).apply(features))


def _transform(context):
  path = context.inputs["teacher"] / "transform.npz"
  return transform_lib.AffineTransform.load(path)


def _control_temperature(settings, pair_sims, aligned_entropy):
  """What to divide the untransformed similarities by."""
  setting = settings.untransformed_temperature
  if setting == "match":
    return labels.match_entropy(pair_sims, aligned_entropy)
  try:
    # A str too: the type that the field's default gives to a command line.
    temperature = float(setting)
  except ValueError:
    temperature = 0.0
  if not 0 < temperature < np.inf:
    raise artifacts.InputError(
      f"config.triplets.untransformed_temperature is {setting!r}; it must be"
      " 'match' or a positive number."
    )
  return temperature
