"""Tests parquet files in the forms in which other programs write them."""

import datetime
import decimal
import json
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from t2i_tpu.data.sources.parquet import ParquetSource
from t2i_tpu.errors import UserError
from tests.data.sources.outcomes import find_outcome

IMAGES = [b"one", b"two", b"three"]
TEXTS = ["1", "2", "3"]


def write(path, columns, metadata=None, **options):
    """Write a parquet file with columns, and Hugging Face's `features` as metadata."""
    table = columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns)
    if metadata:
        content = json.dumps({"info": {"features": metadata}})
        table = table.replace_schema_metadata({"huggingface": content})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, **options)
    return path


def read_items(pattern, **options):
    source = ParquetSource(str(pattern), **options)
    return [item for unit in source.list_units() for item in source.read(unit)]


def read_outcomes(pattern):
    """Return the image and the caption of each row, or the cause of its rejection."""
    return [find_outcome(item) for item in read_items(pattern)]


NOT_UTF8 = pyarrow.array([b"1", b"\xff", b"3"]).view(pyarrow.string())
EXPECTED = ["one 1", "two 2", "three 3"]


@pytest.mark.parametrize("name", ["text", "caption", "TEXT", "Caption", "description", "prompt"])
def test_columns_are_found_by_name(tmp_path, name):
    path = write(tmp_path / "a.parquet", {"Image": IMAGES, name: TEXTS, "n": [1, 2, 3]})
    assert read_outcomes(path) == EXPECTED


TYPES = (
    pyarrow.binary(),
    pyarrow.large_binary(),
    pyarrow.dictionary(pyarrow.int8(), pyarrow.binary()),
)


@pytest.mark.parametrize("image_type", TYPES, ids=str)
@pytest.mark.parametrize(
    "text_type",
    [pyarrow.large_string(), pyarrow.binary(), pyarrow.dictionary(pyarrow.int8(), pyarrow.string())],
    ids=str,
)  # fmt: skip
def test_types_of_images_and_captions(tmp_path, image_type, text_type):
    columns = {"image": pyarrow.array(IMAGES, image_type), "text": pyarrow.array(TEXTS, text_type)}
    assert read_outcomes(write(tmp_path / "a.parquet", columns)) == EXPECTED


@pytest.mark.parametrize(
    ("texts", "outcomes"),
    [
        ([["1", "x"], ["2"], ["3"]], EXPECTED),
        ([["", "1"], [None, "2"], []], ["one 1", "two 2", "no_caption"]),
        ([1, 2, 3], EXPECTED),
        ([1.0, None, float("nan")], ["one 1", "no_caption", "no_caption"]),
        ([decimal.Decimal("1.5"), None, None], ["one 1.5", "no_caption", "no_caption"]),
        (["1", "", " \u200b"], ["one 1", "empty_caption", "empty_caption"]),
        (NOT_UTF8, ["one 1", "caption_not_utf8", "three 3"]),
        (NOT_UTF8.dictionary_encode(), ["one 1", "caption_not_utf8", "three 3"]),
        (pyarrow.ListArray.from_arrays([0, 1, 2, 3], NOT_UTF8), ["one 1", "caption_not_utf8", "three 3"]),
    ],
)  # fmt: skip
def test_captions_of_any_form(tmp_path, texts, outcomes):
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "text": texts})
    assert read_outcomes(path) == outcomes


def test_second_column_of_captions_fills_gaps(tmp_path):
    columns = {
        "image": IMAGES,
        "text": ["1", None, ""],
        "caption": ["x", "2", "3"],
        "title": [7, 8, 9],
    }
    assert read_outcomes(write(tmp_path / "a.parquet", columns)) == EXPECTED


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": IMAGES, "sound": TEXTS}, "no column of captions; its columns are image, sound"),
        (
            {"picture_": IMAGES, "text": TEXTS},
            "no column of images; its columns are picture_, text",
        ),
        ({"image": ["aGk="] * 3, "text": TEXTS}, "'image' holds text, not the bytes of an image"),
        ({"image": [[{"bytes": b"x"}]] * 3, "text": TEXTS}, "'image' holds lists of images"),
        ({"image": [{"path": "x"}] * 3, "text": TEXTS}, "'image' holds paths"),
        ({"image": [{"bytes": None, "path": "x"}] * 3, "text": TEXTS}, "'image' holds paths"),
        ({"image": [None] * 3, "text": TEXTS}, "'image' holds nothing"),
        ({"image": [[1, 2]] * 3, "text": TEXTS}, "'image' holds lists of numbers"),
        ({"image": IMAGES, "text": [{"en": "x"}] * 3}, "'text' holds records, not text"),
        ({"image": IMAGES, "text": [None] * 3}, "'text' holds nothing, not text"),
        ({"image": IMAGES, "label": [0, 1, 0]}, "'label' are numbers without names"),
        ({"url": ["x"] * 3, "text": TEXTS}, "download the images with --source=urls:"),
        ({"image": IMAGES, "text": TEXTS, "embedding": ["[1, 2]"] * 3}, "'embedding' holds text"),
    ],
)
def test_unusable_columns_are_named_before_anything_is_read(tmp_path, columns, words):
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(UserError, match=words) as error:
        next(ParquetSource(str(path)).list_units())
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_usable_column_is_preferred_to_a_better_name(tmp_path):
    columns = {"image": ["a.png"] * 3, "image_bytes": IMAGES, "caption": TEXTS}
    columns["text"] = [{"en": "x"}] * 3
    assert read_outcomes(write(tmp_path / "a.parquet", columns)) == EXPECTED


