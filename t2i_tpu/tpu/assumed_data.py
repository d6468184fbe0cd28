"""What a config's data look like, also where they are not."""

from t2i_tpu.config import Config
from t2i_tpu.data import schema
from t2i_tpu.data.locate import locate
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.errors import UserError

EMBEDDING_DIM = 768  # ViT-L/14's
TOKENS, CONTEXT_LENGTH = 49_408, 77  # CLIP's
LABELS = 10


def manifest_of(config: Config) -> tuple[schema.Manifest, str | None]:
    """The manifest of a resolved config's data set; of one that cannot be read from here, as before
    there is one, an assumed manifest and a line that says so.

    Raises:
      UserError: the data set is there and the config does not go with it.
    """
    try:
        folder = locate(config.data.source)
        schema.read_manifest(folder)
    except UserError as error:
        kind = config.model.conditioning
        shape = {
            "embedding": f"embeddings of {EMBEDDING_DIM}",
            "sequence": f"embeddings of {EMBEDDING_DIM} and {CONTEXT_LENGTH} states of as many",
            "label": f"{LABELS} labels",
            "tokens": f"{CONTEXT_LENGTH} tokens of {TOKENS}",
        }[kind]
        return _assumed(config), f"assumed RGB images with {shape}, for {error}"
    return open_dataset(folder, config.model.conditioning, config.data.image_size).manifest, None


def _assumed(config):
    return schema.Manifest(
        name="assumed",
        image_size=config.data.image_size,
        channels=3,
        splits={},
        embedding=schema.EmbeddingContract("assumed", "", EMBEDDING_DIM, normalized=True),
        tokens=schema.TokenContract("assumed", TOKENS, CONTEXT_LENGTH),
        sequence=schema.SequenceContract("assumed", "", EMBEDDING_DIM, CONTEXT_LENGTH),
        label_names=tuple(map(str, range(LABELS))),
    )
