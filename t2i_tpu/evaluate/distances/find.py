"""Lists the distances. To add one, add a file to this folder that defines DISTANCE."""

import importlib
import pkgutil

from t2i_tpu.errors import UserError
from t2i_tpu.evaluate import distances
from t2i_tpu.evaluate.distances.distance import Distance

_OTHER_FILES = ("distance", "find")
_FIRST = "kid"  # the headline of a report


def list_distances() -> list[Distance]:
    """Return the DISTANCE of every other file in this folder: KID first, then by file name.

    Raises:
      UserError: a package of the extra `evaluate` is missing.
    """
    names = {module.name for module in pkgutil.iter_modules(distances.__path__)}
    names = sorted(names.difference(_OTHER_FILES), key=lambda name: (name != _FIRST, name))
    try:
        modules = [importlib.import_module(f"{distances.__name__}.{name}") for name in names]
    except ModuleNotFoundError as error:
        raise UserError(
            f"the distances between images need {error.name}, which is not installed; "
            "run pip install -e '.[evaluate]'"
        ) from error
    return [module.DISTANCE for module in modules]
