"""The real tf.distribute.TPUStrategy over a TPU that is not there: for tracing, not for running.

Logical CPU devices stand where the cores would be, with the TPU's own topology around them, so that
variables, input pipelines and the replicated step are made as they are on a TPU. The hosts of a pod
are TensorFlow servers of this process.
"""

import contextlib
import os
import socket

import numpy as np
import tensorflow as tf
from tensorflow.python.tpu import device_assignment, topology, tpu_system_metadata


def stand_in_strategy(num_replicas: int, num_hosts: int = 1) -> tf.distribute.TPUStrategy:
    """A TPUStrategy of that many replicas, evenly over that many hosts.

    To be called before TensorFlow has looked at its devices.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu would ask a metadata server
    per_host = num_replicas // num_hosts
    hosts = _local_host(per_host) if num_hosts == 1 else _servers(num_hosts, per_host)
    coordinates = np.array(
        [[host, 0, 0, core] for host in range(num_hosts) for core in range(per_host)], np.int32
    )
    chips = topology.Topology(
        mesh_shape=[num_hosts, 1, 1, per_host],
        device_coordinates=coordinates.reshape(num_hosts, per_host, 4),
    )
    strategy = tf.distribute.TPUStrategy(
        _Resolver(hosts, per_host, chips),
        experimental_device_assignment=_Assignment(hosts, per_host, chips, coordinates[:, None, :]),
    )
    strategy._enable_packed_variable_in_eager_mode = False  # packing asks for devices of a TPU
    return strategy


def _local_host(per_host):
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) < per_host:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * per_host
        )
    return ["/job:localhost/replica:0/task:0"]


def _servers(num_hosts, per_host):
    with contextlib.ExitStack() as held:  # all at once, so that the ports differ
        sockets = [
            held.enter_context(socket.create_server(("localhost", 0))) for _ in range(num_hosts)
        ]
        addresses = [f"localhost:{held_port.getsockname()[1]}" for held_port in sockets]
    cluster = tf.train.ClusterSpec({"worker": addresses})
    devices = tf.compat.v1.ConfigProto(device_count={"CPU": per_host})
    for host in range(num_hosts):
        _SERVERS.append(tf.distribute.Server(cluster, "worker", host, config=devices))
    tf.config.experimental_connect_to_cluster(cluster)
    return [f"/job:worker/replica:0/task:{host}" for host in range(num_hosts)]


_SERVERS: list[tf.distribute.Server] = []  # a server lives as long as its object


class _Assignment(device_assignment.DeviceAssignment):
    """Replica r is CPU r % per_host of its host."""

    def __init__(self, hosts, per_host, chips, coordinates):
        super().__init__(chips, coordinates)
        self._hosts, self._per_host = hosts, per_host

    def tpu_device(self, replica: int = 0, logical_core: int = 0, job: str | None = None) -> str:
        host, core = divmod(replica, self._per_host)
        return f"{self._hosts[host]}/device:CPU:{core}"

    def host_device(self, replica: int = 0, logical_core: int = 0, job: str | None = None) -> str:
        return f"{self._hosts[replica // self._per_host]}/device:CPU:0"


class _Resolver(tf.distribute.cluster_resolver.ClusterResolver):
    """Answers what TPUStrategy asks of a TPU's resolver."""

    def __init__(self, hosts, per_host, chips):
        self._hosts, self._per_host, self._chips = hosts, per_host, chips

    def get_tpu_system_metadata(self):
        devices = [
            _Device(f"{host}/device:TPU:{core}", "TPU")
            for host in self._hosts
            for core in range(self._per_host)
        ]
        return tpu_system_metadata.TPUSystemMetadata(
            len(devices), len(self._hosts), self._per_host, self._chips, devices
        )

    def master(self, *_args, **_kwargs):
        return ""

    def cluster_spec(self):
        return None

    def num_accelerators(self, *_args, **_kwargs):
        return {"TPU": self._per_host}


class _Device:
    def __init__(self, name, device_type):
        self.name, self.device_type = name, device_type
