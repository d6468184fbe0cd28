"""A trained model out of its workdir, ready to draw: prompts and labels -> images."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t2i_tpu import config as config_lib
from t2i_tpu.config import Config
from t2i_tpu.data import text_tower
from t2i_tpu.data.schema import EmbeddingContract, Manifest, SequenceContract
from t2i_tpu.errors import UserError
from t2i_tpu.run import strategy as strategy_lib
from t2i_tpu.run import workdir as workdir_lib
from t2i_tpu.run.checkpoint import restore_weights
from t2i_tpu.sample.generator import Generator
from t2i_tpu.text import TextEncoder
from t2i_tpu.train.state import make_denoiser, set_policy


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A run's newest checkpoint.

    Attributes:
      workdir: of the run, local or gs://.
      config: resolved, as trained, with what the caller changed about sampling.
      manifest: of the data set that it was trained on.
      step: of the checkpoint.
      generator: draws with the run's first average, or its weights where it has none.
    """

    workdir: str
    config: Config
    manifest: Manifest
    step: int
    generator: Generator

    def conditions(self, prompts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """Raw conditions [N, ...] of prompts or of labels (names or numbers), whichever it takes.

        Raises:
          UserError: the model takes the other; a prompt is too long; a label is unknown; the
            encoder is not the one that made the data set's embeddings.
        """
        if self.config.model.conditioning == "label":
            if prompts:
                raise UserError(
                    f"this model was trained on labels; use --label, one of {self._labels()}"
                )
            return np.array([self._label(label) for label in labels], np.int32)
        if labels:
            raise UserError("this model was trained on prompts; use --prompt")
        if self.config.model.conditioning == "tokens":
            return self._tokens(prompts)
        contract = self.manifest.embedding
        encoder = text_tower.open_encoder(contract, self.manifest, self.workdir)
        _check_encoder(encoder, contract)
        if self.config.model.conditioning == "sequence":
            return _with_states(encoder, self.manifest.sequence, prompts)
        return encoder.encode(prompts)

    def _tokens(self, prompts: Sequence[str]) -> np.ndarray:
        contract = self.manifest.tokens
        encoder = text_tower.open_encoder(contract, self.manifest, self.workdir)
        promised = (contract.vocab_size, contract.context_length, contract.tokenizer_sha256)
        sha256 = encoder.tokenizer_sha256 if contract.tokenizer_sha256 else ""
        if (encoder.vocab_size, encoder.context_length, sha256) != promised:
            raise UserError(
                f"encoder {contract.encoder!r} makes other tokens here than those of the data set; "
                "install the version of it that the data set was prepared with"
            )
        ids = np.zeros((len(prompts), contract.context_length), np.int32)
        for row, tokens in zip(ids, encoder.tokenize(prompts), strict=True):
            row[: len(tokens)] = tokens
        return ids

    def _label(self, label: str) -> int:
        """Counted from 1."""
        names = list(self.manifest.label_names)
        if label in names:
            return names.index(label) + 1
        if label.isdecimal() and int(label) < len(names):
            return int(label) + 1
        raise UserError(f"--label={label}: it must be one of {self._labels()}")

    def _labels(self) -> str:
        return ", ".join(self.manifest.label_names)


def _check_encoder(encoder: TextEncoder, contract: EmbeddingContract) -> None:
    """Raises UserError where prompts would be embedded otherwise than the data set's captions."""
    if contract.weights_sha256 and encoder.weights_sha256 != contract.weights_sha256:
        raise UserError(
            f"encoder {contract.encoder!r} has other weights here than those that made the data set's "
            "embeddings; install the version of them that it was prepared with"
        )
    if encoder.dim != contract.dim:
        raise UserError(
            f"encoder {contract.encoder!r} makes embeddings of {encoder.dim} numbers, the data set's "
            f"have {contract.dim}; it was prepared with another encoder than it says"
        )
    if not contract.normalized:
        raise UserError(
            f"the data set's embeddings are not of length 1, those of encoder {contract.encoder!r} "
            "are; prepare it again with --encoder=" + contract.encoder
        )


def _with_states(
    encoder: TextEncoder, contract: SequenceContract, prompts: Sequence[str]
) -> np.ndarray:
    """Embeddings and states as the reader lays them end to end, float32 [N, dim + T * width]."""
    promised = (contract.weights_sha256, contract.width, contract.context_length)
    if (encoder.weights_sha256, encoder.sequence_width, encoder.context_length) != promised:
        raise UserError(
            f"encoder {contract.encoder!r} gives other states here than those of the data set; "
            "install the version of it that the data set was prepared with"
        )
    embeddings, sequences = encoder.encode_sequences(prompts)
    states = np.zeros((len(prompts), contract.context_length, contract.width), np.float32)
    for row, sequence in zip(states, sequences, strict=True):
        row[: len(sequence)] = sequence
    return np.concatenate([embeddings, states.reshape(len(states), -1)], axis=1)


def load_trained(workdir: str, strategy_name: str = "auto", **sample) -> TrainedModel:
    """Opens a workdir (local or gs://) for sampling; `sample` replaces fields of config.sample that
    are not None.

    Raises:
      UserError: there is no run or no checkpoint there, or a value is not allowed.
    """
    config, manifest = workdir_lib.read(workdir)
    for name, value in sample.items():
        if value is not None:
            setattr(config.sample, name, value)
    config = config_lib.resolve(config)
    strategy = strategy_lib.make_strategy(strategy_name)
    set_policy(strategy_lib.choose_dtype_policy(config.train, strategy))
    with strategy.scope():
        denoiser = make_denoiser(config, manifest)
    step = restore_weights(workdir, denoiser, "average0" if config.train.ema_stds else "weights")
    xla = strategy_lib.should_use_xla(config.train, strategy)
    generator = Generator(strategy, denoiser, config.sample, jit_compile=xla)
    return TrainedModel(workdir, config, manifest, step, generator)
