"""Decides which column of a table holds what, for all sources that read tables.

The names of columns are compared without regard to case, surrounding spaces and byte-order marks. Spaces
and hyphens within a name count as underscores.
"""

from collections.abc import Iterable

from t2i_tpu.errors import shorten

# The names of columns by what they hold, in order of preference.
COLUMNS = {
    "file": (
        *("file_name", "file", "filename", "image", "path", "image_path", "img_path", "file_path"),
        *("filepath", "image_file", "image_filename", "image_name", "img", "img_name"),
    ),
    "image": (
        *("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "picture"),
        *("photo", "image_data"),
    ),
    "url": ("url", "image_url", "img_url", "image_link", "link"),
    "caption": (
        *("text", "caption", "captions", "prompt", "txt", "description", "alt_text", "alttext"),
        *("sentence", "sentences", "comment", "title"),
    ),
    "key": ("key", "__key__", "id", "image_id"),
    "label": ("label", "labels", "class", "class_name", "category", "class_label", "target"),
    "embedding": ("embedding", "embeddings", "text_embedding", "clip_embedding", "emb"),
}
_HOLDINGS = {
    "file": "the names of images",
    "image": "images",
    "url": "URLs",
    "caption": "captions",
    "key": "keys",
    "label": "labels",
    "embedding": "embeddings",
}
_SHOWN_NAMES = 12


def find_columns(names: Iterable[str], holding: str) -> list[str]:
    """Return all columns that hold something according to their names, best first.

    Args:
      names: the names of a table's columns.
      holding: a key of COLUMNS, for example "caption".

    Returns:
      The names, as the table spells them. A name that has exactly the expected spelling comes before
      others that differ only in case or spaces.
    """
    by_name = {}
    for name in names:
        by_name.setdefault(_simplify(name), []).append(name)
    return [
        name
        for expected in COLUMNS[holding]
        for name in sorted(by_name.get(expected, ()), key=lambda name: name != expected)
    ]


def find_column(names: Iterable[str], holding: str) -> str | None:
    """Return the first of `find_columns`, or None if there is none."""
    return next(iter(find_columns(names, holding)), None)


def explain_missing_column(place: str, names: Iterable[str], holding: str) -> str:
    """Return a line that says that no column fits, and names the columns found and expected.

    Args:
      place: the table, for example its path.
      names: the names of its columns.
      holding: a key of COLUMNS.
    """
    return (
        f"{place} has no column of {_HOLDINGS[holding]}; its columns are {list_names(names)}; "
        f"rename one to {' or '.join(COLUMNS[holding][:2])}"
    )


def list_names(names: Iterable[str]) -> str:
    """Return names as a short text in one line."""
    names = list(names)
    shown = [shorten(str(name), 40) for name in names[:_SHOWN_NAMES]]
    if len(names) > _SHOWN_NAMES:
        shown.append(f"and {len(names) - _SHOWN_NAMES} more")
    return ", ".join(shown) or "(none)"


def _simplify(name: str) -> str:
    """Return the name of a column in the spelling of COLUMNS."""
    name = str(name).replace("\ufeff", "").strip().lower()
    return name.replace(" ", "_").replace("-", "_")
