"""The write probe and its refusals on gs://, as TensorFlow's own client meets them."""

import sys

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.storage import access
from tests import tiny
from tests.launch.launcher import ROOT

pytest.importorskip("tests.gcs.harness")
from tests.gcs.front import ACCOUNT


def probed(folder):
    """What the probe of a folder says, and what it leaves."""
    import tensorflow as tf

    try:
        access.check_writable(folder)
        said = None
    except UserError as error:
        said = str(error)
    return said, tf.io.gfile.glob(f"{folder}/**")


def test_a_bucket_that_may_be_written(gcs, bucket):
    for folder in (bucket, f"{bucket}/runs/new"):
        assert gcs.call(probed, folder) == (None, [])


@pytest.mark.parametrize("permission", ["create", "get", "delete"])
def test_each_permission(gcs, bucket, permission):
    with gcs.denied(bucket.removeprefix("gs://"), f"storage.objects.{permission}"):
        said = gcs.call(storage_said, f"{bucket}/run")
    assert f"{bucket} refuses access.objects.{permission} to {ACCOUNT}; " in said
    assert ("is left there" in said) == (permission == "delete")


def storage_said(folder):
    try:
        access.check_writable(folder)
    except UserError as error:
        return str(error)


def test_no_bucket(gcs):
    assert "there is no bucket gs://no-such-bucket;" in gcs.call(
        storage_said, "gs://no-such-bucket/x"
    )


@pytest.mark.parametrize("script", ["train.py", "doctor.py"])
def test_scripts_without_credentials(gcs, bucket, squares, tmp_path, script):
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    command = [sys.executable, ROOT / "launch" / script, f"--config={config}"]
    command += [f"--workdir={bucket}/run", *tiny.flags(squares)]
    environment = {"GOOGLE_APPLICATION_CREDENTIALS": None, "PYTHONPATH": str(ROOT)}
    result = gcs.run(command, environment)
    assert result.returncode == 1
    said = result.stdout if script == "doctor.py" else result.stderr.splitlines()[-1]
    assert f"{bucket} wants credentials and there are none" in said, result
    assert "gcloud auth application-default login" in said
