"""Aligns vision models with human similarity judgments, after AligNet.

Importing this package imports nothing else: neither JAX nor TensorFlow. Import
the module you need, for example `from alignet_jax import odd_one_out`.

Usage:
  python -m alignet_jax.main --config=configs/quickstart.py --workdir=DIR
"""

__version__ = "0.1.0"
