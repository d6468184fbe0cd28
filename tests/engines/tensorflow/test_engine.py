"""Tests that TensorFlow's engine suits the hardware, and that its replicas must divide the batch."""

import pytest
import tensorflow as tf

from t2i_tpu.config import TrainConfig
from t2i_tpu.engines.choose import make_engine
from t2i_tpu.engines.tensorflow.engine import TensorFlowEngine
from t2i_tpu.errors import UserError
from t2i_tpu.training.loop import train
from tests import tiny


def test_batch_that_replicas_do_not_divide_is_rejected(tmp_path, squares):
    engine = make_engine("cpu")
    assert (engine.process, engine.num_processes, engine.num_input_hosts) == (0, 1, 1)
    assert engine.get_replica_batch_size(8) == 2
    workdir = tmp_path / "workdir"
    config = tiny.make_config(squares, train__global_batch_size=6)
    with pytest.raises(UserError, match="global_batch_size is 6, .* number of replicas, 4"):
        train(config, str(workdir), "cpu")
    assert not workdir.exists()


def test_sharded_state_is_rejected(tmp_path, squares):
    config = tiny.make_config(squares, train__shard_state=True)
    with pytest.raises(UserError, match="config.train.shard_state works on JAX only; use --engine"):
        train(config, str(tmp_path / "run"), "cpu")
    assert list(tmp_path.iterdir()) == []


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
    engine = TensorFlowEngine(tf.distribute.get_strategy())
    in_float32, without_xla = TrainConfig(dtype_policy="float32"), TrainConfig(jit_compile="off")
    assert engine.choose_dtype_policy(TrainConfig()) == policy
    assert engine.choose_dtype_policy(in_float32) == "float32"
    assert engine.should_use_xla(TrainConfig())
    assert not engine.should_use_xla(without_xla)


def test_dtype_and_compiler_suit_this_cpu():
    with open("/proc/cpuinfo") as file:
        flags = set(next(line for line in file if line.startswith("flags")).split())
    has_bfloat16 = bool(flags & {"avx512_bf16", "amx_bf16"})
    engine = TensorFlowEngine(tf.distribute.get_strategy())
    if not tf.config.list_physical_devices("GPU"):
        expected = "mixed_bfloat16" if has_bfloat16 else "float32"
        assert engine.choose_dtype_policy(TrainConfig()) == expected
        assert not engine.should_use_xla(TrainConfig())
    in_float16, with_xla = TrainConfig(dtype_policy="mixed_float16"), TrainConfig(jit_compile="on")
    assert engine.choose_dtype_policy(in_float16) == "mixed_float16"
    assert engine.should_use_xla(with_xla)
