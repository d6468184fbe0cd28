"""What an image may be called: its caption, the caption in a phrase, its keywords."""

import random

from tools.build_embedded.captions import Emoji

_TEMPLATES = (
    "a {}", "the {}", "{} emoji", "an emoji of {}", "an emoji of a {}", "a picture of a {}",
    "a picture of {}", "a small drawing of a {}", "icon of {}", "a cute {}", "{}.",
)  # fmt: skip
_FLAG = ("{}", "{} flag", "{}'s flag", "the {} flag")
_FLAG_CAPTION = "flag of "


def variant(emoji: Emoji, rng: random.Random) -> str:
    """A random text for `emoji`: its caption or keywords, with or without a phrase around it."""
    text = emoji.caption if rng.random() < 0.5 else _keywords(emoji, rng)
    return in_phrase(text, rng, 0.4)


def in_phrase(text: str, rng: random.Random, share: float) -> str:
    return rng.choice(_TEMPLATES).format(text) if rng.random() < share else text


def words_of(emoji: Emoji) -> tuple[str, ...]:
    """What can be asked for: the keywords, the name without skin tone, and a flag's country."""
    names = (emoji.base, emoji.base.removeprefix(_FLAG_CAPTION))
    return tuple(dict.fromkeys([*emoji.keywords, *names]))


def with_tones(text: str, tones: tuple[str, ...], rng: random.Random) -> str:
    joint = " and ".join(tones)
    return rng.choice((f"{text} with {joint}", f"{joint} {text}", f"{text}, {joint}"))


def _keywords(emoji: Emoji, rng: random.Random) -> str:
    if emoji.caption.startswith(_FLAG_CAPTION):
        return rng.choice(_FLAG).format(emoji.caption.removeprefix(_FLAG_CAPTION))
    words = list(emoji.keywords) or [emoji.base]
    chosen = rng.sample(words, min(len(words), rng.choice((1, 1, 1, 2, 3))))
    if rng.random() < 0.3:
        chosen.insert(0, emoji.base)
    text = rng.choice((" ", " ", ", ")).join(chosen)
    if not emoji.tones or rng.random() < 0.3:
        return text
    return with_tones(text, emoji.tones, rng)


def vocabulary_corpus(emoji: list[Emoji]) -> list[str]:
    """The texts that the byte pairs are counted in; equal ones count once, so that skin tones do
    not crowd out rare words."""
    texts = [text for one in emoji for text in (one.caption, *one.keywords)]
    fillers = [template.format("") for template in _TEMPLATES] * 20
    return [*dict.fromkeys(texts), *fillers]
