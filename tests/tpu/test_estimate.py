"""The roofline, against figures by hand."""

import pytest

from t2i_tpu.tpu import hardware
from t2i_tpu.tpu.estimate import UTILISATION, Work, estimate, sum_seconds

V3 = hardware.parse("v3-8")


def test_bound_by_compute():
    """61.5 TFLOP of a v3 core's 61.5 TFLOP/s take a second at full use."""
    found = estimate(V3, Work(61.5e12, 1e9, 0), global_batch_size=1000, total_steps=3600)
    assert found.bound == "compute"
    assert found.step_seconds == pytest.approx(1 / UTILISATION)
    assert found.images_per_second == pytest.approx(1000 * UTILISATION)
    assert found.hours == pytest.approx(1 / UTILISATION)
    assert found.on_demand == pytest.approx(8.0 / UTILISATION)  # 4 chips at 2 dollars
    assert found.spot == pytest.approx(2.04 / UTILISATION)


def test_bound_by_memory():
    found = estimate(V3, Work(1e9, 900e9, 0), 8, 1)
    assert found.bound == "memory"
    assert found.step_seconds == pytest.approx(2 / UTILISATION)  # a core has half of 900 GB/s


def test_sum_over_chips():
    """A ring of 4 chips sends 1.5 times the bytes, over 2 links of 82 GB/s."""
    assert sum_seconds(V3, 164e9) == pytest.approx(1.5)
    assert sum_seconds(hardware.parse("v5e-1"), 164e9) == 0
    assert sum_seconds(hardware.gpus()[0], 164e9) == 0
    with_sum = estimate(V3, Work(61.5e12, 1e9, 164e9), 8, 1)
    assert with_sum.step_seconds == pytest.approx(1 / UTILISATION + 1.5)


def test_a_price_of_one_s_own():
    found = estimate(V3, Work(61.5e12, 1e9, 0), 8, 3600, price_per_hour=1.0)
    assert found.on_demand == pytest.approx(1 / UTILISATION)
    assert found.spot == pytest.approx(2.04 / UTILISATION)


def test_a_gpu():
    v100 = hardware.gpus()[0]
    found = estimate(v100, Work(125e12, 1e9, 1e9), 64, 3600)
    assert found.images_per_second == pytest.approx(64 * UTILISATION)
    assert found.on_demand == pytest.approx(2.48 / UTILISATION)
