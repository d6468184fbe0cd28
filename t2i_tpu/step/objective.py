"""The examples that the network sees in a training step, and their losses."""

from keras import ops

from t2i_tpu.config import Config
from t2i_tpu.diffusion import prediction
from t2i_tpu.diffusion.losses import LOSS_WEIGHTS, LOSSES
from t2i_tpu.diffusion.noise_levels import NOISE_LEVELS
from t2i_tpu.diffusion.path import corrupt
from t2i_tpu.models.conditioning import drop_conditions
from t2i_tpu.models.denoiser import Denoiser
from t2i_tpu.random import Purpose, make_keys, normal, uniform

Batch = dict[str, object]  # image, condition and slot, as `Dataset.batches` describes them


def corrupt_batch(config: Config, path, batch: Batch, step) -> dict[str, object]:
    """Add noise to a batch, and flip images and drop conditions at random.

    Every random draw is keyed by the step and the example's slot.

    Args:
      config: resolved.
      path: a function from `diffusion.path.PATHS`.
      batch: image uint8 [b, H, W, C], condition, and slot int32 [b].
      step: integer scalar, the global step.

    Returns:
      A dict of image, noise and noisy, float32 [b, H, W, C]; noise_level, float32 [b]; and
      condition, in which some conditions are replaced by the null condition.
    """

    def draw(purpose):
        return uniform(make_keys(config.seed, purpose, step, batch["slot"]))

    image = ops.cast(batch["image"], "float32") / 127.5 - 1.0
    if config.data.horizontal_flip:
        flip = draw(Purpose.FLIP)[:, None, None, None] < 0.5
        image = ops.where(flip, ops.flip(image, axis=2), image)
    noise = normal(make_keys(config.seed, Purpose.NOISE, step, batch["slot"]), image.shape[1:])
    noise_level = NOISE_LEVELS[config.diffusion.noise_levels](draw(Purpose.NOISE_LEVEL))
    keep = draw(Purpose.COND_DROPOUT) >= config.diffusion.cond_dropout_rate
    return {
        "image": image,
        "noise": noise,
        "noise_level": noise_level,
        "noisy": corrupt(path, image, noise, noise_level[:, None, None, None]),
        "condition": drop_conditions(batch["condition"], keep),
    }


def compute_losses(
    config: Config, denoiser: Denoiser, examples: dict[str, object]
) -> tuple[object, dict[str, object]]:
    """Return the loss of each example, float32 [b], and the batch statistics of `Denoiser.call`.

    Args:
      config: resolved.
      denoiser: the model.
      examples: the result of `corrupt_batch`.
    """
    level = examples["noise_level"][:, None, None, None]
    prediction_type, path = config.diffusion.prediction_type, denoiser.diffusion_path
    output, statistics = denoiser(
        examples["noisy"], examples["noise_level"], examples["condition"], training=True
    )
    target = prediction.target(prediction_type, path, examples["image"], examples["noise"], level)
    error = LOSSES[config.diffusion.loss](output - target)
    weigh = LOSS_WEIGHTS[config.diffusion.loss_weight]
    weight = weigh(prediction_type, path, examples["noise_level"])
    return weight * ops.mean(error, axis=[1, 2, 3]), statistics


def scale_loss(config: Config, losses, loss_scale):
    """Return the scalar that is differentiated: the loss scale times the mean loss of the batch.

    Dividing by the global batch size, instead of taking the mean over a replica's examples, makes the
    sum over the replicas independent of their number.
    """
    return ops.sum(losses) * (loss_scale / config.train.global_batch_size)
