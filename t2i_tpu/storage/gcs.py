"""Translates errors of Google Cloud Storage into one line that says what to do."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.errors import UserError, get_first_line

_NO_CREDENTIALS = ("Anonymous caller", "HTTP response code 401", "credentials were not found")
# The least powerful role that includes each permission. objectUser includes the others.
_ROLES = {
    "storage.buckets.get": "legacyBucketReader",
    "storage.objects.get": "objectViewer",
    "storage.objects.list": "objectViewer",
}


def check_bucket(path: str, write: bool = False) -> None:
    """Check that the bucket of a gs:// path can be used. Local paths always pass.

    If a bucket does not exist, TensorFlow's client reports that a file does not exist, and its
    makedirs retries forever. To create folders, it needs the permission storage.buckets.get.

    Args:
      path: the path that will be read or written.
      write: whether folders will be created there.

    Raises:
      UserError: the bucket does not exist, or `write` is true and that permission is missing.
    """
    if not (bucket := _find_bucket(path)):
        return
    try:
        exists = tf.io.gfile.exists(bucket)
    except tf.errors.PermissionDeniedError as error:
        if write:
            raise UserError(explain_error(error, bucket)) from error
        return
    if not exists:
        raise UserError(_explain_missing_bucket(bucket))


@contextlib.contextmanager
def translate_gcs_errors() -> Iterator[None]:
    """Raise UserError in place of a TensorFlow error about gs://. Other errors are not changed."""
    try:
        yield
    except tf.errors.OpError as error:
        if "gs://" not in error.message and "HTTP request" not in error.message:
            raise
        raise UserError(explain_error(error)) from error


def explain_error(error: Exception, path: str = "") -> str:
    """Return one line that says why gs:// could not be read or written, and what to do.

    Args:
      error: the error that TensorFlow or google-cloud-storage raised.
      path: the path that was read or written, in case the error does not name it.
    """
    text = getattr(error, "message", None) or str(error)
    bucket = _find_bucket(text) or _find_bucket(path) or "gs://"
    permission = re.search(r"(?:does not have|Permission)'? '?(storage\.[\w.]+)", text)
    if any(words in text for words in _NO_CREDENTIALS):
        return (
            f"{bucket} requires credentials, and no valid ones were found; run: gcloud auth "
            "application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
        )
    if "scope" in text:
        return (
            f"{bucket} denies access to this machine, which was created without the scope for "
            "storage; create it with --scopes=cloud-platform"
        )
    if permission:
        account = re.search(r"([\w.+-]+@[\w.-]+) does not have", text)
        return _explain_denial(bucket, permission[1], account[1] if account else "ACCOUNT")
    # "Not found" during an upload means that the bucket does not exist.
    is_upload_not_found = isinstance(error, tf.errors.NotFoundError) and (
        "initiating an upload" in text
    )
    if is_upload_not_found or "bucket does not exist" in text:
        return _explain_missing_bucket(bucket)
    if isinstance(error, tf.errors.AbortedError | tf.errors.UnavailableError):
        last = text.rpartition("The last failure: ")[2].partition("\n")[0]
        return f"{bucket} does not answer ({last}); run the same command again when it does"
    return get_first_line(error)


def _find_bucket(text: str) -> str | None:
    """Return the first gs://BUCKET in a text."""
    match = re.search(r"gs://[^/\s'\"]+", text)
    return match[0] if match else None


def _explain_missing_bucket(bucket: str) -> str:
    return (
        f"there is no bucket {bucket}; check its name, or create it in the machine's region: "
        f"gcloud storage buckets create {bucket} --location=REGION"
    )


def _explain_denial(bucket: str, permission: str, account: str) -> str:
    kind = "serviceAccount" if account.endswith("gserviceaccount.com") else "user"
    role = _ROLES.get(permission, "objectUser")
    return (
        f"{bucket} denies {permission} to {account}; its owner can grant it with: gcloud storage "
        f"buckets add-iam-policy-binding {bucket} --member={kind}:{account} "
        f"--role=roles/storage.{role}"
    )
