"""An audit as text for a terminal and as one HTML file with a contact sheet."""

import base64
import html
import io

import numpy as np
from PIL import Image

from t2i_tpu.data.audit import Audit

_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; }
table { border-collapse: collapse; } td { padding: .1em 1em .1em 0; }
.wrong { color: #b00020; } .sheet { display: flex; flex-wrap: wrap; gap: 10px; }
figure { margin: 0; width: 100px; font-size: 11px; line-height: 1.25; }
img { width: 96px; image-rendering: pixelated; border: 1px solid #ddd; }"""


def to_text(folder: str, found: Audit) -> str:
    lines = [f"{folder}: {_title(found)}"]
    for name, rows in _tables(found).items():
        lines += ["", name, *(f"  {value!s:>12}  {what}" for what, value in rows.items())]
    lines += ["", *(f"WRONG  {problem}" for problem in found.problems)]
    return "\n".join(lines if found.problems else [*lines, "nothing is wrong"])


def to_html(folder: str, found: Audit) -> str:
    parts = [f"<h1>{html.escape(folder)}</h1><p>{html.escape(_title(found))}</p>"]
    if found.problems:
        rows = "".join(f"<li>{html.escape(problem)}</li>" for problem in found.problems)
        parts.append(f'<h2 class="wrong">Wrong</h2><ul class="wrong">{rows}</ul>')
    else:
        parts.append("<p>Nothing is wrong.</p>")
    for name, facts in _tables(found).items():
        rows = "".join(
            f"<tr><td>{html.escape(what)}</td><td>{html.escape(str(value))}</td></tr>"
            for what, value in facts.items()
        )
        parts.append(f"<h2>{html.escape(name)}</h2><table>{rows}</table>")
        if found.sheet.get(name):
            parts.append(f'<div class="sheet">{"".join(map(_figure, found.sheet[name]))}</div>')
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(folder)}'
        f"</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _title(found: Audit) -> str:
    manifest = found.manifest
    parts = [f"{manifest.image_size}x{manifest.image_size}x{manifest.channels}"]
    if manifest.embedding:
        length = "length 1" if manifest.embedding.normalized else "raw"
        parts.append(
            f"embeddings of {manifest.embedding.encoder}, {manifest.embedding.dim}, {length}"
        )
    if manifest.label_names:
        parts.append(f"{len(manifest.label_names)} classes")
    return ", ".join(parts)


def _tables(found: Audit) -> dict[str, dict]:
    outcomes = (found.manifest.preparation or {}).get("outcomes")
    return ({"outcomes of the preparation": outcomes} if outcomes else {}) | found.facts


def _figure(cell: tuple[np.ndarray, str]) -> str:
    image, caption = cell
    content = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    text = html.escape(caption if len(caption) <= 80 else caption[:77] + "...")
    return (
        f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption>'
        "</figure>"
    )
