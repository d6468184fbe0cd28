"""Makes the sections of the report page from the parts of report.json."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from t2i_tpu import html_page
from t2i_tpu.evaluate.distances.distance import Figure
from t2i_tpu.evaluate.report import plots
from t2i_tpu.evaluate.report.figures import (
    format_number,
    get_spread,
    get_value,
    is_figure,
    make_figure_table,
)
from t2i_tpu.evaluate.report.history import plot_history

Json = Mapping[str, Any]
Descriptions = Mapping[str, Figure]

# Titles of the columns of tables.
COLUMNS = {
    "train": "training split",
    "heldout": "held-out split",
    "real": "real held-out images",
    "real_train": "real training images",
    "real_heldout": "real held-out images",
}
# Captions of pictures, by the last part of their names.
CAPTIONS = COLUMNS | {
    "seeds": "Each path leads from one seed to another, with one prompt or label.",
    "prompts": "Each path leads from one prompt to another, with one seed.",
    "worst": "The drawn images that are nearest to training images.",
}
# How distances to training images are measured, and their units.
_SPACES = {
    "pixels": "root mean square of pixel differences, 0 to 1",
    "features": "Euclidean distance of features",
}
_MAX_DUPLICATES = 50


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
      name: pictures whose names start with it are added to the section.
      title: the heading.
      parts: the content as HTML. If it is empty and there are no pictures, the section is left out.
    """

    name: str
    title: str
    parts: list[str] = dataclasses.field(default_factory=list)

    def add_text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(html_page.make_paragraph(text))

    def add_figures(self, groups: Json, descriptions: Descriptions) -> None:
        """Add a table of figures. A group of them is a column."""
        columns = {}
        for name, group in groups.items():
            if isinstance(group, Mapping) and any(map(is_figure, group.values())):
                columns[COLUMNS.get(name, name.replace("_", " "))] = group
        if columns:
            self.parts.append(make_figure_table(columns, descriptions))


def describe_distances(report: Json, descriptions: Descriptions) -> Section:
    """Return the section on the distances between drawn and real images."""
    section, distances = Section("distances", "Distances"), report.get("distances", {})
    if distances:
        text = (
            "These figures compare the images drawn for the prompts or labels of each split with real "
            "images. ± is the standard deviation over sets of drawn images with different seeds."
        )
        if "real" in distances:
            text += (
                " The last column compares real held-out images with real training images. If both splits "
                "are of the same kind, it shows which values to expect of real images. All figures but "
                "KID depend on the numbers of images, which are listed below."
            )
        section.add_text(text)
        section.add_figures(distances, descriptions)
        if text := _describe_counts(distances):
            section.add_text(text)
    return section


def _describe_counts(distances: Json) -> str:
    """Return how many images are compared, on which most distances depend."""
    texts = []
    for name, group in distances.items():
        if counts := group.get("images"):
            text = f"{COLUMNS[name]}: {counts['drawn']:,} with {counts['real']:,} real ones"
            texts.append(text + (" of the same prompts" if counts["same_prompts"] else ""))
    return f"Number of images that are compared: {'; '.join(texts)}." if texts else ""


def describe_agreement(report: Json, descriptions: Descriptions) -> Section:
    """Return the section on whether images show what was asked for."""
    section = Section("agreement", "Agreement with the prompt or label")
    if report.get("agreement"):
        section.add_text(
            "These figures say whether the drawn images show what was asked for. The figures of real "
            "images are shown for comparison. ± is the standard deviation over sets of drawn images "
            "with different seeds."
        )
        if reason := report["agreement"].get("reason"):
            section.add_text(f"There are no figures, because {reason}.")
        if judge := report["agreement"].get("judge"):
            section.add_text(
                f"The images are judged by the extractor {judge['id']} (SHA-256 of its weights: "
                f"{judge['weights_sha256']})."
            )
        section.add_figures(report["agreement"], descriptions)
    classes = report.get("agreement", {}).get("train", {}).get("classes", {})
    if classes:
        values = [get_value(entry) for entry in classes.values()]
        spreads = [get_spread(entry) for entry in classes.values()]
        plot = plots.plot_points(list(classes), values, spreads, "share recognized as their class")
        text = "Share of the images drawn for each class that the classifier assigns to it."
        section.parts.append(plots.to_row([plots.to_html(plot, text)]))
    return section


def describe_drawn() -> Section:
    """Return the section of pictures of drawn images next to real ones."""
    return Section("drawn", "Drawn images next to real ones")


