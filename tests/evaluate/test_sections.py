"""Sections of a report explain what they cannot measure, instead of failing or writing NaN."""

import json
import types

import numpy as np

from t2i_tpu.evaluate.sections import agreement, generalisation, interpolation
from tests.evaluate.colors import ColorExtractor

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)


def make_context(images, **model):
    """Return a context whose training split has some images, and whose model draws the same ones."""
    real = types.SimpleNamespace(images=images, conditions={}, captions=[""] * len(images))
    extractor = ColorExtractor()
    features = extractor.extract(images)
    split = types.SimpleNamespace(real=real, real_features=features, rows=np.arange(len(images)))
    spec = types.SimpleNamespace(fields={"label": None})
    denoiser = types.SimpleNamespace(condition_spec=spec, variables=[])
    generator = types.SimpleNamespace(denoiser=denoiser, draw=lambda *_: images)
    model = types.SimpleNamespace(generator=generator, **model)
    return types.SimpleNamespace(splits={"train": split}, model=model, extractor=extractor)


def test_path_of_equal_images_has_a_picture_and_a_reason():
    """Such as one between two examples without captions."""
    paths = [({"label": np.zeros(9, int)}, np.zeros((9, 8, 8, 3)), "title")]
    figures, picture = interpolation._measure_paths(make_context(IMAGES), paths)
    assert figures["largest_step"]["value"] >= 1
    equal = np.repeat(IMAGES[:1], 9, axis=0)
    figures, picture = interpolation._measure_paths(make_context(equal), paths)
    assert figures["largest_step"]["value"] is None
    assert "same features" in figures["largest_step"]["reason"] and picture.width


def test_loss_of_a_single_image_has_no_spread(monkeypatch, tmp_path):
    def measure(images, conditions, rows):
        return np.ones((len(rows), len(generalisation.NOISE_LEVELS)), np.float32)

    loss = types.SimpleNamespace(measure=measure)
    monkeypatch.setattr(generalisation, "DenoisingLoss", lambda *_: loss)
    for count in (1, 2):
        model = {"engine": None, "jit_compile": False, "workdir": str(tmp_path)}
        figures = generalisation.measure(make_context(IMAGES[:count], **model)).figures
        assert ("train_spread" in figures) == (count == 2)
        json.dumps(figures, allow_nan=False)


def test_rows_are_extracted_in_parts(monkeypatch):
    monkeypatch.setattr(agreement, "BATCH_SIZE", 4)
    extractor, rows = ColorExtractor(), np.array([8, 1, 2, 3, 7, 0])
    found = agreement._extract_rows(extractor, IMAGES, rows)
    np.testing.assert_array_equal(found, extractor.extract(IMAGES[rows]))
