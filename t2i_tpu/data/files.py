"""Files that get their name only when they are whole, on disk and gs://."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def whole(path: str) -> Iterator[str]:
    """Yields another name to write under; the file gets its own when the block is done."""
    partial = path + ".tmp"
    try:
        yield partial
        tf.io.gfile.rename(partial, path, overwrite=True)
    except tf.errors.OpError:
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.remove(partial)
        raise


def write(path: str, content: str | bytes) -> None:
    """Writes or replaces a file. Raises tf.errors.OpError where it cannot be written."""
    with whole(path) as partial, tf.io.gfile.GFile(partial, "wb") as file:
        file.write(content)


def refusal(path: str, error: tf.errors.OpError) -> str:
    """Why a file system refused, in one line: for gs:// the bucket, the permission, the account."""
    text = " ".join(error.message.split())
    if not path.startswith("gs://"):
        return text
    bucket = path.split("/")[2]
    denied = re.search(r"(Anonymous caller|[^\s\"']+) does not have (storage\.[\w.]+) access", text)
    if denied:
        return (
            f"bucket {bucket!r} denies {denied[2]} to {denied[1]}; grant it, or use another account"
        )
    if "bucket does not exist" in text:
        return f"there is no bucket {bucket!r}"
    if re.search(r"\b401\b|Invalid Credentials", text):
        return f"bucket {bucket!r} knows no such account; run gcloud auth application-default login"
    return f"bucket {bucket!r}: {text[:300]}"
