"""The kinds of source that --source supports."""

import contextlib
import functools
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.data.prepare.filters import FILTER_COLUMNS, find_cause_without_image
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.sources.folder.folder import FolderSource
from t2i_tpu.data.sources.idx import IdxSource
from t2i_tpu.data.sources.npy import NpySource
from t2i_tpu.data.sources.parquet import ParquetSource
from t2i_tpu.data.sources.source import Source
from t2i_tpu.data.sources.tar.webdataset import WebdatasetSource
from t2i_tpu.data.sources.tfds import TfdsSource
from t2i_tpu.data.sources.urls import UrlsSource
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.options import suggest
from t2i_tpu.storage import gcs

SOURCES = {
    "folder": FolderSource,
    "webdataset": WebdatasetSource,
    "parquet": ParquetSource,
    "npy": NpySource,
    "idx": IdxSource,
    "tfds": TfdsSource,
    "urls": UrlsSource,
}


@contextlib.contextmanager
def blame_source(source: str) -> Iterator[None]:
    """Raise UserError in place of an error of a file system, with the value of --source in front."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        reason = gcs.explain_error(error) if "gs://" in source else get_first_line(error)
        raise UserError(
            f"--source={source}: {reason}; finished units are kept: run the same command again to "
            "resume"
        ) from error


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
        # If an encoder computes the embeddings, those of the source need not be readable.
        return SOURCES[kind](path, settings.keeps_embeddings)
    return SOURCES[kind](path)
