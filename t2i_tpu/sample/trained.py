"""Loads a trained model from its workdir to draw images for prompts or labels."""

import copy
import dataclasses
import functools
import zlib
from collections.abc import Sequence

import numpy as np

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.config_checks import MAX_EMA_STD
from t2i_tpu.data.conditions import Conditioning, get_conditioning
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.engines.choose import make_engine
from t2i_tpu.engines.engine import Engine
from t2i_tpu.errors import UserError
from t2i_tpu.models.denoiser import Denoiser, build_denoiser
from t2i_tpu.run import workdir as workdir_lib
from t2i_tpu.run.checkpoint import restore_weights
from t2i_tpu.run.posthoc_ema import restore_average
from t2i_tpu.sample.generator import Generator
from t2i_tpu.step.state import Variables

# A weaker model for autoguidance: its workdir, and step and average as in `load_trained`.
Guide = tuple[str, int | None, str | None]


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model restored from a checkpoint of a run.

    Attributes:
      workdir: the run's workdir, local or gs://.
      config: the run's resolved config, with the caller's changes to its `sample` group.
      manifest: the manifest of the data set that the model was trained on.
      step: the step of the checkpoint.
      average: the relative width of the average of the weights, such as "0.05", or "none" for the trained
        weights.
      engine: the engine that computes with the model.
      jit_compile: whether XLA compiles the model.
      generator: draws images.
      guide: the weaker model that guides it, or None.
    """

    workdir: str
    config: Config
    manifest: Manifest
    step: int
    average: str
    engine: Engine
    jit_compile: bool
    generator: Generator
    guide: Guide | None = None

    @functools.cached_property
    def checksum(self) -> str:
        """The CRC-32 of the weights, in hex, which identifies them."""
        checksum, variables = 0, self.generator.weights
        for path in sorted(variables):
            checksum = zlib.crc32(self.engine.read(variables[path]), checksum)
        return f"{checksum:08x}"

    @property
    def conditioning(self) -> Conditioning:
        """The kind of condition that the model takes."""
        return get_conditioning(self.config.model.conditioning)

    def make_conditions(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the conditions of prompts or, if the model was trained on classes, of these.

        Args:
          prompts: texts, or the names or numbers of classes.

        Raises:
          UserError: see `Conditioning.from_prompts`.
        """
        return self.conditioning.from_prompts(prompts, self.manifest, self.workdir)


def load_trained(
    workdir: str,
    strategy_name: str = "auto",
    step: int | None = None,
    average: str | None = None,
    per_replica_batch_size: int = 8,
    guide: Guide | None = None,
    **settings,
) -> TrainedModel:
    """Load the model of a run from a checkpoint.

    Args:
      workdir: the run's workdir, local or gs://.
      strategy_name: one of `config.STRATEGIES`.
      step: the step of the checkpoint, or None for the newest one.
      average: the relative width of the average of the weights that is loaded, as text, or "none" for
        the trained weights. None means the first average that the run keeps, or the trained weights if
        it keeps none. A width that it does not keep is reconstructed (run/posthoc_ema.py).
      per_replica_batch_size: maximum number of images that each replica draws at once.
      guide: a weaker model that guides it, or None.
      **settings: new values for fields of config.sample. None keeps the value of the run.

    Raises:
      UserError: there is no run or no such checkpoint, or a value is not allowed.
    """
    config, manifest = workdir_lib.read(workdir)
    config = change_settings(config, settings)
    engine = make_engine(strategy_name)
    average = _check_average(average, config.train.ema_stds)
    denoiser, weights, step = _load_weights(engine, workdir, config, manifest, average, step)
    guide_weights = None
    if guide:
        guide, *guide_weights = _load_guide(engine, guide, denoiser, manifest)
    jit_compile = engine.should_use_xla(config.train)
    generator = Generator(
        engine,
        denoiser,
        weights,
        config.sample,
        jit_compile,
        per_replica_batch_size,
        guide_weights,
    )
    return TrainedModel(
        workdir, config, manifest, step, average, engine, jit_compile, generator, guide
    )


def change_settings(config: Config, settings: dict[str, object]) -> Config:
    """Return a resolved config with new values for fields of its `sample` group. None keeps a value.

    Raises:
      UserError: there is no such field, or a value is not allowed.
    """
    config = copy.deepcopy(config)
    for name, value in settings.items():
        if value is not None:
            # NumPy's numbers become Python's.
            setattr(config.sample, name, value.item() if isinstance(value, np.generic) else value)
    return config_lib.resolve(config)


def _load_weights(engine, workdir, config, manifest, average, step):
    """Return a model, its variables by path, and the step of its checkpoint."""
    with engine.scope():
        spec = get_conditioning(config.model.conditioning).make_spec(manifest)
        policy = engine.choose_dtype_policy(config.train)
        denoiser = build_denoiser(config, manifest.channels, spec, policy)
    weights = {variable.path: variable for variable in denoiser.variables}
    stds = config.train.ema_stds
    kept = {"none": "weights"} | {f"{std:g}": f"average{index}" for index, std in enumerate(stds)}
    if average in kept:
        step = restore_weights(engine, workdir, weights, kept[average], step)
    else:
        step = restore_average(engine, workdir, weights, stds, float(average), step)
    return denoiser, weights, step


def _load_guide(
    engine: Engine, guide: Guide, denoiser: Denoiser, guided_manifest: Manifest
) -> tuple[Guide, Denoiser, Variables]:
    """Return the guide with the step and the average that were loaded, its model and its variables.

    Raises:
      UserError: the guide cannot be loaded, or it does not fit the model.
    """
    workdir, step, average = guide
    config, manifest = workdir_lib.read(workdir)
    average = _check_average(average, config.train.ema_stds)
    model, weights, step = _load_weights(engine, workdir, config, manifest, average, step)
    for name, first, second in (
        *_compare(model, denoiser, ("image_shape", "diffusion_path", "condition_spec")),
        *_compare(manifest, guided_manifest, ("label_names", "embedding", "tokens", "sequence")),
    ):
        if first != second:
            raise UserError(
                f"the model in {workdir!r} cannot guide this one, because its {name} differs; use an "
                "earlier checkpoint or another average of the same run"
            )
    return (workdir, step, average), model, weights


def _compare(first, second, names: Sequence[str]) -> list[tuple]:
    """Return the name of each attribute and its values in two objects."""
    return [(name, getattr(first, name), getattr(second, name)) for name in names]


def _check_average(average: str | None, ema_stds: tuple[float, ...]) -> str:
    """Return "none" or the width of an average as text; see the argument of `load_trained`.

    Raises:
      UserError: the argument is neither, or the run keeps no averages.
    """
    if average is None:
        return f"{ema_stds[0]:g}" if ema_stds else "none"
    if average == "none":
        return average
    known = ", ".join(f"{std:g}" for std in ema_stds) or "no averages"
    try:
        std = float(average)
    except ValueError:
        std = 0.0
    if not (ema_stds and 0 < std < MAX_EMA_STD):
        raise UserError(
            f"average={average}: the run keeps {known}; give one that it keeps, another width between "
            f"0 and {MAX_EMA_STD} if it keeps two, or none for the trained weights"
        )
    return f"{std:g}"
