"""Generates docs/config.md from the fields of the config: python -m tools.describe_config."""

import pathlib

from t2i_tpu.config import fields
from t2i_tpu.options import describe_bounds, get_choices
from t2i_tpu.recipes import RECIPES

PATH = pathlib.Path(__file__).parents[1] / "docs/config.md"
HEADER = """# Config fields

A config is a Python file that fills in these fields, and a flag overrides any of them:
`--config.train.total_steps=5000`. A field without a default of its own takes the value of its
recipe, `modern` or `baseline`; [recipes.md](recipes.md) compares the two.

This page is generated from `t2i_tpu/config.py` by `make docs`.

| field | meaning | choices or bounds | default |
|---|---|---|---|
"""


def describe_config() -> str:
    """Return the text of docs/config.md, with one row for each field of the config."""
    rows = [
        f"| `{name}` | {field.metadata['help']} | {_describe_values(field)} | "
        f"{_describe_default(name, field)} |"
        for name, field in fields().items()
    ]
    return HEADER + "\n".join(rows) + "\n"


def _describe_values(field) -> str:
    """Return the choices or the bounds of a field."""
    if choices := get_choices(field):
        return ", ".join(f"`{choice}`" for choice in choices)
    bounds = {name: field.metadata[name] for name in ("at_least", "below", "at_most")}
    return describe_bounds(**bounds)


def _describe_default(name, field) -> str:
    """Return the default of a field, or the defaults of both recipes if they differ."""
    if field.default is not None:
        return f"`{field.default}`"
    values = {recipe: values[name] for recipe, values in RECIPES.items()}
    if len(set(values.values())) == 1:
        return f"`{values['modern']}`"
    return ", ".join(f"{recipe}: `{values[recipe]}`" for recipe in ("modern", "baseline"))


if __name__ == "__main__":
    PATH.write_text(describe_config(), "utf-8")
