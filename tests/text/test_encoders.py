"""Tests that the embedded encoder agrees with open_clip, and that encoders report errors."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.text import (
    EMBEDDED_CLIP,
    EmbeddedEncoder,
    OpenClipEncoder,
    make_encoder,
    open_clip_tower,
)

REFERENCE = os.path.join(os.path.dirname(__file__), "clip_reference.npz")


@pytest.fixture(scope="module")
def encoder():
    return make_encoder("embedded")


@pytest.fixture(scope="module")
def reference():
    return dict(np.load(REFERENCE))


def test_tokens_equal_open_clip(encoder, reference):
    tokens = encoder.tokenize(reference["prompts"].tolist(), truncate=True)
    padded = [ids + [0] * (encoder.context_length - len(ids)) for ids in tokens]
    np.testing.assert_array_equal(padded, reference["tokens"])


def test_embeddings_equal_open_clip(encoder, reference):
    embeddings = encoder.encode(reference["prompts"].tolist(), truncate=True)
    assert embeddings.dtype == np.float32
    assert len(embeddings) > 200
    np.testing.assert_allclose(embeddings, reference["embeddings"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1, atol=1e-5)


def test_embedding_does_not_depend_on_the_batch(encoder):
    prompts = [f"{number} red hearts" for number in range(300)]
    alone = np.concatenate([encoder.encode([prompt]) for prompt in prompts[-5:]])
    np.testing.assert_allclose(encoder.encode(prompts)[-5:], alone, atol=1e-6)
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_long_prompt_is_an_error_unless_truncated(encoder):
    prompt = "dog " * 60
    with pytest.raises(UserError, match=r"62 tokens.*at most 32.*shorten") as error:
        encoder.encode(["a dog", prompt])
    assert "\n" not in str(error.value)
    assert encoder.count_tokens(prompt) == 62
    (tokens,) = encoder.tokenize([prompt], truncate=True)
    assert len(tokens) == encoder.context_length
    assert tokens[-1] == encoder.tokenize(["dog"])[0][-1]


def test_attributes_of_the_embedded_encoder(encoder):
    with open(os.path.join(EMBEDDED_CLIP, "open_clip_model.safetensors"), "rb") as file:
        assert encoder.weights_sha256 == hashlib.sha256(file.read()).hexdigest()
    assert isinstance(encoder, EmbeddedEncoder)
    assert (encoder.encoder_id, encoder.dim, encoder.context_length) == ("embedded", 128, 32)
    assert max(max(ids) for ids in encoder.tokenize(["dog"])) < encoder.vocab_size


def test_changed_tokenizer_has_another_hash(encoder, tmp_path):
    """The merge of t and h is removed from the vocabulary, which changes the tokens of many words."""
    shutil.copytree(EMBEDDED_CLIP, tmp_path, dirs_exist_ok=True)
    assert EmbeddedEncoder(str(tmp_path)).tokenizer_sha256 == encoder.tokenizer_sha256
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    merge = next(m for m in tokenizer["model"]["merges"] if "".join(m).replace(" ", "") == "th")
    tokenizer["model"]["merges"].remove(merge)
    path.write_text(json.dumps(tokenizer))
    other = EmbeddedEncoder(str(tmp_path))
    assert other.tokenize(["the"]) != encoder.tokenize(["the"])
    assert other.vocab_size == encoder.vocab_size
    assert other.tokenizer_sha256 != encoder.tokenizer_sha256


@pytest.mark.parametrize("spec", ["", "ViT-L-14", "/openai", "ViT-L-14/"])
def test_unknown_encoder_is_an_error(spec):
    with pytest.raises(UserError, match="unknown encoder"):
        make_encoder(spec)


def test_missing_open_clip_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[clip\]'"):
        make_encoder("ViT-L-14/openai")


def test_embedded_encoder_needs_neither_torch_nor_open_clip():
    hide = "import sys; sys.modules['torch'] = sys.modules['open_clip'] = None; "
    encode = "from t2i_tpu.text import make_encoder; make_encoder('embedded').encode(['x'])"
    subprocess.run([sys.executable, "-c", hide + encode], check=True)


@pytest.fixture(scope="module")
def open_clip_encoder():
    return make_encoder(f"local-dir:{EMBEDDED_CLIP}")


@pytest.mark.clip
@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="needs extra clip")
class TestOpenClip:
    def test_same_tokens_and_embeddings(self, encoder, open_clip_encoder, reference):
        prompts = reference["prompts"].tolist()
        ours = encoder.tokenize(prompts, truncate=True)
        assert ours == open_clip_encoder.tokenize(prompts, truncate=True)
        np.testing.assert_allclose(
            encoder.encode(prompts, truncate=True),
            open_clip_encoder.encode(prompts, truncate=True),
            atol=1e-4,
        )

    def test_same_attributes(self, encoder, open_clip_encoder):
        names = "weights_sha256", "dim", "context_length", "vocab_size", "tokenizer_sha256"
        for name in names:
            assert getattr(encoder, name) == getattr(open_clip_encoder, name)
        with pytest.raises(UserError, match="at most 32"):
            open_clip_encoder.encode(["dog " * 60])

    def test_checkpoint_file(self, tmp_path):
        open_clip = open_clip_tower.import_open_clip()
        import torch

        model = open_clip.create_model("RN50-quickgelu")
        torch.save(model.state_dict(), tmp_path / "weights.pt")
        encoder = make_encoder(f"RN50-quickgelu:{tmp_path}/weights.pt")
        assert isinstance(encoder, OpenClipEncoder)
        assert encoder.encoder_id == f"RN50-quickgelu:{tmp_path}/weights.pt"
        tokens = open_clip.get_tokenizer("RN50-quickgelu")(["a red heart"])
        with torch.inference_mode():
            expected = model.eval().encode_text(tokens, normalize=True).numpy()
        np.testing.assert_allclose(encoder.encode(["a red heart"]), expected, atol=1e-5)

    @pytest.mark.parametrize("spec", ["no-such-model/openai", "ViT-B-32:/no/such/file"])
    def test_errors_are_one_line(self, spec):
        with pytest.raises(UserError) as error:
            make_encoder(spec)
        assert "\n" not in str(error.value)
