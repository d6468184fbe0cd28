"""The typed configuration of an experiment.

A field of the method that is None takes its value from `recipe`: "modern", our default, or
"baseline", the method of the small Keras repository that this package descends from, exactly.
`resolve` fills them in and checks everything; the rest of the package sees only resolved configs.
"""

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass, field
from typing import Any

from t2i_tpu.errors import UserError
from t2i_tpu.recipes import RECIPES

# What --strategy takes; run/strategy.py makes them. Not of the experiment: a run may move.
STRATEGIES = ("auto", "cpu", "gpu", "multiworker", "tpu")


@dataclass
class DataConfig:
    source: str = (
        "embedded:emoji"  # embedded:NAME | shards:DIR (local or gs://) | idx:DIR | tfds:NAME
    )
    image_size: int = 32  # pixels; a whole fraction of the data set's
    horizontal_flip: bool | None = (
        None  # mirror half of the images (never where text or sides matter)
    )
    on_damage: str = "raise"  # raise | skip: a record whose checksum is wrong


@dataclass
class ModelConfig:
    conditioning: str = (
        "embedding"  # embedding | sequence (both precomputed) | label | tokens (trained with it)
    )
    blocks: str | None = None  # modern | baseline: the U-Net's building blocks
    widths: tuple[int, ...] | None = None  # channels of each resolution, finest first
    block_depth: int | None = None  # residual blocks per resolution
    attention_levels: tuple[bool, ...] | None = None  # which resolutions attend
    patch_size: int | None = None  # space-to-depth at the stem
    embedding_dim: int = 512  # width of the condition inside the network


@dataclass
class DiffusionConfig:
    path: str | None = None  # linear | cosine
    prediction_type: str | None = None  # denoised | noise | v | velocity
    noise_levels: str | None = None  # half_normal | uniform | logit_normal | shifted
    loss: str | None = None  # absolute | squared
    loss_weight: str | None = None  # uniform | min_snr | velocity
    cond_dropout_rate: float | None = None  # share of examples trained without their condition


@dataclass
class SampleConfig:
    sampler: str | None = None  # ddim | dpmpp_2m
    levels: str | None = None  # baseline | uniform | shifted: the noise levels a sampler visits
    steps: int | None = None
    guidance_scale: float | None = None  # 1 = off
    threshold_percentile: float | None = None  # dynamic thresholding; 0 = clip to [-1, 1]


@dataclass
class TrainConfig:
    total_steps: int = 10_000
    global_batch_size: int = 64
    steps_per_loop: int = 20  # steps on the device between two looks of the host
    log_every: int = 20
    preview_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 3  # the newest
    keep_every: int = 0  # and those of every so many steps; 0 = none
    keep_best: int = 0  # and so many of the lowest logged loss, which is noisy
    max_skipped: int = 25  # steps in a row with non-finite gradients that end a run
    learning_rate: float | None = None  # peak
    warmup_steps: int | None = None
    decay: str | None = None  # constant | cosine, to zero at total_steps
    weight_decay: float | None = None
    beta_2: float | None = None
    clip_norm: float | None = None  # global gradient norm; 0 = no clipping
    ema_stds: tuple[float, ...] | None = None  # widths of the power-function averages; () = none
    dtype_policy: str = "auto"  # auto | float32 | mixed_bfloat16 | mixed_float16
    jit_compile: str = "auto"  # auto | on | off: XLA for forward and backward


@dataclass
class PreviewConfig:
    captions: tuple[str, ...] = ()  # of the training split; () = its first ones
    num_train: int = 16
    num_heldout: int = 16


@dataclass
class Config:
    recipe: str = "modern"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)


