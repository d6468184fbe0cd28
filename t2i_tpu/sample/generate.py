"""Condition and noise -> images: guidance, thresholding and the sampler's loop around a Denoiser."""

from keras import ops

from t2i_tpu.config import SampleConfig
from t2i_tpu.diffusion import guidance, samplers
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.random import Purpose, keys, normal


def generate(denoiser: Denoiser, condition, noise, sample: SampleConfig):
    """Draws one image per condition; to be compiled as a whole.

    Args:
      denoiser: the trained model.
      condition: the raw condition of each image (see `models.conditioning`).
      noise: float32 [B, H, W, C], standard normal.
      sample: a resolved config's `sample`.

    Returns:
      float32 [B, H, W, C] in [-1, 1].
    """
    levels = samplers.LEVELS[sample.levels](sample.steps)
    table = samplers.SAMPLERS[sample.sampler](levels, denoiser.diffusion_path)
    guided = sample.guidance_scale != 1
    conditions = ops.concatenate([condition, ops.zeros_like(condition)]) if guided else condition

    def denoise(x, level):
        batch = ops.concatenate([x, x]) if guided else x
        denoised = denoiser.denoise(
            batch, ops.broadcast_to(level, ops.shape(batch)[:1]), conditions
        )
        if guided:
            denoised = guidance.guide(*ops.split(denoised, 2), sample.guidance_scale)
        return guidance.threshold(denoised, sample.threshold_percentile)

    return ops.clip(samplers.sample(denoise, noise, table), -1.0, 1.0)


def seeded_noise(seeds, shape: tuple[int, ...]):
    """Integer seeds [B] -> float32 [B, *shape]; a seed's noise does not depend on its batch."""
    return normal(keys(0, Purpose.SAMPLE, 0, seeds), shape)


def to_uint8(images):
    """[-1, 1] -> uint8 [0, 255]."""
    return ops.cast(ops.round((ops.clip(images, -1.0, 1.0) + 1.0) * 127.5), "uint8")
