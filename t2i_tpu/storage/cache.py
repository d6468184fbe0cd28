"""The folder where this package keeps files that it prepares once and uses again."""

import os

from t2i_tpu.errors import UserError
from t2i_tpu.storage import paths

_VARIABLE = "T2I_TPU_CACHE"


def get_cache_folder() -> str:
    """Return $T2I_TPU_CACHE, or ~/.cache/t2i_tpu if it is not set. The folder may not exist yet.

    Raises:
      UserError: the variable does not name a local folder.
    """
    text = os.environ.get(_VARIABLE) or "~/.cache/t2i_tpu"
    folder = paths.parse_path(text, f"{_VARIABLE}=", is_output=True)
    if paths.is_remote(folder):
        raise UserError(
            f"{_VARIABLE}={text}: the cache must be on this machine; choose a local folder"
        )
    return folder
