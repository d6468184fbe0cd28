"""Tunes the trained CLIP's text tower, so that one keyword finds its images.

A batch of CLIP's loss has one right image per text, but "heart" names fifty. Here the image tower
is locked (LiT, arXiv:2111.07991), so that each text can be held against all images at once, with
all that it names as targets; and against all captions too, because a denoiser that was trained on
the captions' embeddings sees other prompts well only where they lie near them.
"""

import collections
import random

import numpy as np
import torch
import tqdm

from tools.build_embedded import texts
from tools.build_embedded.captions import Emoji
from tools.build_embedded.clip_training import encode_text, load, prepare, schedule, write_weights

_REFRESH_EVERY = 25  # steps, after which the captions' embeddings are computed anew


def tune(
    folder: str,
    emoji: list[Emoji],
    images: np.ndarray,  # uint8 [N, 64, 64, 3]
    *,
    num_steps: int,
    batch_size: int = 384,
    learning_rate: float = 1e-3,
    seed: int = 1,
) -> None:
    """Reads the model in `folder` and writes it back with another text tower."""
    torch.manual_seed(seed)
    prompts = _Prompts(emoji, random.Random(seed))
    model, tokenizer = load(folder)
    model.lock_image_tower()
    model.logit_scale.requires_grad = False
    with torch.inference_mode():
        model.eval()
        features = torch.cat(
            [model.encode_image(part, True) for part in prepare(images).split(512)]
        )
    features = features.clone()
    tower = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(tower, betas=(0.9, 0.98), weight_decay=0.05)
    progress = tqdm.trange(num_steps, desc="text tower", mininterval=5)
    for step in progress:
        if step % _REFRESH_EVERY == 0:
            captions = _caption_features(model, tokenizer, emoji)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule(step, num_steps)
        batch, targets = prompts.batch(batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = encode_text(model, tokenizer(batch)).float()
        targets = torch.from_numpy(targets)
        scale = model.logit_scale.exp()
        loss = torch.nn.functional.cross_entropy(scale * embeddings @ features.T, targets)
        loss = loss + torch.nn.functional.cross_entropy(scale * embeddings @ captions.T, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower, 1.0)
        optimizer.step()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    write_weights(folder, model)


@torch.no_grad()
def _caption_features(model: torch.nn.Module, tokenizer, emoji: list[Emoji]) -> torch.Tensor:
    tokens = tokenizer([one.caption for one in emoji])
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([encode_text(model, part).float() for part in tokens.split(512)])


class _Prompts:
    """Random prompts and what they name."""

    def __init__(self, emoji: list[Emoji], rng: random.Random):
        self.emoji, self.rng = emoji, rng
        self.indices = collections.defaultdict(set)  # word -> the images that it names
        for index, one in enumerate(emoji):
            for word in texts.words_of(one):
                self.indices[word].add(index)
        self.words = sorted(self.indices)

    def batch(self, size: int) -> tuple[list[str], np.ndarray]:
        """`size` prompts, and float32 [size, number of images], the share of each image."""
        targets = np.zeros((size, len(self.emoji)), np.float32)
        prompts = []
        for row in targets:
            prompt, named = self._prompt()
            row[named] = 1 / len(named)
            prompts.append(prompt)
        return prompts, targets

    def _prompt(self) -> tuple[str, list[int]]:
        rng, kind = self.rng, self.rng.random()
        if kind < 0.4:
            index = rng.randrange(len(self.emoji))
            return texts.in_phrase(self.emoji[index].caption, rng, 0.4), [index]
        if kind < 0.8:  # a keyword alone; the rare are drawn as often as the frequent
            word = rng.choice(self.words)
            return texts.in_phrase(word, rng, 0.3), self._named({word}, ())
        one = rng.choice(self.emoji)
        words = texts.words_of(one)
        chosen = rng.sample(words, min(len(words), rng.choice((1, 2, 2, 3))))
        text = rng.choice((" ", " ", ", ")).join(chosen)
        if one.tones:
            text = texts.with_tones(text, one.tones, rng)
        return texts.in_phrase(text, rng, 0.3), self._named(set(chosen), one.tones)

    def _named(self, words: set[str], tones: tuple[str, ...]) -> list[int]:
        """The images with these words and tones; without tones, the default colour's."""
        named = sorted(set.intersection(*(self.indices[word] for word in words)))
        return [index for index in named if self.emoji[index].tones == tones] or named
