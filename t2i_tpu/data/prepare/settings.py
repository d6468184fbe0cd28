"""What a preparation was asked for: all that its result depends on but the input itself."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import platform

from t2i_tpu import __version__
from t2i_tpu.data.prepare.filters import Filters, cause_in_list
from t2i_tpu.data.prepare.images import CROPS
from t2i_tpu.data.sources.folder import FolderSource
from t2i_tpu.data.sources.idx import IdxSource
from t2i_tpu.data.sources.npy import NpySource
from t2i_tpu.data.sources.parquet import ParquetSource
from t2i_tpu.data.sources.source import Source
from t2i_tpu.data.sources.tfds import TfdsSource
from t2i_tpu.data.sources.urls import UrlsSource
from t2i_tpu.data.sources.webdataset import WebdatasetSource
from t2i_tpu.data.writer import SHARD_SIZE
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
# The work on the units, which takes the time, does not depend on these.
OF_SHARDS = ("heldout_share", "seed", "num_streams", "shard_size")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Raises UserError where a value is not allowed."""

    source: str  # KIND:PATH, a kind of SOURCES
    encoder: str = "embedded"  # as `make_encoder` takes it; none, or none:SPEC where SPEC made them
    sequence: bool = False  # the text tower's states beside the pooled embedding
    export_text_tower: bool = False  # beside the shards, for sampling without torch
    image_size: int = 64
    channels: int = 3
    crop: str = "center"  # center | none
    filters: Filters = dataclasses.field(default_factory=Filters)
    heldout_share: float = 0.01  # of sources that have no split of their own
    seed: int = 0  # of what is held out and of the order
    num_streams: int = 16
    shard_size: int = SHARD_SIZE

    def __post_init__(self):
        kind, _, place = self.source.partition(":")
        if kind not in SOURCES or not place:
            known = ", ".join(f"{name}:PATH" for name in SOURCES)
            raise UserError(
                f"--source={self.source} is none of {known}{suggest(kind, list(SOURCES))}"
            )
        if self.encoder.startswith("none") and (self.export_text_tower or self.sequence):
            flag = "export_text_tower" if self.export_text_tower else "sequence"
            raise UserError(
                f"--{flag} needs an encoder; --encoder={self.encoder} has no text tower"
            )
        if self.crop not in CROPS:
            raise UserError(f"--crop={self.crop} is none of {', '.join(CROPS)}")
        if self.channels not in (1, 3):
            raise UserError(f"--channels={self.channels} is neither 1 nor 3")
        if not 0 <= self.heldout_share < 1:
            raise UserError(f"--heldout_share={self.heldout_share} must be at least 0 and below 1")
        distance = self.filters.near_duplicates
        if distance is not None and not 0 <= distance <= 15:
            raise UserError(f"--near_duplicates={distance} must be from 0 to 15 bits")

    def make_source(self) -> Source:
        kind, _, place = self.source.partition(":")
        if kind == "urls":
            return UrlsSource(place, functools.partial(cause_in_list, self.filters))
        return SOURCES[kind](place)

    def as_dict(self) -> dict:
        """Filters that are off are left out."""
        values = dataclasses.asdict(self)
        filters = values["filters"].items()
        return values | {"filters": {name: value for name, value in filters if value is not None}}

    def to_json(self) -> str:
        return json.dumps(self.as_dict() | {"version": __version__}, sort_keys=True)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of what decided the bytes."""
    found = {"t2i_tpu": __version__, "python": platform.python_version()}
    for name in (
        "numpy",
        "pillow",
        "onnxruntime",
        "open_clip_torch",
        "torch",
        "onnxscript",
        "imagehash",
        "img2dataset",
    ):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
