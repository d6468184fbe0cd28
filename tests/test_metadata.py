"""The metadata server says whether this machine is one of several hosts of a TPU."""

import pytest

from t2i_tpu import metadata
from tests.launch.tpu import NO_METADATA, serve_metadata

ONE = {"worker-network-endpoints": "unknown:unknown:10.0.0.2"}
TWO = {"worker-network-endpoints": "unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3"}


@pytest.mark.parametrize(
    ("attributes", "hostnames", "expected"),
    [
        ({}, None, False),
        (ONE, None, False),
        (TWO, None, True),
        ({"worker-network-endpoints": "host0,host1"}, None, True),
        # Kubernetes.
        ({}, "host0,host1", True),
        (TWO, "localhost", False),
    ],
)
def test_pod_is_recognized(monkeypatch, attributes, hostnames, expected):
    if hostnames is None:
        monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    else:
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", hostnames)
    monkeypatch.delenv("NO_GCE_CHECK", raising=False)
    with serve_metadata(**attributes) as address:
        monkeypatch.setenv("GCE_METADATA_HOST", address)
        assert metadata.is_tpu_pod() is expected


def test_machine_without_metadata_is_no_pod(monkeypatch):
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    monkeypatch.setenv("GCE_METADATA_HOST", NO_METADATA)
    assert not metadata.is_tpu_pod()
