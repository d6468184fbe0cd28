"""The typed configuration of an experiment.

Each field declares its type, default, meaning and bounds in one place. Flags, error messages and
docs/config.md are generated from these declarations. A field whose default is None takes its value
from the recipe that `Config.recipe` names. `resolve` fills in these values and checks the config.
The rest of the package works with resolved configs only.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from t2i_tpu.config_checks import check_combinations
from t2i_tpu.options import check_bounds, list_attributes, option, parse_group
from t2i_tpu.recipes import RECIPES

# The values of --strategy. It is not part of the config, because a run may move to another machine.
STRATEGIES = ("auto", "cpu", "gpu", "multiworker", "tpu")

# A seed is a 32-bit word of a Threefry key or counter, so each seed up to this one gives different draws.
MAX_SEED = 2**32 - 1


@dataclass
class DataConfig:
    source: str = option(
        "embedded:emoji",
        "Data set to train on: embedded:NAME, shards:DIR (local or gs://), idx:DIR or tfds:NAME.",
    )
    image_size: int = option(
        32,
        "Height and width of the images in pixels. Must divide the size of the stored images.",
        at_least=4,
    )
    horizontal_flip: bool | None = option(
        None,
        "Mirror a random half of the images. Unsuitable if left and right matter, as in text.",
    )
    on_damage: Literal["raise", "skip"] = option(
        "raise",
        "Handling of damaged records: raise ends the run with an error, and skip replaces them with "
        "copies of intact ones.",
    )


@dataclass
class ModelConfig:
    conditioning: str = option(
        "embedding",
        "Kind of condition that the model takes: a key of CONDITIONINGS in t2i_tpu/data/conditions.py.",
    )
    blocks: Literal["modern", "baseline"] | None = option(None, "Building blocks of the U-Net.")
    widths: tuple[int, ...] | None = option(
        None,
        "Number of channels at each resolution, finest first.",
        at_least=1,
        at_most=2**16,
    )
    block_depth: int | None = option(
        None, "Number of residual blocks at each resolution.", at_least=1, at_most=64
    )
    attention_levels: tuple[bool, ...] | None = option(
        None, "Whether each resolution has attention layers, finest first."
    )
    patch_size: int | None = option(
        None, "Side length of the pixel blocks that the stem turns into channels.", at_least=1
    )
    embedding_dim: int = option(
        512,
        "Width of the encoded condition. The baseline blocks ignore it for conditioning=embedding "
        "and use half of the embedding's width.",
        at_least=1,
        at_most=2**16,
    )


@dataclass
class DiffusionConfig:
    path: Literal["linear", "cosine"] | None = option(None, "Path from an image to noise.")
    prediction_type: Literal["denoised", "noise", "v", "velocity"] | None = option(
        None, "Quantity that the network predicts."
    )
    noise_levels: Literal["half_normal", "uniform", "logit_normal", "shifted"] | None = option(
        None, "Distribution of the noise levels in training: see t2i_tpu/diffusion/noise_levels.py."
    )
    loss: Literal["absolute", "squared"] | None = option(
        None, "Function of the difference between the network's output and its target."
    )
    loss_weight: Literal["uniform", "min_snr", "velocity"] | None = option(
        None,
        "Weight of the loss at each noise level. All choices but uniform require loss=squared.",
    )
    cond_dropout_rate: float | None = option(
        None,
        "Fraction of examples whose condition is dropped, for classifier-free guidance.",
        at_least=0,
        below=1,
    )


@dataclass
class SampleConfig:
    sampler: (
        Literal["ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc"]
        | None
    ) = option(None, "Solver that turns noise into images.")
    levels: Literal["baseline", "uniform", "shifted", "karras", "log_snr"] | None = option(
        None, "Schedule of the noise levels that the sampler visits."
    )
    shift: float | None = option(
        None, "How far levels=shifted moves levels towards noise.", at_least=0.01, at_most=100
    )
    steps: int | None = option(
        None, "Number of sampling steps. More steps take longer.", at_least=2, at_most=10_000
    )
    guidance_scale: float | None = option(
        None, "Strength of guidance. 1 turns guidance off.", at_least=0, at_most=1000
    )
    guidance_interval: tuple[float, ...] | None = option(
        None,
        "Lowest and highest noise level at which guidance acts (Kynkäänniemi et al., 2024).",
        at_least=0,
        at_most=1,
    )
    guidance_rescale: float | None = option(
        None,
        "How far to move the contrast of guided estimates back to that of unguided ones (Lin et al., 2023).",
        at_least=0,
        at_most=1,
    )
    threshold_percentile: float | None = option(
        None, "Percentile of dynamic thresholding. 0 clips to [-1, 1].", at_least=0, below=100
    )


@dataclass
class TrainConfig:
    # Steps are counted with 32 bits in the keys of random draws.
    total_steps: int = option(10_000, "Number of training steps.", at_least=1, below=2**31)
    global_batch_size: int = option(
        64, "Number of examples per step, over all replicas.", at_least=1, below=2**31
    )
    steps_per_loop: int = option(
        20,
        "Maximum number of steps that the device runs before it returns to the host.",
        at_least=1,
        below=2**31,
    )
    log_every: int = option(20, "Number of steps between log lines.", at_least=1)
    preview_every: int = option(500, "Number of steps between previews.", at_least=1)
    checkpoint_every: int = option(500, "Number of steps between checkpoints.", at_least=1)
    keep_checkpoints: int = option(3, "Number of newest checkpoints to keep.", at_least=1)
    keep_every: int = option(
        0,
        "Also keep each checkpoint whose step is a multiple of this. 0 turns this off.",
        at_least=0,
    )
    keep_best: int = option(
        0, "Also keep this many checkpoints, those with the best value of best_metric.", at_least=0
    )
    best_metric: Literal["loss", "kid", "condition_accuracy", "heldout_loss"] = option(
        "loss",
        "Figure that keep_best compares: the training loss, which is noisy, or a figure of the "
        "evaluations. See docs/runs.md.",
    )
    evaluate_every: int = option(
        0, "Number of steps between evaluations; see docs/runs.md. 0 turns them off.", at_least=0
    )
    evaluate_images: int = option(
        128, "Number of images that an evaluation draws.", at_least=2, at_most=2**16
    )
    max_skipped: int = option(
        25,
        "Number of consecutive steps with non-finite gradients after which the run stops or, with "
        "--on_nonfinite=rollback, returns to an earlier checkpoint.",
        at_least=1,
    )
    learning_rate: float | None = option(None, "Peak learning rate.", at_least=0)
    warmup_steps: int | None = option(
        None, "Number of steps of linear warm-up.", at_least=0, below=2**31
    )
    decay: Literal["constant", "cosine"] | None = option(
        None, "Schedule of the learning rate after the warm-up. cosine reaches zero at total_steps."
    )
    weight_decay: float | None = option(None, "Decoupled weight decay, as in AdamW.", at_least=0)
    beta_2: float | None = option(None, "Decay rate of Adam's second moments.", at_least=0, below=1)
    clip_norm: float | None = option(
        None, "Maximum global norm of the gradient. 0 turns clipping off.", at_least=0
    )
    ema_stds: tuple[float, ...] | None = option(
        None,
        "Relative standard deviation of each power-function average of the weights (Karras et al., "
        "2023), between 0 and 0.28. () keeps no average.",
    )
    shard_state: bool = option(
        False,
        "Whether to split Adam's moments and the averages over the devices to save memory. JAX only.",
    )
    dtype_policy: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = option(
        "auto", "Keras dtype policy. auto picks the fastest precision that the hardware supports."
    )
    jit_compile: Literal["auto", "on", "off"] = option(
        "auto",
        "Whether XLA compiles the forward and backward pass and the sampler. auto does so on GPUs "
        "only. On TPUs and on JAX, the entire step is always compiled.",
    )


@dataclass
class PreviewConfig:
    captions: tuple[str, ...] = option(
        (),
        "Captions of the training examples to show first. They are looked for in the first 10,000 "
        "examples. () shows the first examples.",
    )
    num_train: int = option(16, "Number of training examples to show.", at_least=1, at_most=4096)
    num_heldout: int = option(16, "Number of held-out examples to show.", at_least=0, at_most=4096)


@dataclass
class Config:
    recipe: Literal["modern", "baseline"] = option(
        "modern",
        "Recipe that supplies the value of each field that is not set. See docs/recipes.md.",
    )
    seed: int = option(0, "Seed of every random draw of the run.", at_least=0, at_most=MAX_SEED)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)


def resolve(config: Config) -> Config:
    """Return a checked copy of a config in which the recipe has filled in every None.

    Raises:
      UserError: a value is not allowed. The message names the field, its value and the allowed
        values.
    """
    config = from_dict(list_attributes(config))
    for name, value in RECIPES[config.recipe].items():
        if get(config, name) is None:
            group, _, last = name.rpartition(".")
            setattr(get(config, group) if group else config, last, value)
    for name, item in fields().items():
        check_bounds(f"config.{name}", get(config, name), item)
    check_combinations(config)
    return config


def get(config: Config, name: str) -> Any:
    """Return the value of a field by its dotted name, as in get(config, "train.total_steps")."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def to_json(config: Config) -> str:
    """Return a config as JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Return the config that `to_json` wrote. Raises UserError as `from_dict` does."""
    return from_dict(json.loads(text))


def from_dict(values: dict[str, Any]) -> Config:
    """Return a config with the values of a nested dict. Raises UserError as `parse_group` does."""
    return parse_group(Config, values, "config")


def differences(first: Config, second: Config) -> list[str]:
    """Return one line "config.name: a != b" for each field in which two resolved configs differ."""
    return [
        f"config.{name}: {get(first, name)!r} != {get(second, name)!r}"
        for name in fields()
        if get(first, name) != get(second, name)
    ]


def fields() -> dict[str, dataclasses.Field]:
    """Return every field of Config by its dotted name."""
    named = {}
    for outer in dataclasses.fields(Config):
        if dataclasses.is_dataclass(outer.type):
            named |= {
                f"{outer.name}.{inner.name}": inner for inner in dataclasses.fields(outer.type)
            }
        else:
            named[outer.name] = outer
    return named


def is_tuple(name: str) -> bool:
    """Return whether the field with a dotted name holds a tuple."""
    return "tuple[" in str(fields()[name].type)
