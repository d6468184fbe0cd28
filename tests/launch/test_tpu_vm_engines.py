"""launch/tpu_vm.sh with either engine: which one a type gets, and how JAX trains on all hosts of a pod."""

import contextlib

import pytest

from tests.launch.tpu import CREATE, TRAIN, WORKDIR, serve_metadata, wait_for

POD = ["create", "tpu", "--type=v6e-16", "--zone=us-east5-b"]
FLAGS = ["--strategy=tpu", "--config=configs/new one.py", WORKDIR]
BUCKET = {"storage buckets describe": "US-EAST5"}


@pytest.fixture
def pod_hosts():
    """The addresses of the metadata servers of a pod with two hosts."""
    endpoints = "unknown:unknown:127.0.0.1,unknown:unknown:127.0.0.2"
    with contextlib.ExitStack() as stack:
        attributes = {"worker-network-endpoints": endpoints}
        yield [
            stack.enter_context(serve_metadata(**attributes, **{"agent-worker-number": number}))
            for number in "01"
        ]


@pytest.mark.parametrize(
    ("flags", "extra", "engine"),
    [
        ([], "tpu", "tensorflow"),
        (["--engine=auto"], "tpu", "tensorflow"),
        (["--engine=jax"], "jax-tpu", "jax"),
    ],
)
def test_engine_is_saved_installed_and_used(cloud, flags, extra, engine):
    cloud.plan(trainings=[0, 0])
    cloud.run(*CREATE, *flags)
    assert f"--engine={engine}" in (cloud.checkout / ".tpu/tpu.flags").read_text().splitlines()
    cloud.run("setup", "tpu")
    packages = [words[-1] for words in cloud.read_json_lines("installed") if "-e" in words]
    assert packages == [f".[{extra}]"]
    cloud.run(*TRAIN)
    assert cloud.actions == ["create", "scp", "setup", "start"]
    assert cloud.trainings == [[[f"--engine={engine}", *FLAGS], {}]]


def test_train_with_the_other_engine_installs_it_first(cloud):
    cloud.plan(trainings=[0, 0])
    cloud.run(*CREATE)
    cloud.run(*TRAIN)
    cloud.run(*TRAIN, "--engine=jax")
    packages = [words[-1] for words in cloud.read_json_lines("installed") if "-e" in words]
    assert packages == [".[tpu]", ".[jax-tpu]"]
    assert [words[0] for words, _ in cloud.trainings] == ["--engine=tensorflow", "--engine=jax"]


def test_pod_that_only_jax_can_use_trains_on_all_hosts(cloud, pod_hosts):
    cloud.plan(hosts=pod_hosts, answers=BUCKET, trainings=[0])
    cloud.plan_trainings(0, host=1)
    cloud.run(*POD)
    assert "--engine=jax" in (cloud.checkout / ".tpu/tpu.flags").read_text()
    cloud.run(*TRAIN)
    wait_for(lambda: cloud.read_json_lines("trained1"))
    for host in "01":
        assert cloud.read_json_lines(f"trained{host}") == [[["--engine=jax", *FLAGS], {}]]
    assert cloud.actions == ["create", "scp", "setup", "start"]


def test_all_hosts_stop_before_a_training_resumes(cloud, pod_hosts):
    cloud.plan(hosts=pod_hosts, answers=BUCKET, trainings=[75, 0])
    cloud.plan_trainings("wait", 0, host=1)
    cloud.run(*POD)
    cloud.run(*TRAIN)
    wait_for(lambda: len(cloud.read_json_lines("trained1")) == 2)
    assert cloud.actions == ["create", "scp", "setup", "start", "start"]


def test_training_resumes_after_another_host_restarts(cloud, pod_hosts):
    """A machine that fails leaves no exit code, but the other hosts notice that it is gone."""
    cloud.plan(hosts=pod_hosts, answers=BUCKET, trainings=["wait", 0])
    cloud.plan_trainings("wait", 0, host=1)
    cloud.run(*POD)
    watcher = cloud.start(*TRAIN)
    wait_for(lambda: cloud.trainings and cloud.read_json_lines("trained1"))
    cloud.kill_training("vm1/*")
    cloud.end_training(1)
    stdout, stderr = watcher.communicate(timeout=30)
    assert watcher.returncode == 0, stdout + stderr
    assert cloud.actions == ["create", "scp", "setup", "start", "start"]


def test_error_names_the_exit_codes_of_all_hosts(cloud, pod_hosts):
    cloud.plan(hosts=pod_hosts, answers=BUCKET, trainings=["wait"])
    cloud.plan_trainings(137, host=1)
    cloud.run(*POD)
    watcher = cloud.start(*TRAIN)
    wait_for(lambda: cloud.trainings and cloud.read_json_lines("trained1"))
    cloud.end_training(3)
    _, stderr = watcher.communicate(timeout=30)
    assert watcher.returncode == 3
    assert "exit code 3 (host 0: exit 3, host 1: exit 137)" in stderr
    assert "logs tpu --worker=N" in stderr
