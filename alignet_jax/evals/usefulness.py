"""The suite "usefulness": what alignment cost, or gained, in ordinary use.

Every data set is a pair of image sets NAME/train and NAME/test whose images lie
in a folder per class: few-shot classification (big_vision's protocol), a linear
probe, nearest neighbours and anomaly detection. With ImageNet's, the BREEDS
tasks and the variants of ImageNet follow; with images and not only features,
corrupted ones. What cannot be measured is a row that says why.

Usage:
  rows, seconds = usefulness.run({"clip": model}, ["pets"])
"""

import functools
import time

import numpy as np

from alignet_jax.evals import (
  bootstrap,
  breeds,
  corruptions,
  fewshot,
  linear_probe,
  models,
  nearest,
  score,
  shift_sets,
)

SHOTS = (1, 5, 10, 25)
_NUM_NEIGHBOURS = 20


def run(
  of_models,
  names,
  *,
  shots=SHOTS,
  imagenet=None,
  hierarchy=None,
  images=None,
  severities=corruptions.SEVERITIES,
  check_counts=True,
  log=None,
):
  """Scores all models.

  Args:
    of_models: Dict from name to `models.Model`.
    names: Data sets; each has the image sets NAME/train and NAME/test.
    shots: Training images per class of the few-shot classification.
    imagenet: Which of `names` is ImageNet, with folders named by WordNet ids,
      or None.
    hierarchy: `breeds.Hierarchy`, or None.
    images: Dict from image set to a collection or u8[n h w 3], for corruptions
      of models with `embed`, and for the classes of collections of TFDS; or
      None.
    severities: Of the corruptions.
    check_counts: Whether BREEDS and the variants must have the published number
      of classes.
    log: Called with a line per model and data set, or None.

  Returns:
    (rows, seconds), as `alignment.run`.
  """
  rows, seconds = [], {}
  for name, model in of_models.items():
    for dataset in names:
      start = time.monotonic()
      made = _score(
        model,
        dataset,
        shots,
        imagenet == dataset,
        hierarchy,
        images or {},
        severities,
        check_counts,
      )
      if imagenet is None and dataset == names[-1]:
        made += [
          _skip(variant, "shift", "no data set was named by --imagenet.")
          for variant in (*breeds.TASKS, *shift_sets.NUM_CLASSES)
        ]
      rows += [row.of(name) for row in made]
      seconds[name, dataset] = time.monotonic() - start
      if log is not None:
        log(
          f"{name}, {dataset}: {len(made)} scores, "
          f"{seconds[name, dataset]:.1f} s"
        )
  return rows, seconds


def classification(dataset, train, test, shots=SHOTS):
  """Rows of a data set: few-shot, nearest neighbours, anomaly detection.

  Args:
    dataset: Its name.
    train: (f32[n d] features, str[n] classes).
    test: (f32[m d], str[m]), classes among those of the training.
    shots: Training images per class.

  Returns:
    List of `score.Score`. Intervals are over test images. `Deviation:`
    big_vision reports the mean of the draws of the shots alone; here their
    lowest and highest stand in place of an interval, as the note says.

  Raises:
    ValueError: Features that are not finite or of two widths, or a test image
      of an unknown class.
  """
  classes, train_ids = np.unique(train[1], return_inverse=True)
  test_ids = class_ids(test[1], classes)
  row = functools.partial(
    score.Score, "usefulness", dataset, chance=1 / len(classes)
  )
  made = []
  for num_shots in shots:
    try:
      mean, draws = fewshot.k_shot_accuracy(
        train[0],
        train[1],
        test[0],
        test[1],
        num_shots=num_shots,
        seed=None,
      )
    except ValueError as error:
      made.append(_skip(dataset, "few_shot", str(error), f"{num_shots}-shot"))
      continue
    made.append(
      row(
        "few_shot",
        f"{num_shots}-shot",
        mean,
        draws.min(),
        draws.max(),
        num=len(test_ids),
        note=f"lowest and highest of {len(draws)} draws",
      )
    )
  found = nearest.classify(
    train[0], train_ids, test[0], num_classes=len(classes), k=_NUM_NEIGHBOURS
  )
  made.append(
    _accuracy(
      row, "nearest_neighbours", f"k = {_NUM_NEIGHBOURS}", found, test_ids
    )
  )
  areas = nearest.anomaly_auc(train[0], train_ids, test[0], test_ids)
  areas = areas[np.isfinite(areas)]
  if not len(areas):
    reason = f"all test images are of {test[1][0]}; it takes two classes."
    made.append(_skip(dataset, "anomaly_auc", reason, "one against the rest"))
  else:
    made.append(
      score.Score(
        "usefulness",
        dataset,
        "anomaly_auc",
        "one against the rest",
        float(areas.mean()),
        *bootstrap.mean(areas, bounds=(0, 1)),
        chance=0.5,
        num=len(test_ids),
        note=f"over {len(areas)} classes",
      )
    )
  return made


