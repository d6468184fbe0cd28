"""Generates images from encoded conditions and noise by running a sampler with guidance."""

import dataclasses
import itertools
from collections.abc import Callable

from keras import ops, tree

from t2i_tpu.config import SampleConfig
from t2i_tpu.diffusion import guidance
from t2i_tpu.diffusion.samplers.table import Table, solve
from t2i_tpu.random import Purpose, make_keys, normal


@dataclasses.dataclass(frozen=True)
class Plan:
    """The values that a compiled program of `generate` depends on, in addition to the batch size.

    Attributes:
      num_prompts: the number of prompts per image.
      segments: groups of consecutive calls of the network. Each is a pair of the number of the call after
        its last one and whether its calls are guided. Calls that are not guided do not compute the base.
      adds_noise: whether the sampler adds noise.
      guidance_rescale, threshold_percentile: see `SampleConfig`.
    """

    num_prompts: int
    segments: tuple[tuple[int, bool], ...]
    adds_noise: bool
    guidance_rescale: float
    threshold_percentile: float

    @property
    def is_guided(self) -> bool:
        """Whether any call is guided."""
        return any(is_guided for _, is_guided in self.segments)


def make_plan(table: Table, sample: SampleConfig, is_guided: bool, num_prompts: int = 1) -> Plan:
    """Return the plan for a sampler's table.

    Args:
      table: the sampler's coefficients.
      sample: the `sample` group of a resolved config.
      is_guided: whether any image has a guidance scale that differs from 1.
      num_prompts: the number of prompts per image.
    """
    low, high = sample.guidance_interval
    flags = [is_guided and bool(low <= level <= high) for level in table.levels]
    segments, end = [], 0
    for flag, calls in itertools.groupby(flags):
        end += len(list(calls))
        segments.append((end, flag))
    return Plan(
        num_prompts,
        tuple(segments),
        bool(table.noise.any()),
        sample.guidance_rescale,
        sample.threshold_percentile,
    )


def generate(denoise: Callable, guide: Callable | None, inputs: dict, table: dict, plan: Plan):
    """Draw one image per row of the inputs. The caller compiles this function as one graph.

    Args:
      denoise: `Denoiser.denoise_encoded` of the trained model.
      guide: the same method of the model whose estimate is the base of the guidance, or None for the
        trained model with the negative condition.
      inputs: a dict of
        start: float32 [B, H, W, C], the noisy images to start from;
        seeds: integer [B], the seeds of the noise that a stochastic sampler adds;
        conditions: encoded conditions (`Denoiser.encode`) [B, K, ...] of K prompts per image. With
          guidance and without a guide, the negative condition follows as the last one;
        guide_condition: the condition as the guide encodes it, [B, 1, ...], if there is a guide;
        scales: float32 [B, K], the guidance scale of each prompt;
        known: float32 [B, H, W, C] in [-1, 1], the pixels that the image must have;
        is_known: float32 [B, H, W, 1], 1 where the image must have them and 0 elsewhere.
      table: the columns of the sampler's `Table`, float32.
      plan: see `make_plan`.

    Returns:
      A dict of float32 [B, H, W, C]: "images" in [-1, 1], and "ends", the state in which the sampler's
      last step leaves the noisy images.
    """
    scales = inputs["scales"]
    prompts = tree.map_structure(lambda values: values[:, : plan.num_prompts], inputs["conditions"])

    def estimate_guided(x, level):
        if guide is None:
            estimates = _estimate(denoise, x, level, inputs["conditions"])
        else:
            base = _estimate(guide, x, level, inputs["guide_condition"])
            estimates = ops.concatenate([_estimate(denoise, x, level, prompts), base], axis=1)
        guided = guidance.combine(estimates, scales)
        if not plan.guidance_rescale:
            return guided
        conditional = guidance.mix(estimates[:, : plan.num_prompts], guidance.normalize(scales))
        return guidance.rescale(guided, conditional, plan.guidance_rescale)

    def estimate_plain(x, level):
        return guidance.mix(_estimate(denoise, x, level, prompts), guidance.normalize(scales))

    def finish(estimate):
        def estimate_image(x, level):
            estimated = guidance.threshold(estimate(x, level), plan.threshold_percentile)
            # The known pixels are constant, which keeps these pixels of the noisy image on their path.
            return ops.where(inputs["is_known"] > 0, inputs["known"], estimated)

        return estimate_image

    def draw(number):
        keys = make_keys(0, Purpose.SAMPLER_NOISE, number, inputs["seeds"])
        return normal(keys, inputs["start"].shape[1:])

    x, start = inputs["start"], 0
    history = (ops.zeros_like(x),) * 3
    for end, is_guided in plan.segments:
        estimate = finish(estimate_guided if is_guided else estimate_plain)
        x, history = solve(
            estimate, x, history, table, draw if plan.adds_noise else None, start, end
        )
        start = end
    return {"images": ops.clip(history[0], -1.0, 1.0), "ends": x}


def _estimate(denoise, x, level, conditions):
    """Return the denoised estimates for J conditions per image, float32 [B, J, H, W, C].

    They are computed in one batch, in which the rows of an image are neighbors. A batch that is split
    over devices therefore stays split in the same way.
    """
    count = conditions["vector"].shape[1]
    batch = ops.repeat(x, count, axis=0)
    flat = tree.map_structure(
        lambda values: ops.reshape(values, (-1, *values.shape[2:])), conditions
    )
    levels = ops.broadcast_to(level, ops.shape(batch)[:1])
    return ops.reshape(denoise(batch, levels, flat), (-1, count, *x.shape[1:]))


def draw_noise(seeds, shape: tuple[int, ...]):
    """Return the initial noise for integer seeds [B], float32 [B, *shape].

    A seed's noise does not depend on the rest of the batch.
    """
    return normal(make_keys(0, Purpose.SAMPLE, 0, seeds), shape)
