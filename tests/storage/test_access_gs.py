"""Tests the check of write access to gs:// with TensorFlow's own client."""

import sys

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.storage import access
from tests import tiny
from tests.launch.launcher import ROOT

pytest.importorskip("tests.gcs.harness")
from tests.gcs.front import ACCOUNT


def check_access(folder):
    """Return the error of `check_writable`, or None if there is none."""
    try:
        access.check_writable(folder)
    except UserError as error:
        return str(error)
    return None


def check_access_and_list(folder):
    """Return the error of `check_writable`, or None, and the files in the folder afterwards."""
    import tensorflow as tf

    return check_access(folder), tf.io.gfile.glob(f"{folder}/**")


def test_writable_bucket_passes_and_stays_empty(gcs, bucket):
    for folder in (bucket, f"{bucket}/runs/new"):
        assert gcs.call(check_access_and_list, folder) == (None, [])


@pytest.mark.parametrize("permission", ["create", "get", "delete"])
def test_missing_permission_is_named(gcs, bucket, permission):
    with gcs.deny(bucket.removeprefix("gs://"), f"storage.objects.{permission}"):
        error = gcs.call(check_access, f"{bucket}/run")
    assert f"{bucket} denies storage.objects.{permission} to {ACCOUNT}; " in error
    assert ("is left there" in error) == (permission == "delete")


def test_missing_bucket_is_named(gcs):
    error = gcs.call(check_access, "gs://no-such-bucket/x")
    assert "there is no bucket gs://no-such-bucket;" in error


@pytest.mark.parametrize("script", ["train.py", "doctor.py"])
def test_scripts_explain_missing_credentials(gcs, bucket, squares, tmp_path, script):
    config = tmp_path / "plain.py"
    config.write_text(tiny.CONFIG_FILE)
    command = [sys.executable, ROOT / "launch" / script, f"--config={config}"]
    command += [f"--workdir={bucket}/run", *tiny.make_flags(squares)]
    environment = {"GOOGLE_APPLICATION_CREDENTIALS": None, "PYTHONPATH": str(ROOT)}
    result = gcs.run(command, environment)
    assert result.returncode == 1
    output = result.stdout if script == "doctor.py" else result.stderr.splitlines()[-1]
    assert f"{bucket} requires credentials, and no valid ones were found" in output, result
    assert "gcloud auth application-default login" in output
