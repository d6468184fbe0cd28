"""What an image may be called: its caption, the caption in a phrase, its keywords."""

import random

from t2i_tpu.data.embedded.build.captions import Emoji

_TEMPLATES = (
    "a {}", "the {}", "{} emoji", "an emoji of {}", "an emoji of a {}", "a picture of a {}",
    "a picture of {}", "a small drawing of a {}", "icon of {}", "a cute {}", "{}.",
)  # fmt: skip
_FLAG = ("{}", "{} flag", "{}'s flag", "the {} flag")


def caption_text(emoji: Emoji, rng: random.Random) -> str:
    """The caption, alone or in a phrase."""
    return rng.choice(_TEMPLATES).format(emoji.caption) if rng.random() < 0.4 else emoji.caption


def keyword_text(emoji: Emoji, rng: random.Random) -> str:
    """One to three keywords, with the skin tone or without, alone or in a phrase."""
    if emoji.caption.startswith("flag of "):
        return rng.choice(_FLAG).format(emoji.caption.removeprefix("flag of "))
    words = list(emoji.keywords) or [emoji.base]
    # One keyword is the most frequent prompt, and the hardest: it has to find the image alone.
    chosen = rng.sample(words, min(len(words), rng.choice((1, 1, 1, 2, 3))))
    if rng.random() < 0.15:
        chosen.insert(0, emoji.base)
    text = rng.choice((" ", " ", ", ")).join(chosen)
    if emoji.tones and rng.random() < 0.7:
        tones = " and ".join(emoji.tones)
        text = rng.choice((f"{text} with {tones}", f"{tones} {text}", f"{text}, {tones}"))
    return rng.choice(_TEMPLATES).format(text) if rng.random() < 0.25 else text


def vocabulary_corpus(emoji: list[Emoji]) -> list[str]:
    """The texts that the byte pairs are counted in; equal ones count once, so that skin tones do
    not crowd out rare words."""
    texts = [text for one in emoji for text in (one.caption, *one.keywords)]
    fillers = [template.format("") for template in _TEMPLATES] * 20
    return [*dict.fromkeys(texts), *fillers]
