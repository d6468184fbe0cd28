"""Explains to the user why examples were rejected, and what to do about the most frequent cause."""

import collections
from collections.abc import Mapping

from t2i_tpu.errors import shorten

_NUM_SHOWN = 3  # keys of rejected examples

# {cause: what the user can do}. A key may also be the beginning of several causes.
_REMEDIES = {
    "no_caption": "put each caption into a text file next to its image (cat.jpg, cat.txt), or into a "
    "column text or caption",
    "empty_caption": "give each image a caption with visible characters",
    "caption_not_text": "store each caption as text",
    "bad_metadata": "write the .json files again, or give each image a .txt",
    "separate_from_its_image": "write the members of each example next to each other "
    "(tar --sort=name)",
    "several_": "give each image and its caption the same name",
    "link_in_tar": "store the files in place of the links (tar --dereference)",
    "unsupported_": "convert the images to PNG or JPEG",
    "bad_embedding": "store each embedding as numbers, all of the same length",
    "bad_label": "check that each label is a number with a name",
    "damaged_row_group": "copy or download the files again",
    "rest_of_a_": "copy or download the files again",
    "path_without_image": "save the files with the bytes of the images (push_to_hub does), or use "
    "--source=folder:FOLDER and a table in that folder",
    "missing_image": "check that the names in the table are those of the images",
    "not_an_image": "check that the files are images",
    "truncated_image": "copy the files again",
    "empty_image": "copy the files again",
    "caption_not_utf8": "save the captions as UTF-8",
    "caption_too_long": "shorten the captions to 8192 characters",
    "no_embedding": "give each example an embedding, or choose an --encoder",
    "no_similarity": "leave out --min_similarity, because the source has no such column",
    "no_aesthetic_score": "leave out --min_aesthetic, because the source has no such column",
    "low_similarity": "lower --min_similarity",
    "low_aesthetic_score": "lower --min_aesthetic",
    "aspect_ratio": "raise --max_aspect_ratio",
    "too_small": "lower --min_side",
    "too_few_words": "lower --min_words",
    "too_many_words": "raise --max_words",
    "other_script": "check --script",
    "too_white": "raise --max_white",
    "near_duplicate": "lower --near_duplicates",
    "duplicate_image": "leave out --drop_same_images",
    "git_lfs_pointer": "download the files themselves with git lfs pull",
    "unreadable_tar": "check that the files are tars",
    "unsafe_name": "use names of images inside the folder",
    "http_": "check the URLs and the network",
    "download_": "check the URLs and the network",
}


class RejectedExamples:
    """Counts the rejected examples by cause, and keeps the first keys of each."""

    def __init__(self):
        self.counts, self.keys = collections.Counter(), collections.defaultdict(list)

    def add(self, key: str, cause: str) -> None:
        """Count a rejected example."""
        self.counts[cause] += 1
        if len(self.keys[cause]) < _NUM_SHOWN:
            self.keys[cause].append(key)

    def explain(self) -> str:
        """Return the counts, the most frequent cause with examples, and what to do about it."""
        if not self.counts:
            return "the source has none"
        cause = min(self.counts, key=lambda name: (-self.counts[name], name))
        keys = ", ".join(shorten(repr(key), 100) for key in self.keys[cause])
        remedy = next((text for name, text in _REMEDIES.items() if cause.startswith(name)), "")
        text = f"{count_outcomes(self.counts)} (for example {keys})"
        if len(self.counts) > 1:
            text = f"{count_outcomes(self.counts)} (for example {cause} of {keys})"
        return f"{text}; {remedy}" if remedy else text


def count_outcomes(outcomes: Mapping[str, int]) -> str:
    """Return the outcomes and their counts as text, the most frequent one first."""
    ordered = sorted(outcomes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {outcome}" for outcome, count in ordered)
