"""Interpolates between prompts and between seeds."""

from collections.abc import Sequence

import numpy as np

from t2i_tpu.api import drawing_records
from t2i_tpu.api.prompts import Drawing, Prompt, PromptEncoder
from t2i_tpu.api.requests import Parsed, check_count, check_seed, make_request, parse_drawings
from t2i_tpu.config import SampleConfig
from t2i_tpu.diffusion.interpolation import METHODS
from t2i_tpu.diffusion.interpolation import interpolate as interpolate_points
from t2i_tpu.errors import UserError
from t2i_tpu.options import check_choice
from t2i_tpu.sample.images import Images
from t2i_tpu.sample.request import Encoded
from t2i_tpu.sample.trained import TrainedModel


def interpolate(
    model: TrainedModel,
    encoder: PromptEncoder,
    prompts: Sequence[Prompt],
    frames: int,
    seed: int | Sequence[int],
    method: str,
    negative_prompt: Prompt,
    settings: SampleConfig,
) -> Images:
    """Draw the frames between key points; see `Model.interpolate`."""
    # Find the key points.
    check_choice("method", method, tuple(METHODS))
    frames = check_count("frames", frames, at_least=2)
    key_points = _find_key_points(prompts, seed, negative_prompt)
    parsed = parse_drawings(key_points, settings, encoder)
    if any(len(drawing.parts) > 1 or drawing.parts[0].weight != 1 for drawing in parsed):
        raise UserError("a key point must be one prompt without a weight")
    # Interpolate between their conditions and between their noise.
    guides = (False, True) if model.generator.has_guide else (False,)
    paths = [_interpolate_conditions(encoder, parsed, frames, method, guide) for guide in guides]
    noise = model.generator.initial_noise(np.array([drawing.seed for drawing in parsed]))
    noise = interpolate_points(noise, frames, method)
    # Draw the frames. A sampler that adds noise uses the first key point's seed.
    rows = [parsed[0]] * len(noise)
    request = make_request(rows, settings, encoder, start=noise)
    fields = {"prompts": [paths[0]], "guide_prompt": paths[1] if len(paths) > 1 else None}
    images, _ = model.generator.run(request.replace(**fields))
    records = _make_records(parsed, frames, method, settings, model)
    return Images(images, records, is_animation=True)


def _find_key_points(prompts, seed, negative_prompt) -> list[Drawing]:
    """Return the drawings of the key points. Each has a prompt and a seed."""
    seeds = [seed] if np.ndim(seed) == 0 else list(seed)
    seeds = [
        check_seed(value.item() if isinstance(value, np.generic) else value) for value in seeds
    ]
    count = max(len(prompts), len(seeds))
    if count < 2 or not prompts:
        raise UserError(
            'interpolation needs two key points, such as two prompts ("an apple", "a pizza"), or a prompt '
            "and two seeds (seed=[0, 1])"
        )
    for name, values in (("prompts", prompts), ("seeds", seeds)):
        if len(values) not in (1, count):
            raise UserError(
                f"there are {len(values)} {name} for {count} key points; give {count} of them, or only one"
            )
    prompts = list(prompts) * (count // len(prompts))
    seeds = seeds * (count // len(seeds))
    return [Drawing(*pair, negative_prompt) for pair in zip(prompts, seeds, strict=True)]


def _interpolate_conditions(
    encoder: PromptEncoder, parsed: Sequence[Parsed], frames: int, method: str, for_guide: bool
) -> Encoded:
    """Return the encoded condition of each frame.

    Embeddings are interpolated before they are encoded. For other kinds of conditions, the encoded conditions
    are interpolated, because classes and tokens cannot be, and the states of tokens are normalized.
    """
    generator, parts = encoder.model.generator, [drawing.parts[0] for drawing in parsed]
    if set(generator.denoiser.condition_spec.fields) == {"embedding"}:
        raw = encoder.make_raw(parts)
        raw = {name: interpolate_points(values, frames, method) for name, values in raw.items()}
        return generator.encode(raw, for_guide)
    encoded = encoder.encode(parts, for_guide)
    path = {"vector": interpolate_points(encoded["vector"], frames, method)}
    if "sequence" in encoded:
        # Some tokens are in only one of two prompts and fade in or out, so attend to the tokens of both.
        present = encoded["attend_to"].astype(np.float32)
        states = encoded["sequence"] * present[..., None]
        path["sequence"] = interpolate_points(states, frames, "linear")
        path["attend_to"] = interpolate_points(present, frames, "linear") > 0
    return path


def _make_records(parsed, frames: int, method: str, settings, model) -> list[dict]:
    """Return a record for each frame, with the key points and the number of the frame."""
    key_points = drawing_records.make_records(drawing_records.INTERPOLATE, parsed, settings, model)
    points = [[record["prompt"], record["seed"]] for record in key_points]
    count = (len(parsed) - 1) * (frames - 1) + 1
    common = {"key_points": points, "frames": frames, "method": method}
    return [
        {**key_points[min(index // (frames - 1), len(parsed) - 1)], **common, "frame": index}
        for index in range(count)
    ]
