"""What gs:// refuses, in a line that says what to do about it."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.errors import UserError

_NO_CREDENTIALS = ("Anonymous caller", "HTTP response code 401", "credentials were not found")
_ROLES = {
    "storage.buckets.get": "legacyBucketReader",
    "storage.objects.get": "objectViewer",
    "storage.objects.list": "objectViewer",
}


def check_bucket(path: str, write: bool = False) -> None:
    """Raises UserError where `path` is on gs:// and its bucket does not exist, or, to `write`, may
    not be looked at.

    For a file of no bucket TensorFlow's client says that it does not exist, and its makedirs goes
    on asking forever. To make folders it must be allowed to look at the bucket.
    """
    if not (bucket := _bucket(path)):
        return
    try:
        exists = tf.io.gfile.exists(bucket)
    except tf.errors.PermissionDeniedError as error:
        if write:
            raise UserError(explain_error(error, bucket)) from error
        return
    if not exists:
        raise UserError(_absent(bucket))


@contextlib.contextmanager
def translate_gcs_errors() -> Iterator[None]:
    """An error of gs:// that nobody else caught is a UserError."""
    try:
        yield
    except tf.errors.OpError as error:
        if "gs://" not in error.message and "HTTP request" not in error.message:
            raise
        raise UserError(explain_error(error)) from error


def explain_error(error: Exception, path: str = "") -> str:
    """One line on an error of reading or writing files, TensorFlow's or google-cloud-storage's;
    `path` where the error may not name it."""
    text = getattr(error, "message", None) or str(error)
    bucket = _bucket(text) or _bucket(path) or "gs://"
    permission = re.search(r"(?:does not have|Permission)'? '?(storage\.[\w.]+)", text)
    if any(words in text for words in _NO_CREDENTIALS):
        return (
            f"{bucket} wants credentials and there are none that hold; run: gcloud auth "
            "application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
        )
    if "scope" in text:
        return (
            f"{bucket} refuses this machine, which was made without the right to use storage; "
            "make it with --scopes=cloud-platform"
        )
    if permission:
        return _refusal(bucket, permission[1], re.search(r"([\w.+-]+@[\w.-]+) does not have", text))
    # An upload finds nothing only where there is no bucket.
    is_absent = isinstance(error, tf.errors.NotFoundError) and "initiating an upload" in text
    if is_absent or "bucket does not exist" in text:
        return _absent(bucket)
    if isinstance(error, tf.errors.AbortedError | tf.errors.UnavailableError):
        last = text.rpartition("The last failure: ")[2].splitlines()[0]
        return f"{bucket} does not answer ({last}); run the same command again when it does"
    return text.splitlines()[0]


def _absent(bucket):
    return (
        f"there is no bucket {bucket}; check its name, or make it in the machine's region: "
        f"gcloud storage buckets create {bucket} --location=REGION"
    )


def _bucket(text):
    found = re.search(r"gs://[^/\s'\"]+", text)
    return found and found[0]


def _refusal(bucket, permission, account):
    who = account[1] if account else "ACCOUNT"
    member = f"{'serviceAccount' if who.endswith('gserviceaccount.com') else 'user'}:{who}"
    role = _ROLES.get(permission, "objectUser")
    return (
        f"{bucket} refuses {permission} to {who}; its owner grants it by: gcloud storage buckets "
        f"add-iam-policy-binding {bucket} --member={member} --role=roles/storage.{role}"
    )
