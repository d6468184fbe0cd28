"""Draws the pictures of docs/sampling.md: python -m tools.draw_sampling_docs runs/emoji32.

The pictures are those that the page's own Python snippets write.
"""

import os
import pathlib
import re
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/sampling.md"
# The run that the snippets load.
WORKDIR = "runs/emoji32"

_SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"\]\(sampling/([^)]+)\)")


def read_snippets(page: pathlib.Path = PAGE) -> list[str]:
    """Return the Python snippets of a page. Their lines keep their numbers, for tracebacks."""
    text = page.read_text("utf-8")
    return [
        "\n" * text[: match.start(1)].count("\n") + match[1] for match in _SNIPPET.finditer(text)
    ]


def list_pictures(page: pathlib.Path = PAGE) -> list[str]:
    """Return the names of the pictures that a page shows from docs/sampling/."""
    return _PICTURE.findall(page.read_text("utf-8"))


def run_snippets(page: pathlib.Path = PAGE) -> None:
    """Run the snippets of a page in order. The current folder must contain WORKDIR."""
    namespace: dict = {}
    for snippet in read_snippets(page):
        exec(compile(snippet, str(page), "exec"), namespace)


def main(workdir: str) -> None:
    link, pictures = os.path.abspath(workdir), PAGE.parent / "sampling"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.makedirs(os.path.dirname(WORKDIR))
        os.symlink(link, WORKDIR)
        run_snippets()
        for name in list_pictures():
            shutil.copy(name, pictures)
            print(f"{pictures / name}: {os.path.getsize(name):,} bytes")
        os.chdir(ROOT)


if __name__ == "__main__":
    main(*sys.argv[1:])
