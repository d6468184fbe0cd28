"""Text to image at 64x64 pixels from precomputed CLIP embeddings, at the size of the baseline.

  python launch/train.py --config=configs/clip64.py --workdir=gs://bucket/runs/clip64 \\
      --config.data.source=shards:gs://bucket/laion64

Data: your own, as a folder of shards with images of 64x64 pixels and their embeddings, local or on
gs://. See docs/data.md.
Model: 40 million parameters.
Hardware: one GPU with 16 GB, or a TPU v3-8.
Time: unknown. The baseline trained for 60 hours on one V100, 60 epochs of 600,000 images.
Result: unknown. We have not trained this config to the end.
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
