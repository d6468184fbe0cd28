"""A roofline estimate of how long a step and a run take on a device, and what they cost.

  bound = max(FLOPs / peak rate, bytes / HBM bandwidth)
  step  = bound / UTILIZATION + bytes summed over the chips / link bandwidth

Nothing here was measured. It is an assumption that a step reaches the share UTILIZATION of the bound,
and that input, previews and checkpoints take no time.
"""

import dataclasses

from t2i_tpu.tpu.hardware import Device, Tpu

# The share of the bound that a step reaches. docs/preflight.md gives the reasons for this value.
UTILIZATION = 0.4

# Number of links of a chip that a sum over the smallest slice, 2 by 2 chips, can use.
NUM_LINKS = 2


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one replica in a step.

    Attributes:
      flops: floating-point operations.
      hbm_bytes: bytes from and to HBM.
      gradient_bytes: bytes that are summed over the replicas.
    """

    flops: float
    hbm_bytes: float
    gradient_bytes: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The estimated time and price of a run on a device.

    Attributes:
      device: name of the device.
      num_replicas: number of its replicas.
      bound: "compute" or "memory", whichever limits a step.
      step_seconds: duration of a step.
      images_per_second: over all replicas.
      hours: duration of the run.
      on_demand: US dollars for the run.
      spot: US dollars for the run on spot capacity.
    """

    device: str
    num_replicas: int
    bound: str
    step_seconds: float
    images_per_second: float
    hours: float
    on_demand: float
    spot: float


def estimate_run(
    device: Device,
    work: Work,
    global_batch_size: int,
    total_steps: int,
    price_per_hour: float | None = None,
) -> Estimate:
    """Estimate the time and price of a run.

    Args:
      device: the device on which it runs.
      work: the work of one replica in a step.
      global_batch_size: number of images in a step, over all replicas.
      total_steps: number of steps of the run.
      price_per_hour: US dollars for all replicas on demand, or None for the table's price.
    """
    compute, memory = work.flops / device.flops_per_s, work.hbm_bytes / device.bytes_per_s
    all_reduce = all_reduce_seconds(device, work.gradient_bytes)
    seconds = max(compute, memory) / UTILIZATION + all_reduce
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


def all_reduce_seconds(device: Device, num_bytes: float) -> float:
    """Return the time to sum `num_bytes` over the chips of a device.

    In a ring over n chips, each chip sends 2 (n - 1) / n of the bytes (Patarasuk and Yuan, 2009).
    """
    if not isinstance(device, Tpu) or device.chips == 1:
        return 0.0
    share = 2 * (device.chips - 1) / device.chips
    return share * num_bytes / (NUM_LINKS * device.link_bytes_per_s)