def test_unneeded_embeddings_are_not_read(tmp_path):
    columns = {"image": IMAGES, "text": TEXTS, "embedding": ["[0.6, 0.8]"] * 3}
    path = write(tmp_path / "a.parquet", columns)
    items = read_items(path, keeps_embeddings=False)
    assert [item.embedding for item in items] == [None] * 3
    assert list(items[0].columns) == ["text"]


@pytest.mark.parametrize(
    "embeddings",
    [
        pyarrow.array([[1.0, 2.0]] * 3),
        pyarrow.array([[1.0, 2.0]] * 3, pyarrow.list_(pyarrow.float32(), 2)),
        pyarrow.array([[1, 2]] * 3),
        pyarrow.array([[[1.0, 2.0]]] * 3),
    ],
    ids=lambda array: str(array.type),
)
def test_embeddings_are_read(tmp_path, embeddings):
    columns = {"image": IMAGES, "text": TEXTS, "embedding": embeddings}
    for item in read_items(write(tmp_path / "a.parquet", columns)):
        assert np.ravel(item.embedding).tolist() == [1, 2]


NAMES = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}


def test_names_of_labels_are_captions_if_there_are_no_others(tmp_path):
    columns = {"image": IMAGES, "label": [0, 1, 2]}
    path = write(tmp_path / "a.parquet", columns, NAMES)
    assert read_outcomes(path) == ["one cat", "two dog", "bad_label"]
    assert [item.label for item in read_items(path)] == [0, 1, 2]
    path = write(tmp_path / "b.parquet", columns | {"text": TEXTS}, NAMES)
    assert read_outcomes(path) == EXPECTED  # unit.py rejects the third because of its label
    assert ParquetSource(str(path)).read_label_names() == ("cat", "dog")


def test_labels_that_are_text_are_captions(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "label": TEXTS})
    assert read_outcomes(path) == EXPECTED
    assert ParquetSource(str(path)).read_label_names() is None


def test_other_columns_of_labels_count_only_without_captions(tmp_path):
    columns, names = {"image": IMAGES, "category": [0, 1, None]}, {"category": NAMES["label"]}
    path = write(tmp_path / "a.parquet", columns, names)
    assert read_outcomes(path) == ["one cat", "two dog", "bad_label"]
    path = write(tmp_path / "a.parquet", columns | {"text": TEXTS}, names)
    assert read_outcomes(path) == EXPECTED
    assert ParquetSource(str(path)).read_label_names() is None


def test_class_names_of_a_dropped_column_are_ignored(tmp_path):
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "text": TEXTS}, NAMES)
    assert ParquetSource(str(path)).read_label_names() is None
    assert read_outcomes(path) == EXPECTED


def test_other_labels_in_another_file_are_an_error(tmp_path):
    columns = {"image": IMAGES, "text": TEXTS, "label": [0, 1, 0]}
    write(tmp_path / "a.parquet", columns, NAMES)
    path = write(tmp_path / "b.parquet", columns)  # without metadata
    assert len(read_outcomes(tmp_path / "*.parquet")) == 6
    for features, names in [
        ({"label": {"names": ["a", "b"]}}, list(columns)),
        (None, ["image", "text"]),
    ]:
        write(path, {name: columns[name] for name in names}, features)
        with pytest.raises(UserError, match="b.parquet does not have the labels of .*a.parquet"):
            read_outcomes(tmp_path / "*.parquet")


def read_keys(pattern):
    return [item.key for item in read_items(pattern)]


