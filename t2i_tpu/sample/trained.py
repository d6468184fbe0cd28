"""Loads a trained model from its workdir to draw images for prompts or labels."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data.conditions import Conditioning, get_conditioning
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.engines.choose import make_engine
from t2i_tpu.engines.engine import Engine
from t2i_tpu.errors import UserError
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.run import workdir as workdir_lib
from t2i_tpu.run.checkpoint import restore_weights
from t2i_tpu.sample.generator import Generator


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model restored from a checkpoint of a run.

    Attributes:
      workdir: the run's workdir, local or gs://.
      config: the run's resolved config, with the caller's changes to its `sample` group.
      manifest: the manifest of the data set that the model was trained on.
      step: the step of the checkpoint.
      weights_name: "weights", or "average0" for the first average of the weights that the run keeps.
      engine: the engine that computes with the model.
      jit_compile: whether XLA compiles the model.
      generator: draws images.
    """

    workdir: str
    config: Config
    manifest: Manifest
    step: int
    weights_name: str
    engine: Engine
    jit_compile: bool
    generator: Generator

    @property
    def conditioning(self) -> Conditioning:
        """The kind of condition that the model takes."""
        return get_conditioning(self.config.model.conditioning)

    def make_conditions(
        self, prompts: Sequence[str], labels: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Return the conditions of prompts or labels; see `Conditioning.from_prompts_or_labels`."""
        return self.conditioning.from_prompts_or_labels(
            prompts, labels, self.manifest, self.workdir
        )


def load_trained(
    workdir: str,
    strategy_name: str = "auto",
    step: int | None = None,
    average: str | None = None,
    per_replica_batch_size: int = 8,
    **sample_overrides,
) -> TrainedModel:
    """Load the model of a run from a checkpoint.

    Args:
      workdir: the run's workdir, local or gs://.
      strategy_name: one of `config.STRATEGIES`.
      step: the step of the checkpoint, or None for the newest one.
      average: the entry of config.train.ema_stds whose average of the weights is loaded, or "none" for
        the trained weights. None means the first average, or the trained weights if there is none.
      per_replica_batch_size: number of images that each replica draws at once.
      **sample_overrides: new values for fields of config.sample. None keeps the value of the run.

    Raises:
      UserError: there is no run or no such checkpoint, or a value is not allowed.
    """
    config, manifest = workdir_lib.read(workdir)
    for name, value in sample_overrides.items():
        if value is not None:
            setattr(config.sample, name, value)
    config = config_lib.resolve(config)
    weights_name = _find_weights(average, config.train.ema_stds)
    engine = make_engine(strategy_name)
    with engine.scope():
        spec = get_conditioning(config.model.conditioning).make_spec(manifest)
        policy = engine.choose_dtype_policy(config.train)
        denoiser = build_denoiser(config, manifest.channels, spec, policy)
    weights = {variable.path: variable for variable in denoiser.variables}
    step = restore_weights(engine, workdir, weights, weights_name, step)
    jit_compile = engine.should_use_xla(config.train)
    generator = Generator(
        engine, denoiser, weights, config.sample, jit_compile, per_replica_batch_size
    )
    return TrainedModel(
        workdir, config, manifest, step, weights_name, engine, jit_compile, generator
    )


def _find_weights(average: str | None, ema_stds: tuple[float, ...]) -> str:
    """Return the name of the weights that `average` refers to; see `load_trained`."""
    if average is None:
        return "average0" if ema_stds else "weights"
    if average == "none":
        return "weights"
    known = [f"{std:g}" for std in ema_stds]
    if average not in known:
        raise UserError(
            f"--average={average}: the run keeps {', '.join(known) or 'no averages'}; give one that it "
            "keeps, or none for the trained weights"
        )
    return f"average{known.index(average)}"
