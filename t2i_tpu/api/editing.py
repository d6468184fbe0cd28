"""Edits images: image-to-image, inpainting, outpainting, and inversion."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from t2i_tpu.api import drawing_records
from t2i_tpu.api.image_conditions import can_condition_on_images
from t2i_tpu.api.prompts import Drawing, PromptEncoder
from t2i_tpu.api.requests import check_count, make_request, parse_drawings
from t2i_tpu.config import SampleConfig
from t2i_tpu.diffusion.noise_levels import shifted as shift_levels
from t2i_tpu.diffusion.path import corrupt
from t2i_tpu.diffusion.samplers import SAMPLERS
from t2i_tpu.diffusion.samplers.first_order import ddim
from t2i_tpu.diffusion.samplers.invert import invert as make_inversion_table
from t2i_tpu.diffusion.samplers.resample import resample
from t2i_tpu.diffusion.samplers.table import Table
from t2i_tpu.errors import UserError
from t2i_tpu.sample.images import Images
from t2i_tpu.sample.inputs import read_image, read_masked_image
from t2i_tpu.sample.trained import TrainedModel

# With these settings, the model reproduces an image from its noise almost exactly.
INVERSION_SETTINGS = {
    "guidance_scale": 1.0,
    "sampler": "unipc",
    "levels": "log_snr",
    "steps": 50,
}


@dataclasses.dataclass(frozen=True, repr=False)
class Inversion:
    """The noise of an image.

    Attributes:
      noise: float32 [H, W, C], for the argument `noise` of `Model.sample`.
      images: the image that the model draws from the noise.
      error: the mean absolute difference between this image and the given one, in [0, 255].
    """

    noise: np.ndarray
    images: Images
    error: float

    def __repr__(self) -> str:
        return f"<Inversion with a mean error of {self.error:.2f} out of 255>"


def edit(
    model: TrainedModel,
    encoder: PromptEncoder,
    image,
    drawings: Sequence[Drawing],
    strength: float,
    settings: SampleConfig,
) -> Images:
    """Change an image towards a prompt; see `Model.edit`."""
    if not 0.01 <= strength <= 1:
        raise UserError(f"strength is {strength}; it must be at least 0.01 and at most 1")
    pixels = read_image(image, model.config.data.image_size, model.manifest.channels)
    parsed = parse_drawings(drawings, settings, encoder)
    levels = choose_levels(model, settings, strength)
    # Start from the image with noise at the first level.
    noise = model.generator.initial_noise(np.array([drawing.seed for drawing in parsed]))
    path = model.generator.denoiser.diffusion_path
    start = corrupt(path, to_float(pixels), noise, levels[0])
    table = SAMPLERS[settings.sampler](levels, path)
    request = make_request(parsed, settings, encoder, start=np.float32(start), table=table)
    images, _ = model.generator.run(request)
    records = drawing_records.make_records("edit", parsed, settings, model, strength=strength)
    return Images(images, records)


def choose_levels(model: TrainedModel, settings: SampleConfig, strength: float) -> np.ndarray:
    """Return the settings' noise levels, scaled so that they start at the level of a strength.

    The first level is that of the `shifted` schedule after a share 1 - strength of its steps, because at
    low noise levels, an image hardly changes: a strength of 0.5 starts at level 0.67.
    """
    levels = model.generator.make_levels(settings)
    return levels * (shift_levels(strength, 2.0) / levels[0])


def inpaint(
    model: TrainedModel,
    encoder: PromptEncoder,
    image,
    mask,
    drawings: Sequence[Drawing],
    resamplings: int,
    settings: SampleConfig,
) -> Images:
    """Repaint a part of an image; see `Model.inpaint`."""
    resamplings = check_count("resamplings", resamplings)
    pixels, covered = read_masked_image(
        image, mask, model.config.data.image_size, model.manifest.channels
    )
    parsed = parse_drawings(drawings, settings, encoder)
    table = _make_inpainting_table(model, settings, resamplings)
    count = len(parsed)
    known, is_known = to_float(pixels), (~covered)[..., None].astype(np.float32)
    request = make_request(
        parsed,
        settings,
        encoder,
        known=np.broadcast_to(known, (count, *known.shape)),
        is_known=np.broadcast_to(is_known, (count, *is_known.shape)),
        table=table,
    )
    images, _ = model.generator.run(request)
    if resamplings > 1:
        settings = dataclasses.replace(settings, sampler="ddim")  # the sampler that is used
    records = drawing_records.make_records(
        "inpaint", parsed, settings, model, resamplings=resamplings
    )
    return Images(images, records)


def _make_inpainting_table(model: TrainedModel, settings: SampleConfig, resamplings: int) -> Table:
    """Return the table of the settings, or DDIM's table with resampling if levels are visited repeatedly."""
    if resamplings == 1:
        return model.generator.make_table(settings)
    path = model.generator.denoiser.diffusion_path
    levels = model.generator.make_levels(settings)
    return resample(ddim(levels, path), levels, path, resamplings)