def test_keys(tmp_path):
    columns = {"image": IMAGES, "text": TEXTS}
    rows = [f"a-0000-00000{row}" for row in range(3)]
    for keys, expected in [
        (["x", None, ""], ["x", rows[1], rows[2]]),
        ([1, 2, 3], ["1", "2", "3"]),
        ([1.0, None, float("nan")], ["1.0", rows[1], rows[2]]),
        ([b"x", b"y", b"\xff"], ["x", "y", "\udcff"]),
        ([["x"], ["y"], ["z"]], rows),
    ]:
        assert read_keys(write(tmp_path / "a.parquet", columns | {"id": keys})) == expected
    for folder in ("de", "en"):
        write(tmp_path / folder / "0.parquet", columns, row_group_size=2)
    keys = [
        f"{stem}-{row}"
        for stem in ("de/0", "en/0")
        for row in ("0000-000000", "0000-000001", "0001-000000")
    ]
    assert read_keys(tmp_path / "*" / "0.parquet") == keys


def test_files_without_rows_or_images(tmp_path):
    write(tmp_path / "a.parquet", {"image": IMAGES, "text": TEXTS})
    write(tmp_path / "b.parquet", {"other": pyarrow.array([], pyarrow.string())})
    write(tmp_path / "c.parquet", {"image": [None], "text": ["x"]})
    write(tmp_path / "d.parquet", {"image": [b"x"], "text": [None], "embedding": [None]})
    outcomes = read_outcomes(tmp_path / "*.parquet")
    assert outcomes == [*EXPECTED, "missing_image", "no_caption"]
    (tmp_path / "d.parquet").unlink()
    write(tmp_path / "a.parquet", {"image": [], "text": []})
    (tmp_path / "c.parquet").unlink()
    assert read_outcomes(tmp_path / "*.parquet") == []


def test_damaged_pages_are_counted_row_by_row(tmp_path):
    rng = np.random.default_rng(0)
    columns = {"image": [rng.bytes(2000) for _ in range(300)], "text": ["x"] * 300}
    path = write(tmp_path / "a.parquet", columns, row_group_size=100, use_dictionary=False)
    content = bytearray(path.read_bytes())
    offset = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content[offset : offset + 60] = rng.bytes(60)
    path.write_bytes(content)
    problems = [item.problem for item in read_items(path)]
    assert problems == [None] * 100 + ["damaged_row_group"] * 100 + [None] * 100


def test_file_that_is_not_parquet_is_named(tmp_path):
    write(tmp_path / "a.parquet", {"image": IMAGES, "text": TEXTS})
    for content in (b"", b"PAR1", b"<html>" * 99, (tmp_path / "a.parquet").read_bytes()[:-1]):
        (tmp_path / "b.parquet").write_bytes(content)
        with pytest.raises(
            UserError, match=re.escape(f"{tmp_path}/b.parquet is not a parquet file")
        ):
            read_outcomes(tmp_path / "*.parquet")


def test_values_of_other_columns(tmp_path):
    columns = {
        "image": IMAGES,
        "text": TEXTS,
        "similarity": [0.1, None, 0.3],
        "clip.size": [1, 2, 3],
        "tags": [["x"]] * 3,
        "when": [datetime.date(2020, 1, 1)] * 3,
        "late": pyarrow.array([2**50] * 3).cast(pyarrow.timestamp("s")),
        "note": pyarrow.array([b"\xff"] * 3).view(pyarrow.string()),
    }
    first, second, _ = read_items(write(tmp_path / "a.parquet", columns))
    assert first.columns == {"text": "1", "similarity": 0.1, "clip.size": 1, "note": "\udcff"}
    assert second.columns == {"text": "2", "clip.size": 2, "note": "\udcff"}


def test_input_files_are_listed_once(tmp_path):
    """Units need the names of the labels, and there may be many thousand units and files."""
    path = write(tmp_path / "a.parquet", {"image": IMAGES, "label": [0, 1, 0]}, NAMES)
    source = ParquetSource(f"{tmp_path}/*.parquet")
    assert source.read_label_names() == ("cat", "dog")
    path.unlink()
    assert source.read_label_names() == ("cat", "dog")


def test_paths_in_place_of_images_are_rejected_as_such(tmp_path):
    """The library datasets stores paths until it pushes to the hub."""
    images = [{"bytes": None, "path": "0.png"}, {"bytes": None, "path": None}]
    image_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {"image": pyarrow.array(images, image_type), "text": ["red", "blue"]}
    write(tmp_path / "0.parquet", columns)
    assert read_outcomes(tmp_path / "0.parquet") == ["path_without_image", "missing_image"]
