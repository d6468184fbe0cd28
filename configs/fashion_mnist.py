"""Fashion MNIST: ten classes, 28x28 pixels.

  python launch/train.py --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist \\
      --config.data.source=idx:/usr/share/datasets/fashion-mnist

Data: the four original files, as Debian's package dataset-fashion-mnist installs them. Without the
last flag, tensorflow-datasets downloads the data (extra `data`).
Hardware: two CPU cores with bfloat16, or more. We have not measured GPUs.
Time: 11 to 15 minutes on two CPU cores.
Result: clothes of all ten classes, which are easy to tell apart.
"""

from t2i_tpu.config import Config


def get_config() -> Config:
    config = Config()
    config.data.source = "tfds:fashion_mnist"
    config.data.image_size = 28
    config.model.conditioning = "label"
    config.model.widths = (96, 192)
    config.model.attention_levels = (False, True)
    config.model.embedding_dim = 256
    config.train.global_batch_size = 32
    config.train.learning_rate = 7e-4
    config.train.total_steps = 2000
    config.train.log_every = 50
    config.train.steps_per_loop = 50
    config.train.preview_every = 500
    config.train.checkpoint_every = 500
    config.preview.num_train = 10
    config.preview.num_heldout = 0  # held-out images have the same ten captions
    config.preview.captions = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    return config