def class_ids(names, classes):
  """Places of class names among the sorted classes; raises if one is new."""
  ids = np.minimum(np.searchsorted(classes, names), len(classes) - 1)
  unknown = np.flatnonzero(classes[ids] != names)
  if unknown.size:
    raise ValueError(
      f"the test has the class {names[unknown[0]]}, which the training lacks."
    )
  return ids


def superclass_shift(dataset, train, test, split, name):
  """Rows of a BREEDS task: a probe on the source classes, scored on both.

  Args:
    dataset: Of ImageNet, for messages.
    train: (features, classes) of training images.
    test: (features, classes) of test images.
    split: `breeds.Split`.
    name: Of the task.

  Returns:
    List of two `score.Score`: same subclasses as in training, and others.
  """
  place = {node: index for index, node in enumerate(split.source)}
  of_source = {c: place[n] for n, cs in split.source.items() for c in cs}
  of_target = {c: place[n] for n, cs in split.target.items() for c in cs}
  if len(place) < 2:
    reason = f"the hierarchy has {len(place)} superclasses for it."
    return [_skip(name, "shift", reason)]
  missing = sorted(set(of_source) - set(train[1]))
  missing += sorted((set(of_source) | set(of_target)) - set(test[1]))
  if missing:
    return [_skip(name, "shift", f"{dataset} has no images of {missing[0]}.")]
  features, ids = _of(train, of_source)
  probe = linear_probe.fit(features, ids, len(place))
  row = functools.partial(
    score.Score, "usefulness", name, chance=1 / len(place)
  )
  made = []
  for variant, members in (
    ("same subclasses", of_source),
    ("other subclasses", of_target),
  ):
    features, ids = _of(test, members)
    made.append(
      _accuracy(row, "shift", variant, probe(features).argmax(axis=1), ids)
    )
  return made


def _score(
  model,
  dataset,
  shots,
  is_imagenet,
  hierarchy,
  images,
  severities,
  check_counts,
):
  """Rows of one model and data set."""
  try:
    train = models.labelled(model, f"{dataset}/train", images)
    test = models.labelled(model, f"{dataset}/test", images)
    _check_width(test[0], f"{dataset}/test", train[0], f"{dataset}/train")
    classes, train_ids = np.unique(train[1], return_inverse=True)
    test_ids = class_ids(test[1], classes)
    made = classification(dataset, train, test, shots)
    probe = linear_probe.fit(train[0], train_ids, len(classes))
  except ValueError as error:
    others = (*breeds.TASKS, *shift_sets.NUM_CLASSES) if is_imagenet else ()
    reason = f"{dataset}, which it is of, could not be scored."
    return [
      _skip(dataset, "all", str(error)),
      *(_skip(name, "shift", reason) for name in others),
    ]
  row = functools.partial(
    score.Score, "usefulness", dataset, chance=1 / len(classes)
  )
  made.append(
    _accuracy(row, "linear_probe", "", probe(test[0]).argmax(axis=1), test_ids)
  )
  made += _corrupted(model, dataset, images, probe, test_ids, row, severities)
  if is_imagenet:
    made += _breeds(dataset, train, test, hierarchy, check_counts)
    made += _variants(
      model, dataset, train[0], probe, classes, images, check_counts
    )
  return made


