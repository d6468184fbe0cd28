"""Checks that the fields of a config are consistent with each other."""

from typing import TYPE_CHECKING

from t2i_tpu.errors import UserError

# config.py imports this file, so importing it back at run time would be circular.
if TYPE_CHECKING:
    from t2i_tpu.config import Config, ModelConfig

# Upper bound of the relative widths of averages. The uniform average has 1 / sqrt(12) = 0.289.
MAX_EMA_STD = 0.28


def check_combinations(config: "Config") -> None:
    """Raise UserError if fields that are valid on their own contradict each other."""
    _check_resolutions(config)
    _check_loss(config)
    _check_averages(config)
    _check_guidance(config)
    _check_evaluations(config)


def _check_resolutions(config: "Config") -> None:
    """Raise UserError if the U-Net's resolutions are inconsistent or do not fit the image size."""
    model, size = config.model, config.data.image_size
    if not model.widths or min(model.widths) < 1:
        raise UserError(
            f"config.model.widths is {model.widths}; it must have one positive width per resolution"
        )
    if len(model.attention_levels) != len(model.widths):
        raise UserError(
            f"config.model.attention_levels has {len(model.attention_levels)} entries and "
            f"config.model.widths has {len(model.widths)}; both must have one per resolution"
        )
    if model.blocks == "baseline":
        _check_baseline_resolutions(model)
    factor = model.patch_size * 2 ** (len(model.widths) - 1)
    if size % factor:
        raise UserError(
            f"config.data.image_size is {size}; it must be a multiple of {factor} with "
            f"config.model.patch_size={model.patch_size} and {len(model.widths)} widths in "
            "config.model.widths"
        )


def _check_baseline_resolutions(model: "ModelConfig") -> None:
    if model.patch_size != 1:
        raise UserError(
            f"config.model.patch_size is {model.patch_size}; it must be 1 with "
            "config.model.blocks=baseline"
        )
    if len(model.widths) < 2 or min(model.widths) < 8:
        raise UserError(
            f"config.model.widths is {model.widths}; it must have at least two widths of at least "
            "8 with config.model.blocks=baseline"
        )


def _check_loss(config: "Config") -> None:
    diffusion = config.diffusion
    if diffusion.loss_weight != "uniform" and diffusion.loss != "squared":
        raise UserError(
            f"config.diffusion.loss_weight is {diffusion.loss_weight!r}, which weights a squared "
            f"error, but config.diffusion.loss is {diffusion.loss!r}; set "
            "config.diffusion.loss_weight=uniform or config.diffusion.loss=squared"
        )


def _check_averages(config: "Config") -> None:
    if any(not 0 < std < MAX_EMA_STD for std in config.train.ema_stds):
        raise UserError(
            f"config.train.ema_stds is {config.train.ema_stds}; each entry must lie "
            f"between 0 and {MAX_EMA_STD}"
        )


def _check_guidance(config: "Config") -> None:
    interval = config.sample.guidance_interval
    if len(interval) != 2 or interval[0] > interval[1]:
        raise UserError(
            f"config.sample.guidance_interval is {interval}; it must be two noise levels, the lower one "
            "first"
        )


def _check_evaluations(config: "Config") -> None:
    """Raise UserError if the checkpoints cannot be compared by config.train.best_metric."""
    train = config.train
    if train.best_metric == "loss":
        return
    if not train.evaluate_every:
        raise UserError(
            f"config.train.best_metric is {train.best_metric!r}, which evaluations measure, but "
            "config.train.evaluate_every is 0; set it to the number of steps between evaluations, "
            "or config.train.best_metric=loss"
        )
    if train.checkpoint_every % train.evaluate_every:
        raise UserError(
            f"config.train.checkpoint_every is {train.checkpoint_every}; it must be a multiple of "
            f"config.train.evaluate_every={train.evaluate_every} with "
            f"config.train.best_metric={train.best_metric}, so that each checkpoint is evaluated"
        )
