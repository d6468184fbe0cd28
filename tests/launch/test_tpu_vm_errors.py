"""launch/tpu_vm.sh reports an error in one line with a remedy, and retries temporary failures."""

import pytest

from tests.launch.tpu import CREATE, TRAIN, WORKDIR

V6E_POD = ["create", "tpu", "--type=v6e-16", "--zone=us-east5-b"]
LOGGED_OUT = "ERROR: (gcloud.x) You do not currently have an active account selected."
QUOTA = (
    "ERROR: (gcloud.x) Quota limit 'TPUV3sPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0"
)
API = "ERROR: (gcloud.x) PERMISSION_DENIED: Cloud TPU API has not been used in project 1 before"
DENIED = "ERROR: (gcloud.x) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied"
AGENT = "ERROR: (gcloud.x) SSH Key is not present in the SSH agent. Please run ssh-add"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["create"], ["name is missing", "create NAME"]),
        (["create", "--type=v3-8"], ["name is missing"]),
        (["create", "My_tpu"], ["'My_tpu'", "lowercase letters"]),
        (["make", "tpu"], ["'make'", "create, setup, train"]),
        ([*CREATE, "--sopt"], ["'--sopt'", "--name=value"]),
        ([*CREATE, "--bucket=b"], ["--bucket=b", "gs://BUCKET"]),
        (["create", "tpu", "--zone=us-central1-a"], ["--type is missing", "--type=v3-8"]),
        (["create", "tpu", "--type=v3-9"], ["--type=v3-9", "v3-8 v3-32"]),
        (["create", "tpu", "--type=v6e-2"], ["v6e-1 v6e-4 v6e-8 v6e-16"]),
        ([*CREATE, "--engine=torch"], ["--engine=torch", "auto, tensorflow or jax"]),
        ([*V6E_POD, "--engine=tensorflow"], ["cannot use v6e-16", "use --engine=jax"]),
        (["setup", *V6E_POD[1:], "--engine=tensorflow"], ["cannot use v6e-16"]),
        (["create", "tpu", "--type=h100"], ["--type=h100", "v5e", "such as v3-8"]),
        (["create", "tpu", "--type=v4-8"], ["--zone is missing", "us-central2-b"]),
        ([*CREATE[:3], "--zone=us-west4-a"], ["us-west4-a has no v3-8", "us-central1-b"]),
        (["status", "tpu", "--zone=z"], ["there is no TPU 'tpu' in z"]),
        (["logs", "tpu", "--zone=z"], ["there is no TPU 'tpu' in z", "create tpu"]),
        (["delete", "tpu", "--zone=z"], ["there is no TPU 'tpu' in z"]),
        (["logs", "tpu"], ["no TPU 'tpu' was created from this checkout"]),
        (["create", *TRAIN[1:]], ["--type is missing"]),
        ([*TRAIN[:2], *CREATE[2:], WORKDIR], ["--config is missing"]),
        ([*TRAIN[:2], *CREATE[2:], "--config=no.py"], ["there is no file 'no.py'"]),
        ([*TRAIN[:3], *CREATE[2:], "--workdir=runs/x"], ["'runs/x'", "gs://BUCKET/PATH"]),
    ],
)
def test_bad_input_is_rejected(cloud, words, expected):
    error = cloud.run(*words, code=1)
    for part in expected:
        assert part in error


@pytest.mark.parametrize(
    ("words", "script", "expected"),
    [
        (CREATE, {"answers": {"auth list": ""}}, ["gcloud auth login"]),
        (CREATE, {"answers": {"get project": "(unset)"}}, ["gcloud config set project"]),
        (CREATE, {"errors": {" create": [[LOGGED_OUT, 1]]}}, ["gcloud auth login"]),
        (CREATE, {"errors": {" create": [[QUOTA, 1]]}}, ["no quota for v3-8", "https://"]),
        (CREATE, {"errors": {" create": [[API, 1]]}}, ["services enable tpu.googleapis.com"]),
        (CREATE, {"errors": {" create": [[DENIED, 1]]}}, ["roles/tpu.admin"]),
        (CREATE, {"lives": [["FAILED"]]}, ["rejected the request", "status tpu"]),
        (["setup", "tpu", "--zone=z"], {"now": ["PROVISIONING"]}, ["PROVISIONING, not READY"]),
        (
            ["setup", "tpu", "--zone=z"],
            {"now": ["ACTIVE"], "errors": {"scp": [[AGENT, 1]]}},
            ["ssh-agent", "ssh-add ~/.ssh/google_compute_engine"],
        ),
    ],
)
def test_problem_at_google_is_explained(cloud, words, script, expected):
    cloud.plan(**script)
    error = cloud.run(*words, code=1)
    for part in expected:
        assert part in error


def test_missing_gcloud_is_reported(cloud):
    (cloud.folder / "bin/gcloud").unlink()
    assert "https://cloud.google.com/sdk/docs/install" in cloud.run(*CREATE, code=1)


def test_ssh_is_retried(cloud):
    refused = ["ssh: connect to host 1.2.3.4 port 22: Connection refused", 255]
    cloud.plan(trainings=[0], errors={"tpu-vm ssh": [refused] * 4})
    cloud.run(*CREATE)
    cloud.run(*TRAIN)
    cloud.plan(now=["ACTIVE"], errors={"tpu-vm ssh": [refused] * 9})
    error = cloud.run(*TRAIN, code=1)
    assert "does not answer" in error
    assert "Connection refused" in error
    assert sum(call[3:4] == ["ssh"] for call in cloud.calls) == 5


@pytest.mark.parametrize("action", [["setup", "tpu"], TRAIN])
def test_command_that_fails_on_the_tpu_is_not_retried(cloud, action):
    failure = ["ERROR: No matching distribution found for libtpu", 99]
    cloud.plan(errors={"tpu_host.sh setup": [failure] * 9})
    cloud.run(*CREATE)
    assert "No matching distribution" in cloud.run(*action, code=1)
    assert cloud.actions == ["create", "scp", "setup"]


def test_no_capacity_fails_a_direct_request_but_not_a_training(cloud):
    full = ['ERROR: (gcloud) {"message": "There is no more capacity in the zone"}', 1]
    cloud.plan(errors={"tpu-vm create": [full]})
    assert "leave out --direct" in cloud.run(*CREATE, "--direct", code=1)
    cloud.plan([["ACTIVE"]], trainings=[0], errors={"tpu-vm create": [full] * 3})
    cloud.run(*TRAIN, "--type=v3-8", "--zone=us-central1-a", "--direct")
    assert cloud.actions == [*["create"] * 4, "scp", "setup", "start"]
