"""MNIST: ten digits, 28x28 pixels. The model and the training are those of Fashion MNIST.

  python launch/train.py --config=configs/mnist.py --workdir=runs/mnist

Data: downloaded by tensorflow-datasets (extra `data`). With --config.data.source=idx:FOLDER, the four
original files are read from a folder instead.
Hardware, time and result: as for configs/fashion_mnist.py.
"""

from fashion_mnist import get_config as fashion_mnist

from t2i_tpu.config import Config


def get_config() -> Config:
    config = fashion_mnist()
    config.data.source = "tfds:mnist"
    config.preview.captions = tuple("0123456789")
    return config
