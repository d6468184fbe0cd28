"""Tests that files are complete or do not exist, and that errors say what to do."""

import os

import pytest
import tensorflow as tf

from t2i_tpu.storage import files
from tests.assertions import assert_mentions


def test_file_is_replaced_completely_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    files.write(str(path), "one")
    files.write(str(path), b"two")
    assert path.read_bytes() == b"two"
    with pytest.raises(ValueError), files.write_atomically(str(path)) as partial:
        tf.io.gfile.GFile(partial, "w").write("half")
        raise ValueError
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]


def test_failed_write_leaves_no_files(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "in the way").touch()
    with pytest.raises(tf.errors.OpError):
        files.write(str(tmp_path / "folder"), "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_only_unfinished_files_of_the_package_are_removed(tmp_path):
    folder = tmp_path / "[a] b\\c"
    folder.mkdir()
    names = ["notes.tmp", "notes.partial", "x.t2i_tpu-partial", "ü.txt"]
    for name in names:
        (folder / name).touch()
    assert files.list_names(str(folder)) == sorted(names)
    files.remove_partial(str(folder))
    assert files.list_names(str(folder)) == sorted({*names} - {"x.t2i_tpu-partial"})
    assert files.list_names(str(folder / "missing")) == []


def make_denial(account, permission, code):
    """Return the message of an error that TensorFlow 2.21 raised, with other names."""
    message = f"{account} does not have {permission} access to the Google Cloud Storage object."
    body = (
        f'{{\n  "error": {{\n    "code": {code},\n    "message": "{message} Permission \'x\' denied'
    )
    return f"Error executing an HTTP request: HTTP response code {code} with body '{body}\" ...'\n\t when"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            make_denial("trainer@p.iam.gserviceaccount.com", "storage.objects.create", 403),
            [
                "gs://bucket denies storage.objects.create to trainer@p.iam.gserviceaccount.com;",
                "gcloud storage buckets add-iam-policy-binding gs://bucket ",
                "--member=serviceAccount:trainer@p.iam.gserviceaccount.com",
            ],
        ),
        (
            make_denial("me@example.com", "storage.objects.delete", 403),
            ["denies storage.objects.delete to me@example.com", "--member=user:me@example.com"],
        ),
        (
            make_denial("Anonymous caller", "storage.objects.get", 401),
            ["gs://bucket requires credentials", "application-default login"],
        ),
        (
            'HTTP response code 404 with body \'{"error": {"message": "The specified bucket does not exist."',
            ["no bucket gs://bucket;", "gcloud storage buckets create gs://bucket"],
        ),
        ("libcurl code 6 meaning\nmore", ["libcurl code 6 meaning"]),
    ],
)
def test_cloud_storage_errors_say_what_to_do(message, words):
    error = tf.errors.PermissionDeniedError(None, None, message)
    explanation = files.explain_error("gs://bucket/runs/x", error)
    assert "\n" not in explanation
    assert_mentions(explanation, words)
