"""Tests that the strategy suits the hardware, and that missing hardware is reported."""

import pytest
import tensorflow as tf

from t2i_tpu.engines.tensorflow.strategy import make_strategy
from t2i_tpu.errors import UserError
from tests.conftest import LOGICAL_DEVICES


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_machine_without_accelerators_uses_its_cpus(name, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    strategy = make_strategy(name)
    assert type(strategy) is tf.distribute.MirroredStrategy
    assert strategy.num_replicas_in_sync == LOGICAL_DEVICES


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
        make_strategy(name)


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
        make_strategy(name)
    assert str(error.value).startswith("TF_CONFIG has") or "is not JSON" in str(error.value)
    assert words in str(error.value) and "\n" not in str(error.value)
