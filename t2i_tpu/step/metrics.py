"""The metrics of a training step, which every engine sums over the steps of a log line.

To add a training scalar, name it in METRICS and compute it in `measure_step`. training/metrics.py divides
the sums by the number of steps.
"""

from keras import ops

Metrics = dict[str, float]  # by name

# The loss is reported in bands of noise level, all of the same width.
NUM_BANDS = 4
BAND_NAMES = tuple(
    f"{band / NUM_BANDS:.2f}_to_{(band + 1) / NUM_BANDS:.2f}" for band in range(NUM_BANDS)
)
# The names of the metrics, in the order in which the engines stack them.
METRICS = (
    *(f"loss/{name}" for name in BAND_NAMES),
    *(f"examples/{name}" for name in BAND_NAMES),
    "gradient_norm",
    "skipped_steps",
    "steps",
)


def measure_step(losses, noise_level, norm, skipped, share=1.0):
    """Return the metrics of a step as one tensor, in the order of METRICS.

    An engine whose replicas compute separately sums the result over them. So a value that is the same
    on every replica is multiplied by the replica's share.

    Args:
      losses: float32 [b], the losses of the replica's examples.
      noise_level: float32 [b], their noise levels.
      norm: the norm of the gradients.
      skipped: 1.0 if the step was skipped, or else 0.0.
      share: 1.0 on the first replica and 0.0 on the others.
    """
    band = ops.minimum(ops.cast(noise_level * NUM_BANDS, "int32"), NUM_BANDS - 1)
    in_band = ops.cast(band[:, None] == ops.arange(NUM_BANDS), "float32")
    sums, counts = ops.matmul(losses, in_band), ops.sum(in_band, axis=0)
    metrics = {}
    for index, name in enumerate(BAND_NAMES):
        metrics |= {f"loss/{name}": sums[index], f"examples/{name}": counts[index]}
    metrics |= {
        "gradient_norm": share * ops.where(skipped > 0, 0.0, norm),
        "skipped_steps": share * skipped,
        "steps": share * ops.ones(()),
    }
    return ops.stack([metrics[name] for name in METRICS])


def name_metrics(stacked) -> dict[str, float]:
    """Return the metrics by name from the array that `measure_step` returns."""
    return {name: float(value) for name, value in zip(METRICS, stacked, strict=True)}
