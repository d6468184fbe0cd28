"""Makes self-contained HTML pages: the audit of a data set, and the reports of evaluations.

The functions return HTML as text. Their arguments are plain text, which they escape. A page loads no other
file. It can be read on a phone: wide tables scroll in their own boxes, and pictures shrink.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

from t2i_tpu.storage import outputs

_STYLE = """body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto;
  padding: 1rem; max-width: 72rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-top: 1px solid #ddd; padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, li, dd { max-width: 46rem; }
.problem, .problem li { color: #b00020; }
.large { font-size: 1.6rem; margin: .5rem 0; }
.note, figcaption { color: #555; font-size: .85rem; line-height: 1.35; }
.table { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .25em 1.25em .25em 0; text-align: left; vertical-align: top; min-width: 3em;
  max-width: 24em; overflow-wrap: break-word; }
thead th { border-bottom: 1px solid #999; } tbody th { font-weight: normal; min-width: 8rem; }
dt { font-weight: 600; margin-top: .6em; } dd { margin: 0; }
figure { margin: 0 0 1rem; overflow-x: auto; }
img { display: block; max-width: 100%; height: auto; } .wide { min-width: 30rem; }
.sheet { display: flex; flex-wrap: wrap; gap: .75rem; margin: .75rem 0; }
.sheet figure { width: 6rem; margin: 0; } .sheet img { width: 6rem; border: 1px solid #ddd; }
.sheet figcaption { font-size: .75rem; }
.small { image-rendering: pixelated; }
.previews { display: flex; flex-wrap: wrap; gap: 1rem; } .previews figure { flex: 0 1 30rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: .75rem 0; }
.plots figure { flex: 0 1 22rem; margin: 0; } .plots img { width: 100%; }
"""
# A picture with fewer columns of pixels shows them as squares when it is enlarged.
_MAX_PIXELATED = 200
# A wider picture may contain captions, so it does not shrink below this width but scrolls.
_WIDE = 480
_MAX_CAPTION = 80


def make_page(title: str, parts: Iterable[str], style: str = "", script: str = "") -> str:
    """Return an HTML document.

    Args:
      title: the title, also shown as the first heading.
      parts: the content as HTML.
      style: more CSS.
      script: JavaScript that runs after the page is loaded.
    """
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *parts])
    end = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="{outputs.MARK}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style></head>"
        f"<body>{body}{end}</body></html>\n"
    )


def make_heading(text: str, level: int = 2, kind: str = "") -> str:
    """Return a heading; `kind` is a class of the style sheet, such as "problem"."""
    return f"<h{level}{_to_class(kind)}>{html.escape(text)}</h{level}>"


def make_paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph; `kind` is a class of the style sheet, such as "note"."""
    return f"<p{_to_class(kind)}>{html.escape(text)}</p>"


def make_list(items: Iterable[str], kind: str = "") -> str:
    """Return a list with a bullet before each item."""
    lines = "".join(f"<li>{html.escape(item)}</li>" for item in items)
    return f"<ul{_to_class(kind)}>{lines}</ul>"


def make_definitions(meanings: Iterable[tuple[str, str]]) -> str:
    """Return a list of terms, each above its meaning."""
    lines = [f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in meanings]
    return f"<dl>{''.join(lines)}</dl>"


def make_table(rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Return a table. The first cell of each row names the row."""
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in header)
    lines = []
    for name, *cells in rows:
        columns = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{html.escape(str(name))}</th>{columns}</tr>')
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="table" tabindex="0"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def make_sheet(cells: Iterable[tuple[Image.Image, str]]) -> str:
    """Return small pictures of equal width with captions, as many in a row as fit."""
    return f'<div class="sheet">{"".join(make_picture(*cell) for cell in cells)}</div>'


def make_picture(picture: Image.Image, caption: str = "") -> str:
    """Return a picture above its caption. A long caption is cut."""
    if len(caption) > _MAX_CAPTION:
        caption = caption[: _MAX_CAPTION - 3] + "..."
    return _to_figure(make_image(picture), caption)


def make_image(picture: Image.Image) -> str:
    """Return a picture without a caption, for use inside other elements."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    kind = "small" if picture.width < _MAX_PIXELATED else "wide" if picture.width > _WIDE else ""
    return _to_image(buffer.getvalue(), "image/png", "", kind)


def make_plot(svg: bytes, description: str) -> str:
    """Return a plot, given as the content of an SVG file, above its description."""
    return _to_figure(_to_image(svg, "image/svg+xml", description), description)


def _to_image(content: bytes, media_type: str, description: str, kind: str = "") -> str:
    data = base64.b64encode(content).decode()
    text = html.escape(description)
    return f'<img{_to_class(kind)} alt="{text}" src="data:{media_type};base64,{data}">'


def _to_figure(image: str, caption: str) -> str:
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image}{text}</figure>"


def _to_class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
