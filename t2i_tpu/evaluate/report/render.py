"""Renders an evaluation as one HTML page.

A picture of an evaluation is shown in the section that its name starts with, as in "interpolation/seeds".
Sections that an evaluation does not have are left out.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from PIL import Image

from t2i_tpu import html_page
from t2i_tpu.evaluate.report import sections
from t2i_tpu.evaluate.report.figures import format_number, get_value, list_descriptions
from t2i_tpu.evaluate.report.sections import CAPTIONS, COLUMNS, Json, Section

if TYPE_CHECKING:
    from t2i_tpu.evaluate.evaluation import Evaluation


def render(evaluation: "Evaluation") -> str:
    """Return the report of an evaluation as an HTML document that needs no other files."""
    report, descriptions = evaluation.report, list_descriptions()
    content = [
        sections.describe_distances(report, descriptions),
        sections.describe_agreement(report, descriptions),
        sections.describe_drawn(),
        sections.describe_generalisation(report, descriptions),
        sections.describe_two_sample(report, descriptions),
        sections.describe_interpolation(report, descriptions),
        sections.describe_memorisation(report, descriptions),
        sections.describe_settings(report),
    ]
    names = {section.name for section in content}
    unknown = [name for name in evaluation.pictures if name.partition("/")[0] not in names]
    if unknown:
        raise ValueError(f"no section has pictures named {unknown}; choose from {sorted(names)}")
    parts = _summarize(report)
    for section in content:
        parts += _to_parts(section, evaluation.pictures)
    title = f"Evaluation of {report.get('run', {}).get('workdir', 'a model')}"
    return html_page.make_page(title, parts)


def _to_parts(section: Section, pictures: Mapping[str, Image.Image]) -> list[str]:
    """Return a section as HTML, with its pictures at the end; [] if it is empty."""
    parts = list(section.parts)
    for name, picture in pictures.items():
        prefix, _, caption = name.partition("/")
        if prefix == section.name:
            parts.append(html_page.make_picture(picture, CAPTIONS.get(caption, caption)))
    return [html_page.make_heading(section.title), *parts] if parts else []


def _summarize(report: Json) -> list[str]:
    """Return the top of the page: the model, KID, and the warnings."""
    parts = [html_page.make_paragraph(_describe_run(report))] if "run" in report else []
    texts = {name: _describe_kid(group) for name, group in report.get("distances", {}).items()}
    kids = {name: text for name, text in texts.items() if text}
    split = next((name for name in ("heldout", "train") if name in kids), None)
    if split:
        parts.append(html_page.make_paragraph(f"KID {kids[split]}", "large"))
        text = f"This is KID on the {COLUMNS[split]}. ± is the standard error, and lower is better."
        if split == "heldout" and "train" in kids:
            text += f" On the training split, it is {kids['train']}."
        if "real" in kids:
            text += f" Between the real images of both splits, it is {kids['real']}."
        parts.append(html_page.make_paragraph(text))
    if report.get("warnings"):
        parts.append(html_page.make_heading("Warnings", 3, "problem"))
        parts.append(html_page.make_list(report["warnings"], "problem"))
    return parts


def _describe_run(report: Json) -> str:
    """Return one line about the model and the number of images."""
    run, facts = report["run"], []
    if "step" in run:
        total = f" of {run['total_steps']:,}" if "total_steps" in run else ""
        facts.append(f"Step {run['step']:,}{total}")
    for name, title in (("weights", "weights"), ("data", "data set"), ("recipe", "recipe")):
        if name in run:
            facts.append(f"{title}: {run[name]}")
    settings = report.get("settings", {})
    for name, count in settings.get("num_images", {}).items():
        facts.append(f"{count:,} images drawn for the {COLUMNS[name]}")
    if "num_sets" in settings:
        facts.append(f"number of sets with different seeds: {settings['num_sets']}")
    return "; ".join(facts) + "."


def _describe_kid(figures: Json) -> str:
    """Return KID and its standard error as text, or "" if there is no KID."""
    kid, error = (get_value(figures.get(name)) for name in ("kid", "kid_standard_error"))
    return "" if kid is None else format_number(kid, error)