def _corrupted(model, dataset, images, probe, test_ids, row, severities):
  """Accuracy of the probe on corrupted test images, mean over severities."""
  shown = images.get(f"{dataset}/test")
  if model.embed is None or shown is None:
    reason = "it takes the images, and a model that is more than features."
    return [_skip(dataset, "corruption", reason)]
  made = []
  if hasattr(shown, "load") and model.preprocessing is not None:
    shown = shown.with_preprocessing(model.preprocessing)
  for name in corruptions.CORRUPTIONS:
    try:
      hits = sum(
        _corrupted_hits(model, dataset, shown, name, severity, probe, test_ids)
        for severity in severities
      ) / len(severities)
    except models.Missing as error:
      made.append(_skip(dataset, "corruption", str(error), name))
      continue
    made.append(
      row(
        "corruption",
        name,
        float(hits.mean()),
        *bootstrap.mean(hits, bounds=(0, 1)),
        num=len(hits),
        note=f"linear probe, mean of {len(severities)} severities",
      )
    )
  return made


def _corrupted_hits(model, dataset, shown, name, severity, probe, test_ids):
  """f64[m], whether the probe is right about each test image made worse."""

  def embed(image):
    return model.embed(corruptions.apply(image, name, severity=severity))

  if not hasattr(shown, "load"):
    shown = np.asarray(shown)
  features = models.embed_all(embed, shown)
  models.check_finite(
    features,
    f"{dataset}/test, {name} of severity {severity},",
    getattr(shown, "names", range(len(features))),
  )
  return (probe(features).argmax(axis=1) == test_ids).astype(np.float64)


def _check_width(features, image_set, train, train_set):
  """Raises `models.Missing` where a probe of one cannot score the other."""
  if features.shape[1] != train.shape[1]:
    raise models.Missing(
      f"the features of {image_set} have {features.shape[1]} columns and those "
      f"of {train_set} {train.shape[1]}; expected as many."
    )


def _breeds(dataset, train, test, hierarchy, check_counts):
  made = []
  for name in breeds.TASKS:
    if hierarchy is None:
      made.append(_skip(name, "shift", "no class hierarchy was given."))
      continue
    try:
      split = breeds.split(hierarchy, name, check=check_counts)
    except ValueError as error:
      made.append(_skip(name, "shift", str(error)))
      continue
    made += superclass_shift(dataset, train, test, split, name)
  return made


def _variants(model, dataset, train, probe, classes, images, check_counts):
  """The probe on ImageNet-A, -R, -V2 and -Sketch."""
  made = []
  for name in shift_sets.NUM_CLASSES:
    try:
      features, folders, _ = models.labelled(model, name, images)
      _check_width(features, name, train, f"{dataset}/train")
      ids = shift_sets.labels(
        name, folders, classes.tolist(), check=check_counts
      )
    except ValueError as error:
      made.append(_skip(name, "shift", str(error)))
      continue
    hits = shift_sets.correct(probe(features), ids).astype(np.float64)
    made.append(
      score.Score(
        "usefulness",
        name,
        "shift",
        "linear probe",
        float(hits.mean()),
        *bootstrap.mean(hits, bounds=(0, 1)),
        chance=1 / len(np.unique(ids)),
        num=len(ids),
        note="among the classes of the variant",
      )
    )
  return made


def _of(labelled, members):
  """Features and superclasses of the images whose class is a member."""
  kept = np.isin(labelled[1], list(members))
  return labelled[0][kept], np.array([members[c] for c in labelled[1][kept]])


def _accuracy(row, measure, variant, found, ids):
  hits = (np.asarray(found) == ids).astype(np.float64)
  return row(
    measure,
    variant,
    float(hits.mean()),
    *bootstrap.mean(hits, bounds=(0, 1)),
    num=len(hits),
    note="over test images",
  )


def _skip(dataset, measure, reason, variant=""):
  return score.skipped("usefulness", dataset, measure, reason, variant)