def describe_generalisation(report: Json, descriptions: Descriptions) -> Section:
    """Return the section on the denoising loss on training and held-out images."""
    section, values = Section("generalisation", "Generalization"), report.get("generalisation", {})
    levels, shown = values.get("noise_levels"), []
    curves = [
        plots.Curve(name, levels, values[key], values.get(f"{key}_spread"))
        for key, name in (("train", "training images"), ("heldout", "held-out images"))
        if levels and values.get(key)
    ]
    if curves:
        plot = plots.plot_curves(curves, "noise level (0: image, 1: noise)", "denoising loss")
        shown.append(plots.to_html(plot, "Denoising loss by noise level. Lower is better."))
    shown += plot_history({"": values.get("history", [])}, descriptions)
    gap = values.get("gap")
    if is_figure(gap) and get_value(gap) is not None:
        gap = get_value(gap)
        section.add_text(
            f"Averaged over noise levels, the denoising loss is {format_number(abs(gap))} "
            f"{'higher' if gap >= 0 else 'lower'} on held-out images than on training images. If this "
            "gap grows during training, the model is memorizing its training images."
        )
    if shown:
        section.parts.append(plots.to_row(shown))
    return section


def describe_two_sample(report: Json, descriptions: Descriptions) -> Section:
    """Return the section on whether a classifier or a person can tell drawn images from real ones."""
    section = Section("two_sample", "Can drawn images be distinguished from real ones?")
    if report.get("two_sample"):
        section.add_text(
            "A classifier learns to tell drawn from real images on one half of them, and is then tested "
            "on the other half."
        )
        section.add_figures(report["two_sample"], descriptions)
    if report.get("guess"):
        section.add_text(
            "To try this yourself, open guess.html, which is next to this page, and choose the real "
            "image of each pair."
        )
    return section


def describe_interpolation(report: Json, descriptions: Descriptions) -> Section:
    """Return the section on interpolation between seeds and between prompts."""
    section = Section("interpolation", "Interpolation")
    values = report.get("interpolation", {})
    if values:
        section.add_text(
            "The pictures show the images along several paths, each above the training image that is "
            "nearest to it."
        )
    section.add_figures(values, descriptions)
    return section


def describe_memorisation(report: Json, descriptions: Descriptions) -> Section:
    """Return the section on drawn images that may be copies of training images."""
    section, values = Section("memorisation", "Memorization"), report.get("memorisation", {})
    if values:
        section.add_text(
            "Each drawn image is compared with its nearest training image. Real held-out images are "
            "compared in the same way, to show which distances occur without copying. The likelihood "
            "that a drawn image is a copy follows from both."
        )
    counts = {name: entry for name, entry in values.items() if is_figure(entry)}
    section.add_figures({"drawn images": counts, **values}, descriptions)
    shown = []
    for space, unit in _SPACES.items():
        groups = values.get(space, {})
        sets = {
            title: groups[key]
            for key, title in (("drawn", "drawn images"), ("heldout", "held-out images"))
            if groups.get(key)
        }
        if sets:
            label = f"distance to the nearest training image ({unit})"
            text = (
                f"Distances in {space}. Copies appear as a peak near 0 that held-out images lack."
            )
            shown.append(plots.to_html(plots.plot_histograms(sets, label), text))
    if shown:
        section.parts.append(plots.to_row(shown))
    _add_worst(section, values.get("worst", []))
    if "duplicates" in values:
        _add_duplicates(section, values["duplicates"])
    return section


def _add_worst(section: Section, worst: list[Json]) -> None:
    """Add the drawn images that are most likely copies."""
    if not worst:
        return
    section.parts.append(
        html_page.make_heading("Drawn images that are nearest to training images", 3)
    )
    names = list(dict.fromkeys(name for entry in worst for name in entry))
    rows = [[_format(entry.get(name, "")) for name in names] for entry in worst]
    section.parts.append(html_page.make_table(rows, [name.replace("_", " ") for name in names]))


def _add_duplicates(section: Section, duplicates: list[list[str]]) -> None:
    """Add the keys of images that occur more than once in the training data."""
    title = "Images that occur more than once in the training data"
    section.parts.append(html_page.make_heading(title, 3))
    if not duplicates:
        section.add_text("There are none.")
        return
    section.add_text(
        "Each line names images that are equal or mirrored. A model sees such images more often than "
        "others, and is more likely to copy them."
    )
    lines = [", ".join(map(str, keys)) for keys in duplicates[:_MAX_DUPLICATES]]
    if len(duplicates) > _MAX_DUPLICATES:
        lines.append(f"and {len(duplicates) - _MAX_DUPLICATES} more, which report.json lists")
    section.parts.append(html_page.make_list(lines))


def describe_settings(report: Json) -> Section:
    """Return the section on how the numbers were made."""
    section = Section("settings", "How these numbers were made")
    for name, title in (("run", "Model"), ("settings", "Settings"), ("seconds", "Time in seconds")):
        rows = list(_flatten(report.get(name, {})))
        if rows:
            section.parts.append(html_page.make_heading(title, 3))
            section.parts.append(html_page.make_table(rows))
    return section


def _flatten(values: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each value of a nested dict."""
    for name, value in values.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{label}: ")
        else:
            yield label, _format(value)


def _format(value: Any) -> str:
    """Return a value of a report as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_format, value))
    return format_number(value) if isinstance(value, float) else str(value)
