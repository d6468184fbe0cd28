"""What a Cloud TPU type is: replicas, hosts, memory, peak rates, price; and three GPUs beside it.

The figures, their sources and date are in hardware.json. TensorFlow sees a v2 or v3 chip as two
devices, one per TensorCore, with half of the memory each; the two cores of a v4 or v5p chip work as
one device (megacore), and v5e and v6e chips have one core. The number in a type's name counts
TensorCores up to v5p and chips in v5e and v6e, so v3-8 is 4 chips and 8 replicas, v4-8 is 4 chips
and 4 replicas, v5e-8 is 8 chips and 8 replicas.
"""

import dataclasses
import difflib
import functools
import json
import math
import pathlib

from t2i_tpu.errors import UserError

CHIPS_PER_HOST = 4
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Device:
    """What a replica computes on, and an hour's price in US dollars of all that comes with it.

    Attributes:
      name: "v3-8", "A100".
      num_replicas: devices as TensorFlow sees them.
      hbm_bytes, flops_per_s, bytes_per_s: of one replica; FLOPs in bfloat16 (V100: float16).
      on_demand, spot: dollars an hour for all replicas together.
    """

    name: str
    num_replicas: int
    hbm_bytes: int
    flops_per_s: float
    bytes_per_s: float
    on_demand: float
    spot: float


@dataclasses.dataclass(frozen=True)
class Tpu(Device):
    """A Cloud TPU type.

    Attributes:
      generation: "v3".
      chips, num_hosts: of the slice.
      link_bytes_per_s: of one link between chips, in one direction.
      topology, chip_config: how the compiler names a slice with this chip, of one host.
    """

    generation: str
    chips: int
    num_hosts: int
    link_bytes_per_s: float
    topology: str
    chip_config: str


def parse(name: str) -> Tpu:
    """An accelerator type as gcloud takes it, v3-8 or v5litepod-8 (v5e-8 will do), to its Tpu.

    Raises:
      UserError: there is no such type.
    """
    known = _table()["tpus"]
    generation, _, size = name.lower().replace("v5litepod", "v5e").partition("-")
    if generation not in known:
        raise UserError(f"--tpu={name}: no such TPU{_nearest(name)}; known are {', '.join(known)}")
    chip = known[generation]
    if size not in map(str, chip["sizes"]):
        sizes = ", ".join(f"{generation}-{size}" for size in chip["sizes"])
        why = f" ({chip['larger']})" if "larger" in chip else ""
        raise UserError(f"--tpu={name}: take {sizes}{why}")
    chips = int(size) // chip["counted_per_chip"]
    share = chip["replicas_per_chip"]
    return Tpu(
        name=f"{generation}-{size}",
        num_replicas=chips * share,
        hbm_bytes=chip["hbm_gib"] * GIB // share,
        flops_per_s=chip["flops_per_s"] / share,
        bytes_per_s=chip["bytes_per_s"] / share,
        on_demand=chip["on_demand"] * chips,
        spot=chip["spot"] * chips,
        generation=generation,
        chips=chips,
        num_hosts=_num_hosts(chips, chip["counted_per_chip"]),
        link_bytes_per_s=chip["link_bytes_per_s"],
        topology=chip["topology"],
        chip_config=chip.get("chip_config", "default"),
    )


def gpus() -> list[Device]:
    """One GPU of each kind that an estimate is compared with."""
    return [
        Device(
            name=name,
            num_replicas=1,
            hbm_bytes=gpu["hbm_gib"] * GIB,
            flops_per_s=gpu["flops_per_s"],
            bytes_per_s=gpu["bytes_per_s"],
            on_demand=gpu["on_demand"],
            spot=gpu["spot"],
        )
        for name, gpu in _table()["gpus"].items()
    ]


def looked_up() -> str:
    """The date of the prices and rates."""
    return _table()["looked_up"]


def _num_hosts(chips, counted_per_chip):
    # v5e and v6e also come with eight chips on one host; larger slices have four on each.
    largest = 8 if counted_per_chip == 1 else CHIPS_PER_HOST
    return 1 if chips <= largest else math.ceil(chips / CHIPS_PER_HOST)


def _nearest(name):
    types = [
        f"{version}-{size}" for version, chip in _table()["tpus"].items() for size in chip["sizes"]
    ]
    match = difflib.get_close_matches(name.lower(), types, n=1)
    return f"; did you mean {match[0]}?" if match else ""


@functools.cache
def _table():
    return json.loads((pathlib.Path(__file__).parent / "hardware.json").read_text("utf-8"))
