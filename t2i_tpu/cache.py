"""The folder where this package keeps files that it prepares once and uses again."""

import os


def get_cache_folder() -> str:
    """Return $T2I_TPU_CACHE, or ~/.cache/t2i_tpu if it is not set. The folder may not exist yet."""
    return os.environ.get("T2I_TPU_CACHE") or os.path.expanduser("~/.cache/t2i_tpu")
