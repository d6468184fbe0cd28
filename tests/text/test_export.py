"""Tests that exported text towers of open_clip's architectures agree with open_clip itself."""

import dataclasses
import importlib.util
import json
import os
import shutil

import numpy as np
import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.text import EMBEDDED_CLIP, make_encoder
from t2i_tpu.text.onnx_tower import GRAPH_NAME, OnnxEncoder

pytestmark = [
    pytest.mark.clip,
    pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="needs extra clip"),
]
REFERENCE = os.path.join(os.path.dirname(__file__), "clip_reference.npz")
PROMPTS = np.load(REFERENCE)["prompts"].tolist()


@pytest.fixture(scope="module")
def open_clip():
    from t2i_tpu.text import open_clip_tower

    return open_clip_tower.import_open_clip()


@dataclasses.dataclass
class Exported:
    """An exported tower, and open_clip's own tokens, embeddings and last states of PROMPTS."""

    encoder: OnnxEncoder
    tokens: np.ndarray
    embeddings: np.ndarray
    states: np.ndarray


def write_tiny_clip(open_clip, folder, **changes):
    """Write a model of CLIP's architecture with random weights, and return its local-dir: spec."""
    import torch
    from safetensors.torch import save_file

    model = {
        "embed_dim": 48,
        "vision_cfg": {"layers": 1, "width": 64, "image_size": 32, "patch_size": 16},
        "text_cfg": {"layers": 3, "width": 64, "heads": 4},
    }
    for name, value in changes.items():
        group, _, field = name.rpartition("__")
        (model[group] if group else model)[field] = value
    config = {"model_cfg": model, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    made = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    weights = {name: value.contiguous() for name, value in made.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def export(open_clip, spec, name, folder, **options):
    """Export an encoder into a folder, and compute open_clip's own values; see `Exported`."""
    import torch

    folder.mkdir()
    encoder = make_encoder(spec)
    encoder.export(str(folder))
    tower = OnnxEncoder(str(folder), encoder.encoder_id, encoder.weights_sha256)
    tokens = open_clip.get_tokenizer(name)(PROMPTS)
    model = open_clip.create_model(name, **options).eval()
    with torch.inference_mode():
        embeddings = model.encode_text(tokens, normalize=True).numpy()
        last = dict(text_indices=1, normalize_intermediates=True, intermediates_only=True)
        (states,) = model.forward_intermediates(text=tokens, **last)["text_intermediates"]
    return Exported(tower, tokens.numpy(), embeddings, states.numpy())


@pytest.fixture(scope="module", params=["gelu", "quick_gelu", "wrapped", "ViT-B-32"])
def tower(request, open_clip, tmp_path_factory):
    """An exported tower. "wrapped" is open_clip's class of models with the tower in a submodule."""
    folder = tmp_path_factory.mktemp("tower")
    if request.param == "ViT-B-32":
        import torch

        torch.manual_seed(0)
        weights = folder / "weights.pt"
        torch.save(open_clip.create_model("ViT-B-32").state_dict(), weights)
        spec = f"ViT-B-32:{weights}"
        return export(open_clip, spec, "ViT-B-32", folder / "out", pretrained=str(weights))
    changes = {"quick_gelu": {"quick_gelu": True}, "wrapped": {"custom_text": True}}
    spec = write_tiny_clip(open_clip, folder, **changes.get(request.param, {}))
    return export(open_clip, spec, spec, folder / "out")


def test_tokens_equal_open_clip(tower):
    assert len(PROMPTS) > 200
    for ids, row in zip(tower.encoder.tokenize(PROMPTS, truncate=True), tower.tokens, strict=True):
        assert ids == row[: len(ids)].tolist() and not row[len(ids) :].any()


def test_embeddings_equal_open_clip(tower):
    embeddings = tower.encoder.encode(PROMPTS, truncate=True)
    np.testing.assert_allclose(embeddings, tower.embeddings, atol=1e-4, rtol=0)
    assert np.abs(tower.embeddings[0] - tower.embeddings[1]).max() > 1e-3  # prompts differ


def test_sequences_equal_open_clip_last_states(tower):
    """The sequences are rounded to float16, which has 11 significant bits, and exclude padding."""
    _, sequences = tower.encoder.encode_sequences(PROMPTS, truncate=True)
    assert tower.encoder.sequence_width == tower.states.shape[2]
    for sequence, states, ids in zip(sequences, tower.states, tower.tokens, strict=True):
        length = np.flatnonzero(ids)[-1] + 1
        assert sequence.shape == (length, tower.states.shape[2])
        np.testing.assert_allclose(sequence, states[:length], atol=1e-4, rtol=6e-4)


def test_quick_gelu_makes_a_difference(open_clip, tmp_path):
    """The two activations differ enough for the tests above to notice the wrong one."""
    spec = write_tiny_clip(open_clip, tmp_path)
    plain = make_encoder(spec).encode(PROMPTS[:9])
    assert write_tiny_clip(open_clip, tmp_path, quick_gelu=True) == spec
    assert np.abs(make_encoder(spec).encode(PROMPTS[:9]) - plain).max() > 1e-3


def test_export_is_deterministic(open_clip, tmp_path):
    """The files have the same bytes each time, and contain no paths of this machine."""
    spec = write_tiny_clip(open_clip, tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
        make_encoder(spec).export(str(tmp_path / name))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["text_tower.onnx", "text_tower.safetensors", "tokenizer.json"]
    for name in files:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        assert b"site-packages" not in content and str(tmp_path).encode() not in content


def test_float16_weights_take_half_the_space(open_clip, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    spec = write_tiny_clip(open_clip, tmp_path)
    sizes = []
    for name in ("full", "half"):
        (tmp_path / name).mkdir()
        make_encoder(spec).export(str(tmp_path / name))
        sizes.append((tmp_path / name / "text_tower.safetensors").stat().st_size)
        weights = load_file(tmp_path / "open_clip_model.safetensors")
        weights = {name: value.to(torch.float16).float() for name, value in weights.items()}
        save_file(weights, tmp_path / "open_clip_model.safetensors")
    assert 0.49 < sizes[1] / sizes[0] < 0.52


def test_embedded_tower_equals_what_the_build_writes(tmp_path):
    from t2i_tpu.text import EmbeddedEncoder
    from tools.build_embedded import clip_training

    shutil.copytree(EMBEDDED_CLIP, tmp_path, dirs_exist_ok=True)
    (tmp_path / GRAPH_NAME).unlink()
    clip_training.export_towers(str(tmp_path))
    rebuilt = EmbeddedEncoder(str(tmp_path)).encode(PROMPTS, truncate=True)
    shipped = EmbeddedEncoder().encode(PROMPTS, truncate=True)
    np.testing.assert_allclose(rebuilt, shipped, atol=1e-6)


@pytest.mark.parametrize("kind", ["canonicalize", "other class"])
def test_unsupported_tokenizer_is_an_error(open_clip, tmp_path, kind):
    encoder = make_encoder(write_tiny_clip(open_clip, tmp_path))
    if kind == "canonicalize":
        encoder.tokenizer = open_clip.SimpleTokenizer(clean="canonicalize")
        words = "a different tokenizer_sha256"
    else:
        hugging_face = open_clip.tokenizer.HFTokenizer
        encoder.tokenizer = hugging_face.__new__(hugging_face)
        words = "is a HFTokenizer, not CLIP's"
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=words) as error:
        encoder.export(str(tmp_path / "out"))
    assert "\n" not in str(error.value) and "--export_text_tower" in str(error.value)
