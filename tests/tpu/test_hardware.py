"""Cloud TPU types agree with Google's documentation."""

import math
import pathlib

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.tpu import hardware

# For each type: replicas, chips, hosts, GiB of a replica, and the bfloat16 TFLOP/s and GB/s of all
# its chips.
TYPES = {
    "v2-8": (8, 4, 1, 8, 184, 2800),
    "v3-8": (8, 4, 1, 16, 492, 3600),
    "v3-32": (32, 16, 4, 16, 1968, 14400),
    "v4-8": (4, 4, 1, 32, 1100, 4800),
    "v5e-1": (1, 1, 1, 16, 197, 819),
    "v5e-8": (8, 8, 1, 16, 1576, 6552),
    "v5e-16": (16, 16, 4, 16, 3152, 13104),
    "v5p-8": (4, 4, 1, 95, 1836, 11060),
    "v6e-8": (8, 8, 1, 32, 7344, 13104),
    "v6e-16": (16, 16, 4, 32, 14688, 26208),
}


@pytest.mark.parametrize("name", TYPES)
def test_known_type_has_the_documented_figures(name):
    tpu = hardware.parse_tpu(name)
    actual = (
        tpu.num_replicas,
        tpu.chips,
        tpu.num_hosts,
        tpu.hbm_bytes / hardware.GIB,
        tpu.num_replicas * tpu.flops_per_s / 1e12,
        tpu.num_replicas * tpu.bytes_per_s / 1e9,
    )
    assert actual == pytest.approx(TYPES[name])
    assert 0 < tpu.spot < tpu.on_demand


# Topologies in Google's documentation of each generation.
@pytest.mark.parametrize(
    ("name", "topology"),
    [
        ("v3-128", "v3:8x8"),
        ("v4-8", "v4:2x2x1"),
        ("v4-512", "v4:4x8x8"),
        ("v5e-8", "v5e:2x4"),
        ("v5e-16", "v5e:4x4"),
        ("v5p-32", "v5p:2x2x4"),
        ("v5p-12288", "v5p:16x16x24"),
        ("v6e-256", "v6e:16x16"),
    ],
)
def test_topology_is_the_documented_one(name, topology):
    assert hardware.parse_tpu(name).topology == topology


def test_topologies_have_the_chips_of_their_types():
    for generation, chip in hardware._load_table()["tpus"].items():
        for size in chip["shapes"]:
            tpu = hardware.parse_tpu(f"{generation}-{size}")
            sides = map(int, tpu.topology.split(":")[1].split("x"))
            assert math.prod(sides) == tpu.chips, tpu.name


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("v2-8", "tensorflow"),
        ("v4-4096", "tensorflow"),
        ("v5e-256", "tensorflow"),
        ("v6e-8", "tensorflow"),
        ("v6e-16", "jax"),
        ("v6e-256", "jax"),
    ],
)
def test_auto_is_tensorflow_if_it_can_drive_the_type(name, engine):
    tpu = hardware.parse_tpu(name)
    assert hardware.choose_engine("auto", tpu) == engine
    assert hardware.choose_engine("jax", tpu) == "jax"
    if engine == "tensorflow":
        assert hardware.choose_engine("tensorflow", tpu) == "tensorflow"
    else:
        with pytest.raises(UserError, match=f"cannot drive {name}; use --engine=jax"):
            hardware.choose_engine("tensorflow", tpu)


def test_name_of_gcloud_and_capital_letters_are_accepted():
    assert hardware.parse_tpu("v5litepod-8") == hardware.parse_tpu("v5e-8")
    assert hardware.parse_tpu("V3-8").on_demand == 8.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v3_8", r"--tpu=v3_8: there is no such TPU; did you mean 'v3-8'\?; .* are v2, v3, v4"),
        ("h100", "--tpu=h100: there is no such TPU; the known generations are"),
        ("v3-16", "--tpu=v3-16: it must be one of v3-8, v3-32"),
        ("v3", "--tpu=v3: it must be one of v3-8"),
        ("v6e-2", "must be one of v6e-1, v6e-4, v6e-8, v6e-16"),
        ("v4-08", "it must be one of v4-8, v4-16"),
    ],
)
def test_unknown_type_is_rejected(name, message):
    with pytest.raises(UserError, match=message):
        hardware.parse_tpu(name)


def test_gpus_are_single_devices():
    gpus = hardware.list_gpus()
    assert [gpu.name for gpu in gpus] == ["V100", "A100", "H100"]
    for gpu in gpus:
        assert gpu.num_replicas == 1
        assert 0 < gpu.spot < gpu.on_demand


def test_preflight_knows_the_types_that_can_be_created():
    path = pathlib.Path(__file__).parents[2] / "launch" / "tpu_types.txt"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    engines = {}
    for names, _, listed, _ in map(str.split, lines):
        engines |= dict.fromkeys(names.split(","), listed.split(","))
    for name, listed in engines.items():
        assert ("tensorflow" in listed) == hardware.parse_tpu(name).runs_tensorflow, name
        assert "jax" in listed, name
    known = {
        f"{generation}-{size}".replace("v5e", "v5litepod")
        for generation, chip in hardware._load_table()["tpus"].items()
        for size in chip["shapes"]
    }
    assert engines.keys() == known
