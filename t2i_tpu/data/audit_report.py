"""Formats an audit as text for a terminal, and as one HTML file with a contact sheet."""

import numpy as np
from PIL import Image

from t2i_tpu import html_page
from t2i_tpu.data.audit import Audit


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
    parts = [html_page.make_paragraph(_describe(result))]
    if result.problems:
        parts.append(html_page.make_heading("Problems", kind="problem"))
        parts.append(html_page.make_list(result.problems, kind="problem"))
    else:
        parts.append(html_page.make_paragraph("No problems found."))
    parts += [html_page.make_paragraph(f"Note: {note}.") for note in _list_notes(result)]
    for title, facts in _make_tables(result).items():
        parts += [html_page.make_heading(title), html_page.make_table(facts.items())]
        if examples := result.sheet.get(title):
            cells = [(_to_picture(image), caption) for image, caption in examples]
            parts.append(html_page.make_sheet(cells))
    return html_page.make_page(folder, parts)


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


def _to_picture(image: np.ndarray) -> Image.Image:
    """Convert an image, uint8 [H, W, 1 or 3], to a picture."""
    return Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
