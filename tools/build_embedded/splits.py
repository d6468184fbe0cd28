"""Held-out combinations: each part was seen in training, their combination never.

Two kinds are held out, chosen by hash and so by nothing else than their names:
- an emoji in a skin tone ("waving hand with dark skin tone"), never the emoji's default colour;
- a concept with a gender or hair ("woman firefighter", "man with red hair"), in all its skin tones,
  where the concept stays in training with another.
"""

import collections
import hashlib
import re
from collections.abc import Iterable, Sequence

from tools.build_embedded.captions import Emoji

TONE_PERCENT = 9
GENDER_PERCENT = 27  # of the concepts; each of these loses one of its two or three genders

_GENDER = re.compile(r"\b(woman|man|person|women|men|people)\b")


def split_emoji(emoji: Iterable[Emoji]) -> tuple[list[Emoji], list[Emoji]]:
    """(train, heldout), each in the order of `emoji`.

    Raises ValueError where a part of a held-out combination does not occur in training.
    """
    emoji = list(emoji)
    genders = collections.defaultdict(set)
    for one in emoji:
        concept, gender = concept_and_gender(one.base)
        if gender:
            genders[concept].add(one.base)
    lost = set()
    for concept, bases in genders.items():
        if len(bases) > 1 and _percent(concept) < GENDER_PERCENT:
            lost.add(min(bases, key=_percent))
    train, heldout = [], []
    for one in emoji:
        in_tone = one.tones and _percent(one.caption) < TONE_PERCENT
        (heldout if one.base in lost or in_tone else train).append(one)
    unseen = parts(heldout) - parts(train)
    if unseen:
        raise ValueError(f"held out, but not seen in training: {', '.join(sorted(unseen))}")
    return train, heldout


def concept_and_gender(base: str) -> tuple[str, str]:
    """'woman firefighter' -> ('* firefighter', 'woman'); no or two genders -> (base, '')."""
    found = _GENDER.findall(base)
    return (_GENDER.sub("*", base), found[0]) if len(found) == 1 else (base, "")


def parts(emoji: Sequence[Emoji]) -> set[str]:
    """The concepts, genders and skin tones that the combinations are made of."""
    found = set()
    for one in emoji:
        found.update(concept_and_gender(one.base), one.tones)
    return found


def _percent(text: str) -> float:
    """[0, 100), the same on every machine."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 * 100
