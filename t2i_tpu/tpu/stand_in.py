"""A real tf.distribute.TPUStrategy over a TPU that does not exist, for tracing but not for running.

Logical CPU devices stand in for the cores, with the TPU's own topology around them. Variables,
input pipelines and the replicated step are therefore built as on a TPU. The hosts of a pod are
TensorFlow servers in this process.
"""

import contextlib
import os
import socket

import numpy as np
import tensorflow as tf
from tensorflow.python.tpu import device_assignment, topology, tpu_system_metadata

# A server lives only as long as its object.
_servers: list[tf.distribute.Server] = []


def make_stand_in_strategy(num_replicas: int, num_hosts: int = 1) -> tf.distribute.TPUStrategy:
    """Return a TPUStrategy of `num_replicas`, spread evenly over `num_hosts`.

    It must be called before TensorFlow initializes its devices.
    """
    # Otherwise libtpu would ask a metadata server.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    per_host = num_replicas // num_hosts
    hosts = (
        _configure_local_host(per_host) if num_hosts == 1 else _start_servers(num_hosts, per_host)
    )
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
    # Packing requires the devices of a TPU.
    strategy._enable_packed_variable_in_eager_mode = False
    return strategy


def _configure_local_host(num_devices: int) -> list[str]:
    """Create logical CPU devices in this process and return the name of its only host."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) < num_devices:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
        )
    return ["/job:localhost/replica:0/task:0"]


def _start_servers(num_hosts: int, devices_per_host: int) -> list[str]:
    """Start a TensorFlow server for each host, connect to them and return the names of the hosts."""
    # All ports are open at the same time, so they differ.
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("localhost", 0))) for _ in range(num_hosts)
        ]
        addresses = [f"localhost:{server.getsockname()[1]}" for server in sockets]
    cluster = tf.train.ClusterSpec({"worker": addresses})
    devices = tf.compat.v1.ConfigProto(device_count={"CPU": devices_per_host})
    for host in range(num_hosts):
        _servers.append(tf.distribute.Server(cluster, "worker", host, config=devices))
    tf.config.experimental_connect_to_cluster(cluster)
    return [f"/job:worker/replica:0/task:{host}" for host in range(num_hosts)]


class _Assignment(device_assignment.DeviceAssignment):
    """Assigns replica r to CPU r % per_host of its host."""

    def __init__(self, hosts, per_host, chips, coordinates):
        super().__init__(chips, coordinates)
        self._hosts, self._per_host = hosts, per_host

    def tpu_device(self, replica: int = 0, logical_core: int = 0, job: str | None = None) -> str:
        host, core = divmod(replica, self._per_host)
        return f"{self._hosts[host]}/device:CPU:{core}"

    def host_device(self, replica: int = 0, logical_core: int = 0, job: str | None = None) -> str:
        return f"{self._hosts[replica // self._per_host]}/device:CPU:0"


class _Resolver(tf.distribute.cluster_resolver.ClusterResolver):
    """Provides the parts of a TPU's cluster resolver that TPUStrategy uses."""

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
    """A device as TPUSystemMetadata lists it."""

    def __init__(self, name, device_type):
        self.name, self.device_type = name, device_type
