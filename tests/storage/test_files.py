"""Files that are whole or not there, and what a refusal says."""

import pytest
import tensorflow as tf

from t2i_tpu.storage import files


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path):
    path = tmp_path / "file"
    files.write(str(path), "one")
    files.write(str(path), b"two")
    assert path.read_bytes() == b"two"
    with pytest.raises(ValueError), files.write_atomically(str(path)) as partial:
        tf.io.gfile.GFile(partial, "w").write("half")
        raise ValueError
    assert path.read_bytes() == b"two"


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "in the way").touch()
    with pytest.raises(tf.errors.OpError):
        files.write(str(tmp_path / "folder"), "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def denied(account, permission, code):
    """What TensorFlow 2.21 raises, as recorded from it, but for the names."""
    message = f"{account} does not have {permission} access to the Google Cloud Storage object."
    body = (
        f'{{\n  "error": {{\n    "code": {code},\n    "message": "{message} Permission \'x\' denied'
    )
    return f"Error executing an HTTP request: HTTP response code {code} with body '{body}\" ...'\n\t when"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            denied("trainer@p.iam.gserviceaccount.com", "storage.objects.create", 403),
            [
                "gs://bucket refuses storage.objects.create to trainer@p.iam.gserviceaccount.com;",
                "gcloud storage buckets add-iam-policy-binding gs://bucket ",
                "--member=serviceAccount:trainer@p.iam.gserviceaccount.com",
            ],
        ),
        (
            denied("me@example.com", "storage.objects.delete", 403),
            ["refuses storage.objects.delete to me@example.com", "--member=user:me@example.com"],
        ),
        (
            denied("Anonymous caller", "storage.objects.get", 401),
            ["gs://bucket wants credentials", "application-default login"],
        ),
        (
            'HTTP response code 404 with body \'{"error": {"message": "The specified bucket does not exist."',
            ["no bucket gs://bucket;", "gcloud storage buckets create gs://bucket"],
        ),
        ("libcurl code 6 meaning\nmore", ["libcurl code 6 meaning"]),
    ],
)
def test_refusals_of_cloud_storage(message, words):
    error = tf.errors.PermissionDeniedError(None, None, message)
    told = files.explain_error("gs://bucket/runs/x", error)
    assert "\n" not in told
    for word in words:
        assert word in told
