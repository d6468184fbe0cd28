"""launch/tpu_vm.sh against a stand-in for gcloud: its calls, and training through interruptions."""

import itertools
import os
import shlex
import signal
import time

import pytest

from tests.launch.launcher import ROOT
from tests.launch.tpu import CREATE, TRAIN, WORKDIR, wait_for

DESCRIBE_REQUEST = (
    "compute tpus queued-resources describe tpu --zone=us-central1-a --format=value(state.state)"
)
DESCRIBE_NODE = "compute tpus tpu-vm describe tpu --zone=us-central1-a --format=value(state)"


def test_create_waits_for_the_tpu_and_saves_its_flags(cloud):
    cloud.plan([["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]])
    output = cloud.run(*CREATE)
    assert cloud.commands == [
        "auth list --filter=status:ACTIVE --format=value(account)",
        "config get project",
        "compute tpus queued-resources create tpu --zone=us-central1-a --accelerator-type=v3-8"
        " --node-id=tpu --runtime-version=tpu-ubuntu2204-base",
        *[DESCRIBE_REQUEST] * 3,
        DESCRIBE_REQUEST,
        DESCRIBE_NODE,
    ]
    assert output.count("WAITING_FOR_RESOURCES") == 1
    assert "PROVISIONING" in output
    assert "is ready and costs money" in output
    assert "is READY" in cloud.run("status", "tpu")
    assert cloud.calls[-2][3:6] == ["describe", "tpu", "--zone=us-central1-a"]


def test_create_passes_all_flags_to_gcloud(cloud):
    flags = ["--direct", "--spot", "--service-account=a@b.com", "--project=p", "--runtime=r"]
    cloud.run("create", "tpu", "--type=v5e-8", "--zone=us-west4-a", *flags)
    assert cloud.commands == [
        "auth list --filter=status:ACTIVE --format=value(account)",
        "compute tpus tpu-vm create tpu --zone=us-west4-a --project=p"
        " --accelerator-type=v5litepod-8 --spot --service-account=a@b.com --version=r",
        "compute tpus tpu-vm describe tpu --zone=us-west4-a --project=p --format=value(state)",
    ]
    cloud.run("delete", "tpu")
    assert cloud.commands[-1] == (
        "compute tpus tpu-vm delete tpu --zone=us-west4-a --project=p --quiet"
    )
    assert "no TPU 'tpu' was created" in cloud.run("status", "tpu", code=1)


def test_interrupted_create_continues(cloud):
    cloud.plan([], now=["PROVISIONING", "ACTIVE"])
    cloud.run(*CREATE)
    assert cloud.actions == ["create"]


def test_created_tpu_trains_and_is_deleted(cloud):
    """Special characters in flags reach train.py unchanged, through two shells and make."""
    flags = ["--config.data.source=shards:gs://bucket/it's $HOME", '--x=`id`;"$(id)" *', "--y="]
    cloud.plan(trainings=[0])
    cloud.run(*CREATE)
    output = cloud.run(*TRAIN, "--", *flags)
    assert "step 1/2: 0" in output
    assert "trained: gs://bucket/runs/x" in output
    assert cloud.actions == ["create", "scp", "setup", "start"]
    expected = [
        "--engine=tensorflow",
        "--strategy=tpu",
        "--config=configs/new one.py",
        WORKDIR,
        *flags,
    ]
    assert cloud.trainings == [[expected, {}]]
    assert ["install", "-qq", "-e", ".[tpu]"] in cloud.read_json_lines("installed")
    # These go to all hosts: scp, tar, setup and start.
    words = ["t2i_tpu.tgz", "tpu_host.sh setup", "tpu_host.sh start"]
    commands = [command for command in cloud.commands if any(word in command for word in words)]
    assert len(commands) == 4
    assert all("--worker=all" in command for command in commands)
    cloud.run("delete", "tpu")
    assert cloud.commands[-1] == (
        "compute tpus queued-resources delete tpu --zone=us-central1-a --force --quiet"
    )


@pytest.mark.parametrize(
    ("states", "flags"),
    [
        (["NODE_PREEMPTED"], []),
        (["SUSPENDING", "SUSPENDED"], []),
        (["NODE_PREEMPTED"], ["--direct"]),
    ],
)
def test_preempted_tpu_is_replaced_and_training_resumes(cloud, states, flags):
    second_life = ["CREATING", "READY"] if flags else ["WAITING_FOR_RESOURCES", "ACTIVE"]
    cloud.plan([["ACTIVE"] * 4 + states, second_life], trainings=["wait", 0])
    cloud.run(*CREATE, "--spot", *flags)
    output = cloud.run(*TRAIN, "--", "--a=b c")
    life = ["create", "scp", "setup", "start"]
    assert cloud.actions == [*life, "delete", *life]
    first, second = (call for call in cloud.calls if call[3:4] == ["create"])
    assert first == second
    assert "--spot" in second
    first, second = cloud.trainings
    assert first == second
    assert states[-1].removeprefix("NODE_") in output
    assert "trained:" in output


def test_exit_code_75_restarts_the_training(cloud):
    cloud.plan(trainings=[75, 75, 0])
    cloud.run(*CREATE)
    cloud.run(*TRAIN)
    assert cloud.actions == ["create", "scp", "setup", "start", "start", "start"]


def test_failed_training_passes_on_its_exit_code(cloud):
    cloud.plan(trainings=[3])
    cloud.run(*CREATE)
    error = cloud.run(*TRAIN, code=3)
    assert "exit code 3" in error
    assert "logs tpu" in error


def test_exit_code_of_an_earlier_training_is_ignored(cloud):
    """A training that failed or ended is started again, because its config may have changed."""
    cloud.plan(trainings=[3, 0, 0])
    cloud.run(*CREATE)
    cloud.run(*TRAIN, code=3)
    cloud.run(*TRAIN)
    cloud.run(*TRAIN)
    assert cloud.actions == ["create", "scp", "setup", "start", "start", "start"]


def test_training_continues_after_ctrl_c_and_can_be_watched_again(cloud):
    cloud.plan(trainings=["wait", 0])
    cloud.run(*CREATE)
    watcher = cloud.start(*TRAIN)
    wait_for(lambda: len(cloud.trainings) == 1)
    # A terminal sends Ctrl-C to the process group.
    os.killpg(watcher.pid, signal.SIGINT)
    watcher.communicate(timeout=30)
    assert watcher.returncode == 130
    error = cloud.run(*TRAIN[:3], "--workdir=gs://bucket/other", code=1)
    assert "running another training" in error

    watcher = cloud.start(*TRAIN)
    time.sleep(1)
    assert watcher.poll() is None
    assert len(cloud.trainings) == 1
    # A machine that shuts down sends SIGTERM.
    job = cloud.folder / "vm0/t2i_tpu/.tpu/pid"
    os.killpg(int(job.read_text()), signal.SIGTERM)
    stdout, stderr = watcher.communicate(timeout=30)
    assert watcher.returncode == 0, stdout + stderr
    assert len(cloud.trainings) == 2


def test_training_resumes_after_the_machine_restarts(cloud):
    """A machine that fails leaves no exit code."""
    cloud.plan(trainings=["wait", 0])
    cloud.run(*CREATE)
    watcher = cloud.start(*TRAIN)
    wait_for(lambda: len(cloud.trainings) == 1)
    cloud.kill_training()
    stdout, stderr = watcher.communicate(timeout=30)
    assert watcher.returncode == 0, stdout + stderr
    assert cloud.actions == ["create", "scp", "setup", "start", "start"]


@pytest.mark.parametrize(
    "words",
    [
        [*CREATE, "--spot", "--bucket=gs://bucket"],
        [*TRAIN, "--type=v3-8", "--zone=us-central1-a", "--", "--a=it's $x"],
        ["setup", "tpu", "--zone=us-central1-a"],
        ["status", "tpu", "--zone=us-central1-a"],
        ["logs", "tpu", "--zone=us-central1-a", "--worker=3"],
        ["ssh", "tpu", "--zone=us-central1-a", "--", "cd t2i_tpu && ls '*'"],
        ["delete", "tpu", "--zone=us-central1-a", "--direct"],
    ],
)
def test_dry_run_prints_the_commands_of_a_real_run(cloud, words):
    end_of_flags = words.index("--") if "--" in words else len(words)
    printed = cloud.run(*words[:end_of_flags], "--dry-run", *words[end_of_flags:])
    assert cloud.calls == []
    assert not (cloud.checkout / ".tpu").exists()
    now = None if words[0] == "create" else ["ACTIVE"]
    cloud.plan(now=now, trainings=[0], answers={"command=(tail|cd)": "its output"})
    # With a long poll, the training has ended when its state is queried.
    cloud.run(*words, T2I_TPU_POLL="4")
    commands = [shlex.split(line) for line in printed.splitlines()]
    assert commands == [["gcloud", *call] for call in cloud.calls]


def test_each_type_is_listed_once():
    lines = (ROOT / "launch/tpu_types.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert all(len(row) == 4 for row in rows)
    assert {row[2] for row in rows} == {"tensorflow,jax", "jax"}
    types = list(itertools.chain(*(row[0].split(",") for row in rows)))
    assert len(types) == len(set(types))
    assert {"v2-8", "v6e-8", "v6e-256", "v5litepod-1"} <= set(types)
