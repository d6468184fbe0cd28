"""Cloud TPU types agree with Google's documentation."""

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
        ("v6e-16", r"must be one of v6e-1, v6e-4, v6e-8 \(tensorflow-tpu 2.20 cannot drive"),
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
    creatable = {name for line in lines for name in line.split()[0].split(",")}
    known = {
        f"{generation}-{size}".replace("v5e", "v5litepod")
        for generation, chip in hardware._load_table()["tpus"].items()
        for size in chip["sizes"]
    }
    assert creatable == known
