"""Google's metadata server, which describes a virtual machine to the programs on it."""

import os
import urllib.error
import urllib.request


def read(path: str) -> str:
    """Return a value of the metadata server, or "" if this machine does not have it.

    Args:
      path: the value's path below instance/.

    Raises:
      OSError: the server does not answer, or NO_GCE_CHECK forbids asking it.
    """
    if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
        raise OSError
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/{path}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.read().decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise


def is_tpu_pod() -> bool:
    """Return whether this machine is one of several hosts of a TPU.

    Google Kubernetes Engine lists the hosts in TPU_WORKER_HOSTNAMES, and Cloud TPU in the metadata, as in
    jax/_src/clusters/cloud_tpu_cluster.py.
    """
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES")
    if hosts is None:
        try:
            hosts = read("attributes/worker-network-endpoints")
        except OSError:
            return False
    return "," in hosts
