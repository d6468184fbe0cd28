"""Formats the measurement of a training step as text."""

from statistics import median

from t2i_tpu.profile.bench import PEAK_SIZE, CheckpointCost, Measurement


def format_measurement(measurement: Measurement) -> str:
    """Return one line for each result, which begins with a name padded to 18 characters."""
    rows = _make_rows(measurement)
    return "\n".join(f"{name:18} {text}" for name, text in rows.items())


def _make_rows(m: Measurement) -> dict[str, str]:
    xla = "on" if m.jit_compile else "off"
    compile_seconds = max(0, m.first_step_seconds - median(m.step_seconds))
    images_per_second = [m.global_batch_size / seconds for seconds in m.step_seconds]
    median_images = m.global_batch_size / median(m.step_seconds)
    peaks = [rate / 1e9 for rate in m.peak_flops_per_s]
    return {
        "parameters": f"{m.parameters / 1e6:.2f} M",
        "setting": (
            f"batch {m.global_batch_size}, {m.dtype_policy}, XLA {xla}, {m.num_replicas} replica(s)"
        ),
        "compile": (
            f"{m.trace_seconds:.1f} s to trace, {compile_seconds:.1f} s more in the first step"
        ),
        "images/s": (
            f"{median_images:.1f} (min {min(images_per_second):.1f}, "
            f"max {max(images_per_second):.1f}; "
            f"{len(m.step_seconds)} rounds of {m.steps_per_round} steps)"
        ),
        "FLOPs of a step": (
            f"{m.product_flops / 1e9:.1f} G (convolutions and matrix products, forward and backward)"
        ),
        "achieved": f"{m.flops_per_s / 1e9:.0f} GFLOP/s",
        "peak": (
            f"{median(peaks):.0f} GFLOP/s (min {min(peaks):.0f}, max {max(peaks):.0f}; "
            f"{PEAK_SIZE}x{PEAK_SIZE} matrix product in {m.peak_dtype})"
        ),
        "utilization": f"{m.utilization:.0%}",
        "outside products": _format_product_share(m.product_share),
        "checkpoint": _format_checkpoint(m.checkpoint),
    }


def _format_product_share(share: float | None) -> str:
    if share is None:
        return "not known: TensorFlow's profiler recorded no products"
    return f"{1 - share:.0%} of the time in ops"


def _format_checkpoint(cost: CheckpointCost) -> str:
    added = median(cost.added_seconds)
    return (
        f"{cost.num_bytes / 1e6:.0f} MB: {median(cost.copy_seconds):.2f} s to copy, "
        f"{median(cost.processor_seconds):.2f} s of processor time in all; makes the steps during a "
        f"save {added:.2f} s longer (min {min(cost.added_seconds):.2f}, "
        f"max {max(cost.added_seconds):.2f}), {added / 60:.1%} at one save a minute"
    )
