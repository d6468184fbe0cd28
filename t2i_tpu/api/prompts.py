"""Parses prompts, which say what an image should show, and encodes them as conditions."""

import dataclasses
import functools
import hashlib
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from t2i_tpu.api.image_conditions import make_image_conditions
from t2i_tpu.errors import UserError
from t2i_tpu.sample.inputs import read_image
from t2i_tpu.sample.request import Encoded
from t2i_tpu.sample.trained import TrainedModel

# A string; the name or number of a class; an image, to draw similar images; or pairs of one of these and a
# weight.
Prompt = str | int | Image.Image | np.ndarray | Sequence[tuple]
Picture = str | Image.Image | np.ndarray  # a path, local, ~ or gs://; a PIL picture; or an array

IMAGE = "an image, SHA-256 "  # the prefix of the description of an image
_MAX_CACHED = 1024


class Drawing(NamedTuple):
    """An image to draw.

    Attributes:
      prompt: what the image should show.
      seed: its seed.
      negative_prompt: what guidance should steer away from, or "" for nothing in particular.
      guidance_scale: the strength of guidance, or None for the value in the settings.
    """

    prompt: Prompt
    seed: int = 0
    negative_prompt: Prompt | None = ""
    guidance_scale: float | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a prompt.

    Attributes:
      content: a string, the name or number of a class as a string, or an image as uint8 [H, W, C].
      weight: a factor above 0 that multiplies the guidance scale of the part.
    """

    content: Any
    weight: float = 1.0

    @property
    def is_image(self) -> bool:
        """Whether the content is an image."""
        return isinstance(self.content, np.ndarray)


def list_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Return a prompt or a list of prompts as a list."""
    if isinstance(prompts, list | tuple):
        if not prompts:
            raise UserError("there are no prompts; give at least one")
        is_pair = isinstance(prompts[0], tuple)
        return [prompts] if is_pair else list(prompts)
    return [prompts]


def parse_prompt(prompt, model: TrainedModel) -> list[Part]:
    """Return the parts of a prompt.

    Args:
      prompt: a string; the name or number of a class, if the model was trained on classes; an image (a
        PIL picture or an array), to draw similar images; or a sequence of pairs of one of these and a
        weight, to combine them.
      model: the model that draws the prompt.

    Raises:
      UserError: the prompt is empty or has another type.
    """
    if isinstance(prompt, list | tuple):
        if not prompt:
            raise UserError(
                "a prompt is an empty list; give at least one pair of a string and a weight"
            )
        return [_parse_pair(pair, model) for pair in prompt]
    return [Part(_parse_content(prompt, model))]


def _parse_pair(pair, model: TrainedModel) -> Part:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not _is_number(pair[1]):
        raise UserError(
            f'{pair!r} in a prompt must be a pair of a string and a weight, as in [("a cat", 1.0), '
            '("a hat", 0.5)]'
        )
    content, weight = pair
    if not 0 < weight < math.inf:
        raise UserError(
            f"the weight {weight} of {content!r} must be above 0; to steer away from something, give it "
            "as the negative prompt"
        )
    return Part(_parse_content(content, model), float(weight))


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _parse_content(content, model: TrainedModel):
    if isinstance(content, str):
        if not content.strip():
            raise UserError(
                "a prompt is empty; say what to draw, or set guidance_scale=0 to draw without a prompt"
            )
        return content
    if isinstance(content, numbers.Integral):
        return str(int(content))
    if isinstance(content, Image.Image | np.ndarray):
        return read_image(content, model.config.data.image_size, model.manifest.channels)
    raise UserError(
        f"a prompt is a {type(content).__name__}; it must be a string, the name or number of a class, or an "
        "image"
    )


def describe_prompt(parts: Sequence[Part]) -> str | list[list]:
    """Return a prompt in a form that JSON can represent: a string, or pairs of a string and a weight."""
    contents = [
        IMAGE + hashlib.sha256(part.content.tobytes()).hexdigest()[:8]
        if part.is_image
        else part.content
        for part in parts
    ]
    if len(parts) == 1 and parts[0].weight == 1:
        return contents[0]
    return [[content, part.weight] for content, part in zip(contents, parts, strict=True)]


class PromptEncoder:
    """Encodes the parts of prompts, and caches the encoded conditions."""

    def __init__(self, model: TrainedModel):
        self.model, self._cache = model, {}

    def encode(self, parts: Sequence[Part | None], for_guide: bool = False) -> Encoded:
        """Return the encoded conditions of N parts, with N rows. None means the null condition.

        Raises:
          UserError: a text is too long, a class is unknown, or the model takes no images or no texts.
        """
        wanted = {self._get_key(part, for_guide): part for part in parts}
        missing = wanted.keys() - self._cache.keys()
        if missing and len(self._cache) + len(missing) > _MAX_CACHED:
            self._cache.clear()
            missing = wanted.keys()
        if missing:
            new = {key: part for key, part in wanted.items() if key in missing}
            encoded = self.model.generator.encode(self.make_raw(list(new.values())), for_guide)
            for row, key in enumerate(new):
                self._cache[key] = {name: values[row] for name, values in encoded.items()}
        rows = [self._cache[self._get_key(part, for_guide)] for part in parts]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def make_raw(self, parts: Sequence[Part | None]) -> dict[str, np.ndarray]:
        """Return the conditions of N parts in the form that the model's conditioner takes, with N rows."""
        raw = self.model.generator.denoiser.condition_spec.null(len(parts))
        texts = [row for row, part in enumerate(parts) if part and not part.is_image]
        images = [row for row, part in enumerate(parts) if part and part.is_image]
        for rows, make in (
            (texts, self.model.make_conditions),
            (images, functools.partial(make_image_conditions, self.model)),
        ):
            conditions = make([parts[row].content for row in rows]) if rows else {}
            for name, values in conditions.items():
                raw[name][rows] = values
        return raw

    def _get_key(self, part: Part | None, for_guide: bool):
        if part is None:
            return None, for_guide
        content = part.content
        return (content.tobytes() if part.is_image else content), for_guide
