"""Makes an item from the members of a tar that belong to one example."""

import json
from typing import Any

from t2i_tpu.data.sources.file_names import IMAGE_ENDINGS, UNREADABLE_ENDINGS
from t2i_tpu.data.sources.source import Item
from t2i_tpu.data.sources.tables.columns import find_columns
from t2i_tpu.data.sources.tar.tar_members import Member

# Members by the ending of their name, in lower case.
Parts = dict[str, Member]


def find_image(parts: Parts) -> Member | None:
    """Return the member that is the image: the first one in a format that can be read, if there is one."""
    for endings in (IMAGE_ENDINGS, UNREADABLE_ENDINGS):
        for ending, member in parts.items():
            if ending in endings:
                return member
    return None


def has_caption(parts: Parts) -> bool:
    """Return whether there is a text, or JSON that has a caption or is broken."""
    if _find_texts(parts):
        return True
    try:
        return bool(_list_captions(_read_json(parts)))
    except ValueError:
        return True


def make_item(key: str, parts: Parts) -> Item:
    """Return the item of an image and members that have a caption."""
    item, image, texts = Item(key), find_image(parts), _find_texts(parts)
    try:
        values = _read_json(parts)
    except ValueError:
        values = None
        item.problem = None if texts else "bad_metadata"
    captions = [text.content for text in texts] + _list_captions(values)
    item.caption = captions[0] if len(captions) == 1 else captions
    item.columns = values if isinstance(values, dict) else {}
    item.embedding = parts["npy"].content if "npy" in parts else None
    item.image = image.content
    ending = next(ending for ending, member in parts.items() if member is image)
    unsupported = f"unsupported_{ending}" if ending in UNREADABLE_ENDINGS else None
    problems = [member.problem for member in (image, *texts)]
    # The content of a link to a text has not been read.
    problems += ["link_in_tar" for text in texts if text.content is None]
    item.problem = next((problem for problem in (unsupported, *problems) if problem), item.problem)
    return item


def _find_texts(parts: Parts) -> list[Member]:
    """Return the members that are captions, best first."""
    return [
        parts[name]
        for name in dict.fromkeys(("txt", *find_columns(parts, "caption")))
        if name in parts
    ]


def _read_json(parts: Parts) -> Any:
    """Return the value in the .json, or None. Raises ValueError if it is broken."""
    content = parts["json"].content if "json" in parts else None
    try:
        return None if content is None else json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _list_captions(values: Any) -> list[Any]:
    """Return the captions in the value of a .json, which need not be text, best first."""
    if isinstance(values, dict):
        names = dict.fromkeys(("caption", *find_columns(values, "caption")))
        return [values[name] for name in names if values.get(name) is not None]
    return [values] if isinstance(values, (str, list)) else []
