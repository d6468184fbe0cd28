"""The settings of a preparation. Its result depends only on them and on the input.

This module does not import TensorFlow, because launch/prepare_data.py needs it to define its flags.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from typing import Any, Literal

from t2i_tpu import __version__
from t2i_tpu.data.prepare.filters import Filters
from t2i_tpu.errors import UserError
from t2i_tpu.options import check_bounds, check_choice, get_choices, option
from t2i_tpu.storage import paths

# Settings that affect only how examples are distributed over shards. Units, which take nearly all the
# time, need not be processed again if one of them changes.
SHARD_SETTINGS = ("heldout_share", "seed", "num_streams", "shard_size")

# Packages whose versions affect the output.
_PACKAGES = (
    "numpy",
    "pillow",
    "pillow_heif",
    "onnxruntime",
    "open_clip_torch",
    "torch",
    "onnxscript",
    "imagehash",
    "img2dataset",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a preparation. Raises UserError if a value is not allowed."""

    source: str = dataclasses.field(
        metadata={"help": "Images to prepare, as KIND:PATH (see above). PATH may be on gs://."}
    )
    encoder: str = option(
        "embedded",
        "Text encoder: embedded (small, ships with the package); NAME/TAG or NAME:CHECKPOINT for a "
        "model of open_clip, for example ViT-L-14/openai; or none to keep the embeddings that come "
        "with the data (none:ViT-L-14/openai records which encoder made them).",
    )
    sequence: bool = option(
        False,
        "Also store the encoder's state of every token. This takes much more space.",
    )
    export_text_tower: bool = option(
        False,
        "Also export the encoder's text tower next to the shards, so that sampling needs neither "
        "torch nor a model hub.",
    )
    image_size: int = option(64, "Side of the square images in pixels.", at_least=4, at_most=4096)
    channels: int = option(3, "Number of channels of the images: 3, or 1 for gray.")
    crop: Literal["center", "none"] = option(
        "center",
        "center crops each image to its middle square; none keeps the full image and pads it with "
        "white.",
    )
    heldout_share: float = option(
        0.01,
        "Share of the examples to hold out from training. Sources with their own splits ignore it.",
        at_least=0,
        below=1,
    )
    num_streams: int | None = option(
        None,
        "Number of streams per split. It must divide the global batch size and be a multiple of the "
        "number of hosts. Default: 16, or fewer for a split of fewer examples.",
        at_least=1,
        at_most=2**16,
    )
    shard_size: int = option(1024, "Number of examples per shard.", at_least=1, below=2**31)
    seed: int = option(0, "Seed for the shuffle and the held-out split.", at_least=0, below=2**32)
    filters: Filters = dataclasses.field(default_factory=Filters)

    def __post_init__(self):
        object.__setattr__(self, "source", paths.parse_source(self.source, "--source="))
        _check_options(self)
        _check_options(self.filters)
        if self.keeps_embeddings and (self.export_text_tower or self.sequence):
            flag = "export_text_tower" if self.export_text_tower else "sequence"
            raise UserError(
                f"--{flag} needs an encoder, but --encoder={self.encoder} has no text tower; "
                f"choose an encoder or leave out --{flag}"
            )
        if self.channels not in (1, 3):
            raise UserError(f"--channels is {self.channels}; it must be 1 or 3")

    @property
    def keeps_embeddings(self) -> bool:
        """Whether the embeddings that come with the data are stored."""
        return self.encoder.startswith("none")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a nested dict without the filters that are off."""
        values = dataclasses.asdict(self)
        values["filters"] = {
            name: value for name, value in values["filters"].items() if value is not None
        }
        return values

    def to_json(self) -> str:
        """Return the settings and the version of t2i_tpu as JSON. Equal settings give equal text."""
        return json.dumps(self.to_dict() | {"version": __version__}, sort_keys=True)

    def compute_fingerprint(self) -> str:
        """Return a SHA-256 (hex) that identifies the settings and the version of t2i_tpu."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _check_options(group: Settings | Filters) -> None:
    """Raise UserError if a value is not one of its choices or is outside its bounds."""
    for field in dataclasses.fields(group):
        name, value = f"--{field.name}", getattr(group, field.name)
        if value is None:
            continue
        if choices := get_choices(field):
            check_choice(name, value, choices)
        check_bounds(name, value, field)


def collect_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect the output."""
    versions = {"t2i_tpu": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
