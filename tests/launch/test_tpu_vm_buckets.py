"""launch/tpu_vm.sh checks that buckets are in the TPU's region."""

import pytest

from tests.launch.tpu import CREATE, TRAIN


@pytest.mark.parametrize(
    ("location", "zone"),
    [
        ("US-CENTRAL1", "us-central1-a"),
        ("US", "us-central1-a"),
        ("NAM4", "us-central1-a"),
        ("EU", "europe-west4-a"),
    ],
)
def test_bucket_in_the_region_is_accepted(cloud, location, zone):
    cloud.plan(answers={"buckets describe": location})
    output = cloud.run(*CREATE[:3], f"--zone={zone}", "--bucket=gs://bucket")
    spans_regions = location != "US-CENTRAL1"
    assert ("may be billed" in output) == spans_regions


@pytest.mark.parametrize(
    ("location", "zone"),
    [
        ("US-EAST1", "us-central1-a"),
        ("EU", "us-central1-a"),
        ("US", "europe-west4-a"),
    ],
)
def test_bucket_in_another_region_needs_a_flag(cloud, location, zone):
    cloud.plan(answers={"buckets describe": location})
    words = [*CREATE[:3], f"--zone={zone}", "--bucket=gs://bucket"]
    error = cloud.run(*words, code=1)
    for part in (location.lower(), "billed", "--allow-egress"):
        assert part in error
    assert cloud.actions == []
    cloud.run(*words, "--allow-egress")


def test_every_bucket_of_a_training_is_checked(cloud):
    cloud.plan(now=["ACTIVE"], answers={"describe gs://far ": "ASIA-EAST1"})
    flag = "--config.data.source=shards:gs://far/data"
    error = cloud.run(*TRAIN, *CREATE[2:], "--", flag, code=1)
    assert "gs://far is in asia-east1" in error


def test_missing_bucket_is_reported(cloud):
    cloud.plan(errors={"describe gs://bucket ": [["ERROR: (x) gs://bucket not found: 404.", 1]]})
    error = cloud.run(*TRAIN, *CREATE[2:], code=1)
    assert "gcloud storage buckets create gs://bucket --location=us-central1" in error


def test_default_workdir_is_in_the_bucket_of_create(cloud):
    cloud.plan(trainings=[0])
    cloud.run(*CREATE, "--bucket=gs://bucket/")
    cloud.run(*TRAIN[:3])
    ((arguments, _),) = cloud.trainings
    assert "--workdir=gs://bucket/runs/new one" in arguments
