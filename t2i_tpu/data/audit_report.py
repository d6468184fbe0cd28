"""Formats an audit as text for a terminal, and as one HTML file with a contact sheet."""

import base64
import html
import io

import numpy as np
from PIL import Image

from t2i_tpu.data.audit import Audit
from t2i_tpu.storage import outputs

_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; }
table { border-collapse: collapse; } td { padding: .1em 1em .1em 0; }
.problem { color: #b00020; } .sheet { display: flex; flex-wrap: wrap; gap: 10px; }
figure { margin: 0; width: 100px; font-size: 11px; line-height: 1.25; }
img { width: 96px; image-rendering: pixelated; border: 1px solid #ddd; }"""


def to_text(folder: str, result: Audit) -> str:
    """Return an audit as lines of text."""
    lines = [f"{folder}: {_describe(result)}"]
    for title, facts in _make_tables(result).items():
        lines += ["", title]
        lines += [f"  {value!s:>12}  {name}" for name, value in facts.items()]
    lines.append("")
    lines += [f"note: {note}" for note in _list_notes(result)]
    lines += [f"PROBLEM  {problem}" for problem in result.problems] or ["no problems found"]
    return "\n".join(lines)


def to_html(folder: str, result: Audit) -> str:
    """Return an audit as an HTML document that needs no other files."""
    parts = [f"<h1>{html.escape(folder)}</h1><p>{html.escape(_describe(result))}</p>"]
    if result.problems:
        items = "".join(f"<li>{html.escape(problem)}</li>" for problem in result.problems)
        parts.append(f'<h2 class="problem">Problems</h2><ul class="problem">{items}</ul>')
    else:
        parts.append("<p>No problems found.</p>")
    parts += [f"<p>Note: {html.escape(note)}.</p>" for note in _list_notes(result)]
    for title, facts in _make_tables(result).items():
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
            for name, value in facts.items()
        )
        parts.append(f"<h2>{html.escape(title)}</h2><table>{rows}</table>")
        if result.sheet.get(title):
            figures = "".join(_to_figure(*example) for example in result.sheet[title])
            parts.append(f'<div class="sheet">{figures}</div>')
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="{outputs.MARK}"><title>{html.escape(folder)}'
        f"</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _describe(result: Audit) -> str:
    """Return one line that describes the format of a data set."""
    manifest = result.manifest
    parts = [f"{manifest.image_size}x{manifest.image_size}x{manifest.channels}"]
    if manifest.embedding:
        norm = "norm 1" if manifest.embedding.normalized else "any norm"
        parts.append(
            f"embeddings of {manifest.embedding.encoder}, {manifest.embedding.dim} numbers, {norm}"
        )
    if manifest.label_names:
        parts.append(f"{len(manifest.label_names)} classes")
    return ", ".join(parts)


def _list_notes(result: Audit) -> list[str]:
    """Return one line for each fact that may be intended but is worth a look."""
    notes = []
    heldout = result.facts.get("heldout", {})
    if count := heldout.get("same image in train"):
        notes.append(
            f"{count} of {heldout['examples']} held-out images are also in train; to prevent that, "
            "prepare with --drop_same_images"
        )
    num_cut = (result.manifest.preparation or {}).get("captions_cut", 0)
    count = sum(facts["examples"] for facts in result.facts.values())
    if num_cut > count / 2:
        notes.append(
            f"{num_cut} of {count} captions are longer than the encoder reads; check that they "
            "are captions"
        )
    return notes


def _make_tables(result: Audit) -> dict[str, dict]:
    """Return the tables of a report by title; a split's title is its name."""
    outcomes = (result.manifest.preparation or {}).get("outcomes")
    tables = {"outcomes of the preparation": outcomes} if outcomes else {}
    return tables | result.facts


def _to_figure(image: np.ndarray, caption: str) -> str:
    """Return an HTML figure of an image, uint8 [H, W, 1 or 3], with its caption."""
    content = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    text = html.escape(caption if len(caption) <= 80 else caption[:77] + "...")
    return (
        f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption>'
        "</figure>"
    )
