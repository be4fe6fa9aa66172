"""Images of a data set that TensorFlow Datasets has prepared.

Read through `tfds.data_source`, which goes to any record by its index but
needs the data set in the format ArrayRecord. Indices are those that AligNet's
released triplets use. TensorFlow Datasets is imported only here.

Usage:
  images = tfds.TfdsImages("imagenet2012", "train", data_dir="/data/tfds")
"""

import numpy as np

from alignet_jax import artifacts
from alignet_jax.images import collections


class TfdsImages(collections.EncodedImages):
  """One split of a data set with a feature `image`.

  Attributes:
    names: "<split>/<index>", one str per image. The names of the files, where a
      data set has them, are inside the records, all of which would have to be
      read first.
    labels: None; they are inside the records too. `read_classes` reads them.
    fingerprint: Name, version and number of records, as str.
    size: Height and width in pixels after preprocessing.
  """

  def __init__(self, name, split, *, data_dir=None, preprocessing=None):
    """Opens the data set; downloads and prepares nothing.

    Args:
      name: Such as "imagenet2012" or "imagenet2012:5.1.0".
      split: Such as "train" or "train[:10%]".
      data_dir: Folder of TFDS; its own default if None.
      preprocessing: `preprocess.Preprocessing`, or None.

    Raises:
      artifacts.InputError: If it is not installed, not known, not prepared, not
        in the format ArrayRecord, has no such split, or no feature `image`.
    """
    try:
      import tensorflow_datasets
    except ImportError as error:
      raise artifacts.InputError(
        f"tfds:{name} needs the package tensorflow-datasets: {error}."
      ) from error
    where = f"tfds:{name}/{split}"
    try:
      builder = tensorflow_datasets.builder(name, data_dir=data_dir)
      if "image" not in builder.info.features:
        raise ValueError(
          "it has no feature image but"
          f" {', '.join(builder.info.features.keys())}"
        )
      if not builder.is_prepared():
        raise ValueError(
          f"it is not prepared in {builder.data_path}; do so by `tfds build"
          f" {name} --file_format=array_record`"
        )
      features = builder.info.features
      self._label = features["label"] if "label" in features else None
      self._source = builder.as_data_source(
        split,
        decoders={"image": tensorflow_datasets.decode.SkipDecoding()},
      )
    # TFDS has a class of errors for each of these.
    except Exception as error:
      raise artifacts.InputError(f"{where} cannot be read: {error}") from error
    self.fingerprint = f"{builder.info.full_name} {len(self._source)}"
    self._classes = None
    super().__init__(
      [f"{split}/{i}" for i in range(len(self._source))],
      preprocessing=preprocessing,
    )

  def read(self, index):
    """The encoded image of record `index`."""
    data = self._source[int(index)]["image"]
    if isinstance(data, np.ndarray) and data.dtype == np.uint8:
      raise artifacts.InputError(
        f"{self.names[index]} holds pixels and no encoded image."
      )
    return bytes(data)

  def read_classes(self):
    """Reads the class of every image, which takes a pass over the records.

    Returns:
      Tuple of n str: names of classes, such as "n01440764", where the data set
      has them, else their numbers.

    Raises:
      artifacts.InputError: It has no feature `label` of one class per image.
    """
    if not hasattr(self._label, "int2str"):
      raise artifacts.InputError(
        f"tfds:{self.fingerprint.split(' ')[0]} has no feature label of one "
        "class per image."
      )
    if self._classes is None:
      self._classes = tuple(
        self._label.int2str(int(self._source[i]["label"]))
        for i in range(len(self))
      )
    return self._classes

  def num_bytes(self, start, stop):
    """Not known without reading the records."""
    return [-1] * (stop - start)
