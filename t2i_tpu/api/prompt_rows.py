"""Lists of images to draw, in order, with the names of their files. TensorFlow is not imported."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from t2i_tpu.config import MAX_SEED
from t2i_tpu.errors import UserError

if TYPE_CHECKING:
    from t2i_tpu.api.prompts import Drawing, Prompt

_WEIGHTED = re.compile(r"\s*(\S.*?)\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?=\s|$)")


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """The images of one prompt. Their seeds are `seed`, `seed` + 1, and so on.

    Attributes:
      prompt, seed, negative_prompt, guidance_scale: see `Drawing`.
      num_images: the number of images.
    """

    prompt: "Prompt"
    num_images: int = 1
    seed: int = 0
    negative_prompt: "Prompt" = ""
    guidance_scale: float | None = None

    def __post_init__(self):
        if self.seed + self.num_images - 1 > MAX_SEED:
            raise UserError(
                f"with num_images={self.num_images}, the last image's seed would be above {MAX_SEED}, the "
                "highest seed; use a lower seed"
            )


class DrawingList:
    """The images of rows, in order. The list takes no more memory than the rows."""

    def __init__(self, rows: Sequence[PromptRow]):
        self.rows = rows

    def __len__(self) -> int:
        return sum(row.num_images for row in self.rows)

    def __iter__(self) -> "Iterator[Drawing]":
        return (drawing for _, drawing in self.list_files(""))

    def list_files(self, ending: str) -> "Iterator[tuple[str, Drawing]]":
        """Yield the file name of each image, and the image to draw."""
        from t2i_tpu.api.prompts import Drawing
        from t2i_tpu.sample.image_folder import name_file

        for index, row in enumerate(self.rows):
            for seed in range(row.seed, row.seed + row.num_images):
                drawing = Drawing(row.prompt, seed, row.negative_prompt, row.guidance_scale)
                yield name_file(index, seed, ending), drawing

    def has_file(self, name: str, ending: str) -> bool:
        """Return whether `list_files` yields a name."""
        match = re.fullmatch(r"(\d{3,})_seed(\d+)" + re.escape(ending), name)
        if not match or int(match[1]) >= len(self.rows):
            return False
        row = self.rows[int(match[1])]
        return 0 <= int(match[2]) - row.seed < row.num_images


def check_text(text: str) -> str:
    """Return a prompt. Raises UserError if it is empty."""
    if not text.strip():
        raise UserError("it is empty; say what to draw")
    return text


def parse_weighted(text: str) -> list[tuple[str, float]]:
    """Return the pairs of a prompt and a weight in a string such as "a cat:1.0 a hat:0.5".

    Raises:
      UserError: a prompt has no weight, or its weight is not above 0.
    """
    pairs, position = [], 0
    while match := _WEIGHTED.match(text, position):
        pairs.append((match[1], float(match[2])))
        position = match.end()
    if rest := text[position:].strip():
        raise UserError(
            f"{rest!r} has no weight; write each prompt with its weight, as in 'a cat:1.0 a hat:0.5'"
        )
    if not pairs:
        raise UserError("it is empty; write prompts with weights, as in 'a cat:1.0 a hat:0.5'")
    for content, weight in pairs:
        if not 0 < weight < float("inf"):
            raise UserError(
                f"the weight of {content!r} must be above 0 and finite; to steer away from something, use the "
                "negative prompt"
            )
    return pairs
