"""Splits the emoji into training emoji and held-out combinations of parts that occur in training.

Two kinds of combinations are held out. A hash of their names chooses them:
- an emoji in a skin tone ("waving hand with dark skin tone"), but never in its default color;
- a concept with a gender ("woman firefighter", "man with red hair"), in all of its skin tones, if the
  concept with another gender stays in training.
"""

import collections
import hashlib
import re
from collections.abc import Iterable, Sequence

from tools.build_embedded.captions import Emoji

TONE_PERCENT = 9
GENDER_PERCENT = 27  # of the concepts; one gender of each of these is held out

_GENDER = re.compile(r"\b(woman|man|person|women|men|people)\b")


def split_emoji(emoji: Iterable[Emoji]) -> tuple[list[Emoji], list[Emoji]]:
    """Return the splits (train, heldout), each in the order of `emoji`.

    Raises:
      ValueError: a part of a held-out combination does not occur in training.
    """
    emoji = list(emoji)
    # Hold out one gender of some concepts.
    genders = collections.defaultdict(set)
    for item in emoji:
        concept, gender = split_gender(item.base)
        if gender:
            genders[concept].add(item.base)
    heldout_bases = set()
    for concept, bases in genders.items():
        if len(bases) > 1 and _hash_percent(concept) < GENDER_PERCENT:
            heldout_bases.add(min(bases, key=_hash_percent))

    # Hold out these genders and some skin tones.
    train, heldout = [], []
    for item in emoji:
        is_heldout_tone = item.tones and _hash_percent(item.caption) < TONE_PERCENT
        if item.base in heldout_bases or is_heldout_tone:
            heldout.append(item)
        else:
            train.append(item)
    unseen = find_parts(heldout) - find_parts(train)
    if unseen:
        raise ValueError(f"held out, but not seen in training: {', '.join(sorted(unseen))}")
    return train, heldout


def split_gender(base: str) -> tuple[str, str]:
    """Return concept and gender: 'woman firefighter' -> '* firefighter', 'woman'.

    If `base` does not contain exactly one gender, the result is `base` and ''.
    """
    genders = _GENDER.findall(base)
    return (_GENDER.sub("*", base), genders[0]) if len(genders) == 1 else (base, "")


def find_parts(emoji: Sequence[Emoji]) -> set[str]:
    """Return the concepts, genders and skin tones that combinations are made of."""
    parts = set()
    for item in emoji:
        parts.update(split_gender(item.base), item.tones)
    return parts


def _hash_percent(text: str) -> float:
    """Return a number in [0, 100) that depends only on the text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 * 100
