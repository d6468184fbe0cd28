"""CIFAR-100, 32x32, a hundred classes: the CIFAR-10 config on other data.

  python launch/train.py --config=configs/cifar100.py --workdir=runs/cifar100

Data, hardware and state: as configs/cifar10.py.
"""

from cifar10 import get_config as cifar10

from t2i_tpu.config import Config


def get_config() -> Config:
    config = cifar10()
    config.data.source = "tfds:cifar100"
    config.preview.captions = ()
    return config
