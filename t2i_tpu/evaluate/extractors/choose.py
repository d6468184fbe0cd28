"""Makes extractors from their names, and chooses one for a data set."""

import importlib.util

from t2i_tpu.data.manifest import Manifest
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.extractors import inception
from t2i_tpu.evaluate.extractors.classifier import Classifier
from t2i_tpu.evaluate.extractors.extractor import Extractor
from t2i_tpu.evaluate.extractors.inception import InceptionImages
from t2i_tpu.evaluate.extractors.onnx_images import EmbeddedImages
from t2i_tpu.evaluate.extractors.open_clip_images import OpenClipImages
from t2i_tpu.text.open_clip_tower import split_spec

_EXTRACTORS = {"embedded": EmbeddedImages, "fashion_mnist": Classifier}


def make_extractor(spec: str) -> Extractor:
    """Return the extractor that `spec` identifies.

    `spec` is one of
      embedded             the small CLIP that ships with the package
      fashion_mnist        the classifier of gray images that ships with the package
      inception:FILE       Inception v3 with torch-fidelity's weights
      ViT-L-14/openai      an open_clip model and a tag of its pretrained weights
      ViT-L-14:FILE        an open_clip model and a checkpoint file
      local-dir:FOLDER     a folder with open_clip_config.json and weights

    Args:
      spec: one of the above.

    Raises:
      UserError: there is no such extractor, its weights cannot be loaded, or a package is missing.
    """
    if spec in _EXTRACTORS:
        return _EXTRACTORS[spec]()
    if spec.startswith(inception.PREFIX):
        return InceptionImages(spec.removeprefix(inception.PREFIX))
    arguments = split_spec(spec)
    if arguments is None:
        raise UserError(
            f"unknown extractor {spec!r}; it must be {', '.join(map(repr, _EXTRACTORS))}, "
            f"{inception.PREFIX}FILE, NAME/TAG as in 'ViT-L-14/openai', NAME:CHECKPOINT_FILE or "
            "local-dir:FOLDER"
        )
    return OpenClipImages(*arguments)


def choose_spec(manifest: Manifest) -> str:
    """Return the spec of the extractor that suits a data set best.

    For gray images, it is the classifier. For others, it is the CLIP that encoded the captions, if this
    can be used here, and otherwise the embedded CLIP.
    """
    shipped, embedding = choose_shipped_spec(manifest), manifest.embedding
    if shipped != "embedded":
        return shipped
    # Embeddings without a hash came with the images, so the name of their encoder may mean nothing.
    if not embedding or not embedding.weights_sha256 or not importlib.util.find_spec("open_clip"):
        return shipped
    return embedding.encoder


def choose_shipped_spec(manifest: Manifest) -> str:
    """Return the spec of the extractor that suits a data set best among those in the package."""
    return "fashion_mnist" if manifest.channels == 1 else "embedded"


def check_weights(extractor: Extractor, manifest: Manifest) -> None:
    """Raise UserError if the extractor is the CLIP of a data set by name, but has other weights."""
    embedding = manifest.embedding
    if not embedding or extractor.extractor_id != embedding.encoder:
        return
    if embedding.weights_sha256 not in ("", extractor.weights_sha256):
        raise UserError(
            f"extractor {extractor.extractor_id!r} has the weights {extractor.weights_sha256[:8]}..., but "
            f"the embeddings of data set {manifest.name!r} were made with {embedding.weights_sha256[:8]}...; "
            "restore these weights or choose another extractor"
        )
