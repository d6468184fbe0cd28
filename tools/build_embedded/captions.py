"""Emoji and their captions, from npm's emoji-datasource-google and cldr-annotations-*."""

import dataclasses
import json
import pathlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image

_WORDS = {"#": "number sign", "*": "asterisk"}
_PLURAL = {"woman": "women", "man": "men", "person": "people"}
_TONE = "skin tone"


@dataclasses.dataclass(frozen=True)
class Emoji:
    """One image and what can be said about it.

    Attributes:
      key: the code points, as in "1F469-1F3FD-200D-1F692"; unique.
      file: name of the image in the package.
      caption: lowercase ASCII phrase; unique.
      base: caption without skin tone; equal for the variants of one emoji.
      tones: skin tones as words, none to two.
      keywords: lowercase CLDR keywords, skin tones left out.
      category: emoji.json's category.
    """

    key: str
    file: str
    caption: str
    base: str
    tones: tuple[str, ...]
    keywords: tuple[str, ...]
    category: str


def read_emoji(emoji_package: str, cldr_packages: Sequence[str]) -> list[Emoji]:
    """Every emoji of the package that has an image, in the package's order.

    Raises ValueError where an emoji has no CLDR name or a caption comes twice.
    """
    annotations = {}
    for package in cldr_packages:
        for path in sorted(pathlib.Path(package).glob("annotations*/en/annotations.json")):
            (top,) = json.loads(path.read_text(encoding="utf-8")).values()
            annotations.update(top["annotations"])
    found = []
    for entry in json.loads((pathlib.Path(emoji_package) / "emoji.json").read_text()):
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            if variant["has_img_google"]:
                found.append(_emoji(entry, variant, annotations))
    for field in ("key", "caption"):
        values = [getattr(emoji, field) for emoji in found]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"{field} comes twice: {', '.join(twice)}")
    return found


def read_image(emoji_package: str, emoji: Emoji) -> np.ndarray:
    """uint8 [64, 64, 3], the emoji on white."""
    path = pathlib.Path(emoji_package) / "img" / "google" / "64" / emoji.file
    with Image.open(path) as image:
        image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB"))


def _emoji(entry: dict, variant: dict, annotations: dict) -> Emoji:
    symbol = "".join(chr(int(code, 16)) for code in variant["unified"].split("-"))
    # CLDR leaves out the emoji presentation selector.
    note = annotations.get(symbol) or annotations.get(symbol.replace("\ufe0f", ""))
    if note is None:
        raise ValueError(f"no CLDR name for {variant['unified']} ({entry['name']})")
    name, tones, details = _parse(plain(note["tts"][0]))
    keywords = (plain(word) for word in note.get("default", ()))
    return Emoji(
        key=variant["unified"],
        file=variant["image"],
        caption=_caption(name, details, tones, entry["subcategory"]),
        base=_caption(name, details, (), entry["subcategory"]),
        tones=tones,
        keywords=tuple(dict.fromkeys(word for word in keywords if word and _TONE not in word)),
        category=entry["category"],
    )


def plain(text: str) -> str:
    """Lowercase ASCII, without quotation marks: 'Piñata' -> 'pinata'."""
    text = text.replace("’", "'").replace("“", "").replace("”", "").replace("&", "and")
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"\s+", " ", text).strip().lower()


def _parse(name: str) -> tuple[str, tuple[str, ...], list[str]]:
    """'man: dark skin tone, red hair' -> ('man', ('dark skin tone',), ['red hair'])."""
    name, _, rest = name.partition(": ")
    parts = rest.split(", ") if rest else []
    tones = tuple(part for part in parts if part.endswith(_TONE))
    return name, tones, [part for part in parts if not part.endswith(_TONE)]


def _caption(name: str, details: list[str], tones: tuple[str, ...], subcategory: str) -> str:
    if name in ("kiss", "couple with heart") and details:
        return _couple(name, details, tones)
    if name == "family" and details:
        return f"family of {_list([_article(member) for member in details])}"
    if name == "flag":
        return f"flag of {', '.join(details)}"
    if name == "keycap":
        return f"keycap {_WORDS.get(details[0], details[0])}"
    if subcategory == "zodiac":
        return f"{name} zodiac sign"
    if subcategory == "time" and re.search(r"o'clock|-thirty", name):
        return f"clock showing {name}"
    properties = []
    for detail in details:
        if detail == "bald":
            name = f"bald {name}"
        elif detail.startswith("facing"):
            name = f"{name} {detail}"
        else:
            properties.append("a beard" if detail == "beard" else detail)
    properties = [*tones, *properties]
    if not properties:
        return name
    joint = "and" if re.search(r"\bwith\b", name) else "with"
    return f"{name} {joint} {_list(properties)}"


def _couple(name: str, members: list[str], tones: tuple[str, ...]) -> str:
    first, second = (_article(member) for member in members)
    joint = "kiss between" if name == "kiss" else "heart between"
    if len(tones) == 2:
        return f"{joint} {first} with {tones[0]} and {second} with {tones[1]}"
    pair = f"two {_PLURAL[members[0]]}" if first == second else f"{first} and {second}"
    return " ".join([f"{joint} {pair}", *(f"with {tone}" for tone in tones)])


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def _list(items: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))
