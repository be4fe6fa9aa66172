"""Streams features of any number of images to the disk, also over kills.

The folder that comes out holds, for n images without those left out:

  features.npy    f32 or f16 [n ...], row i for line i of the index; with
                  several outputs features_NAME.npy for each
  index.csv       row, file, sha256 (of the file's bytes)
  skipped.csv     file, reason; only with on_error="skip", empty but for its
                  header if no image was left out
  manifest.json   settings, checksums, versions; written last

While it is not finished there is `parts` instead, see `feature_parts`. Memory
holds a few batches, one part, and the list of names, some 200 bytes per image.

Rows are the same bits however often the extraction was interrupted: each batch
has the same images in the same places. They may differ in the last bits between
kinds and numbers of devices and versions of JAX, so an extraction goes on only
on the like, and says so elsewhere. (Shown on CPUs. On a GPU, XLA may choose
other kernels in another process.)

Several processes can share one extraction by a folder that all of them see.
Each makes every `process_count`-th part on its own devices; they need not run
at the same time, and whichever finds all parts there joins them. Of two that
end together one joins them, see `feature_locks`.

Usage:
  asked = feature_files.settings({"name": "ViT-B/16"}, images, ["cls"])
  feature_files.extract(out, model, params, images, asked)
"""

import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import math
import pathlib
import shutil
import tempfile
import time

import jax
import numpy as np

from alignet_jax import artifacts, manifest, progress
from alignet_jax.backbones import feature_locks, feature_parts, features
from alignet_jax.images import decoded, listing, options

DTYPES = ("float32", "float16")

# A part is at most so large, if one batch is no larger.
MAX_PART_BYTES = 2**26

_PARTS, _RUN = "parts", "run.json"

_SKIPPED = "skipped.csv"


def settings(model, images, outputs, *, batch_size=64, dtype="float32"):
  """What the rows depend on and a user asks for.

  Args:
    model: JSON values that tell the model and its weights.
    images: Collection; its names are looked at, no image is read.
    outputs: Names of the model's outputs, different ones.
    batch_size: Images per step of the device, at least 1.
    dtype: One of `DTYPES`.

  Returns:
    Dict of JSON values, for `is_finished` and `extract`.
  """
  if dtype not in DTYPES:
    raise artifacts.InputError(
      f"The dtype is {dtype!r}; known are {', '.join(DTYPES)}."
    )
  if not outputs or len(set(outputs)) < len(outputs):
    raise artifacts.InputError(
      f"The outputs are {', '.join(outputs) or 'none'}; expected at least one,"
      " each once."
    )
  return {
    "model": model,
    "images": {
      "count": len(images),
      "names_sha256": listing.names_digest(images),
    },
    "outputs": list(outputs),
    "batch_size": batch_size,
    "dtype": dtype,
  }


def is_finished(out, asked, images, *, on_error="refuse", overwrite=False):
  """Whether a folder holds these features, complete.

  Args:
    out: The folder; need not exist.
    asked: As of `settings`.
    images: Collection; names and sizes are compared.
    on_error: As of `extract`.
    overwrite: Whether features made with other settings may be replaced.

  Returns:
    The `manifest.Manifest`, or None if there is something to do. Parts that
    nobody needs any more are removed, and where "skip" is asked of features
    that were made without, the empty list is added.

  Raises:
    artifacts.InputError: If it holds something else, and shall not be replaced;
      names what differs.
  """
  out = pathlib.Path(out)
  made = _finished(out, asked, images, on_error, overwrite)
  if made is not None and (out / _PARTS).exists():
    with feature_locks.state(out):
      feature_locks.remove_parts(out / _PARTS)
  return made


def _finished(out, asked, images, on_error, overwrite):
  """`is_finished`, which leaves the parts as they are."""
  made = manifest.read(out)
  if made is None:
    return None
  changes = _changes({key: made.config.get(key) for key in asked}, asked)
  sizes = listing.digest(images)
  if not changes and made.inputs.get("images") != sizes:
    changes.append("sizes of image files")
  if on_error == "refuse" and made.metrics.get("num_skipped"):
    changes.append('on_error "skip" -> "refuse"')
  damaged = manifest.damaged_output(out, made)
  if damaged:
    changes.append(f"{damaged}, which is not as it was written")
  if not changes:
    if on_error == "skip" and _SKIPPED not in made.outputs:
      made = _list_none(out, made)
    return made
  if not overwrite:
    raise _different(out, changes)
  return None


