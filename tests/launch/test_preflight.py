"""launch/preflight.py traces, estimates and writes its report, and rejects bad input.

tests/tpu/test_compile.py tests the compiler.
"""

import json

import pytest

from tests import tiny
from tests.assertions import assert_mentions

pytestmark = pytest.mark.host_xla


@pytest.fixture
def preflight(tmp_path, squares, config_file, start):
    """`preflight(*flags)` runs launch/preflight.py and returns its result, and its report or None."""

    def run_preflight(*flags):
        output = tmp_path / "report.json"
        common = [f"--config={config_file}", f"--output={output}", "--compile=false"]
        launched = start("preflight.py", [*common, *tiny.make_flags(squares), *flags])
        result = launched.wait()
        return result, json.loads(output.read_text()) if output.exists() else None

    return run_preflight


@pytest.mark.slow
def test_pod_is_traced_and_estimated(preflight):
    flags = ["--config.train.dtype_policy=auto", "--config.train.global_batch_size=32"]
    result, report = preflight("--tpu=v3-32", *flags)
    assert result.code == 0, result.stderr
    assert report["passed"] and report["failures"] == []
    assert report["per_replica_batch_size"] == 1
    assert report["tpu"]["num_replicas"] == report["trace"]["replicas"] == 32
    assert report["tpu"]["num_hosts"] == report["trace"]["hosts"] == 4
    assert report["trace"]["dtype_policy"] == "mixed_bfloat16"
    devices = [row["device"] for row in report["estimates"]]
    assert devices == ["v3-32", "V100", "A100", "H100"]
    assert report["notes"] == ["not compiled: --compile=false"]
    assert "No problems found for v3-32 so far." in result.stdout


def test_missing_data_are_assumed(preflight):
    flags = ["--config.data.source=shards:/no/such", "--price_per_hour=100"]
    result, report = preflight("--tpu=v5litepod-1", *flags)
    assert result.code == 0, result.stderr
    note = "assumed RGB images conditioned on embedding float32 [768], because"
    assert note in report["notes"][0]
    row = report["estimates"][0]
    assert row["on_demand"] == pytest.approx(100 * row["hours"])


def test_jax_needs_no_trace(preflight):
    """TensorFlow cannot drive a pod of v6e, so auto is JAX."""
    flags = ["--config.train.global_batch_size=32", "--config.train.shard_state=true"]
    result, report = preflight("--tpu=v6e-16", *flags)
    assert result.code == 0, result.stderr
    assert report["engine"] == "jax"
    assert report["tpu"]["topology"] == "v6e:4x4"
    assert report["trace"] == {}
    assert "JAX: one program for a mesh of 16 devices" in result.stdout
    # A replica has all weights, but a 16th of the moments and averages.
    weights = report["step"]["gradient_bytes"]
    assert weights < report["step"]["state_bytes"] < 1.5 * weights
    assert report["estimates"][0]["images_per_second"] > 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tpu=v3_8"], ["--tpu=v3_8", "did you mean 'v3-8'?"]),
        (["--tpu=v3-12"], ["--tpu=v3-12", "v3-8, v3-32"]),
        (["--tpu=v3-8", "--config.train.global_batch_size=12"], ["is 12", "8 replicas"]),
        (["--tpu=v6e-32", "--config.train.global_batch_size=48"], ["is 48", "32 replicas"]),
        (["--tpu=v6e-16", "--engine=tensorflow"], ["drive v6e-16", "--engine=jax"]),
        (["--tpu=v3-8", "--config.train.shard_state=true"], ["shard_state", "--engine=jax"]),
        (["--tpu=v4-8", "--config.data.image_size=12"], ["image_size is 12"]),
        (["--tpu=v3-8", "--config.train.dtype_policy=mixed_float16"], ["float16", "'auto'"]),
        (["--config.train.global_batch_size=8"], ["--tpu"]),
    ],
)
def test_bad_input_is_rejected(preflight, flags, words):
    result, report = preflight(*flags)
    assert_mentions(result.error, words)
    assert report is None
