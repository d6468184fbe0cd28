"""Strategy, dtype and compiler suit the hardware, and missing hardware is reported."""

import json

import pytest
import tensorflow as tf

from t2i_tpu.config import TrainConfig
from t2i_tpu.errors import UserError
from t2i_tpu.run import cluster
from t2i_tpu.run import strategy as strategy_lib
from t2i_tpu.train.loop import train
from tests import tiny
from tests.conftest import LOGICAL_DEVICES


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_machine_without_accelerators_uses_its_cpus(name, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    strategy = strategy_lib.make_strategy(name)
    assert type(strategy) is tf.distribute.MirroredStrategy
    assert strategy.num_replicas_in_sync == LOGICAL_DEVICES
    assert strategy_lib.get_host_index(strategy) == (0, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "no GPU"),
        ("tpu", "no TPU was found on this machine.*TPU VM"),
        ("multiworker", "TF_CONFIG"),
        ("quantum", "one of auto"),
    ],
)
def test_missing_hardware_is_reported(name, words, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=f"--strategy={name}: .*{words}"):
        strategy_lib.make_strategy(name)


def test_batch_that_replicas_do_not_divide_is_rejected(tmp_path, squares):
    strategy = strategy_lib.make_strategy("cpu")
    assert strategy_lib.get_replica_batch_size(strategy, 8) == 2
    workdir = tmp_path / "workdir"
    config = tiny.make_config(squares, train__global_batch_size=6)
    with pytest.raises(UserError, match="global_batch_size is 6, .* number of replicas, 4"):
        train(config, str(workdir), "cpu")
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("capability", "policy"),
    [
        ((6, 0), "float32"),  # P100
        ((7, 0), "mixed_float16"),  # V100
        ((7, 5), "mixed_float16"),  # T4
        ((8, 0), "mixed_bfloat16"),  # A100
        ((9, 0), "mixed_bfloat16"),  # H100
        (None, "float32"),
    ],
)
def test_dtype_and_compiler_suit_the_gpu(monkeypatch, capability, policy):
    """TensorFlow's answers about a GPU are patched, because there may be none."""
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    details = {"compute_capability": capability} if capability else {}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    strategy = tf.distribute.get_strategy()
    in_float32, without_xla = TrainConfig(dtype_policy="float32"), TrainConfig(jit_compile="off")
    assert strategy_lib.choose_dtype_policy(TrainConfig(), strategy) == policy
    assert strategy_lib.choose_dtype_policy(in_float32, strategy) == "float32"
    assert strategy_lib.should_use_xla(TrainConfig(), strategy)
    assert not strategy_lib.should_use_xla(without_xla, strategy)


def test_dtype_and_compiler_suit_this_cpu():
    with open("/proc/cpuinfo") as file:
        flags = set(next(line for line in file if line.startswith("flags")).split())
    has_bfloat16 = bool(flags & {"avx512_bf16", "amx_bf16"})
    strategy = tf.distribute.get_strategy()
    if not tf.config.list_physical_devices("GPU"):
        expected = "mixed_bfloat16" if has_bfloat16 else "float32"
        assert strategy_lib.choose_dtype_policy(TrainConfig(), strategy) == expected
        assert not strategy_lib.should_use_xla(TrainConfig(), strategy)
    in_float16, with_xla = TrainConfig(dtype_policy="mixed_float16"), TrainConfig(jit_compile="on")
    assert strategy_lib.choose_dtype_policy(in_float16, strategy) == "mixed_float16"
    assert strategy_lib.should_use_xla(with_xla, strategy)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("5", "has no 'cluster'"),
        ('{"cluster": []}', "has no 'cluster'"),
        ('{"cluster": {"worker": ["a:1"]}}', "has no 'task'"),
        ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}', "HOST:PORT"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}', "HOST:PORT"),
        ('{"cluster": {"worker": [7]}, "task": {"type": "worker", "index": 0}}', "HOST:PORT"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "below 1"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "x"}}', "index 'x'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}', "task type"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "job 'ps'"),
    ],
)
@pytest.mark.parametrize("name", ["auto", "multiworker"])
def test_malformed_cluster_is_explained(monkeypatch, name, text, words):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError) as error:
        strategy_lib.make_strategy(name)
    assert str(error.value).startswith("TF_CONFIG has") or "is not JSON" in str(error.value)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_workers_of_a_cluster_are_counted(monkeypatch):
    hosts = {"chief": ["a:1"], "worker": ["b:1", "[::1]:2222"]}
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": hosts, "task": task}))
    assert cluster.count_workers() == 3
    monkeypatch.delenv("TF_CONFIG")
    assert cluster.count_workers() == 1
