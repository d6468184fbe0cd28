"""Write the table of figures in docs/evaluation.md from their descriptions in the code: make docs."""

import pathlib
import re

from t2i_tpu.evaluate.report.figures import list_descriptions

PATH = pathlib.Path(__file__).parents[1] / "docs" / "evaluation.md"
_HEADER = "| figure | better | meaning |\n|---|---|---|\n"


def describe(text: str) -> str:
    """Return the text of docs/evaluation.md with a new table."""
    rows = [
        f"| {figure.title} | {figure.better or '–'} | {figure.meaning} |\n"
        for figure in list_descriptions().values()
    ]
    table = _HEADER + "".join(rows)
    new, count = re.subn(rf"{re.escape(_HEADER)}(\|.*\n)*", lambda _: table, text)
    if count != 1:
        raise ValueError(f"{PATH.name} has {count} tables of figures")
    return new


if __name__ == "__main__":
    PATH.write_text(describe(PATH.read_text("utf-8")), "utf-8")
