"""The manifest of a config's data set, or an assumed one if the data cannot be read from here."""

from t2i_tpu.config import Config
from t2i_tpu.data.conditions import get_conditioning
from t2i_tpu.data.locate import locate
from t2i_tpu.data.manifest import (
    EmbeddingContract,
    Manifest,
    SequenceContract,
    TokenContract,
    read_manifest,
)
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.errors import UserError

# The sizes of ViT-L/14's embeddings and of CLIP's vocabulary and prompts.
EMBEDDING_DIM, VOCAB_SIZE, CONTEXT_LENGTH = 768, 49_408, 77
NUM_LABELS = 10


def find_manifest(config: Config) -> tuple[Manifest, str | None]:
    """Return the manifest of a resolved config's data set, and a note if it is an assumed one.

    Raises:
      UserError: the data set exists, but the config does not fit it.
    """
    conditioning = get_conditioning(config.model.conditioning)
    try:
        folder = locate(config.data.source)
        read_manifest(folder)
    except UserError as error:
        manifest = _assume_manifest(config)
        fields = conditioning.make_spec(manifest).fields.items()
        shapes = " and ".join(f"{name} {dtype} {list(shape)}" for name, (shape, dtype) in fields)
        return manifest, f"assumed RGB images conditioned on {shapes}, because {error}"
    dataset = open_dataset(folder, config.model.conditioning, config.data.image_size)
    return dataset.manifest, None


def _assume_manifest(config: Config) -> Manifest:
    return Manifest(
        name="assumed",
        image_size=config.data.image_size,
        channels=3,
        splits={},
        embedding=EmbeddingContract("assumed", "", EMBEDDING_DIM, normalized=True),
        tokens=TokenContract("assumed", VOCAB_SIZE, CONTEXT_LENGTH),
        sequence=SequenceContract("assumed", "", EMBEDDING_DIM, CONTEXT_LENGTH),
        label_names=tuple(map(str, range(NUM_LABELS))),
    )
