"""Draws images from a model, in batches that are spread over the replicas."""

import functools

import keras
import numpy as np
from keras import tree

from t2i_tpu.config import SampleConfig
from t2i_tpu.diffusion.samplers import SAMPLERS
from t2i_tpu.diffusion.samplers.table import Table
from t2i_tpu.diffusion.schedules import LEVELS
from t2i_tpu.engines.engine import Engine
from t2i_tpu.errors import UserError
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.sample.generate import Plan, draw_noise, generate, make_plan
from t2i_tpu.sample.request import Encoded, Request
from t2i_tpu.step.state import Variables

_MAX_PROGRAMS = 32


class Generator:
    """Draws images with a model.

    A program is compiled when it is first needed. Its inputs are guidance scales, prompts, seeds, images,
    and the sampler's coefficients and noise levels. A change of a value in `Plan`, such as which network
    calls are guided, needs another program.

    Attributes:
      denoiser: the model.
      weights: its weights, by path.
      sample: the settings, a resolved `SampleConfig`.
      batch_size: the maximum number of images that are drawn at once, over all replicas.
    """

    def __init__(
        self,
        engine: Engine,
        denoiser: Denoiser,
        weights: Variables,
        sample: SampleConfig,
        jit_compile: bool,
        per_replica_batch_size: int = 8,
        guide: tuple[Denoiser, Variables] | None = None,
    ):
        """Create a generator. Nothing is compiled yet.

        Args:
          engine: computes the images.
          denoiser: the model.
          weights: the variables, by path, whose values replace those of the model.
          sample: the `sample` group of a resolved config.
          jit_compile: whether XLA compiles the sampler.
          per_replica_batch_size: the maximum number of images that each replica draws at once.
          guide: a weaker model and its weights, for autoguidance, or None.
        """
        self.denoiser, self.weights, self.sample = denoiser, weights, sample
        self.batch_size = per_replica_batch_size * engine.num_replicas
        self._engine, self._jit_compile = engine, jit_compile
        self._pairs = [(variable, weights[variable.path]) for variable in denoiser.variables]
        self._denoise = engine.trace_once(denoiser.denoise_encoded, jit_compile)
        self._guide, self._encode_for_guide = None, None
        if guide:
            model, values = guide
            pairs = [(variable, values[variable.path]) for variable in model.variables]
            self._pairs = self._pairs + pairs
            self._guide = engine.trace_once(model.denoise_encoded, jit_compile)
            self._encode_for_guide = self._compile_encoder(model)
        self._encode = self._compile_encoder(denoiser)
        self._programs = {}

    @property
    def has_guide(self) -> bool:
        """Whether a weaker model guides the model."""
        return self._guide is not None

    def draw(
        self, conditions: dict[str, np.ndarray], seeds: np.ndarray, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Draw one image for each condition, with the guidance scale of the settings.

        Args:
          conditions: a batch of N conditions.
          seeds: integer [N], the seed of each image.
          noise: float32 [N, H, W, C], the noise to start from, or None for the noise of the seeds.

        Returns:
          uint8 [N, H, W, C].

        Raises:
          UserError: the model draws infinite or NaN values.
        """
        seeds = np.asarray(seeds, np.int64)
        scales = np.full((len(seeds), 1), self.sample.guidance_scale, np.float32)
        guide_prompt = self.encode(conditions, for_guide=True) if self.has_guide else None
        request = Request(
            [self.encode(conditions)], scales, seeds, guide_prompt=guide_prompt, start=noise
        )
        return self.run(request)[0]

    def encode(self, conditions: dict[str, np.ndarray], for_guide: bool = False) -> Encoded:
        """Encode a batch of conditions with the model or with its guide."""
        count = len(next(iter(conditions.values())))
        encode = self._encode_for_guide if for_guide else self._encode
        batches = []
        for start in range(0, count, self.batch_size):
            batch = {
                name: values[start : start + self.batch_size] for name, values in conditions.items()
            }
            batches.append(encode((self._fill(batch),)))
        return {
            name: np.concatenate([batch[name] for batch in batches])[:count] for name in batches[0]
        }

    def run(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """Draw the images of a request.

        Returns:
          The images, uint8 [N, H, W, C], and the states in which the sampler's last step leaves the
          noisy images, float32 [N, H, W, C].

        Raises:
          UserError: the model draws infinite or NaN values.
        """
        request = self._replace_unconditional(request)
        settings = request.settings or self.sample
        table = request.table or self.make_table(settings)
        plan = make_plan(table, settings, request.is_guided, len(request.prompts))
        program = self._get_program(plan)
        images, ends = [], []
        for start in range(0, len(request), self.batch_size):
            rows = slice(start, start + self.batch_size)
            count = len(request.seeds[rows])
            drawn = program(self._fill(self._make_inputs(request, rows, plan)), table.as_arrays())
            images.append(to_uint8(drawn["images"][:count]))
            ends.append(drawn["ends"][:count])
        return np.concatenate(images), np.concatenate(ends)

    def make_table(self, settings: SampleConfig) -> Table:
        """Return the table of the sampler and the noise levels that the settings name."""
        return SAMPLERS[settings.sampler](self.make_levels(settings), self.denoiser.diffusion_path)

    def make_levels(self, settings: SampleConfig) -> np.ndarray:
        """Return the noise levels of the schedule that the settings name, float64."""
        path = self.denoiser.diffusion_path
        return LEVELS[settings.levels](settings.steps, path, settings.shift)

    def initial_noise(self, seeds: np.ndarray) -> np.ndarray:
        """Return the initial noise for integer seeds [N], float32 [N, H, W, C]."""
        return np.asarray(draw_noise(np.asarray(seeds), self.denoiser.image_shape))

    def _compile_encoder(self, denoiser):
        def encode(inputs, _):
            return denoiser.encode(*inputs)

        return self._engine.compile_inference(encode, self._pairs, self._jit_compile)

    def _get_program(self, plan: Plan):
        """Return the compiled program of a plan."""
        if plan not in self._programs:
            if len(self._programs) >= _MAX_PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            function = functools.partial(generate, self._denoise, self._guide, plan=plan)
            self._programs[plan] = self._engine.compile_inference(
                function, self._pairs, self._jit_compile
            )
        return self._programs[plan]

    @functools.cached_property
    def _null(self) -> Encoded:
        """The encoded null condition, with one row."""
        return self.encode(self.denoiser.condition_spec.null(1))

    def get_program(self):
        """Return the compiled program that draws images with the settings."""
        return self._get_program(self._make_default_plan())

    def make_example_inputs(self, batch_size: int) -> tuple[dict, dict]:
        """Return inputs of `get_program` of the right shapes and types, for tracing."""
        null = self.denoiser.condition_spec.null(1)
        symbols = {
            name: keras.Input(batch_shape=values.shape, dtype=str(values.dtype))
            for name, values in null.items()
        }
        encoded = {
            name: np.zeros((batch_size, *field.shape[1:]), field.dtype)
            for name, field in self.denoiser.encode(symbols).items()
        }
        scales = np.full((batch_size, 1), self.sample.guidance_scale, np.float32)
        start = np.zeros((batch_size, *self.denoiser.image_shape), np.float32)
        seeds = np.zeros(batch_size, np.int64)
        request = Request([encoded], scales, seeds, negative=encoded, start=start)
        inputs = self._make_inputs(request, slice(None), self._make_default_plan())
        return inputs, self.make_table(self.sample).as_arrays()

    def _make_default_plan(self) -> Plan:
        is_guided = self.sample.guidance_scale not in (0, 1)
        return make_plan(self.make_table(self.sample), self.sample, is_guided)

    def _replace_unconditional(self, request: Request) -> Request:
        """Replace a scale of 0 by the negative condition with a scale of 1, which is less work."""
        rows = np.sum(request.scales, axis=1) == 0
        if not rows.any() or self.has_guide:
            return request
        negative = self._get_negative(request)
        prompts = [dict(prompt) for prompt in request.prompts]
        for name, values in prompts[0].items():
            prompts[0][name] = np.where(expand(rows, values), negative[name], values)
        scales = request.scales.copy()
        scales[rows, 0] = 1.0
        return request.replace(prompts=prompts, scales=scales)

    def _get_negative(self, request: Request) -> Encoded:
        """Return the condition that guidance steers away from, with one row per image."""
        if request.negative is not None:
            return request.negative
        count = len(request)
        return {
            name: np.broadcast_to(values, (count, *values.shape[1:]))
            for name, values in self._null.items()
        }

    def _make_inputs(self, request: Request, rows: slice, plan: Plan) -> dict:
        """Return the inputs of `generate` for the given rows of a request."""
        seeds = request.seeds[rows]
        conditions = list(request.prompts)
        if plan.is_guided and not self.has_guide:
            conditions.append(self._get_negative(request))
        inputs = {
            "start": self.initial_noise(seeds) if request.start is None else request.start[rows],
            "seeds": seeds,
            "conditions": {
                name: np.stack([condition[name][rows] for condition in conditions], axis=1)
                for name in conditions[0]
            },
            "scales": request.scales[rows],
        }
        if self.has_guide:
            inputs["guide_condition"] = {
                name: values[rows][:, None] for name, values in request.guide_prompt.items()
            }
        count, (height, width, channels) = len(seeds), self.denoiser.image_shape
        if request.is_known is None:
            known = np.zeros((count, height, width, channels), np.float32)
            is_known = np.zeros((count, height, width, 1), np.float32)
        else:
            known, is_known = request.known[rows], request.is_known[rows]
        return inputs | {"known": known, "is_known": is_known}

    def _fill(self, batch):
        """Repeat the rows of a batch until it has a size that the program takes."""
        count, replicas = len(tree.flatten(batch)[0]), self._engine.num_replicas
        size = self.batch_size
        if not self._engine.compiles_per_batch_size(self._jit_compile):
            size = -(-count // replicas) * replicas
        return tree.map_structure(
            lambda values: np.resize(values, (size, *values.shape[1:])), batch
        )


def expand(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return rows, [N], with as many dimensions as `values` has."""
    return rows.reshape(-1, *[1] * (values.ndim - 1))


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Convert images in [-1, 1], float32, to uint8 in [0, 255].

    Raises:
      UserError: a value is infinite or NaN.
    """
    if not np.isfinite(images).all():
        raise UserError(
            "the model draws infinite or NaN values; use an earlier checkpoint, with a finite loss, or "
            "train again with a lower config.train.learning_rate"
        )
    return np.round((np.clip(images, -1.0, 1.0) + 1.0) * np.float32(127.5)).astype(np.uint8)
