"""Tests of the names of extractors, and of the choice for a data set."""

import dataclasses
import importlib.util
import sys

import pytest

from t2i_tpu.data.manifest import EmbeddingContract, Manifest
from t2i_tpu.errors import UserError
from t2i_tpu.evaluate.extractors.choose import check_weights, choose_spec, make_extractor


def make_manifest(encoder=None, sha256="", channels=3):
    embedding = encoder and EmbeddingContract(encoder, sha256, 128, True)
    return Manifest("things", 32, channels, {}, embedding)


@pytest.mark.parametrize("spec", ["", "ViT-L-14", "/openai", "ViT-L-14/", "Embedded"])
def test_unknown_extractor_is_an_error_that_lists_the_choices(spec):
    with pytest.raises(UserError) as error:
        make_extractor(spec)
    for choice in ("'embedded'", "'fashion_mnist'", "inception:FILE", "NAME/TAG", "local-dir:"):
        assert choice in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_open_clip_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[clip\]'"):
        make_extractor("ViT-L-14/openai")


@pytest.mark.parametrize("installed", [True, False])
def test_choice_for_a_data_set(monkeypatch, installed):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    assert choose_spec(make_manifest(channels=1)) == "fashion_mnist"
    assert choose_spec(make_manifest()) == "embedded"
    assert choose_spec(make_manifest("embedded", "ab" * 32)) == "embedded"
    chosen = choose_spec(make_manifest("ViT-L-14/openai", "ab" * 32))
    assert chosen == ("ViT-L-14/openai" if installed else "embedded")
    # Embeddings that came with the images have no hash, and any name.
    assert choose_spec(make_manifest("unknown")) == "embedded"


def test_other_weights_than_the_data_set_has_are_an_error():
    extractor = make_extractor("embedded")
    check_weights(extractor, make_manifest("embedded", extractor.weights_sha256))
    check_weights(extractor, make_manifest("ViT-L-14/openai", "ab" * 32))
    check_weights(extractor, make_manifest(None))
    check_weights(extractor, make_manifest("embedded", ""))
    with pytest.raises(UserError, match=r"'things' were made with abababab\.\.\.") as error:
        check_weights(extractor, make_manifest("embedded", "ab" * 32))
    assert "\n" not in str(error.value) and extractor.weights_sha256[:8] in str(error.value)
    manifest = make_manifest("embedded", extractor.weights_sha256)
    check_weights(extractor, dataclasses.replace(manifest, name="other"))
