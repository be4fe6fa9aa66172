"""A linear classifier on frozen features: multinomial logistic regression.

Features are standardised one by one by the training images; the weights, not
the bias, are held back by an L2 penalty; L-BFGS runs until it converges. The
penalty is fixed, so that numbers of different models compare without a search.

Usage:
  probe = linear_probe.fit(train_features, train_ids, num_classes=10)
  accuracy = np.mean(probe(test_features).argmax(1) == test_ids)
"""

import numpy as np
import scipy.optimize
import scipy.special

# Of the squared weights, beside the mean cross-entropy in nats.
L2 = 1e-3
MAX_STEPS = 300


def fit(features, class_ids, num_classes, *, l2=L2, max_steps=MAX_STEPS):
  """Fits the classifier.

  `Deviation:` gLocal's code chooses the penalty of its logistic regression by
  cross-validation, for every model and data set (paper.md, section G; of
  AligNet's probes no setting is known). Here it is one fixed number.

  Args:
    features: f32[n d].
    class_ids: int[n] in 0..num_classes-1.
    num_classes: At least 2.
    l2: Penalty: mean cross-entropy + l2 / 2 * sum of squared weights.
    max_steps: Of L-BFGS.

  Returns:
    Function from f32[m d] to f64[m num_classes] scores, which raises
    ValueError for features that are not finite or of another width.

  Raises:
    ValueError: Fewer than two classes, or features with NaN.
  """
  x = np.asarray(features, np.float64)
  class_ids = np.asarray(class_ids)
  if num_classes < 2:
    raise ValueError(f"There are {num_classes} classes; expected 2 or more.")
  if not np.isfinite(x).all():
    raise ValueError("The training features hold NaN or infinity.")
  mean, std = x.mean(axis=0), x.std(axis=0) + 1e-5
  x = (x - mean) / std
  num, width = x.shape
  target = class_ids[:, None] == np.arange(num_classes)

  def loss(flat):
    params = flat.reshape(width + 1, num_classes)
    logits = x @ params[:-1] + params[-1]
    logprobs = scipy.special.log_softmax(logits, axis=1)
    value = -logprobs[target].sum() / num + l2 / 2 * np.sum(params[:-1] ** 2)
    residual = (np.exp(logprobs) - target) / num
    grad = np.empty_like(params)
    grad[:-1] = x.T @ residual + l2 * params[:-1]
    grad[-1] = residual.sum(axis=0)
    return value, grad.ravel()

  found = scipy.optimize.minimize(
    loss,
    np.zeros((width + 1) * num_classes),
    jac=True,
    method="L-BFGS-B",
    options={"maxiter": max_steps, "maxfun": 2 * max_steps},
  )
  params = found.x.reshape(width + 1, num_classes)

  def scores(raw):
    raw = np.asarray(raw, np.float64)
    if raw.ndim != 2 or raw.shape[1] != width:
      raise ValueError(
        f"The features have shape {raw.shape}; the probe takes (m, {width})."
      )
    # argmax of NaN is the first class, in silence.
    if not np.isfinite(raw).all():
      raise ValueError("The features hold NaN or infinity.")
    standard = (raw - mean) / std
    return standard @ params[:-1] + params[-1]

  return scores
