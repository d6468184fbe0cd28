"""Tests that TF_CONFIG is read; tests/engines/tensorflow/test_strategy.py covers its errors."""

import json

from t2i_tpu import cluster


def test_the_chief_comes_before_the_workers(monkeypatch):
    hosts = {"worker": ["b:1", "[::1]:2222"], "chief": ["a:1"]}
    for kind, index, expected in (("chief", 0, 0), ("worker", 0, 1), ("worker", "1", 2)):
        task = {"type": kind, "index": index}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": hosts, "task": task}))
        assert cluster.read_workers() == (3, expected, "a:1")
        assert cluster.count_workers() == 3


def test_without_tf_config_there_is_one_worker(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert cluster.read_workers() == (1, 0, "")
    assert cluster.count_workers() == 1
