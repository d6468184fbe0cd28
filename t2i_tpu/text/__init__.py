"""Text encoders, which turn prompts into embeddings.

The encoder that ships with the package does not need torch. open_clip's models need the extra `clip`.
"""

from t2i_tpu.errors import UserError
from t2i_tpu.text.encoder import TextEncoder
from t2i_tpu.text.onnx_tower import EMBEDDED_CLIP, EmbeddedEncoder
from t2i_tpu.text.open_clip_tower import OpenClipEncoder, split_spec

__all__ = ["EMBEDDED_CLIP", "EmbeddedEncoder", "OpenClipEncoder", "TextEncoder", "make_encoder"]


def make_encoder(spec: str) -> TextEncoder:
    """Return the encoder that `spec` identifies.

    `spec` is one of
      embedded             the small CLIP that ships with the package
      ViT-L-14/openai      an open_clip model and a tag of its pretrained weights
      ViT-L-14:FILE        an open_clip model and a checkpoint file
      local-dir:FOLDER     a folder with open_clip_config.json and weights

    Args:
      spec: one of the above.

    Raises:
      UserError: there is no such encoder, its weights cannot be loaded, or the extra `clip` is
        missing.
    """
    if spec == "embedded":
        return EmbeddedEncoder()
    arguments = split_spec(spec)
    if arguments is None:
        raise UserError(
            f"unknown encoder {spec!r}; it must be 'embedded', NAME/TAG as in 'ViT-L-14/openai', "
            "NAME:CHECKPOINT_FILE or local-dir:FOLDER"
        )
    return OpenClipEncoder(*arguments)
