"""The kinds of source that --source supports."""

import functools

from t2i_tpu.data.prepare.filters import FILTER_COLUMNS, find_cause_without_image
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.sources.folder import FolderSource
from t2i_tpu.data.sources.idx import IdxSource
from t2i_tpu.data.sources.npy import NpySource
from t2i_tpu.data.sources.parquet import ParquetSource
from t2i_tpu.data.sources.source import Source
from t2i_tpu.data.sources.tfds import TfdsSource
from t2i_tpu.data.sources.urls import UrlsSource
from t2i_tpu.data.sources.webdataset import WebdatasetSource
from t2i_tpu.errors import UserError
from t2i_tpu.options import suggest

SOURCES = {
    "folder": FolderSource,
    "webdataset": WebdatasetSource,
    "parquet": ParquetSource,
    "npy": NpySource,
    "idx": IdxSource,
    "tfds": TfdsSource,
    "urls": UrlsSource,
}


def make_source(settings: Settings) -> Source:
    """Return the source of a preparation. Raises UserError if there is no such kind of source."""
    kind, _, path = settings.source.partition(":")
    if kind not in SOURCES or not path:
        expected = ", ".join(f"{name}:PATH" for name in SOURCES)
        raise UserError(
            f"--source={settings.source} must be one of {expected}{suggest(kind, list(SOURCES))}"
        )
    if kind == "urls":
        # Do not download images that the filters will reject anyway.
        find_cause = functools.partial(find_cause_without_image, settings.filters)
        return UrlsSource(path, find_cause, FILTER_COLUMNS)
    if kind in ("parquet", "npy"):
        # Embeddings that an encoder replaces need not be readable.
        return SOURCES[kind](path, settings.keeps_embeddings)
    return SOURCES[kind](path)
