"""Turns an error about a file, on disk or on gs://, into one line that says what to do."""

import contextlib
import os
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, gcs

_REASONS = frozenset(os.strerror(number) for number in range(1, 134))


@contextlib.contextmanager
def translate_file_errors() -> Iterator[None]:
    """Raise UserError in place of an error about a file. Other errors are not changed."""
    try:
        with gcs.translate_gcs_errors():
            yield
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        raise UserError(f"{name}: {files.add_remedy(error.strerror)}") from error
    except tf.errors.OpError as error:
        # TensorFlow's messages about local files are "PATH; REASON".
        path, _, reason = error.message.partition("\n")[0].rpartition("; ")
        if not path or reason not in _REASONS:
            raise
        raise UserError(f"{path}: {files.add_remedy(reason)}") from error
