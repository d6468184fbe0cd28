"""CIFAR-100: 100 classes, 32x32 pixels. The model and the training are those of CIFAR-10.

  python launch/train.py --config=configs/cifar100.py --workdir=runs/cifar100

Data, model, hardware and result: as for configs/cifar10.py.
"""

from cifar10 import get_config as cifar10

from t2i_tpu.config import Config


def get_config() -> Config:
    config = cifar10()
    config.data.source = "tfds:cifar100"
    config.preview.captions = ()
    return config
