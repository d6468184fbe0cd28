"""Text to image at 32x32 pixels on the emoji that ship with the package.

  make train
  python launch/train.py --config=configs/emoji32.py --workdir=runs/emoji32

Data: 3,430 Noto emoji with captions and embeddings, and 356 held-out ones.
Model: 12.1 million parameters.
Hardware: two CPU cores with bfloat16, or more. We have not measured GPUs.
Time: 18 minutes on two CPU cores.
Result: 13 or 14 of the 16 objects in the preview are recognizable, and held-out people have the right
skin tone and clothes.
"""

from t2i_tpu.config import Config


def get_config() -> Config:
    config = Config()
    config.data.source = "embedded:emoji"
    config.data.image_size = 32
    config.model.widths = (96, 160, 224)
    config.model.attention_levels = (False, True, True)
    config.model.embedding_dim = 256
    config.sample.guidance_scale = 2.5
    # In so short a run, many small batches give better images than few large ones.
    config.train.global_batch_size = 32
    config.train.learning_rate = 7e-4
    config.train.ema_stds = (0.05,)
    config.train.total_steps = 3300
    config.train.log_every = 50
    config.train.steps_per_loop = 50
    config.train.preview_every = 500
    config.train.checkpoint_every = 500
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
