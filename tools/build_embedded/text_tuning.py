"""Tunes the text tower of the trained CLIP, so that a single keyword finds its images.

CLIP's loss assumes one correct image per text, but "heart" describes fifty. Here the image tower is
locked (LiT, arXiv:2111.07991), so each text can be compared with all images at once, and all images
that it describes are targets. Each text is also compared with all captions, because a denoiser that
was trained on embeddings of captions understands only prompts whose embeddings are near them.
"""

import collections
import random

import numpy as np
import torch
import tqdm

from tools.build_embedded import texts
from tools.build_embedded.captions import Emoji
from tools.build_embedded.clip_training import encode_text, load, prepare, schedule, write_weights

_REFRESH_EVERY = 25  # number of steps after which the captions are encoded again


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
    """Tune the text tower of a model, and overwrite the weights of the model.

    Args:
      folder: the folder of the model, which `clip_training.train` wrote.
      emoji: the emoji of the train split.
      images: their images.
      num_steps: number of tuning steps.
      batch_size: number of texts per step.
      learning_rate: the peak of the learning rate.
      seed: seed of the texts.
    """
    torch.manual_seed(seed)
    prompts = _Prompts(emoji, random.Random(seed))
    model, tokenizer = load(folder)
    model.lock_image_tower()
    model.logit_scale.requires_grad = False
    # Encode the images only once, because the image tower does not change.
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
            captions = _encode_captions(model, tokenizer, emoji)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule(step, num_steps)
        # Compute the loss against all images and against all captions.
        batch, targets = prompts.draw_batch(batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = encode_text(model, tokenizer(batch)).float()
        targets = torch.from_numpy(targets)
        scale = model.logit_scale.exp()
        loss = torch.nn.functional.cross_entropy(scale * embeddings @ features.T, targets)
        loss = loss + torch.nn.functional.cross_entropy(scale * embeddings @ captions.T, targets)
        # Update the weights.
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower, 1.0)
        optimizer.step()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    write_weights(folder, model)


@torch.no_grad()
def _encode_captions(model: torch.nn.Module, tokenizer, emoji: list[Emoji]) -> torch.Tensor:
    """Return the embeddings of all captions, float32 [N, dim]."""
    tokens = tokenizer([item.caption for item in emoji])
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([encode_text(model, part).float() for part in tokens.split(512)])


class _Prompts:
    """Draws random prompts, and finds the images that they describe."""

    def __init__(self, emoji: list[Emoji], rng: random.Random):
        self.emoji, self.rng = emoji, rng
        # word -> indices of the images that it describes
        self.indices = collections.defaultdict(set)
        for index, item in enumerate(emoji):
            for word in texts.get_words(item):
                self.indices[word].add(index)
        self.words = sorted(self.indices)

    def draw_batch(self, size: int) -> tuple[list[str], np.ndarray]:
        """Return `size` prompts, and targets float32 [size, number of images].

        The images that a prompt describes have equal targets, whose sum is 1. All others have target 0.
        """
        targets = np.zeros((size, len(self.emoji)), np.float32)
        prompts = []
        for row in targets:
            prompt, named = self._draw_prompt()
            row[named] = 1 / len(named)
            prompts.append(prompt)
        return prompts, targets

    def _draw_prompt(self) -> tuple[str, list[int]]:
        """Return a prompt and the indices of the images that it describes."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.4:  # a caption
            index = rng.randrange(len(self.emoji))
            return texts.draw_phrase(self.emoji[index].caption, rng, 0.4), [index]
        if kind < 0.8:  # a keyword; rare ones are drawn as often as common ones
            word = rng.choice(self.words)
            return texts.draw_phrase(word, rng, 0.3), self._find_named({word}, ())
        # Several keywords of one emoji.
        item = rng.choice(self.emoji)
        words = texts.get_words(item)
        chosen = rng.sample(words, min(len(words), rng.choice((1, 2, 2, 3))))
        text = rng.choice((" ", " ", ", ")).join(chosen)
        if item.tones:
            text = texts.add_tones(text, item.tones, rng)
        return texts.draw_phrase(text, rng, 0.3), self._find_named(set(chosen), item.tones)

    def _find_named(self, words: set[str], tones: tuple[str, ...]) -> list[int]:
        """Return the indices of the images with these words and tones, or, if none, with these words."""
        named = sorted(set.intersection(*(self.indices[word] for word in words)))
        return [index for index in named if self.emoji[index].tones == tones] or named
