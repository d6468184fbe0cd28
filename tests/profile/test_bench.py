"""The benchmark measures a real step, and its report agrees with figures computed by hand."""

import dataclasses

from t2i_tpu.config import Config
from t2i_tpu.profile import bench
from t2i_tpu.profile.bench import CheckpointCost, Measurement, measure
from t2i_tpu.profile.bench_report import format_measurement
from tests import tiny

MEASUREMENT = Measurement(
    parameters=1_234_567,
    global_batch_size=64,
    dtype_policy="mixed_bfloat16",
    jit_compile=True,
    num_replicas=2,
    trace_seconds=3.0,
    first_step_seconds=5.5,
    steps_per_round=4,
    step_seconds=[0.5, 0.4, 0.8],
    product_flops=100_000_000_000,
    peak_flops_per_s=[3e11, 5e11, 4e11],
    peak_dtype="bfloat16",
    product_share=0.75,
    checkpoint=CheckpointCost(
        num_bytes=20_000_000,
        copy_seconds=[0.1, 0.2, 0.3],
        processor_seconds=[1.0, 3.0, 2.0],
        added_seconds=[0.0, 0.6, 1.2],
    ),
)


def test_report_agrees_with_figures_by_hand():
    """The median step takes 0.5 s: 64 images at 128 images/s, and 100 GFLOP at 200 GFLOP/s."""
    assert format_measurement(MEASUREMENT).splitlines() == [
        "parameters         1.23 M",
        "setting            batch 64, mixed_bfloat16, XLA on, 2 replica(s)",
        "compile            3.0 s to trace, 5.0 s more in the first step",
        "images/s           128.0 (min 80.0, max 160.0; 3 rounds of 4 steps)",
        "FLOPs of a step    100.0 G (convolutions and matrix products, forward and backward)",
        "achieved           200 GFLOP/s",
        "peak               400 GFLOP/s (min 300, max 500; 2048x2048 matrix product in bfloat16)",
        "utilization        50%",
        "outside products   25% of the time in ops",
        "checkpoint         20 MB: 0.20 s to copy, 2.00 s of processor time in all; makes the steps "
        "during a save 0.60 s longer (min 0.00, max 1.20), 1.0% at one save a minute",
    ]


def test_report_says_that_the_share_of_products_is_not_known():
    report = format_measurement(dataclasses.replace(MEASUREMENT, product_share=None))
    assert "outside products   not known: TensorFlow's profiler recorded no products" in report


def test_step_is_measured(squares, monkeypatch):
    # "cpu" would take all four logical devices, which doubles the time for tracing.
    engine = tiny.make_engine(["CPU:0", "CPU:1"])
    monkeypatch.setattr(bench, "make_engine", lambda name: engine)
    config = Config()
    for name, value in tiny.make_settings(squares).items():
        group, field = name.split(".")
        setattr(getattr(config, group), field, value)
    measurement = measure(config, "cpu", rounds=2, steps=3)
    assert measurement.global_batch_size == 8 and measurement.num_replicas == 2
    assert measurement.parameters > 10_000
    assert measurement.dtype_policy == measurement.peak_dtype == "float32"
    assert not measurement.jit_compile
    assert measurement.steps_per_round == 3
    assert len(measurement.step_seconds) == 2
    assert len(measurement.peak_flops_per_s) == 4
    assert measurement.first_step_seconds > min(measurement.step_seconds) > 0
    assert 0 < measurement.utilization < 1
    assert 0 < measurement.product_share < 1
    checkpoint = measurement.checkpoint
    # Weights, two moments and the averages, with 4 bytes per value.
    assert checkpoint.num_bytes > 4 * 4 * measurement.parameters
    assert len(checkpoint.copy_seconds) == len(checkpoint.added_seconds) == 2
    assert all(0 < seconds < 60 for seconds in checkpoint.copy_seconds)
