"""Draws texts for an emoji: its caption, its keywords, and phrases that contain them."""

import random

from tools.build_embedded.captions import Emoji

_TEMPLATES = (
    "a {}", "the {}", "{} emoji", "an emoji of {}", "an emoji of a {}", "a picture of a {}",
    "a picture of {}", "a small drawing of a {}", "icon of {}", "a cute {}", "{}.",
)  # fmt: skip
_FLAG = ("{}", "{} flag", "{}'s flag", "the {} flag")
_FLAG_CAPTION = "flag of "


def draw_text(emoji: Emoji, rng: random.Random) -> str:
    """Return a random text for an emoji: its caption or keywords, perhaps in a phrase."""
    text = emoji.caption if rng.random() < 0.5 else _draw_keywords(emoji, rng)
    return draw_phrase(text, rng, 0.4)


def draw_phrase(text: str, rng: random.Random, share: float) -> str:
    """Return a text in a random phrase with probability `share`, otherwise unchanged."""
    return rng.choice(_TEMPLATES).format(text) if rng.random() < share else text


def get_words(emoji: Emoji) -> tuple[str, ...]:
    """Return an emoji's keywords, its name without skin tones, and the country of a flag."""
    names = (emoji.base, emoji.base.removeprefix(_FLAG_CAPTION))
    return tuple(dict.fromkeys([*emoji.keywords, *names]))


def add_tones(text: str, tones: tuple[str, ...], rng: random.Random) -> str:
    """Return a text to which skin tones are added in one of three ways, chosen at random."""
    joint = " and ".join(tones)
    return rng.choice((f"{text} with {joint}", f"{joint} {text}", f"{text}, {joint}"))


def _draw_keywords(emoji: Emoji, rng: random.Random) -> str:
    """Return some of an emoji's keywords, perhaps with its name and skin tones."""
    if emoji.caption.startswith(_FLAG_CAPTION):
        return rng.choice(_FLAG).format(emoji.caption.removeprefix(_FLAG_CAPTION))
    words = list(emoji.keywords) or [emoji.base]
    chosen = rng.sample(words, min(len(words), rng.choice((1, 1, 1, 2, 3))))
    if rng.random() < 0.3:
        chosen.insert(0, emoji.base)
    text = rng.choice((" ", " ", ", ")).join(chosen)
    if not emoji.tones or rng.random() < 0.3:
        return text
    return add_tones(text, emoji.tones, rng)


def make_corpus(emoji: list[Emoji]) -> list[str]:
    """Return the texts in which the byte pairs are counted.

    Equal texts are counted only once, because skin tones would otherwise crowd out rare words.
    """
    texts = [text for item in emoji for text in (item.caption, *item.keywords)]
    fillers = [template.format("") for template in _TEMPLATES] * 20
    return [*dict.fromkeys(texts), *fillers]
