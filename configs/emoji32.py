"""Emoji."""

from t2i_tpu.config import Config


def get_config() -> Config:
    config = Config()
    config.data.source = "embedded:emoji"
    config.data.image_size = 32
    config.model.widths = (96, 160, 224)
    config.model.attention_levels = (False, True, True)
    config.model.embedding_dim = 256
    config.train.total_steps = 1400
    config.train.preview_every = 350
    config.train.checkpoint_every = 350
    config.preview.captions = (
        "red heart",
        "pizza",
        "dog face",
        "cat face",
        "red apple",
        "sun",
        "evergreen tree",
        "grinning face",
        "automobile",
        "rocket",
        "soccer ball",
        "birthday cake",
        "banana",
        "house",
        "strawberry",
        "flag of france",
    )
    return config
