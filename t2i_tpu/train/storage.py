"""Whether a folder, on disk or gs://, can be written, and what it means where it cannot."""

import contextlib
import os
import posixpath
import re
import shutil
import uuid

import tensorflow as tf

from t2i_tpu.errors import UserError

_PROBE = b"t2i_tpu looks whether it can write here\n" * 100  # more than fits beside an inode


def probe(folder: str) -> None:
    """Writes a small file, reads it back and removes it, and so leaves nothing.

    Raises:
      UserError: what is refused, where, to whom, and what to do.
    """
    path = posixpath.join(_existing(folder), f".probe-{uuid.uuid4().hex}.tmp")
    is_left = False
    try:
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(_PROBE)
        is_left = True
        with tf.io.gfile.GFile(path, "rb") as file:
            found = file.read()
        tf.io.gfile.remove(path)
    except tf.errors.OpError as error:
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(path)  # what refused the one may refuse the other
            is_left = False
        left = f" (and {path} is left there)" if is_left else ""
        raise UserError(f"{folder} cannot be written: {refusal(path, error)}{left}") from error
    if found != _PROBE:
        raise UserError(f"{folder} gives back other bytes than were written; use another folder")


def free_bytes(folder: str) -> int | None:
    """Of the disk that holds a folder or will; None for gs://."""
    return None if _is_remote(folder) else shutil.disk_usage(_existing(folder)).free


def used_bytes(folder: str) -> int:
    """Of the files in a local folder, without those below; 0 where it is not there."""
    if _is_remote(folder) or not os.path.isdir(folder):
        return 0
    return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())


def refusal(path: str, error: tf.errors.OpError) -> str:
    """Why TensorFlow could not read or write a path, and what to do: for gs:// the bucket, the
    permission and the account, out of the answer of Cloud Storage that the error quotes."""
    if not path.startswith("gs://"):
        reason = error.message.splitlines()[0].rpartition("; ")[2]
        return f"{reason}; {_LOCAL_REMEDIES.get(reason, 'check the path')}"
    bucket = "gs://" + path.removeprefix("gs://").partition("/")[0]
    answer = re.search(r'"message":\s*"(.*?)"', error.message)
    reason = answer[1] if answer else error.message.splitlines()[0]
    denied = re.search(r"(.+) does not have (\S+) access", reason)
    if denied and denied[1] == "Anonymous caller":
        return (
            f"there are no credentials, and {bucket} gives {denied[2]} to nobody without; run "
            "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
        )
    if denied:
        kind = "serviceAccount" if denied[1].endswith("gserviceaccount.com") else "user"
        return (
            f"{denied[1]} lacks {denied[2]} on {bucket}; run gcloud storage buckets "
            f"add-iam-policy-binding {bucket} --member={kind}:{denied[1]} "
            "--role=roles/storage.objectAdmin"
        )
    # An upload finds nothing only where there is no bucket.
    if "bucket does not exist" in reason or (
        isinstance(error, tf.errors.NotFoundError) and "initiating an upload" in error.message
    ):
        return (
            f"there is no bucket {bucket}; mend the name, or run gcloud storage buckets create "
            f"{bucket} --location=REGION, the region of the machine"
        )
    return f"{bucket} answers: {reason}"


_LOCAL_REMEDIES = {
    "Permission denied": "give yourself the right to write there, or use another folder",
    "Read-only file system": "use another folder",
    "No space left on device": "free some, or use another disk",
    "Disk quota exceeded": "free some, or use another disk",
    "File too large": "raise the limit on file sizes (ulimit -f), or use another disk",
}


def _existing(folder: str) -> str:
    """The folder, or where it will be made: the nearest one above that is there."""
    if _is_remote(folder):
        return folder
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder


def _is_remote(folder: str) -> bool:
    return "://" in folder
