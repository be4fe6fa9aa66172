"""Packaging of alignet_jax; settings of the tools are in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent


def read_version():
  """The version, read as text: importing the package is not needed."""
  source = (ROOT / "alignet_jax" / "__init__.py").read_text(encoding="utf-8")
  return re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)[1]


def read_readme():
  """The project page; an image that copies only the code has none."""
  readme = ROOT / "README.md"
  return readme.read_text(encoding="utf-8") if readme.exists() else ""


# tensorflow-cpu is built for the first of these, and not for all the others.
LINUX_X86 = "sys_platform == 'linux' and platform_machine == 'x86_64'"
NOT_LINUX_X86 = "sys_platform != 'linux' or platform_machine != 'x86_64'"

# A lower bound is the oldest release that the tests were run with. The exact
# set of a tested installation is in launch/constraints.txt.
DEPENDENCIES = [
  "absl-py>=2.1",
  "clu>=0.0.12",
  "flax>=0.12.7",
  "jax>=0.10",
  "matplotlib>=3.10.8",
  "ml_collections>=1.1",
  "numpy>=2.1",
  "optax>=0.2.6",
  "orbax-checkpoint>=0.11.30",
  "pillow>=11.0",
  "safetensors>=0.4.5",
  "scipy>=1.14",
  # TensorFlow no longer brings it, and clu.metric_writers imports it.
  "tensorboard>=2.19",
  # Only tf.data is used, on the CPU: this build is half the size and cannot
  # take a GPU's memory or CUDA libraries from JAX. It is made for x86 only.
  f"tensorflow-cpu>=2.20; {LINUX_X86}",
  f"tensorflow>=2.20; {NOT_LINUX_X86}",
  "tensorflow-datasets>=4.9.8",
  "tqdm>=4.66",
]

EXTRAS = {
  "test": [
    "hypothesis>=6.100",
    "pytest>=8.3",
    "pytest-xdist>=3.6",
    "ruff>=0.14",
    "scikit-learn>=1.5",
  ],
  # PyTorch's implementations, which the parity tests compare with; timm brings
  # torchvision.
  "parity": [
    "timm>=1.0.31",
    "torch>=2.13",
    "transformers>=4.57,<5",
  ],
  # rsatoolbox's bootstrap beside ours, and tables of the evaluation as parquet.
  "rsa": ["rsatoolbox>=0.3"],
  "parquet": ["pyarrow>=17"],
  # What big_vision's models/vit.py imports besides. big_vision itself cannot
  # be named here: its repository has no setup.py and no pyproject.toml, and pip
  # ends with an error. Clone it, and add the folder to PYTHONPATH.
  "big_vision": ["einops>=0.8"],
  "notebooks": [
    "ipykernel>=6.29",
    "jupyter>=1.1",
    "nbmake>=1.5",
  ],
  "gpu": ["jax[cuda13]>=0.10"],
  "tpu": ["jax[tpu]>=0.10"],
}

setuptools.setup(
  name="alignet_jax",
  version=read_version(),
  description="Aligns vision models with human similarity judgments, in JAX.",
  long_description=read_readme(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11,<3.14",
  install_requires=DEPENDENCIES,
  extras_require=EXTRAS,
  # The experiments stand at the top of the repository for readers, and are
  # installed as alignet_jax/configs for `python -m alignet_jax.main`.
  packages=[
    *setuptools.find_namespace_packages(
      include=["alignet_jax", "alignet_jax.*"]
    ),
    "alignet_jax.configs",
  ],
  package_dir={"alignet_jax.configs": "configs"},
  classifiers=[
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
