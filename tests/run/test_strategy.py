"""Which strategy, dtype and compiler go with which hardware, and what is refused."""

import pytest
import tensorflow as tf

from t2i_tpu.config import TrainConfig
from t2i_tpu.errors import UserError
from t2i_tpu.run import strategy
from t2i_tpu.train.loop import train
from tests import tiny
from tests.conftest import LOGICAL_DEVICES


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_the_cpus_of_a_machine_without_more(name, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    made = strategy.make_strategy(name)
    assert type(made) is tf.distribute.MirroredStrategy
    assert made.num_replicas_in_sync == LOGICAL_DEVICES
    assert strategy.get_host_index(made) == (0, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "no GPU"),
        ("tpu", "no TPU was found on this machine.*TPU VM"),
        ("multiworker", "TF_CONFIG"),
        ("quantum", "one of auto"),
    ],
)
def test_what_this_machine_has_not(name, words, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=f"--strategy={name}: .*{words}"):
        strategy.make_strategy(name)


def test_a_batch_that_replicas_do_not_divide(tmp_path, squares):
    assert strategy.get_replica_batch_size(strategy.make_strategy("cpu"), 8) == 2
    workdir = tmp_path / "workdir"
    config = tiny.config(squares, train__global_batch_size=6)
    with pytest.raises(UserError, match="global_batch_size is 6; 4 replicas need a multiple of 4"):
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
def test_dtypes_of_gpus(monkeypatch, capability, policy):
    """By what TensorFlow says of them: there is none here to ask."""
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    details = {"compute_capability": capability} if capability else {}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    one = tf.distribute.get_strategy()
    assert strategy.choose_dtype_policy(TrainConfig(), one) == policy
    assert strategy.choose_dtype_policy(TrainConfig(dtype_policy="float32"), one) == "float32"
    assert strategy.should_use_xla(TrainConfig(), one)
    assert not strategy.should_use_xla(TrainConfig(jit_compile="off"), one)


def test_dtype_and_compiler_of_this_cpu():
    with open("/proc/cpuinfo") as file:
        flags = set(next(line for line in file if line.startswith("flags")).split())
    fast = bool(flags & {"avx512_bf16", "amx_bf16"})
    one = tf.distribute.get_strategy()
    if not tf.config.list_physical_devices("GPU"):
        expected = "mixed_bfloat16" if fast else "float32"
        assert strategy.choose_dtype_policy(TrainConfig(), one) == expected
        assert not strategy.should_use_xla(TrainConfig(), one)
    assert (
        strategy.choose_dtype_policy(TrainConfig(dtype_policy="mixed_float16"), one)
        == "mixed_float16"
    )
    assert strategy.should_use_xla(TrainConfig(jit_compile="on"), one)
