"""Turns drawings, which describe images to users, into requests, which generators take."""

import dataclasses
import numbers
from collections.abc import Sequence

import numpy as np

from t2i_tpu.api.prompts import Drawing, Part, PromptEncoder, parse_prompt
from t2i_tpu.config import MAX_SEED, SampleConfig
from t2i_tpu.errors import UserError
from t2i_tpu.options import check_float
from t2i_tpu.sample.request import Request
from t2i_tpu.sample.trained import TrainedModel


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A drawing whose fields have been checked.

    Attributes:
      parts: the parts of the prompt.
      negative: the negative prompt, or None for the null condition.
      seed, guidance_scale: see `Drawing`.
    """

    parts: list[Part]
    negative: Part | None
    seed: int
    guidance_scale: float


def parse_drawings(
    drawings: Sequence[Drawing], settings: SampleConfig, encoder: PromptEncoder
) -> list[Parsed]:
    """Check drawings, and encode their prompts, which the encoder caches for `make_request`.

    Raises:
      UserError: a field is not valid.
    """
    parsed = [parse_drawing(drawing, settings, encoder.model) for drawing in drawings]
    encoder.encode([part for row in parsed for part in (*row.parts, row.negative)])
    return parsed


def parse_drawing(drawing: Drawing, settings: SampleConfig, model: TrainedModel) -> Parsed:
    """Check a drawing. Raises UserError if a field is not valid."""
    negative = drawing.negative_prompt
    if negative is None or (isinstance(negative, str) and not negative.strip()):
        negative = None
    else:
        (negative, *others) = parse_prompt(negative, model)
        if others or negative.weight != 1:
            raise UserError("the negative prompt must be one prompt without a weight")
        if model.generator.has_guide:
            raise UserError(
                "a negative prompt and a weaker model cannot guide at the same time; leave out one"
            )
    parts = parse_prompt(drawing.prompt, model)
    if len(parts) > 1 and model.generator.has_guide:
        raise UserError("a weaker model can guide only one prompt per image; leave out the weights")
    scale = settings.guidance_scale if drawing.guidance_scale is None else drawing.guidance_scale
    if not 0 <= check_float("guidance_scale", float(scale)) <= 1000:
        raise UserError(f"guidance_scale is {scale}; it must be at least 0 and at most 1000")
    return Parsed(parts, negative, check_seed(drawing.seed), float(scale))


def check_seed(seed) -> int:
    """Return a seed as an int. Raises UserError if it is not valid."""
    if (
        isinstance(seed, bool)
        or not isinstance(seed, numbers.Integral)
        or not 0 <= seed <= MAX_SEED
    ):
        raise UserError(f"seed is {seed!r}; it must be an integer from 0 to {MAX_SEED}")
    return int(seed)


def check_count(name: str, count, at_least: int = 1) -> int:
    """Return a count as an int. Raises UserError if it is not an integer or too low."""
    if isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < at_least:
        raise UserError(f"{name} is {count!r}; it must be an integer, at least {at_least}")
    return int(count)


def check_noise(noise, count: int, model: TrainedModel) -> np.ndarray:
    """Return the noise of N images, float32 [N, H, W, C], given the noise of one image or of all.

    Raises:
      UserError: the noise has another shape, or is not finite.
    """
    shape = model.generator.denoiser.image_shape
    noise = np.asarray(noise, np.float32)
    if noise.shape not in (shape, (count, *shape)) or not np.isfinite(noise).all():
        raise UserError(
            f"the noise has the shape {list(noise.shape)}; it must be finite and have the shape "
            f"{list(shape)} or {[count, *shape]}"
        )
    return np.broadcast_to(noise, (count, *shape))


def make_request(
    drawings: Sequence[Parsed], settings: SampleConfig, encoder: PromptEncoder, **arrays
) -> Request:
    """Return the request for drawings.

    Args:
      drawings: the images to draw.
      settings: the `sample` group of a resolved config.
      encoder: encodes their prompts.
      **arrays: further fields of the request.
    """
    # Pad images that have fewer prompts than others with null conditions of scale 0.
    count = max(len(drawing.parts) for drawing in drawings)
    scales = np.zeros((len(drawings), count), np.float32)
    columns = [[None] * len(drawings) for _ in range(count)]
    for row, drawing in enumerate(drawings):
        for column, part in enumerate(drawing.parts):
            columns[column][row] = part
            scales[row, column] = drawing.guidance_scale * part.weight
    guide_prompt = None
    if encoder.model.generator.has_guide:
        guide_prompt = encoder.encode(columns[0], for_guide=True)
    return Request(
        prompts=[encoder.encode(column) for column in columns],
        scales=scales,
        seeds=np.array([drawing.seed for drawing in drawings], np.int64),
        negative=encoder.encode([drawing.negative for drawing in drawings]),
        guide_prompt=guide_prompt,
        settings=settings,
        **arrays,
    )
