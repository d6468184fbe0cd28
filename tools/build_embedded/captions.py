"""Reads emoji and their captions from npm's emoji-datasource-google and cldr-annotations-*."""

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
    """An image and the words that describe it.

    Attributes:
      key: the code points, for example "1F469-1F3FD-200D-1F692". No two emoji have the same key.
      file: name of the image file in the package.
      caption: a phrase in lowercase ASCII. No two emoji have the same caption.
      base: the caption without skin tones. The variants of an emoji have the same base.
      tones: zero to two skin tones, for example "dark skin tone".
      keywords: CLDR's keywords in lowercase, without skin tones.
      category: the category in emoji.json.
    """

    key: str
    file: str
    caption: str
    base: str
    tones: tuple[str, ...]
    keywords: tuple[str, ...]
    category: str


def read_emoji(emoji_package: str, cldr_packages: Sequence[str]) -> list[Emoji]:
    """Return every emoji of the package that has an image, in the package's order.

    Args:
      emoji_package: folder of emoji-datasource-google.
      cldr_packages: folders of the cldr-annotations packages.

    Raises:
      ValueError: an emoji has no CLDR name, or a key or a caption occurs twice.
    """
    # Merge the annotations of the packages: {emoji: names and keywords}.
    annotations = {}
    for package in cldr_packages:
        for path in sorted(pathlib.Path(package).glob("annotations*/en/annotations.json")):
            (top,) = json.loads(path.read_text(encoding="utf-8")).values()
            annotations.update(top["annotations"])
    emoji = []
    for entry in json.loads((pathlib.Path(emoji_package) / "emoji.json").read_text()):
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            if variant["has_img_google"]:
                emoji.append(_make_emoji(entry, variant, annotations))
    for field in ("key", "caption"):
        values = [getattr(item, field) for item in emoji]
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated:
            raise ValueError(f"{field} occurs twice: {', '.join(repeated)}")
    return emoji


def read_image(emoji_package: str, emoji: Emoji) -> np.ndarray:
    """Return the image of an emoji on white, uint8 [64, 64, 3]."""
    path = pathlib.Path(emoji_package) / "img" / "google" / "64" / emoji.file
    with Image.open(path) as image:
        image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB"))


def _make_emoji(entry: dict, variant: dict, annotations: dict) -> Emoji:
    """Return a variant of an entry of emoji.json, or the entry itself."""
    symbol = "".join(chr(int(code, 16)) for code in variant["unified"].split("-"))
    # CLDR omits the emoji presentation selector.
    note = annotations.get(symbol) or annotations.get(symbol.replace("\ufe0f", ""))
    if note is None:
        raise ValueError(f"no CLDR name for {variant['unified']} ({entry['name']})")
    name, subcategory = note["tts"][0], entry["subcategory"]
    keywords = (to_plain(word) for word in note.get("default", ()))
    return Emoji(
        key=variant["unified"],
        file=variant["image"],
        caption=make_caption(name, subcategory),
        base=make_caption(name, subcategory, with_tones=False),
        tones=_parse_name(name)[1],
        keywords=tuple(dict.fromkeys(word for word in keywords if word and _TONE not in word)),
        category=entry["category"],
    )


def make_caption(name: str, subcategory: str, with_tones: bool = True) -> str:
    """Return the caption of an emoji.

    Args:
      name: the name in CLDR, for example "man: dark skin tone, red hair".
      subcategory: the subcategory in emoji.json.
      with_tones: whether the caption names the skin tones.
    """
    name, tones, details = _parse_name(name)
    return _compose(name, details, tones if with_tones else (), subcategory)


def to_plain(text: str) -> str:
    """Return a text in lowercase ASCII, without quotation marks: 'Piñata' -> 'pinata'."""
    text = text.replace("’", "'").replace("“", "").replace("”", "").replace("&", "and")
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"\s+", " ", text).strip().lower()


def _parse_name(name: str) -> tuple[str, tuple[str, ...], list[str]]:
    """Split a CLDR name into name, skin tones and details.

    Example: 'man: dark skin tone, red hair' -> 'man', ('dark skin tone',), ['red hair'].
    """
    name, _, rest = to_plain(name).partition(": ")
    parts = rest.split(", ") if rest else []
    tones = tuple(part for part in parts if part.endswith(_TONE))
    return name, tones, [part for part in parts if not part.endswith(_TONE)]


def _compose(name: str, details: list[str], tones: tuple[str, ...], subcategory: str) -> str:
    """Return a phrase that combines the parts of a name."""
    if name in ("kiss", "couple with heart") and details:
        return _compose_couple(name, details, tones)
    if name == "family" and details:
        return f"family of {_enumerate([_add_article(member) for member in details])}"
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
    return f"{name} {joint} {_enumerate(properties)}"


def _compose_couple(name: str, members: list[str], tones: tuple[str, ...]) -> str:
    """Return a phrase for a kiss or a couple with a heart."""
    first, second = (_add_article(member) for member in members)
    joint = "kiss between" if name == "kiss" else "heart between"
    if len(tones) == 2:
        return f"{joint} {first} with {tones[0]} and {second} with {tones[1]}"
    pair = f"two {_PLURAL[members[0]]}" if first == second else f"{first} and {second}"
    return " ".join([f"{joint} {pair}", *(f"with {tone}" for tone in tones)])


def _add_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def _enumerate(items: Sequence[str]) -> str:
    """Join items as in 'a, b and c'."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))
