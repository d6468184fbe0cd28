"""Requests, which describe what a generator draws, with one row per image."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t2i_tpu.config import SampleConfig
from t2i_tpu.diffusion.samplers.table import Table

# A batch of conditions that `Generator.encode` has encoded, by field.
Encoded = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Request:
    """Describes N images to draw.

    Attributes:
      prompts: the encoded conditions of each of K prompts, for N images each.
      scales: float32 [N, K], the guidance scale of each prompt.
      seeds: int64 [N], the seeds of the initial noise and of the noise that a sampler adds.
      negative: the encoded condition that guidance steers away from, or None for the null condition.
      guide_prompt: the condition of the only prompt as the guide encodes it, if there is a guide.
      start: float32 [N, H, W, C], the noisy images to start from, or None for the noise of the seeds.
      known: float32 [N, H, W, C] in [-1, 1], the pixels that the images must have.
      is_known: float32 [N, H, W, 1], 1 where the images must have them and 0 elsewhere. None means that no
        pixels are known.
      settings: the `sample` group of a resolved config, or None for the generator's settings. Its
        guidance scale is not used.
      table: the sampler's coefficients, or None for those of the settings.
    """

    prompts: Sequence[Encoded]
    scales: np.ndarray
    seeds: np.ndarray
    negative: Encoded | None = None
    guide_prompt: Encoded | None = None
    start: np.ndarray | None = None
    known: np.ndarray | None = None
    is_known: np.ndarray | None = None
    settings: SampleConfig | None = None
    table: Table | None = None

    def __len__(self) -> int:
        return len(self.seeds)

    def replace(self, **fields) -> "Request":
        """Return a request with other values of some fields."""
        return dataclasses.replace(self, **fields)

    @property
    def is_guided(self) -> bool:
        """Whether the base of the guidance affects an image."""
        return bool(np.any(np.sum(self.scales, axis=1) != 1))
