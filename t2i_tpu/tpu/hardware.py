"""Cloud TPU types, and the GPUs that they are compared with: size, memory, peak rates and price.

The figures, their sources and their date are in hardware.json. TensorFlow and JAX see a v2 or v3
chip as two devices, one per TensorCore, each with half of the memory. The two cores of a v4 or v5p
chip work as one device (megacore), and v5e and v6e chips have one core. The number in a type's name
counts TensorCores up to v5p, and chips in v5e and v6e. So v3-8 is 4 chips and 8 replicas, v4-8 is 4
chips and 4 replicas, and v5e-8 is 8 chips and 8 replicas.
"""

import dataclasses
import functools
import json
import math
import pathlib

from t2i_tpu.errors import UserError
from t2i_tpu.options import suggest

CHIPS_PER_HOST = 4
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Device:
    """Hardware that a run can use, with its price.

    Attributes:
      name: such as "v3-8" or "A100".
      num_replicas: number of devices as TensorFlow and JAX see them.
      hbm_bytes: memory of one replica.
      flops_per_s: peak rate of one replica in bfloat16 (V100: float16).
      bytes_per_s: memory bandwidth of one replica.
      on_demand: US dollars an hour for all replicas together.
      spot: the same, for spot capacity.
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
      generation: such as "v3".
      chips: number of chips in the slice.
      num_hosts: number of hosts in the slice.
      link_bytes_per_s: bandwidth of one link between chips, in one direction.
      topology: the compiler's name for the slice, such as "v5e:2x4".
      chip_config: the compiler's name for the way a chip's cores are used.
      runs_tensorflow: whether tensorflow-tpu can drive it.
    """

    generation: str
    chips: int
    num_hosts: int
    link_bytes_per_s: float
    topology: str
    chip_config: str
    runs_tensorflow: bool


def parse_tpu(name: str) -> Tpu:
    """Return the TPU that an accelerator type names.

    Args:
      name: an accelerator type as gcloud writes it, such as v3-8 or v5litepod-8; v5e-8 works too.

    Raises:
      UserError: there is no such type.
    """
    known = _load_table()["tpus"]
    generation, _, size = name.lower().replace("v5litepod", "v5e").partition("-")
    if generation not in known:
        types = [f"{version}-{size}" for version, chip in known.items() for size in chip["shapes"]]
        raise UserError(
            f"--tpu={name}: there is no such TPU{suggest(name.lower(), types)}; "
            f"the known generations are {', '.join(known)}"
        )
    chip = known[generation]
    if size not in chip["shapes"]:
        sizes = ", ".join(f"{generation}-{size}" for size in chip["shapes"])
        raise UserError(f"--tpu={name}: it must be one of {sizes}")
    chips = int(size) // chip["counted_per_chip"]
    replicas_per_chip = chip["replicas_per_chip"]
    return Tpu(
        name=f"{generation}-{size}",
        num_replicas=chips * replicas_per_chip,
        hbm_bytes=chip["hbm_gib"] * GIB // replicas_per_chip,
        flops_per_s=chip["flops_per_s"] / replicas_per_chip,
        bytes_per_s=chip["bytes_per_s"] / replicas_per_chip,
        on_demand=chip["on_demand"] * chips,
        spot=chip["spot"] * chips,
        generation=generation,
        chips=chips,
        num_hosts=_count_hosts(chips, chip["counted_per_chip"]),
        link_bytes_per_s=chip["link_bytes_per_s"],
        topology=f"{generation}:{chip['shapes'][size]}",
        chip_config=chip.get("chip_config", "default"),
        runs_tensorflow=int(size) <= chip.get("tensorflow_up_to", math.inf),
    )


def choose_engine(name: str, tpu: Tpu) -> str:
    """Return the engine that trains on a TPU, "tensorflow" or "jax".

    Args:
      name: the value of --engine. "auto" means TensorFlow if it can drive the TPU.
      tpu: the TPU.

    Raises:
      UserError: the engine is TensorFlow, which cannot drive this TPU.
    """
    if name == "tensorflow" and not tpu.runs_tensorflow:
        raise UserError(
            f"--engine=tensorflow: tensorflow-tpu cannot drive {tpu.name}; use --engine=jax"
        )
    if name == "auto":
        return "tensorflow" if tpu.runs_tensorflow else "jax"
    return name


def list_gpus() -> list[Device]:
    """Return the GPUs that estimates compare a TPU with, each as a single device."""
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
        for name, gpu in _load_table()["gpus"].items()
    ]


def get_table_date() -> str:
    """Return the date of the prices and rates, YYYY-MM-DD."""
    return _load_table()["date"]


def format_gib(num_bytes: int) -> str:
    """Return a number of bytes in GiB, such as "2.51 GiB"."""
    return f"{num_bytes / GIB:.2f} GiB"


def _count_hosts(chips: int, counted_per_chip: int) -> int:
    # v5e and v6e also come with eight chips on one host; larger slices have four on each.
    largest = 8 if counted_per_chip == 1 else CHIPS_PER_HOST
    return 1 if chips <= largest else math.ceil(chips / CHIPS_PER_HOST)


@functools.cache
def _load_table() -> dict:
    return json.loads((pathlib.Path(__file__).parent / "hardware.json").read_text("utf-8"))
