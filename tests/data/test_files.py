"""Files that are whole or not there, and what a refusal says."""

import pytest
import tensorflow as tf

from t2i_tpu.data import files


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path):
    path = tmp_path / "file"
    files.write(str(path), "one")
    files.write(str(path), b"two")
    assert path.read_bytes() == b"two"
    with pytest.raises(ValueError), files.whole(str(path)) as partial:
        tf.io.gfile.GFile(partial, "w").write("half")
        raise ValueError
    assert path.read_bytes() == b"two"


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "in the way").touch()
    with pytest.raises(tf.errors.OpError):
        files.write(str(tmp_path / "folder"), "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'HTTP response code 403 with body \'{"error": {"code": 403, "message": "me@project.iam'
            ".gserviceaccount.com does not have storage.objects.create access to the Google Cloud "
            'Storage object."',
            ["'bucket'", "storage.objects.create", "me@project.iam.gserviceaccount.com"],
        ),
        (
            'HTTP response code 401 with body \'{"error": {"code": 401, "message": "Anonymous caller'
            ' does not have storage.objects.create access to the Google Cloud Storage object."',
            ["'bucket'", "storage.objects.create", "Anonymous caller"],
        ),
        ('code 404 with body "The specified bucket does not exist."', ["no bucket 'bucket'"]),
        ('code 401 with body "Invalid Credentials"', ["'bucket'", "gcloud auth"]),
        ("code 418 with\nbody", ["'bucket'", "code 418 with body"]),
    ],
)
def test_a_bucket_that_refuses_is_named_with_what_it_wants(text, words):
    error = tf.errors.PermissionDeniedError(None, None, text)
    told = files.refusal("gs://bucket/run", error)
    assert all(word in told for word in words) and "\n" not in told
    assert files.refusal("/disk/run", error) == " ".join(text.split())
