"""Reads TF_CONFIG, which lists the workers of a run on several machines."""

import json
import os

from t2i_tpu.config import STRATEGIES
from t2i_tpu.errors import UserError

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)


def check_strategy(name: str) -> None:
    """Raise UserError if there is no such strategy, or if it needs TF_CONFIG, which is not set."""
    if name not in STRATEGIES:
        raise UserError(f"--strategy={name}: it must be one of {', '.join(STRATEGIES)}")
    if name == "multiworker" and not os.environ.get("TF_CONFIG"):
        raise UserError(
            "--strategy=multiworker: TF_CONFIG is not set; set it to the addresses of the workers "
            "and the index of this one"
        )


def count_workers() -> int:
    """Return the number of workers in TF_CONFIG, or 1 if it is not set; see `read_workers`."""
    return read_workers()[0]


def read_workers() -> tuple[int, int, str]:
    """Return the number of workers in TF_CONFIG, the index of this one, and the address of the first.

    If TF_CONFIG is not set, they are 1, 0 and "".

    Raises:
      UserError: TF_CONFIG is malformed, or does not list this worker.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 1, 0, ""
    try:
        value = json.loads(text)
    except ValueError as error:
        _fail(f"is not JSON ({error})")
    cluster = _get_dict(value, "cluster")
    for job, addresses in cluster.items():
        if job not in ("chief", "worker"):
            _fail(f"has a job {job!r} in its cluster; only chief and worker can train")
        if not isinstance(addresses, list) or not addresses or not all(map(_is_address, addresses)):
            _fail(f"has {addresses!r} as its {job}s, which must be a list of HOST:PORT")
    task = _get_dict(value, "task")
    job, index = task.get("type"), task.get("index")
    if job not in cluster:
        _fail(f"has the task type {job!r}; it must be {' or '.join(cluster)}")
    if isinstance(index, bool) or not str(index).isdecimal() or int(index) >= len(cluster[job]):
        _fail(f"has the task index {index!r}; it must be below {len(cluster[job])}")
    # A chief comes before the workers.
    chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
    before = len(chiefs) if job == "worker" else 0
    return len(chiefs) + len(workers), before + int(index), (chiefs + workers)[0]


def _get_dict(value: object, name: str) -> dict:
    """Return a member of TF_CONFIG, which must be a dict that is not empty."""
    member = value.get(name) if isinstance(value, dict) else None
    if not isinstance(member, dict) or not member:
        _fail(f"has no {name!r}")
    return member


def _is_address(address: object) -> bool:
    host, _, port = str(address).rpartition(":")
    return isinstance(address, str) and bool(host) and port.isdecimal() and 0 < int(port) < 2**16


def _fail(problem: str) -> None:
    raise UserError(
        f"TF_CONFIG {problem}; set it on each worker as in {_EXAMPLE}, or unset it to use one machine"
    )
