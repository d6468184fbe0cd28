"""Fashion MNIST, 28x28, ten classes."""

from t2i_tpu.config import Config


def get_config() -> Config:
    config = Config()
    config.data.source = "tfds:fashion_mnist"
    config.data.image_size = 28
    config.model.conditioning = "label"
    config.model.widths = (96, 192)
    config.model.attention_levels = (False, True)
    config.model.embedding_dim = 256
    config.train.total_steps = 2000
    return config
