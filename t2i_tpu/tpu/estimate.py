"""How long a step and a run will take on some device, and what it costs: a roofline.

  bound = max(FLOPs / peak rate, bytes / HBM bandwidth)
  step  = bound / UTILISATION + bytes summed over chips / link bandwidth

All of it is an estimate. No device was measured here; that a step gets to UTILISATION of the bound is
an assumption, and input, previews and checkpoints are taken to cost nothing.
"""

import dataclasses

from t2i_tpu.tpu.hardware import Device, Tpu

UTILISATION = 0.4  # of the bound; docs/tpu.md says why this much
LINKS = 2  # of a chip that a sum over the smallest slice, 2 by 2 chips, can use


@dataclasses.dataclass(frozen=True)
class Work:
    """What one replica does in a step."""

    flops: float
    hbm_bytes: float
    gradient_bytes: float  # summed over the replicas


@dataclasses.dataclass(frozen=True)
class Estimate:
    device: str
    num_replicas: int
    bound: str  # compute | memory
    step_seconds: float
    images_per_second: float
    hours: float
    on_demand: float  # dollars for the run
    spot: float


def estimate(
    device: Device,
    work: Work,
    global_batch_size: int,
    total_steps: int,
    price_per_hour: float | None = None,  # on demand, of all replicas; None: the table's
) -> Estimate:
    compute, memory = work.flops / device.flops_per_s, work.hbm_bytes / device.bytes_per_s
    seconds = max(compute, memory) / UTILISATION + sum_seconds(device, work.gradient_bytes)
    hours = total_steps * seconds / 3600
    return Estimate(
        device=device.name,
        num_replicas=device.num_replicas,
        bound="compute" if compute > memory else "memory",
        step_seconds=seconds,
        images_per_second=global_batch_size / seconds,
        hours=hours,
        on_demand=hours * (device.on_demand if price_per_hour is None else price_per_hour),
        spot=hours * device.spot,
    )


def sum_seconds(device: Device, num_bytes: float) -> float:
    """A ring over n chips: each sends 2 (n - 1) / n of the bytes (Patarasu and Yuan, 2009)."""
    if not isinstance(device, Tpu) or device.chips == 1:
        return 0.0
    share = 2 * (device.chips - 1) / device.chips
    return share * num_bytes / (LINKS * device.link_bytes_per_s)
