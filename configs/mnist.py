"""MNIST, 28x28, ten digits: the Fashion MNIST config on other data.

  python launch/train.py --config=configs/mnist.py --workdir=runs/mnist

Data: tensorflow-datasets downloads it (extra `data`); or --config.data.source=idx:FOLDER with the
four original files. Hardware, time and result: as configs/fashion_mnist.py.
"""

from fashion_mnist import get_config as fashion_mnist

from t2i_tpu.config import Config


def get_config() -> Config:
    config = fashion_mnist()
    config.data.source = "tfds:mnist"
    config.preview.captions = tuple("0123456789")
    return config
