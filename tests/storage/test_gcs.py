"""Tests that errors of gs:// become one line that says what to do.

tests/launch/test_gcs.py tests this with the errors of the real clients.
"""

import pytest
import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage import gcs
from tests.assertions import assert_mentions

ERROR = (
    "{{{{function_node __wrapped__X}}}} Error executing an HTTP request: HTTP response code {code} "
    "with body '{body}'\n\t when reading gs://some/data/x.tfrecord [Op:IteratorGetNext] name: "
)


@pytest.mark.parametrize(
    ("kind", "code", "body", "words"),
    [
        (
            tf.errors.PermissionDeniedError,
            403,
            "me@example.com does not have storage.objects.delete access to the Google Cloud Storage "
            "object. Permission 'storage.objects.delete' denied on resource (or it may not exist).",
            ["gs://some denies storage.objects.delete to me@example.com", "--member=user:me@"],
        ),
        (
            tf.errors.PermissionDeniedError,
            403,
            "Permission 'storage.objects.list' denied on resource",
            ["gs://some denies storage.objects.list", "roles/storage.objectViewer"],
        ),
        (
            tf.errors.PermissionDeniedError,
            403,
            "Provided scope(s) are not authorized",
            ["gs://some", "--scopes=cloud-platform"],
        ),
        (
            tf.errors.PermissionDeniedError,
            401,
            "Invalid Credentials",
            ["gs://some", "gcloud auth application-default login"],
        ),
        (
            tf.errors.AbortedError,
            503,
            "busy",
            ["gs://some does not answer", "503", "run the same command again"],
        ),
        (tf.errors.NotFoundError, 404, "No such object: some/data/x.tfrecord", ["404"]),
    ],
)
def test_gcs_errors_become_user_errors(kind, code, body, words):
    with pytest.raises(UserError) as error, gcs.translate_gcs_errors():
        raise kind(None, None, ERROR.format(code=code, body=body))
    assert_mentions(str(error.value), words)
    assert "\n" not in str(error.value)


def test_other_errors_are_not_translated():
    with pytest.raises(tf.errors.NotFoundError), gcs.translate_gcs_errors():
        tf.io.gfile.stat("/no/such/file")


def test_local_paths_have_no_bucket(tmp_path):
    gcs.check_bucket(str(tmp_path / "gs:" / "x"), write=True)
