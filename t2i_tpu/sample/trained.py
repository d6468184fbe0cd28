"""Loads a trained model from its workdir to draw images for prompts or labels."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data.conditions import Conditioning, get_conditioning
from t2i_tpu.data.manifest import Manifest
from t2i_tpu.engines.choose import make_engine
from t2i_tpu.models.denoiser import build_denoiser
from t2i_tpu.run import workdir as workdir_lib
from t2i_tpu.run.checkpoint import restore_weights
from t2i_tpu.sample.generator import Generator


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model restored from the newest checkpoint of a run.

    Attributes:
      workdir: the run's workdir, local or gs://.
      config: the run's resolved config, with the caller's changes to its `sample` group.
      manifest: the manifest of the data set that the model was trained on.
      step: the step of the checkpoint.
      generator: draws with the run's first average of the weights, or with the weights themselves
        if the run keeps no average.
    """

    workdir: str
    config: Config
    manifest: Manifest
    step: int
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


def load_trained(workdir: str, strategy_name: str = "auto", **sample_overrides) -> TrainedModel:
    """Load the model of a run from its newest checkpoint.

    Args:
      workdir: the run's workdir, local or gs://.
      strategy_name: one of `config.STRATEGIES`.
      **sample_overrides: new values for fields of config.sample. None keeps the value of the run.

    Raises:
      UserError: there is no run or no checkpoint, or a value is not allowed.
    """
    config, manifest = workdir_lib.read(workdir)
    for name, value in sample_overrides.items():
        if value is not None:
            setattr(config.sample, name, value)
    config = config_lib.resolve(config)
    engine = make_engine(strategy_name)
    with engine.scope():
        spec = get_conditioning(config.model.conditioning).make_spec(manifest)
        policy = engine.choose_dtype_policy(config.train)
        denoiser = build_denoiser(config, manifest.channels, spec, policy)
    weights = {variable.path: variable for variable in denoiser.variables}
    step = restore_weights(
        engine, workdir, weights, "average0" if config.train.ema_stds else "weights"
    )
    jit_compile = engine.should_use_xla(config.train)
    generator = Generator(engine, denoiser, weights, config.sample, jit_compile)
    return TrainedModel(workdir, config, manifest, step, generator)
