"""The recipes: values for the fields that a config leaves at None.

baseline is the method of apapiu/guided-diffusion-keras, the repository that this package descends
from. modern is the default. docs/recipes.md compares the two.
"""

from typing import Any

_COMMON: dict[str, Any] = {
    "data.horizontal_flip": False,
    "model.block_depth": 2,
    "diffusion.path": "linear",
    "diffusion.prediction_type": "denoised",
    "sample.guidance_rescale": 0.0,
    "train.weight_decay": 0.0,
}

RECIPES: dict[str, dict[str, Any]] = {
    "baseline": {
        **_COMMON,
        "model.blocks": "baseline",
        "model.widths": (64, 128, 192),
        "model.attention_levels": (False, True, False),
        "model.patch_size": 1,
        "diffusion.noise_levels": "half_normal",
        "diffusion.loss": "absolute",
        "diffusion.loss_weight": "uniform",
        "diffusion.cond_dropout_rate": 0.15,
        "sample.sampler": "ddim",
        "sample.levels": "baseline",
        "sample.shift": 2.0,
        "sample.steps": 35,
        "sample.guidance_scale": 3.0,
        "sample.guidance_interval": (0.0, 1.0),
        "sample.threshold_percentile": 99.5,
        "train.learning_rate": 3e-4,
        "train.warmup_steps": 0,
        "train.decay": "constant",
        "train.beta_2": 0.999,
        "train.clip_norm": 0.0,
        "train.ema_stds": (),
    },
    "modern": {
        **_COMMON,
        "model.blocks": "modern",
        "model.widths": (128, 256, 384),
        "model.attention_levels": (False, True, True),
        "model.patch_size": 2,
        "diffusion.noise_levels": "shifted",
        "diffusion.loss": "squared",
        "diffusion.loss_weight": "velocity",
        "diffusion.cond_dropout_rate": 0.1,
        "sample.sampler": "unipc",
        "sample.levels": "log_snr",
        "sample.shift": 2.0,
        "sample.steps": 8,
        "sample.guidance_scale": 2.0,
        "sample.guidance_interval": (0.3, 1.0),
        "sample.threshold_percentile": 0.0,
        "train.learning_rate": 1e-3,
        "train.warmup_steps": 100,
        "train.decay": "cosine",
        "train.beta_2": 0.99,
        "train.clip_norm": 1.0,
        "train.ema_stds": (0.1,),
    },
}
