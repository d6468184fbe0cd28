"""The roofline estimate agrees with figures computed by hand."""

import pytest

from t2i_tpu.tpu import hardware
from t2i_tpu.tpu.estimate import UTILIZATION, Work, all_reduce_seconds, estimate_run

V3 = hardware.parse_tpu("v3-8")


def test_compute_bound_step_is_estimated():
    """A v3 core has 61.5 TFLOP/s, so 61.5 TFLOP take one second at full utilization."""
    estimate = estimate_run(V3, Work(61.5e12, 1e9, 0), global_batch_size=1000, total_steps=3600)
    assert estimate.bound == "compute"
    assert estimate.step_seconds == pytest.approx(1 / UTILIZATION)
    assert estimate.images_per_second == pytest.approx(1000 * UTILIZATION)
    assert estimate.hours == pytest.approx(1 / UTILIZATION)
    # 4 chips at 2 dollars an hour.
    assert estimate.on_demand == pytest.approx(8.0 / UTILIZATION)
    assert estimate.spot == pytest.approx(2.04 / UTILIZATION)


def test_memory_bound_step_is_estimated():
    """A v3 core has half of its chip's 900 GB/s."""
    estimate = estimate_run(V3, Work(1e9, 900e9, 0), global_batch_size=8, total_steps=1)
    assert estimate.bound == "memory"
    assert estimate.step_seconds == pytest.approx(2 / UTILIZATION)


def test_sum_over_chips_takes_time():
    """In a ring of 4 chips, each sends 1.5 times the bytes, over 2 links of 82 GB/s."""
    assert all_reduce_seconds(V3, 164e9) == pytest.approx(1.5)
    assert all_reduce_seconds(hardware.parse_tpu("v5e-1"), 164e9) == 0
    assert all_reduce_seconds(hardware.list_gpus()[0], 164e9) == 0
    estimate = estimate_run(V3, Work(61.5e12, 1e9, 164e9), global_batch_size=8, total_steps=1)
    assert estimate.step_seconds == pytest.approx(1 / UTILIZATION + 1.5)


def test_given_price_replaces_the_on_demand_price():
    estimate = estimate_run(V3, Work(61.5e12, 1e9, 0), 8, 3600, price_per_hour=1.0)
    assert estimate.on_demand == pytest.approx(1 / UTILIZATION)
    assert estimate.spot == pytest.approx(2.04 / UTILIZATION)


def test_gpu_is_estimated_as_one_device():
    v100 = hardware.list_gpus()[0]
    estimate = estimate_run(v100, Work(125e12, 1e9, 1e9), global_batch_size=64, total_steps=3600)
    assert estimate.images_per_second == pytest.approx(64 * UTILIZATION)
    assert estimate.on_demand == pytest.approx(2.48 / UTILIZATION)
