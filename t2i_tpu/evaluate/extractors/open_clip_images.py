"""Extracts features with an open_clip model, in torch (extra `clip`)."""

import numpy as np
from PIL import Image

from t2i_tpu.evaluate.extractors.clip_images import ClipImages
from t2i_tpu.evaluate.extractors.extractor import check_images, iter_batches
from t2i_tpu.text import OpenClipEncoder
from t2i_tpu.text.open_clip_tower import import_open_clip

_BATCH_SIZE = 64


class OpenClipImages(ClipImages):
    """Any open_clip model, in float32, on a GPU if there is one. See `Extractor`.

    Args:
      name, pretrained: the arguments of `OpenClipEncoder`.

    Raises:
      UserError: open_clip is not installed, or the model or its weights cannot be loaded.
    """

    def __init__(self, name: str, pretrained: str | None = None):
        transform = import_open_clip().transform
        encoder = OpenClipEncoder(name, pretrained, keep_images=True)
        super().__init__(encoder)
        self._model, self._device = encoder.model, encoder.device
        config = transform.PreprocessCfg(**encoder.model.visual.preprocess_cfg)
        self._transform = transform.image_transform_v2(config, is_train=False)
        height, width = config.input_size[1:]
        self.resize = f"{width}x{height}, {config.interpolation} (Pillow, as open_clip does)"

    def extract(self, images: np.ndarray) -> np.ndarray:
        import torch

        check_images(images)
        parts = [np.zeros((0, self.dim), np.float32)]
        for batch in iter_batches(images, _BATCH_SIZE):
            grey = batch.shape[3] == 1
            pictures = [Image.fromarray(image[:, :, 0] if grey else image) for image in batch]
            pixels = torch.stack([self._transform(picture) for picture in pictures])
            with torch.inference_mode():
                features = self._model.encode_image(pixels.to(self._device), normalize=True)
            parts.append(features.cpu().numpy())
        return self.scale(np.concatenate(parts))
