"""What a batch of embeddings is trained for: its triplets, given or all.

A batch of triplets names three images each, with the teacher's probabilities.
A dense batch is P clusters of K images, and stands for every cluster-border
triplet among them (`triplets/dense.py`); both sides follow from a matrix of
similarities. `Deviation:` the paper draws triplets one by one, and so do the
configs unless told otherwise. The number of dense ones grows with the third
power of the batch, so the loss goes over them in chunks and keeps nothing of a
chunk but its sums: the gradient computes it again.

Usage:
  loss, metrics = objectives.of_batch(z, batch, loss_fn=losses.jsd,
                                      temperature=100.0)
"""

import jax
import jax.numpy as jnp
import numpy as np

from alignet_jax import artifacts, odd_one_out
from alignet_jax.triplets import dense, lloyd

# Triplets of a dense batch whose scores are in memory at once; 3 MiB a tensor.
CHUNK_SIZE = 2**18


def of_batch(z, batch, *, loss_fn, temperature, images_per_cluster=0):
  """Mean loss of a batch of either kind.

  Args:
    z: f32[m e] embeddings of its images; three for each triplet, or dense.
    batch: Dict with "target_logprobs" f32[b 3], or with "teacher_sims" f32[m m]
      if it is dense.
    loss_fn: One of `losses.LOSSES`.
    temperature: Positive; divides the student's similarities.
    images_per_cluster: K of a dense batch, else 0.

  Returns:
    As `of_triplets`.
  """
  if not images_per_cluster:
    z = z.reshape(-1, 3, z.shape[-1])
    target = batch["target_logprobs"]
    return of_triplets(z, target, loss_fn=loss_fn, temperature=temperature)
  return of_dense(
    z,
    batch["teacher_sims"],
    loss_fn=loss_fn,
    temperature=temperature,
    images_per_cluster=images_per_cluster,
  )


def of_triplets(z, target_logprobs, *, loss_fn, temperature):
  """Mean loss of triplets that are given one by one.

  Args:
    z: f32[b 3 e] embeddings.
    target_logprobs: f32[b 3], entry p: log probability that the teacher calls
      the image at position p odd.
    loss_fn: One of `losses.LOSSES`.
    temperature: Positive; divides the student's similarities.

  Returns:
    f32[], and a dict of means: "loss"; "accuracy", the share of triplets where
    the student's odd one is the teacher's, ties of either counting as wrong;
    "entropy" of the student's choice, in nats.
  """
  logits = odd_one_out.logits(z, temperature=temperature)
  return of_logits(logits, target_logprobs, loss_fn=loss_fn)


def of_logits(logits, target_logprobs, *, loss_fn):
  """Mean loss of triplets whose scores are given.

  Args:
    logits: f32[b 3] scores of the student, divided by its temperature.
    target_logprobs: f32[b 3], as of `of_triplets`.
    loss_fn: One of `losses.LOSSES`.

  Returns:
    As `of_triplets`.
  """
  loss = jnp.mean(loss_fn(logits, target_logprobs))
  hits, entropy = _agreement(logits, target_logprobs)
  return loss, {
    "loss": loss,
    "accuracy": jnp.mean(hits),
    "entropy": jnp.mean(entropy),
  }


def of_dense(
  z,
  teacher_sims,
  *,
  loss_fn,
  temperature,
  images_per_cluster,
  chunk_size=CHUNK_SIZE,
):
  """Mean loss of all cluster-border triplets of a dense batch.

  Equal to `of_triplets` of `dense.triplets`, but for rounding: a chunk is some
  pairs of images of one cluster, each with every image of the others.

  Args:
    z: f32[m e] embeddings, cluster after cluster.
    teacher_sims: f32[m m] similarities by the teacher, with its temperature.
    loss_fn: One of `losses.LOSSES`.
    temperature: Positive; divides the student's similarities.
    images_per_cluster: K, at least 2; divides m at least twice.
    chunk_size: Triplets in memory at once, roughly.

  Returns:
    As `of_triplets`.

  Raises:
    artifacts.InputError: m images are no two or more clusters of K.
  """
  m, k = len(z), images_per_cluster
  if k < 2 or m % k or m < 2 * k:
    raise artifacts.InputError(
      f"A dense batch of {m} images is no two or more clusters of {k} images,"
      " at least 2 each."
    )
  sims = jnp.einsum("ie,je->ij", z, z, precision=lloyd.PRECISION) / temperature
  pairs = dense.pairs(m // k, k)
  num_pairs_at_once = max(1, min(chunk_size // m, len(pairs)))
  num_chunks = -(-len(pairs) // num_pairs_at_once)
  filled = num_chunks * num_pairs_at_once
  # What fills up the last chunk is a pair like any other, but not counted.
  is_real = np.arange(filled) < len(pairs)
  pairs = np.resize(pairs, (filled, 2))
  cluster = np.arange(m) // k
  num_triplets = int(is_real.sum()) * (m - k)

  @jax.checkpoint
  def sums(sims, chunk):
    first, second, real = chunk
    logits = _pair_logits(sims, first, second)
    target = odd_one_out.log_probs(_pair_logits(teacher_sims, first, second))
    counts = real[:, None] & (cluster[first][:, None] != cluster[None])
    hits, entropy = _agreement(jax.lax.stop_gradient(logits), target)
    return jnp.stack(
      [
        jnp.sum(jnp.where(counts, x, 0.0))
        for x in (loss_fn(logits, target), hits, entropy)
      ]
    )

  cluster = jnp.asarray(cluster)
  chunks = (
    jnp.asarray(pairs[:, 0].reshape(num_chunks, -1)),
    jnp.asarray(pairs[:, 1].reshape(num_chunks, -1)),
    jnp.asarray(is_real.reshape(num_chunks, -1)),
  )
  total, _ = jax.lax.scan(
    lambda total, chunk: (total + sums(sims, chunk), None),
    jnp.zeros(3),
    chunks,
  )
  loss, accuracy, entropy = total / num_triplets
  return loss, {"loss": loss, "accuracy": accuracy, "entropy": entropy}


def _pair_logits(sims, first, second):
  """Scores f32[c m 3] of the triplets (first, second, any image)."""
  with_second, with_first = sims[second], sims[first]
  of_pair = jnp.take_along_axis(with_first, second[:, None], axis=1)
  of_pair = jnp.broadcast_to(of_pair, with_first.shape)
  return jnp.stack([with_second, with_first, of_pair], axis=-1)


def _agreement(logits, target_logprobs):
  """Whether student and teacher agree, f32[*b]; the student's entropy."""
  odd = odd_one_out.choose(target_logprobs)
  # Positions are never -2, so a tie of the teacher is never met.
  odd = jnp.where(odd == odd_one_out.TIE, -2, odd)
  hits = (odd_one_out.choose(logits) == odd).astype(jnp.float32)
  return hits, odd_one_out.entropy(odd_one_out.log_probs(logits))
