"""launch/tpu_vm.sh against a stand-in for gcloud: its calls, its errors, and that it goes on."""

import itertools
import os
import shlex
import signal
import time

import pytest

from tests.launch.launcher import ROOT
from tests.launch.tpu import Cloud

CREATE = ["create", "tpu", "--type=v3-8", "--zone=us-central1-a"]
WORKDIR = "--workdir=gs://bucket/runs/x"
TRAIN = ["train", "tpu", "--config=configs/new one.py", WORKDIR]
LOOKS = [
    "compute tpus queued-resources describe tpu --zone=us-central1-a --format=value(state.state)",
    "compute tpus tpu-vm describe tpu --zone=us-central1-a --format=value(state)",
]


@pytest.fixture
def cloud(tmp_path):
    cloud = Cloud(tmp_path)
    yield cloud
    cloud.clean_up()


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_create_asks_waits_and_remembers(cloud):
    cloud.play([["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]])
    told = cloud.run(*CREATE)
    assert [" ".join(call) for call in cloud.calls] == [
        "auth list --filter=status:ACTIVE --format=value(account)",
        "config get project",
        "compute tpus queued-resources create tpu --zone=us-central1-a --accelerator-type=v3-8"
        " --node-id=tpu --runtime-version=tpu-ubuntu2204-base",
        *[LOOKS[0]] * 3,
        *LOOKS,
    ]
    assert told.count("WAITING_FOR_RESOURCES") == 1 and "PROVISIONING" in told
    assert told.count("is READY") == 1 and "costs money" in told
    assert "is READY" in cloud.run("status", "tpu")
    assert cloud.calls[-2][3:6] == ["describe", "tpu", "--zone=us-central1-a"]


def test_create_directly_with_all_its_flags(cloud):
    flags = ["--direct", "--spot", "--service-account=a@b.com", "--project=p", "--runtime=r"]
    cloud.run("create", "tpu", "--type=v5e-8", "--zone=us-west4-a", *flags)
    assert [" ".join(call) for call in cloud.calls] == [
        "auth list --filter=status:ACTIVE --format=value(account)",
        "compute tpus tpu-vm create tpu --zone=us-west4-a --project=p"
        " --accelerator-type=v5litepod-8 --spot --service-account=a@b.com --version=r",
        "compute tpus tpu-vm describe tpu --zone=us-west4-a --project=p --format=value(state)",
    ]
    cloud.run("delete", "tpu")
    assert " ".join(cloud.calls[-1]) == (
        "compute tpus tpu-vm delete tpu --zone=us-west4-a --project=p --quiet"
    )
    assert "no TPU 'tpu' was created" in cloud.run("status", "tpu", code=1)


def test_an_interrupted_create_is_taken_up_again(cloud):
    cloud.play([], now=["PROVISIONING", "ACTIVE"])
    cloud.run(*CREATE)
    assert cloud.verbs == ["create"]


def test_from_create_to_delete(cloud):
    """The words that train.py gets are those that were typed, through two shells and make."""
    words = ["--config.data.source=shards:gs://bucket/it's $HOME", '--x=`id`;"$(id)" *', "--y="]
    cloud.play(trainings=[0])
    cloud.run(*CREATE)
    told = cloud.run(*TRAIN, "--", *words)
    assert "step 1/2: 0" in told and "trained: gs://bucket/runs/x" in told
    assert cloud.verbs == ["create", "scp", "setup", "start"]
    (trained,) = cloud.lines("trained")
    expected = ["--strategy=tpu", "--config=configs/new one.py", WORKDIR, *words]
    assert trained == [expected, {}]
    assert ["install", "-qq", "-e", ".[tpu]"] in cloud.lines("installed")
    there = "t2i_tpu.tgz", "tpu_host.sh setup", "tpu_host.sh start"
    calls = [call for call in cloud.calls if any(word in " ".join(call) for word in there)]
    assert len(calls) == 4 and all("--worker=all" in call for call in calls)
    cloud.run("delete", "tpu")
    assert cloud.calls[-1] == (
        "compute tpus queued-resources delete tpu --zone=us-central1-a --force --quiet".split()
    )


@pytest.mark.parametrize(
    ("signs", "flags"),
    [
        (["NODE_PREEMPTED"], []),
        (["SUSPENDING", "SUSPENDED"], []),
        (["NODE_PREEMPTED"], ["--direct"]),
    ],
)
def test_a_preempted_tpu_is_replaced_and_the_training_goes_on(cloud, signs, flags):
    second = ["CREATING", "READY"] if flags else ["WAITING_FOR_RESOURCES", "ACTIVE"]
    cloud.play([["ACTIVE"] * 4 + signs, second], trainings=["wait", 0])
    cloud.run(*CREATE, "--spot", *flags)
    told = cloud.run(*TRAIN, "--", "--a=b c")
    one_life = ["create", "scp", "setup", "start"]
    assert cloud.verbs == [*one_life, "delete", *one_life]
    first, again = (call for call in cloud.calls if call[3:4] == ["create"])
    assert first == again and "--spot" in again
    trainings = cloud.lines("trained")
    assert len(trainings) == 2 and trainings[0] == trainings[1]
    assert signs[-1].removeprefix("NODE_") in told and "trained:" in told


def test_75_means_start_it_again(cloud):
    cloud.play(trainings=[75, 75, 0])
    cloud.run(*CREATE)
    cloud.run(*TRAIN)
    assert cloud.verbs == ["create", "scp", "setup", "start", "start", "start"]


def test_another_exit_code_is_passed_on_and_not_taken_for_that_of_the_next_training(cloud):
    cloud.play(trainings=[3, 0, 0])
    cloud.run(*CREATE)
    error = cloud.run(*TRAIN, code=3)
    assert "exit code 3" in error and "logs tpu" in error
    cloud.run(*TRAIN)
    cloud.run(*TRAIN)  # its config may have changed
    assert cloud.verbs == ["create", "scp", "setup", "start", "start", "start"]


def test_the_training_outlives_its_watcher_and_takes_a_new_one(cloud):
    cloud.play(trainings=["wait", 0])
    cloud.run(*CREATE)
    watcher = cloud.start(*TRAIN)
    wait_for(lambda: len(cloud.lines("trained")) == 1)
    os.killpg(watcher.pid, signal.SIGINT)  # as a terminal does
    watcher.communicate(timeout=30)
    assert watcher.returncode == 130
    error = cloud.run(*TRAIN[:3], "--workdir=gs://bucket/other", code=1)
    assert "training something else" in error

    watcher = cloud.start(*TRAIN)
    time.sleep(1)
    assert watcher.poll() is None and len(cloud.lines("trained")) == 1
    job = cloud.folder / "vm/t2i_tpu/.tpu/pid"
    os.killpg(int(job.read_text()), signal.SIGTERM)  # as of a machine that shuts down
    stdout, stderr = watcher.communicate(timeout=30)
    assert watcher.returncode == 0, stdout + stderr
    assert len(cloud.lines("trained")) == 2


def test_a_machine_that_was_started_anew_goes_on(cloud):
    cloud.play(trainings=["wait", 0])
    cloud.run(*CREATE)
    watcher = cloud.start(*TRAIN)
    wait_for(lambda: len(cloud.lines("trained")) == 1)
    cloud.cut_off()  # nothing could write down how it ended
    stdout, stderr = watcher.communicate(timeout=30)
    assert watcher.returncode == 0, stdout + stderr
    assert cloud.verbs == ["create", "scp", "setup", "start", "start"]


def test_ssh_is_tried_again(cloud):
    refused = ["ssh: connect to host 1.2.3.4 port 22: Connection refused", 255]
    cloud.play(trainings=[0], errors={"tpu-vm ssh": [refused] * 4})
    cloud.run(*CREATE)
    cloud.run(*TRAIN)
    cloud.play(now=["ACTIVE"], errors={"tpu-vm ssh": [refused] * 9})
    error = cloud.run(*TRAIN, code=1)
    assert "does not answer" in error and "Connection refused" in error
    assert sum(call[3:4] == ["ssh"] for call in cloud.calls) == 5


@pytest.mark.parametrize("action", [["setup", "tpu"], TRAIN])
def test_what_fails_there_is_not_tried_again(cloud, action):
    failed = ["ERROR: No matching distribution found for libtpu", 99]
    cloud.play(errors={"tpu_host.sh setup": [failed] * 9})
    cloud.run(*CREATE)
    assert "No matching distribution" in cloud.run(*action, code=1)
    assert cloud.verbs == ["create", "scp", "setup"]


def test_no_capacity_ends_a_direct_request_but_not_a_training(cloud):
    full = ['ERROR: (gcloud) {"message": "There is no more capacity in the zone"}', 1]
    cloud.play(errors={"tpu-vm create": [full]})
    assert "leave out --direct" in cloud.run(*CREATE, "--direct", code=1)
    cloud.play([["ACTIVE"]], trainings=[0], errors={"tpu-vm create": [full] * 3})
    cloud.run(*TRAIN, "--type=v3-8", "--zone=us-central1-a", "--direct")
    assert cloud.verbs == [*["create"] * 4, "scp", "setup", "start"]


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
def test_a_dry_run_prints_what_a_run_does_and_does_nothing(cloud, words):
    where = words.index("--") if "--" in words else len(words)
    printed = cloud.run(*words[:where], "--dry-run", *words[where:])
    assert cloud.calls == [] and not (cloud.checkout / ".tpu").exists()
    now = None if words[0] == "create" else ["ACTIVE"]
    cloud.play(now=now, trainings=[0], answers={"command=(tail|cd)": "its output"})
    cloud.run(*words, T2I_TPU_POLL="4")  # the training ends before it is looked at
    commands = [shlex.split(line) for line in printed.splitlines()]
    assert commands == [["gcloud", *call] for call in cloud.calls]


LOGGED_OUT = "ERROR: (gcloud.x) You do not currently have an active account selected."
QUOTA = (
    "ERROR: (gcloud.x) Quota limit 'TPUV3sPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0"
)
API = "ERROR: (gcloud.x) PERMISSION_DENIED: Cloud TPU API has not been used in project 1 before"
DENIED = "ERROR: (gcloud.x) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied"
AGENT = "ERROR: (gcloud.x) SSH Key is not present in the SSH agent. Please run ssh-add"


@pytest.mark.parametrize(
    ("words", "script", "expected"),
    [
        (["create"], {}, ["which TPU?", "create NAME"]),
        (["create", "--type=v3-8"], {}, ["which TPU?"]),
        (["create", "My_tpu"], {}, ["'My_tpu'", "small letters"]),
        (["make", "tpu"], {}, ["'make'", "create, setup, train"]),
        ([*CREATE, "--sopt"], {}, ["'--sopt'", "--name=value"]),
        ([*CREATE, "--bucket=b"], {}, ["gs://BUCKET"]),
        (["create", "tpu", "--zone=us-central1-a"], {}, ["--type=v3-8"]),
        (["create", "tpu", "--type=v3-9"], {}, ["--type=v3-9", "v3-8 v3-32"]),
        (["create", "tpu", "--type=v6e-16"], {}, ["v6e-1 v6e-4 v6e-8"]),
        (["create", "tpu", "--type=h100"], {}, ["--type=h100", "v5e", "as v3-8"]),
        (["create", "tpu", "--type=v4-8"], {}, ["--zone is missing", "us-central2-b"]),
        ([*CREATE[:3], "--zone=us-west4-a"], {}, ["us-west4-a has no v3-8", "us-central1-b"]),
        (CREATE, {"answers": {"auth list": ""}}, ["gcloud auth login"]),
        (CREATE, {"answers": {"get project": "(unset)"}}, ["gcloud config set project"]),
        (CREATE, {"errors": {" create": [[LOGGED_OUT, 1]]}}, ["gcloud auth login"]),
        (CREATE, {"errors": {" create": [[QUOTA, 1]]}}, ["no quota for v3-8", "https://"]),
        (CREATE, {"errors": {" create": [[API, 1]]}}, ["services enable tpu.googleapis.com"]),
        (CREATE, {"errors": {" create": [[DENIED, 1]]}}, ["roles/tpu.admin"]),
        (CREATE, {"lives": [["FAILED"]]}, ["turned the request", "status tpu"]),
        (["status", "tpu", "--zone=z"], {}, ["there is no TPU 'tpu' in z"]),
        (["logs", "tpu", "--zone=z"], {}, ["there is no TPU 'tpu' in z", "create tpu"]),
        (["delete", "tpu", "--zone=z"], {}, ["there is no TPU 'tpu' in z"]),
        (["setup", "tpu", "--zone=z"], {"now": ["PROVISIONING"]}, ["PROVISIONING, not READY"]),
        (
            ["setup", "tpu", "--zone=z"],
            {"now": ["ACTIVE"], "errors": {"scp": [[AGENT, 1]]}},
            ["ssh-agent", "ssh-add ~/.ssh/google_compute_engine"],
        ),
        (["logs", "tpu"], {}, ["no TPU 'tpu' was created from this checkout"]),
        ([*CREATE[:1], *TRAIN[1:]], {}, ["--type is missing"]),
        ([*TRAIN[:2], *CREATE[2:], WORKDIR], {}, ["--config is missing"]),
        ([*TRAIN[:2], *CREATE[2:], "--config=no.py"], {}, ["there is no file 'no.py'"]),
        ([*TRAIN[:3], *CREATE[2:], "--workdir=runs/x"], {}, ["'runs/x'", "gs://BUCKET/PATH"]),
    ],
)
def test_one_line_with_the_remedy(cloud, words, script, expected):
    cloud.play(**script)
    error = cloud.run(*words, code=1)
    for part in expected:
        assert part in error


def test_gcloud_is_missing(cloud):
    (cloud.folder / "bin/gcloud").unlink()
    assert "https://cloud.google.com/sdk/docs/install" in cloud.run(*CREATE, code=1)


@pytest.mark.parametrize(
    ("location", "zone", "is_near"),
    [
        ("US-CENTRAL1", "us-central1-a", True),
        ("US", "us-central1-a", True),
        ("NAM4", "us-central1-a", True),
        ("EU", "europe-west4-a", True),
        ("US-EAST1", "us-central1-a", False),
        ("EU", "us-central1-a", False),
        ("US", "europe-west4-a", False),
    ],
)
def test_the_bucket_and_the_tpu_are_in_one_region(cloud, location, zone, is_near):
    cloud.play(answers={"buckets describe": location})
    words = [*CREATE[:3], f"--zone={zone}", "--bucket=gs://bucket"]
    told = cloud.run(*words, code=0 if is_near else 1)
    if is_near:
        assert ("may be billed" in told) == (location in ("US", "EU", "NAM4"))
    else:
        assert location.lower() in told and "billed" in told and "--allow-egress" in told
        assert cloud.verbs == []
        cloud.run(*words, "--allow-egress")


def test_every_bucket_of_a_training_is_looked_at(cloud):
    cloud.play(now=["ACTIVE"], answers={"describe gs://far ": "ASIA-EAST1"})
    flag = "--config.data.source=shards:gs://far/data"
    error = cloud.run(*TRAIN, *CREATE[2:], "--", flag, code=1)
    assert "gs://far is in asia-east1" in error
    cloud.play(errors={"describe gs://bucket ": [["ERROR: (x) gs://bucket not found: 404.", 1]]})
    error = cloud.run(*TRAIN, *CREATE[2:], code=1)
    assert "gcloud storage buckets create gs://bucket --location=us-central1" in error


def test_the_workdir_is_in_the_bucket_of_create(cloud):
    cloud.play(trainings=[0])
    cloud.run(*CREATE, "--bucket=gs://bucket/")
    cloud.run(*TRAIN[:3])
    assert "--workdir=gs://bucket/runs/new one" in cloud.lines("trained")[0][0]


def test_each_type_of_the_table_has_one_line():
    lines = (ROOT / "launch/tpu_types.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert all(len(row) == 3 for row in rows)
    types = list(itertools.chain(*(row[0].split(",") for row in rows)))
    assert len(types) == len(set(types)) and {"v2-8", "v6e-8", "v5litepod-1"} <= set(types)
