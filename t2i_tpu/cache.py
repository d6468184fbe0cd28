"""Where this package keeps what it prepares once."""

import os


def get_cache_folder() -> str:
    """$T2I_TPU_CACHE, else ~/.cache/t2i_tpu; it need not exist yet."""
    return os.environ.get("T2I_TPU_CACHE") or os.path.expanduser("~/.cache/t2i_tpu")
