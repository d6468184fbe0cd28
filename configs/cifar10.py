"""CIFAR-10: ten classes, 32x32 pixels.

  python launch/train.py --config=configs/cifar10.py --workdir=runs/cifar10

Data: downloaded by tensorflow-datasets (extra `data`).
Model: 21 million parameters.
Hardware: one GPU with 16 GB, or a TPU v3-8. A CPU is too slow.
Result: unknown. We have not trained this config to the end.
"""

from t2i_tpu.config import Config


def get_config() -> Config:
    config = Config()
    config.data.source = "tfds:cifar10"
    config.data.image_size = 32
    config.data.horizontal_flip = True
    config.model.conditioning = "label"
    config.model.widths = (128, 256, 256)
    config.model.attention_levels = (False, True, False)
    config.model.patch_size = 1
    config.train.learning_rate = 4e-4
    config.train.warmup_steps = 2000
    config.train.global_batch_size = 256
    config.train.total_steps = 100_000
    config.train.log_every = 100
    config.train.steps_per_loop = 100
    config.train.preview_every = 2000
    config.train.checkpoint_every = 2000
    config.preview.captions = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    return config
