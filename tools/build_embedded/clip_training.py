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

from t2i_tpu.evaluate.extractors import export as export_images
from t2i_tpu.text import export
from tools.build_embedded import texts, vocabulary
from tools.build_embedded.captions import Emoji

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"  # the name that open_clip's `local-dir:` looks for
CONTEXT_LENGTH = 32
NUM_MERGES = 1500
# Number of images or texts to encode at a time.
_CHUNK = 512
# Number of emoji in a batch that appear in several of their skin tones.
_NUM_HARD = 64
_MEAN, _STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def write_config(folder: str, emoji: list[Emoji]) -> None:
    """Write the vocabulary and config that `open_clip.create_model("local-dir:FOLDER")` reads."""
    merges = vocabulary.train_merges(texts.make_corpus(emoji), NUM_MERGES)
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
    """Write the weights as float16, which halves the file; every reader computes in float32."""
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    (pathlib.Path(folder) / WEIGHTS_NAME).write_bytes(save(half))


def load(folder: str, *, trained: bool = True) -> tuple[torch.nn.Module, open_clip.SimpleTokenizer]:
    """Load the model and the tokenizer with open_clip's own loaders.

    Args:
      folder: the folder that `write_config` wrote.
      trained: whether to load the weights. Otherwise they are random.
    """
    path = str(pathlib.Path(folder) / vocabulary.MERGES_NAME)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=trained)
    return model, open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=path)


def export_towers(folder: str) -> None:
    """Write the two towers as ONNX next to the weights. The graphs refer to them."""
    model, _ = load(folder)
    export_images.export_graph(model, folder, WEIGHTS_NAME)
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
    """Train a CLIP, and write its vocabulary, config and weights.

    Args:
      folder: the folder to write into.
      emoji: the emoji of the train split, whose captions and keywords are the texts.
      images: their images.
      num_steps: number of training steps.
      batch_size: number of pairs of image and text per step.
      learning_rate: the peak of the learning rate.
      seed: seed of the initial weights, the batches and the augmentations.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    write_config(folder, emoji)
    model, tokenizer = load(folder, trained=False)
    model.train()
    loss_fn = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(_make_groups(model), lr=learning_rate, betas=(0.9, 0.98))
    pixels = prepare(images)
    # Group the variants of an emoji that differ only in skin tone.
    indices_by_base = {}
    for index, item in enumerate(emoji):
        indices_by_base.setdefault(item.base, []).append(index)
    variants = list(indices_by_base.values())
    progress = tqdm.trange(num_steps, desc="CLIP", mininterval=5)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule(step, num_steps)
        # Compute the loss.
        chosen = _draw_batch(rng, variants, len(emoji), batch_size)
        tokens = tokenizer([texts.draw_text(emoji[index], rng) for index in chosen])
        with torch.autocast("cpu", torch.bfloat16):
            image_features = model.encode_image(_augment(pixels[chosen]), normalize=True)
            text_features = encode_text(model, tokens)
        scale = model.logit_scale.exp()
        loss = loss_fn(image_features.float(), text_features.float(), scale)
        # Update the weights.
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
    """Return `model.encode_text(tokens, normalize=True)`, at a third of the cost.

    Texts of similar length are encoded together, and padded only to the longest of them. This does not
    change the result, because the causal mask hides the padding after the end of a text.
    """
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
    """Resize and normalize images, uint8 [N, 64, 64, 3], as open_clip's transform does.

    Returns:
      The input of the image tower, float32 [N, 3, 32, 32].
    """
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    small = torch.nn.functional.interpolate(pixels, size=32, mode="bicubic", antialias=True)
    return (small.clamp(0, 1) - _MEAN[0]) / _STD[0]


def _augment(pixels: torch.Tensor) -> torch.Tensor:
    """Shift images by up to 2 pixels, scale them by up to 10%, and change brightness by up to 5%.

    Images are not flipped, because some captions distinguish left and right.
    """
    count = len(pixels)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 + (torch.rand(count) - 0.5) * 0.2
    theta[:, :, 2] = (torch.rand(count, 2) - 0.5) * 0.25
    grid = torch.nn.functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    # grid_sample fills in 0 outside of the image. Subtracting 1 first makes that white.
    moved = torch.nn.functional.grid_sample(pixels - 1, grid, align_corners=False) + 1
    return moved * (1 + (torch.rand(count, 3, 1, 1) - 0.5) * 0.1)


def _draw_batch(rng: random.Random, variants: list[list[int]], count: int, size: int) -> list[int]:
    """Return `size` different indices below `count`.

    Some emoji appear in several skin tones, as hard negatives.
    """
    hard = []
    for indices in rng.sample(variants, min(_NUM_HARD, len(variants))):
        hard += rng.sample(indices, min(4, len(indices)))
    drawn = rng.sample(range(count), min(size, count))
    return list(dict.fromkeys(hard + drawn))[:size]


def schedule(step: int, num_steps: int) -> float:
    """Return the factor of the learning rate: a linear warm-up of 50 steps times a cosine decay."""
    return min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def _make_groups(model: torch.nn.Module) -> list[dict]:
    """Return the optimizer's parameter groups: weight decay applies to matrices only."""
    matrices = [value for value in model.parameters() if value.ndim >= 2]
    vectors = [value for value in model.parameters() if value.ndim < 2]
    return [
        {"params": matrices, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]


@torch.no_grad()
def measure_recall(folder: str, emoji: Sequence[Emoji], images: np.ndarray) -> dict[str, float]:
    """Return how often a text finds a correct image, or a correct caption, among all of them.

    The keys are PAIR@1 and PAIR@5 for each pair of kinds, such as caption_to_image: the share of texts
    whose nearest neighbor is correct, and the share for which one of the nearest five is. Only the
    image of a caption is correct for the caption. For a keyword, all emoji that have it are correct.
    """
    model, tokenizer = load(folder)
    model.eval()

    def encode(prompts):
        parts = [prompts[start : start + _CHUNK] for start in range(0, len(prompts), _CHUNK)]
        return torch.cat([model.encode_text(tokenizer(part), True) for part in parts])

    # Encode the captions, the keywords and the images.
    word_sets = [set(item.keywords) for item in emoji]
    words = sorted(set.union(*word_sets))
    captions, keywords = encode([item.caption for item in emoji]), encode(words)
    parts = prepare(images).split(_CHUNK)
    pixels = torch.cat([model.encode_image(part, True) for part in parts])

    # is_correct[i, j]: whether candidate j is correct for query i.
    is_own = np.eye(len(emoji), dtype=bool)
    has_word = np.array([[word in word_set for word_set in word_sets] for word in words])
    pairs = {
        "caption_to_image": (captions, pixels, is_own),
        "keyword_to_image": (keywords, pixels, has_word),
        "keyword_to_caption": (keywords, captions, has_word),
    }
    recall = {}
    for name, (queries, candidates, is_correct) in pairs.items():
        nearest = (queries @ candidates.T).topk(5).indices.numpy()
        correct = np.take_along_axis(is_correct, nearest, 1)
        recall[f"{name}@1"] = round(float(correct[:, 0].mean()), 4)
        recall[f"{name}@5"] = round(float(correct.any(1).mean()), 4)
    return recall
