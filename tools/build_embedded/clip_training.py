"""Trains the small CLIP with open_clip's own model, tokenizer and loss (extra `clip`)."""

import json
import math
import pathlib
import random
from collections.abc import Sequence

import numpy as np
import open_clip
import torch
import tqdm
from safetensors.torch import save

from t2i_tpu.text import export
from tools.build_embedded import texts, vocabulary
from tools.build_embedded.captions import Emoji

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"  # the name that open_clip's `local-dir:` looks for
CONTEXT_LENGTH = 32
NUM_MERGES = 1500
_HARD = 64  # emoji of a batch that come in several skin tones, where they have them
_MEAN, _STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def write_config(folder: str, emoji: list[Emoji]) -> None:
    """Vocabulary and config, as `open_clip.create_model("local-dir:FOLDER")` looks for them."""
    merges = vocabulary.train_merges(texts.vocabulary_corpus(emoji), NUM_MERGES)
    vocabulary.save(folder, merges)
    model = {
        "embed_dim": 128,
        "vision_cfg": {
            "layers": 3,
            "width": 128,
            "head_width": 32,
            "image_size": 32,
            "patch_size": 8,
        },
        "text_cfg": {
            "layers": 4,
            "width": 128,
            "heads": 4,
            "vocab_size": 512 + len(merges) + 2,
            "context_length": CONTEXT_LENGTH,
        },
    }
    images = {"mean": _MEAN, "std": _STD, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": model, "preprocess_cfg": images}
    (pathlib.Path(folder) / CONFIG_NAME).write_text(json.dumps(config, indent=1) + "\n")


def write_weights(folder: str, model: torch.nn.Module) -> None:
    """As float16, which halves the file; every reader computes in float32."""
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    (pathlib.Path(folder) / WEIGHTS_NAME).write_bytes(save(half))


def load(folder: str, *, trained: bool = True) -> tuple[torch.nn.Module, open_clip.SimpleTokenizer]:
    """(model, tokenizer) through open_clip's own loaders."""
    path = str(pathlib.Path(folder) / vocabulary.MERGES_NAME)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=trained)
    return model, open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=path)


def export_text_tower(folder: str) -> None:
    """Writes the text tower as ONNX beside the weights, which it points into."""
    model, _ = load(folder)
    model.visual = None
    export.export_graph(model, CONTEXT_LENGTH, folder, WEIGHTS_NAME)


def train(
    folder: str,
    emoji: list[Emoji],
    images: np.ndarray,  # uint8 [N, 64, 64, 3]
    *,
    num_steps: int,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> None:
    """Writes vocabulary, config and weights into `folder`."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    write_config(folder, emoji)
    model, tokenizer = load(folder, trained=False)
    model.train()
    loss_fn = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(_decayed(model), lr=learning_rate, betas=(0.9, 0.98))
    pixels = prepare(images)
    variants = {}
    for index, one in enumerate(emoji):
        variants.setdefault(one.base, []).append(index)
    variants = list(variants.values())
    progress = tqdm.trange(num_steps, desc="CLIP", mininterval=5)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule(step, num_steps)
        chosen = _batch(rng, variants, len(emoji), batch_size)
        tokens = tokenizer([texts.variant(emoji[index], rng) for index in chosen])
        with torch.autocast("cpu", torch.bfloat16):
            image_features = model.encode_image(_augment(pixels[chosen]), normalize=True)
            text_features = encode_text(model, tokens)
        scale = model.logit_scale.exp()
        loss = loss_fn(image_features.float(), text_features.float(), scale)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", scale=f"{scale.item():.1f}")
    write_weights(folder, model)


def encode_text(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """`model.encode_text(tokens, normalize=True)` at a third of the cost: texts of like length go
    together and are cut to it. What follows a text's end does not reach it, by the causal mask."""
    ends = tokens.argmax(-1)
    order = ends.argsort()
    features = []
    for part in order.chunk(4):
        length = int(ends[part].max()) + 1
        x = model.token_embedding(tokens[part, :length]) + model.positional_embedding[:length]
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        pooled = model.ln_final(x)[torch.arange(len(part)), ends[part]]
        features.append(pooled @ model.text_projection)
    features = torch.cat(features)[order.argsort()]
    return torch.nn.functional.normalize(features, dim=-1)


def prepare(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, 64, 64, 3] -> float32 [N, 3, 32, 32], as the model's own transform makes them."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    small = torch.nn.functional.interpolate(pixels, size=32, mode="bicubic", antialias=True)
    return (small.clamp(0, 1) - _MEAN[0]) / _STD[0]


def _augment(pixels: torch.Tensor) -> torch.Tensor:
    """Moves by up to 2 pixels, scales and brightens by a tenth; never flips: sides have meaning."""
    count = len(pixels)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 + (torch.rand(count) - 0.5) * 0.2
    theta[:, :, 2] = (torch.rand(count, 2) - 0.5) * 0.25
    grid = torch.nn.functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    # Outside of the image is 0 to grid_sample and has to be white.
    moved = torch.nn.functional.grid_sample(pixels - 1, grid, align_corners=False) + 1
    return moved * (1 + (torch.rand(count, 3, 1, 1) - 0.5) * 0.1)


def _batch(rng: random.Random, variants: list[list[int]], count: int, size: int) -> list[int]:
    """Indices without repeats; some come with their variants in skin tone, the hard negatives."""
    hard = [i for one in rng.sample(variants, min(_HARD, len(variants)))
            for i in rng.sample(one, min(4, len(one)))]  # fmt: skip
    return list(dict.fromkeys(hard + rng.sample(range(count), min(size, count))))[:size]


def schedule(step: int, num_steps: int) -> float:
    return min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def _decayed(model: torch.nn.Module) -> list[dict]:
    plain = [value for value in model.parameters() if value.ndim < 2]
    matrices = [value for value in model.parameters() if value.ndim >= 2]
    return [
        {"params": matrices, "weight_decay": 0.1},
        {"params": plain, "weight_decay": 0.0},
    ]


@torch.no_grad()
def recall(folder: str, emoji: Sequence[Emoji], images: np.ndarray) -> dict[str, float]:
    """How often a text's nearest of all images (or captions) is right, and one of its nearest five.

    A caption is right for its own image, a keyword for all images that have it.
    """
    model, tokenizer = load(folder)
    model.eval()

    def encode(prompts):
        parts = [prompts[start : start + 512] for start in range(0, len(prompts), 512)]
        return torch.cat([model.encode_text(tokenizer(part), True) for part in parts])

    captions = [one.caption for one in emoji]
    words = [set(one.keywords) for one in emoji]
    keywords = sorted(set.union(*words))
    keyword_is_right = np.array([[word in has for has in words] for word in keywords])
    pixels = torch.cat([model.encode_image(part, True) for part in prepare(images).split(512)])
    pairs = {
        "caption_to_image": (encode(captions), pixels, np.eye(len(emoji), dtype=bool)),
        "keyword_to_image": (encode(keywords), pixels, keyword_is_right),
        "keyword_to_caption": (encode(keywords), encode(captions), keyword_is_right),
    }
    found = {}
    for name, (queries, candidates, is_right) in pairs.items():
        nearest = (queries @ candidates.T).topk(5).indices.numpy()
        right = np.take_along_axis(is_right, nearest, 1)
        found[f"{name}@1"] = round(float(right[:, 0].mean()), 4)
        found[f"{name}@5"] = round(float(right.any(1).mean()), 4)
    return found
