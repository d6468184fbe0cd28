"""Chooses by name and type which columns of a parquet file are read, before anything is decoded."""

import json
from typing import Any

from t2i_tpu.data.sources.tables.columns import explain_missing_column, find_column, find_columns
from t2i_tpu.errors import UserError

# What columns may hold, as `describe_type` names it. The first group that occurs is used.
_USABLE = {
    "image": (("bytes", "images"),),
    "url": (("text", "bytes"),),
    "caption": (
        ("text", "bytes", "lists of text", "lists of bytes"),
        ("numbers", "lists of numbers"),
    ),
    "key": (("text", "numbers", "bytes"),),
    "label": (("text",), ("numbers",)),
    "embedding": (("lists of numbers", "lists of lists of numbers", "bytes"),),
}
_EMPTY = ("nothing", "paths")
# What a column holds, and pyarrow's names of the types that hold it.
_TYPES = {
    "text": ("string", "large_string", "string_view"),
    "bytes": ("binary", "large_binary", "fixed_size_binary", "binary_view"),
    "numbers": ("integer", "floating", "decimal"),
    "truth values": ("boolean",),
    "nothing": ("null",),
}
_LISTS = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
_WANTED = {
    "image": "the bytes of an image in each row",
    "url": "URLs as text",
    "caption": "text",
    "embedding": "a list of numbers in each row",
}
# What to do about a column, by what it holds. "" stands for anything else.
_REMEDIES = {
    "image": {
        "text": "for URLs use --source=urls:FILE, for names of files use --source=folder:FOLDER and a "
        "table in that folder, and decode base64 to bytes",
        "paths": "the images themselves are not in the file: save it again with their bytes, or read "
        "them with --source=folder:FOLDER and a table in that folder",
        "": "store one image in each row, as bytes",
    },
    "embedding": {"": "convert it to lists of numbers, or choose an --encoder"},
}


def choose_columns(path: str, schema: Any, holding: str) -> list[str]:
    """Return the usable columns of one kind, best first.

    Args:
      path: path of the file, for error messages.
      schema: the file's pyarrow.Schema.
      holding: a key of COLUMNS, for example "caption".

    Raises:
      UserError: there is none.
    """
    if usable := find_usable_columns(schema, holding):
        return usable
    raise UserError(explain_unusable(path, schema, holding))


def explain_unusable(path: str, schema: Any, holding: str) -> str:
    """Return a line that says why no column of one kind can be used, and what to do."""
    if not (name := find_column(schema.names, holding)):
        return explain_missing_column(path, schema.names, holding)
    kind, remedies = describe_column(schema, name), _REMEDIES.get(holding, {})
    remedy = remedies.get(kind) or remedies.get("") or "convert or rename the column"
    return f"{path}: the column {name!r} holds {kind}, not {_WANTED[holding]}; {remedy}"


def find_usable_columns(schema: Any, holding: str) -> list[str]:
    """Return the columns of one kind that have a usable type, best first."""
    kinds = {name: describe_column(schema, name) for name in find_columns(schema.names, holding)}
    for group in _USABLE[holding]:
        if usable := [name for name, kind in kinds.items() if kind in group]:
            return usable
    return []


def find_empty_columns(schema: Any, holding: str) -> list[str]:
    """Return the columns of one kind that have no values, although other files may have some."""
    names = find_columns(schema.names, holding)
    return [name for name in names if describe_column(schema, name) in _EMPTY]


def find_simple_columns(schema: Any) -> list[str]:
    """Return the columns of numbers and text, which filters can use, without images and embeddings."""
    kinds = "numbers", "text", "truth values"
    others = {*find_columns(schema.names, "image"), *find_columns(schema.names, "embedding")}
    names = [name for name in schema.names if name not in others]
    return [name for name in names if describe_column(schema, name) in kinds]


def find_class_names(schema: Any) -> tuple[str, tuple[str, ...]] | None:
    """Return the column of labels and their names in Hugging Face's metadata, or None.

    If there are captions, only a column `label` counts.
    """
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    except (TypeError, KeyError, ValueError):
        return None
    columns = find_columns(schema.names, "label")
    if find_usable_columns(schema, "caption"):
        columns = [name for name in columns if name == "label"]
    for name in columns:
        feature = features.get(name) if isinstance(features, dict) else None
        names = feature.get("names") if isinstance(feature, dict) else None
        is_named = isinstance(names, list) and all(isinstance(each, str) for each in names)
        if names and is_named and describe_column(schema, name) == "numbers":
            return name, tuple(names)
    return None


def describe_column(schema: Any, name: str) -> str:
    """Return in words what a column of a pyarrow.Schema holds: the first one, if a name repeats."""
    return describe_type(schema.field(schema.get_all_field_indices(name)[0]).type)


def describe_type(data_type: Any) -> str:
    """Return in words what a column of a pyarrow.DataType holds."""
    import pyarrow
    from pyarrow import types

    if isinstance(data_type, pyarrow.BaseExtensionType):
        return describe_type(data_type.storage_type)
    if types.is_dictionary(data_type) or types.is_run_end_encoded(data_type):
        return describe_type(data_type.value_type)
    for description, names in _TYPES.items():
        if any(getattr(types, f"is_{name}")(data_type) for name in names):
            return description
    if any(getattr(types, f"is_{name}")(data_type) for name in _LISTS):
        return f"lists of {describe_type(data_type.value_type)}"
    if types.is_struct(data_type):
        return _describe_struct(data_type)
    return f"values of type {data_type}"


def _describe_struct(data_type: Any) -> str:
    """Return "images" or "paths" for Hugging Face's images with or without content, or "records"."""
    fields = {field.name: describe_type(field.type) for field in data_type}
    if fields.get("bytes") == "bytes":
        return "images"
    return "paths" if "path" in fields else "records"
