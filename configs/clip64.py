"""Text to image at 64x64 from precomputed CLIP embeddings: the size of the baseline's model.

  python launch/train.py --config=configs/clip64.py --workdir=gs://bucket/runs/clip64 \\
      --config.data.source=shards:gs://bucket/laion64

Data: a folder of our shards, on disk or gs://, of images of 64 pixels with an embedding each
(docs/data.md). Model: 40M parameters. Hardware: one GPU with 16 GB or a TPU v3-8. The baseline took
60 hours on one V100 for 60 epochs of 600k images; this config has not been trained to the end by
us, so no score is claimed.
"""

from t2i_tpu.config import Config


def get_config() -> Config:
    config = Config()
    config.data.source = "shards:data/clip64"
    config.data.image_size = 64
    config.model.widths = (128, 256, 384)
    config.model.attention_levels = (False, True, True)
    config.model.patch_size = 2
    config.model.embedding_dim = 1024
    config.train.learning_rate = 3e-4
    config.train.warmup_steps = 2000
    config.train.global_batch_size = 256
    config.train.total_steps = 140_000
    config.train.log_every = 100
    config.train.steps_per_loop = 100
    config.train.preview_every = 2000
    config.train.checkpoint_every = 2000
    return config
