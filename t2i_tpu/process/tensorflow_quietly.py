"""Imports TensorFlow without its output on stderr.

When it is imported, TensorFlow 2.21 prints a message about oneDNN whatever the log level is. If the
import fails, the output is shown.
"""

import logging
import os
import sys
import tempfile

from t2i_tpu.process import interrupts


def _import_tensorflow() -> None:
    sys.stderr.flush()
    with tempfile.TemporaryFile() as output:
        stderr = os.dup(2)
        os.dup2(output.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            if not interrupts.was_received():
                output.seek(0)
                os.write(stderr, output.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _is_useful(record: logging.LogRecord) -> bool:
    """Return False for a warning about functions that are traced once for each batch size."""
    return "tf.function retracing" not in record.getMessage()


_import_tensorflow()
logging.getLogger("tensorflow").addFilter(_is_useful)
