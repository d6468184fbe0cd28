"""Generates images from conditions and noise: a sampler's loop with guidance and thresholding."""

from keras import ops, tree

from t2i_tpu.config import SampleConfig
from t2i_tpu.diffusion import guidance
from t2i_tpu.diffusion.samplers import SAMPLERS
from t2i_tpu.diffusion.samplers.table import solve
from t2i_tpu.diffusion.schedules import LEVELS
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.random import Purpose, make_keys, normal


def generate(denoiser: Denoiser, condition: dict, noise, seeds, sample: SampleConfig):
    """Draw one image per condition. The caller compiles this function as one graph.

    Args:
      denoiser: the trained model.
      condition: the condition of each image; see models/conditioning.py.
      noise: float32 [B, H, W, C], the standard normal noise to start from.
      seeds: integer [B], the seeds of the noise that a stochastic sampler adds.
      sample: the `sample` group of a resolved config.

    Returns:
      float32 [B, H, W, C] in [-1, 1].
    """
    path = denoiser.diffusion_path
    levels = LEVELS[sample.levels](sample.steps, path, sample.shift)
    table = SAMPLERS[sample.sampler](levels, path)
    rows = {name: ops.convert_to_tensor(column) for name, column in table.as_arrays().items()}
    is_guided = sample.guidance_scale != 1
    if is_guided:  # evaluate the conditional and the unconditional half in one batch
        condition = tree.map_structure(_append_zeros, condition)

    def denoise(x, level):
        batch = ops.concatenate([x, x]) if is_guided else x
        level = ops.broadcast_to(level, ops.shape(batch)[:1])
        denoised = denoiser.denoise(batch, level, condition)
        if is_guided:
            denoised = guidance.guide(*ops.split(denoised, 2), sample.guidance_scale)
        return guidance.threshold(denoised, sample.threshold_percentile)

    def draw(number):
        return normal(make_keys(0, Purpose.SAMPLER_NOISE, number, seeds), noise.shape[1:])

    draw = draw if table.noise.any() else None
    history = (ops.zeros_like(noise),) * 3
    _, history = solve(denoise, noise, history, rows, draw, 0, len(table.levels))
    return ops.clip(history[0], -1.0, 1.0)


def _append_zeros(values):
    """Return [2 B, ...]: the values of the conditions, then those of B null conditions."""
    return ops.concatenate([values, ops.zeros_like(values)])


def draw_noise(seeds, shape: tuple[int, ...]):
    """Return the initial noise for integer seeds [B], float32 [B, *shape].

    A seed's noise does not depend on the rest of the batch.
    """
    return normal(make_keys(0, Purpose.SAMPLE, 0, seeds), shape)


def to_uint8(images):
    """Convert images in [-1, 1] to uint8 in [0, 255]."""
    return ops.cast(ops.round((ops.clip(images, -1.0, 1.0) + 1.0) * 127.5), "uint8")