def surround(model: TrainedModel, image, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a smaller image in the middle of a gray one, and the mask of what surrounds it."""
    if not 0 < scale < 1:
        raise UserError(f"scale is {scale}; it must be above 0 and below 1")
    size, channels = model.config.data.image_size, model.manifest.channels
    # Leave at least one row and one column of pixels to draw.
    inner = min(max(1, round(scale * size)), size - 1)
    margin = (size - inner) // 2
    middle = (slice(margin, margin + inner),) * 2
    large = read_image(image, size, channels)
    picture = Image.fromarray(large[..., 0] if channels == 1 else large)
    small = np.asarray(picture.resize((inner, inner), Image.Resampling.LANCZOS))
    pixels, mask = np.full((size, size, channels), 128, np.uint8), np.ones((size, size), bool)
    pixels[middle], mask[middle] = small.reshape(inner, inner, channels), False
    return pixels, mask


def invert(
    model: TrainedModel, encoder: PromptEncoder, image, drawing: Drawing, settings: SampleConfig
) -> Inversion:
    """Find the noise from which the model draws an image; see `Model.invert`."""
    pixels = read_image(image, model.config.data.image_size, model.manifest.channels)
    parsed = parse_drawings([drawing], settings, encoder)
    path = model.generator.denoiser.diffusion_path
    table = make_inversion_table(model.generator.make_levels(settings), path)
    start = path(table.levels[0]).signal * to_float(pixels)
    request = make_request(parsed, settings, encoder, start=np.float32(start)[None], table=table)
    _, noise = model.generator.run(request)
    # Draw the image from the noise.
    images, _ = model.generator.run(make_request(parsed, settings, encoder, start=noise))
    records = drawing_records.make_records("invert", parsed, settings, model)
    error = float(np.abs(images[0].astype(float) - pixels).mean())
    return Inversion(noise[0], Images(images, records), error)


def choose_prompt(model: TrainedModel, image, settings: dict[str, Any]) -> tuple[Any, dict]:
    """Return a prompt for variations of an image, and the settings for it.

    The prompt is the image itself if the model's CLIP can encode it. Otherwise, the settings turn the
    prompt off with a guidance scale of 0.
    """
    if can_condition_on_images(model):
        return read_image(image, model.config.data.image_size, model.manifest.channels), settings
    if model.generator.has_guide:
        raise UserError(
            "a weaker model can guide variations only towards a prompt; give a prompt, or leave out the "
            "weaker model"
        )
    anything = model.manifest.label_names[0] if model.config.model.conditioning == "label" else "a"
    return anything, {**settings, "guidance_scale": 0.0}


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Convert pixels, uint8, to float32 in [-1, 1]."""
    return pixels / np.float32(127.5) - np.float32(1)
