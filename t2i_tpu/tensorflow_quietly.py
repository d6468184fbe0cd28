"""Importing this imports TensorFlow without the lines that no log level keeps from stderr.

TensorFlow 2.21 says that oneDNN is on when it is imported. Where the import fails they are shown.
"""

import os
import sys
import tempfile


def _import() -> None:
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


_import()