def check_writable(out):
  """Refuses a folder that cannot be made or written, before any work is done.

  Args:
    out: The folder; it is made if it does not exist.

  Raises:
    artifacts.InputError: Says what the system said.
  """
  out = pathlib.Path(out)
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise artifacts.InputError(
      f"{out} cannot be made a folder: {error.strerror}."
    ) from error
  try:
    with tempfile.TemporaryFile(dir=out):
      pass
  except OSError as error:
    raise artifacts.InputError(
      f"Nothing can be written into {out}: {error.strerror}. Give another"
      " --out."
    ) from error


def extract(
  out,
  model,
  params,
  images,
  asked,
  *,
  on_error="refuse",
  overwrite=False,
  part_size=2048,
  num_threads=4,
  process_index=0,
  process_count=1,
  sources=None,
):
  """Writes features of all images, from where an earlier call was stopped.

  Args:
    out: Folder; made if it does not exist.
    model: flax module that maps f32[b h w 3] to (x, dict of named outputs).
    params: Its parameters.
    images: Collection, with the preprocessing of the weights.
    asked: As of `settings`.
    on_error: What to do about an image that cannot be decoded: "refuse", which
      keeps the parts before it, or "skip", which lists it in `skipped.csv`.
    overwrite: Whether to replace what other settings made.
    part_size: Images per part, what a kill can lose; rounded up to whole
      batches, and down so that a part has at most `MAX_PART_BYTES`.
    num_threads: Images decoded at the same time.
    process_index: Which of `process_count` processes this is.
    process_count: How many share the parts.
    sources: Path -> digest, to note in the manifest; not compared.

  Returns:
    The `manifest.Manifest`, or None if parts of other processes are not there
    yet.

  Raises:
    artifacts.InputError: If an image is refused, an output is not known, rows
      are not finite, or the folder holds something else.
  """
  if on_error not in options.ON_ERROR:
    raise artifacts.InputError(
      f"on_error is {on_error!r}; known are {', '.join(options.ON_ERROR)}."
    )
  if not 0 <= process_index < process_count:
    raise artifacts.InputError(
      f"process_index is {process_index}; expected at least 0 and less than"
      f" process_count, {process_count}."
    )
  made = is_finished(out, asked, images, on_error=on_error, overwrite=overwrite)
  if made is not None:
    return made
  start_time = time.monotonic()
  batch_size = asked["batch_size"]
  compute = _Compute(model, params, images, asked)
  row_bytes = np.dtype(asked["dtype"]).itemsize * sum(
    math.prod(shape) for shape in compute.row_shapes
  )
  num_batches = min(
    -(-part_size // batch_size), MAX_PART_BYTES // (row_bytes * batch_size)
  )
  run = {
    **asked,
    "preprocessing": images.preprocessing.to_dict(),
    "part_size": max(1, num_batches) * batch_size,
    "machine": _machine(),
  }
  out = pathlib.Path(out)
  check_writable(out)
  own_lock = f"process-{process_index}.lock"
  with contextlib.ExitStack() as stack:
    with feature_locks.state(out):
      # Another process may have joined the parts since.
      made = _finished(out, asked, images, on_error, overwrite)
      if made is not None:
        feature_locks.remove_parts(out / _PARTS)
        return made
      _begin(out, run, overwrite)
      if not stack.enter_context(feature_locks.lock(out / _PARTS / own_lock)):
        raise artifacts.InputError(
          f"{out} is being written by another process {process_index} of"
          f" {process_count}; let it finish."
        )
    parts = feature_parts.Parts(
      out / _PARTS,
      images,
      len(asked["outputs"]),
      run=manifest.hash_json(run),
      part_size=run["part_size"],
    )
    _make_parts(
      parts,
      range(process_index, len(parts.ranges), process_count),
      images,
      compute,
      asked,
      on_error=on_error,
      num_threads=num_threads,
    )
    with feature_locks.state(out):
      # Another process may have joined the parts meanwhile.
      made = _finished(out, asked, images, on_error, overwrite=False)
      if made is None and (missing := parts.missing()):
        progress.write(
          f"{len(missing)} of {len(parts.ranges)} parts are not there yet, the"
          f" first is {missing[0]}; the process that makes the last one joins"
          " them"
        )
        return None
      if made is None:
        for path in out.glob(f".*{artifacts.PARTIAL_SUFFIX}"):  # Of the killed.
          path.unlink(missing_ok=True)
        names = _file_names(asked["outputs"])
        num_rows, num_skipped = parts.assemble(
          out, names, list_skipped=on_error == "skip"
        )
        made = _write_manifest(
          out,
          run,
          [*names, "index.csv", *[_SKIPPED] * (on_error == "skip")],
          inputs={"images": listing.digest(images)},
          sources=sources or {},
          seconds=time.monotonic() - start_time,
          metrics={"num_rows": num_rows, "num_skipped": num_skipped},
        )
      feature_locks.remove_parts(out / _PARTS, own=own_lock)
  return made


class _Compute:
  """The model's outputs for one batch, spread over all local devices.

  Attributes:
    num_rows: Images that it takes.
    row_shapes: Shape of a row of each output.
  """

  def __init__(self, model, params, images, asked):
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    spec = jax.sharding.PartitionSpec
    self._split = jax.sharding.NamedSharding(mesh, spec("batch"))
    # Each device has as many rows; those too many are zeros.
    self.num_rows = -(-asked["batch_size"] // len(devices)) * len(devices)
    self._forward = functools.partial(
      features.forward,
      model=model,
      scaling=images.preprocessing,
      outputs=tuple(asked["outputs"]),
    )
    shape = (self.num_rows, images.size, images.size, 3)
    shapes = jax.eval_shape(
      self._forward, params, jax.ShapeDtypeStruct(shape, np.uint8)
    )
    for name, x in zip(asked["outputs"], shapes, strict=True):
      if x.shape[:1] != (self.num_rows,):
        raise artifacts.InputError(
          f"The output {name!r} is {list(x.shape)} for {self.num_rows} images;"
          " it has no row for each of them."
        )
    self.row_shapes = [x.shape[1:] for x in shapes]
    everywhere = jax.sharding.NamedSharding(mesh, spec())
    self._params = jax.device_put(params, everywhere)

  def __call__(self, image):
    """Maps uint8[num_rows size size 3] to a list of f32[num_rows ...]."""
    return self._forward(self._params, jax.device_put(image, self._split))


def _make_parts(
  parts, numbers, images, compute, asked, *, on_error, num_threads
):
  """Makes those parts that are not there."""
  todo, num_done = [], 0
  for part in numbers:
    about = parts.read(part, verify=True)
    if about is None:
      todo.append(part)
      continue
    num_done += about["stop"] - about["start"]
    if about["skipped"] and on_error == "refuse":
      raise artifacts.InputError(
        f"{about['skipped'][0][1]}\n{listing.SKIP_HINT}"
      )
  ranges, last_of, total = [], {}, num_done
  for part in todo:
    start, stop = parts.ranges[part]
    total += stop - start
    for first in range(start, stop, asked["batch_size"]):
      ranges.append((first, min(first + asked["batch_size"], stop)))
    last_of[ranges[-1]] = part

  def new_part():
    part_rows = parts.ranges[0][1]
    rows = [
      np.empty((part_rows, *shape), asked["dtype"])
      for shape in compute.row_shapes
    ]
    return rows, [], {}

  rows, digests, skipped = new_part() if todo else (None, None, None)
  num_rows = 0

  def collect(batch, arrays):
    """Takes a batch from the device, and writes the part if it is the last."""
    nonlocal num_rows, digests, skipped
    good = [i for i, digest in enumerate(batch.sha256) if digest is not None]
    for x, array, name in zip(rows, arrays, asked["outputs"], strict=True):
      files = [images.names[batch.start + i] for i in good]
      x[num_rows : num_rows + len(good)] = _checked(
        np.asarray(array)[good], asked["dtype"], name, files
      )
    num_rows += len(good)
    digests += batch.sha256
    skipped |= batch.reasons
    part = last_of.get((batch.start, batch.stop))
    if part is not None:
      parts.write(part, [x[:num_rows] for x in rows], digests, skipped)
      num_rows, digests, skipped = 0, [], {}
    bar.update(batch.stop - batch.start)

  batches = decoded.decode_ahead(
    images, ranges, num_rows=compute.num_rows, num_threads=num_threads
  )
  with (
    progress.Progress(
      total, unit="images", label="features", initial=num_done
    ) as bar,
    contextlib.closing(batches),
  ):
    before = None
    for batch in batches:
      if batch.reasons and on_error == "refuse":
        if before:
          collect(*before)  # It may be what a part still lacked.
        raise artifacts.InputError(
          f"{next(iter(batch.reasons.values()))}\n{listing.SKIP_HINT}"
        )
      # The device computes this batch while the one before is taken from it.
      now = batch, compute(batch.image)
      if before:
        collect(*before)
      before = now
    if before:
      collect(*before)


def _checked(x, dtype, output, files):
  """The rows in their dtype; refused if one of them is not finite."""
  with np.errstate(over="ignore"):
    converted = x.astype(dtype)
  axes = tuple(range(1, x.ndim))
  bad = ~np.isfinite(converted).all(axis=axes)
  if bad.any():
    row = np.flatnonzero(bad)[0]
    why = "The weights or their preprocessing do not fit."
    if np.isfinite(x[row]).all():
      why = f"{np.abs(x[row]).max():g} is too large for {dtype}; use float32."
    raise artifacts.InputError(
      f"The output {output!r} holds NaN or infinity, first for {files[row]}."
      f" {why}"
    )
  return converted


def _begin(out, run, overwrite):
  """Makes the folder ready for this run, or refuses it; the state is locked."""
  (out / _PARTS).mkdir(exist_ok=True)
  about = out / _PARTS / _RUN
  changes = []
  if about.exists():
    changes = _changes(artifacts.read_json(about), run)
  else:
    found = [p.name for p in _products(out) if p.exists()]
    if found:
      changes = [f"{found[0]}, which is not of an extraction under way"]
  if changes and not overwrite:
    raise _different(out, changes)
  if changes:
    if feature_locks.in_use(out / _PARTS):
      raise artifacts.InputError(
        f"{out} is being written by another process, with other settings; let"
        " it finish, or stop it."
      )
    for path in _products(out):
      path.unlink(missing_ok=True)
    shutil.rmtree(out / _PARTS)
    (out / _PARTS).mkdir()
  if changes or not about.exists():
    artifacts.write_json(about, run)


def _products(out):
  """What an extraction may have left, the manifest first."""
  names = (manifest.FILE, "index.csv", _SKIPPED)
  return [*(out / name for name in names), *sorted(out.glob("features*.npy"))]


def _changes(old, new):
  """Which settings differ, without the "config." in front."""
  changes = manifest.config_changes(manifest.plain(old), manifest.plain(new))
  return [change.removeprefix("config.") for change in changes]


def _different(out, changes):
  return artifacts.InputError(
    f"{out} holds features made with other settings. What differs:"
    f" {'; '.join(changes)}. Give another --out, or --overwrite to replace"
    " them."
  )


def _list_none(out, made):
  """Adds an empty list to features that were finished without any skipped."""
  artifacts.write_bytes(out / _SKIPPED, listing.skipped_bytes([]))
  outputs = {**made.outputs, _SKIPPED: _described(out / _SKIPPED)}
  made = dataclasses.replace(
    made, outputs=outputs, digest=manifest.hash_json(outputs)
  )
  manifest.write(out, made)
  return made


def _machine():
  """What else decides the last bits of the rows."""
  devices = jax.local_devices()
  return {
    "devices": f"{len(devices)} x {devices[0].platform}"
    f" {devices[0].device_kind}",
    "versions": {
      **manifest.versions(),
      "pillow": importlib.metadata.version("pillow"),
    },
  }


def _file_names(outputs):
  if len(outputs) == 1:
    return ["features.npy"]
  return [f"features_{name.replace('/', '_')}.npy" for name in outputs]


def _described(path):
  return {
    "bytes": path.stat().st_size,
    "sha256": artifacts.sha256_file(path),
  }


def _write_manifest(out, run, files, *, inputs, sources, seconds, metrics):
  outputs = {name: _described(out / name) for name in files}
  made = manifest.Manifest(
    stage="features",
    config=run,
    config_hash=manifest.hash_json(run),
    inputs=inputs,
    external=dict(sources),
    outputs=outputs,
    digest=manifest.hash_json(outputs),
    versions=run["machine"]["versions"],
    seed=0,
    seconds=seconds,
    created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    metrics=metrics,
  )
  manifest.write(out, made)
  return made