CHOICES: dict[str, tuple[Any, ...]] = {
    "recipe": tuple(RECIPES),
    "data.on_damage": ("raise", "skip"),
    "model.conditioning": ("embedding", "sequence", "label", "tokens"),
    "model.blocks": ("modern", "baseline"),
    "diffusion.path": ("linear", "cosine"),
    "diffusion.prediction_type": ("denoised", "noise", "v", "velocity"),
    "diffusion.noise_levels": ("half_normal", "uniform", "logit_normal", "shifted"),
    "diffusion.loss": ("absolute", "squared"),
    "diffusion.loss_weight": ("uniform", "min_snr", "velocity"),
    "sample.sampler": ("ddim", "dpmpp_2m"),
    "sample.levels": ("baseline", "uniform", "shifted"),
    "train.decay": ("constant", "cosine"),
    "train.dtype_policy": ("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    "train.jit_compile": ("auto", "on", "off"),
}

_AT_LEAST: dict[str, float] = {
    "data.image_size": 4,
    "model.block_depth": 1,
    "model.patch_size": 1,
    "model.embedding_dim": 1,
    "diffusion.cond_dropout_rate": 0,
    "sample.steps": 2,
    "sample.threshold_percentile": 0,
    "train.total_steps": 1,
    "train.global_batch_size": 1,
    "train.steps_per_loop": 1,
    "train.log_every": 1,
    "train.preview_every": 1,
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 1,
    "train.keep_every": 0,
    "train.keep_best": 0,
    "train.max_skipped": 1,
    "train.warmup_steps": 0,
    "train.weight_decay": 0,
    "train.clip_norm": 0,
    "train.learning_rate": 0,
    "train.beta_2": 0,
    "sample.guidance_scale": 0,
    "preview.num_train": 1,
    "preview.num_heldout": 0,
    "seed": 0,
}

_BELOW: dict[str, float] = {
    "diffusion.cond_dropout_rate": 1,
    "sample.threshold_percentile": 100,
    "train.beta_2": 1,
    "seed": 2**32,  # a seed is half of a Threefry key
}


def resolve(config: Config) -> Config:
    """A checked copy with every None filled in from the recipe.

    Raises:
      UserError: naming the field, what is wrong with it and what it takes.
    """
    config = from_dict(_values(config))
    _check_choice("recipe", config.recipe)
    for name, value in RECIPES[config.recipe].items():
        if get(config, name) is None:
            _set(config, name, value)
    for name in CHOICES:
        _check_choice(name, get(config, name))
    for name, bound in _AT_LEAST.items():
        if get(config, name) < bound:
            raise UserError(f"config.{name} is {get(config, name)}; it must be at least {bound}")
    for name, bound in _BELOW.items():
        if get(config, name) >= bound:
            raise UserError(f"config.{name} is {get(config, name)}; it must be below {bound}")
    _check_model(config)
    return config


def get(config: Config, name: str) -> Any:
    """The field of a dotted name: get(config, "train.seed")."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    return from_dict(json.loads(text))


def from_dict(values: dict[str, Any]) -> Config:
    """A nested dict -> Config; an unknown key is an error that names the nearest one."""
    return _build(Config, values, "config")


def differences(one: Config, other: Config) -> list[str]:
    """One line "config.name: a != b" for each field in which two resolved configs differ."""
    return [
        f"config.{name}: {get(one, name)!r} != {get(other, name)!r}"
        for name in field_names()
        if get(one, name) != get(other, name)
    ]


def field_names() -> list[str]:
    """Every dotted field name of Config."""
    names = []
    for outer in dataclasses.fields(Config):
        if dataclasses.is_dataclass(outer.type):
            names += [f"{outer.name}.{inner.name}" for inner in dataclasses.fields(outer.type)]
        else:
            names.append(outer.name)
    return names


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """ "; did you mean X?" or nothing."""
    match = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _values(config: Any) -> dict[str, Any]:
    """As dataclasses.asdict, with what a config file wrote beside the fields: `_build` refuses it."""
    return {
        name: _values(value) if dataclasses.is_dataclass(value) else value
        for name, value in vars(config).items()
    }


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    fields = {item.name: item for item in dataclasses.fields(kind)}
    arguments = {}
    for name, value in values.items():
        if name not in fields:
            raise UserError(f"unknown key {where}.{name}{nearest(name, list(fields))}")
        if dataclasses.is_dataclass(fields[name].type):
            if not isinstance(value, dict):
                raise UserError(f"{where}.{name} is {value!r}; it must be a group of keys")
            arguments[name] = _build(fields[name].type, value, f"{where}.{name}")
        else:
            arguments[name] = _typed(fields[name].type, value, f"{where}.{name}")
    return kind(**arguments)


def _typed(kind: Any, value: Any, name: str) -> Any:
    """`value` if it is of the annotated type (an int will do for a float, a list for a tuple)."""
    optional = type(None) in getattr(kind, "__args__", ())
    if value is None and optional:
        return None
    kind = kind.__args__[0] if optional else kind
    origin = getattr(kind, "__origin__", kind)  # tuple of tuple[int, ...]
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_typed(kind.__args__[0], item, name) for item in value)
    if origin is float and type(value) is int:
        value = float(value) if abs(value) < 2**1000 else math.inf
    if not isinstance(value, origin) or (origin is int and isinstance(value, bool)):
        raise UserError(f"{name} is {value!r}; it must be of type {origin.__name__}")
    if origin is float and not math.isfinite(value):
        raise UserError(f"{name} is {value!r}; it must be finite")
    return value


def _set(config: Config, name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        config = getattr(config, group)
    setattr(config, last, value)


def _check_choice(name: str, value: Any) -> None:
    if value not in CHOICES[name]:
        choices = CHOICES[name]
        raise UserError(
            f"config.{name} is {value!r}; it must be one of {', '.join(choices)}{nearest(str(value), choices)}"
        )


def _check_model(config: Config) -> None:
    model = config.model
    if not model.widths or min(model.widths) < 1:
        raise UserError(
            f"config.model.widths is {model.widths}; it needs one positive width per resolution"
        )
    if len(model.attention_levels) != len(model.widths):
        raise UserError(
            f"config.model.attention_levels has {len(model.attention_levels)} entries, "
            f"config.model.widths {len(model.widths)}; they must be as many"
        )
    if model.blocks == "baseline":
        _check_baseline(model)
    coarsest = model.patch_size * 2 ** (len(model.widths) - 1)
    if config.data.image_size % coarsest:
        raise UserError(
            f"config.data.image_size is {config.data.image_size}; patch_size {model.patch_size} and "
            f"{len(model.widths)} widths need a multiple of {coarsest}"
        )
    if config.diffusion.loss_weight != "uniform" and config.diffusion.loss != "squared":
        raise UserError(
            f"config.diffusion.loss_weight {config.diffusion.loss_weight!r} weighs a squared error; "
            f"config.diffusion.loss is {config.diffusion.loss!r}"
        )
    if any(not 0 < std < 0.28 for std in config.train.ema_stds):
        raise UserError(
            f"config.train.ema_stds is {config.train.ema_stds}; each must lie between 0 and 0.28"
        )


def _check_baseline(model: ModelConfig) -> None:
    """What the baseline's U-Net has no place for."""
    if model.conditioning == "sequence":
        raise UserError(
            "config.model.conditioning is 'sequence'; the baseline's blocks have no attention to it"
        )
    if model.patch_size != 1:
        raise UserError(
            f"config.model.patch_size is {model.patch_size}; the baseline's blocks take 1"
        )
    if len(model.widths) < 2 or min(model.widths) < 8:
        raise UserError(
            f"config.model.widths is {model.widths}; the baseline's blocks need two widths or more, "
            "none below 8"
        )
