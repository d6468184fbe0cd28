"""Tests that tables are read in the forms that other programs write, and that no row is lost."""

import csv
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_tpu.data.sources.tables.csv_table import read_csv
from t2i_tpu.data.sources.tables.tables import read_table
from t2i_tpu.errors import UserError

ROWS = [("0.png", "a red square"), ("b/1.png", "größer, als"), ("2.png", "x y")]


def read_pairs(path):
    """Return the pairs (file, caption) of a table."""
    return [(row.file, row.caption) for row in read_table(str(path))]


def write_csv(rows, heading=("file_name", "text"), **options):
    """Return a table as the csv module writes it."""
    text = io.StringIO()
    csv.writer(text, **options).writerows([heading, *rows])
    return text.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_of_any_delimiter_line_end_and_encoding(tmp_path, encoding, end, delimiter):
    text = write_csv(ROWS, delimiter=delimiter, lineterminator=end)
    (tmp_path / "metadata.csv").write_bytes(text.encode(encoding))
    assert read_pairs(tmp_path / "metadata.csv") == ROWS


@pytest.mark.parametrize(
    "heading",
    ["file_name,text", "File Name , Caption", "\ufefffile_name,TEXT", "IMAGE,Prompt", '"file","text"',
     "sep=,\nfile_name,text", "\n\nfilename,description", "Image-Path,alt text,,"],
)  # fmt: skip
def test_headings_of_other_programs(tmp_path, heading):
    (tmp_path / "metadata.csv").write_text(f"{heading}\n0.png,a\n\n1.png,b\n,\n\n", "utf-8")
    assert read_pairs(tmp_path / "metadata.csv") == [("0.png", "a"), ("1.png", "b")]


def test_excel_list_separator_line(tmp_path):
    (tmp_path / "metadata.csv").write_text("sep=;\r\nfile_name;text\r\n0.png;a, b\r\n")
    assert read_pairs(tmp_path / "metadata.csv") == [("0.png", "a, b")]


@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ("0.png,a dog, a cat", "a dog, a cat"),
        ("0.png,a,,", "a"),
        ('0.png,"a dog, a ""cat"""', 'a dog, a "cat"'),
        ('0.png,"two\nlines"', "two\nlines"),
        ('0.png,a 5" nail', 'a 5" nail'),
        ('0.png,"Untitled" by X', "Untitled by X"),
        (r'0.png,"He said \"hi, you\" there"', 'He said "hi, you" there'),
        ("0.png,a\rb", "a b"),
        ("0.png,a\x00b", "a b"),
        ("0.png", None),
        ("0.png," + "long " * 50_000, "long " * 50_000),
    ],
)
def test_captions_with_special_characters_are_complete(tmp_path, line, caption):
    content = f"file_name,text\n{line}\n1.png,next\n"
    (tmp_path / "metadata.csv").write_bytes(content.encode())
    assert read_pairs(tmp_path / "metadata.csv") == [("0.png", caption), ("1.png", "next")]


@pytest.mark.parametrize("heading", ["text,file_name", "Caption ; Image"])
def test_caption_may_come_first(tmp_path, heading):
    delimiter = ";" if ";" in heading else ","
    content = f"{heading}\na dog{delimiter} a cat{delimiter}0.png\n"
    (tmp_path / "metadata.csv").write_text(content)
    assert read_pairs(tmp_path / "metadata.csv") == [("0.png", f"a dog{delimiter} a cat")]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('0.png,a\n1.png,"open\n2.png,b\n3.png,c\n', "row 2 .line 3. .*not closed"),
        ('0.png,a\n1.png,"open\n2.png,b "quoted"\n3.png,c\n', "row 2 .line 3. .*not closed"),
        ('0.png,a\n1.png,"open\n2.png,5"\n3.png,c\n', "row 2 .line 3. .*not closed"),
        ('0.png,a\n1.png,"open\n2.png,"b"\n', "row 2 .line 3. .*not closed"),
        ('0.png,"' + "x" * (2 << 20) + '"', "row 1 .* longer than a million"),
        ('0.png,a\n1.png,"b", c, d\n', "row 2 .line 3. has 4 fields, but there are 2 columns"),
        ('0.png,"' + "x\n" * (1 << 20), "row 1 .line 2. .*not closed"),
    ],
)
def test_row_that_cannot_be_read_is_named(tmp_path, body, words):
    path = tmp_path / "captions.csv"
    path.write_text("file_name,text\n" + body)
    with pytest.raises(UserError, match=words) as error:
        read_pairs(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "id,words\n1,x\n", "no column of the names of images; its columns are id, words"),
        ("a.csv", "file_name,words\n1,x\n", "no column of captions; its columns are file_name, words"),
        ("a.csv", "file_name,label\n0.png,3\n", "labels in label are numbers"),
        ("a.csv", "file_name,text,text\n0.png,a,b\n", "2 columns named text"),
        ("a.csv", "file_name,text,n\n0.png,a,b,c\n", "row 1 .* has 4 fields"),
        ("a.csv", "file_name,text,\n0.png,a,1\n", "row 1 .* has 3 fields, but there are 2 col"),
        ("a.csv", "0.png,red\n1.png,green\n", "its columns are 0.png, red"),
        ("a.csv", "file_name,text\n", "has no rows"),
        ("a.csv", "<html>", "its columns are <html>"),
        ("a.csv", "PK\x03\x1b", "its columns are PK\\?\\?"),
        ("a.csv", "", "has no rows"),
        ("a.jsonl", "\n", "has no rows"),
        ("a.jsonl", '{"file_name": "0.png", "text": "a"}\n{"file_name": \n', "line 2 is not JSON"),
        ("a.jsonl", '\n{"file_name": "0.png", "text": "a"}\n\n3\n', "line 4 is not a JSON object"),
        ("a.jsonl", '{"image_id": 3}\n', "no column of the names of images"),
        ("a.json", "{", "is not JSON .Expecting"),
        ("a.json", "[1, 2]", "unknown form"),
        ("a.json", "3", "unknown form"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.parquet", "x", "not a parquet file"),
    ],
)  # fmt: skip
def test_unusable_table_is_explained_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words) as error:
        read_pairs(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_labels_are_captions_if_they_are_texts(tmp_path):
    (tmp_path / "a.csv").write_text("file_name,label\n0.png,cat\n1.png,dog\n")
    assert read_pairs(tmp_path / "a.csv") == [("0.png", "cat"), ("1.png", "dog")]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_lines(tmp_path, mark):
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in ROWS]
    content = mark + "\n\n".join(lines) + "\n \n"
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_text(content, "utf-8")
        assert read_pairs(tmp_path / name) == ROWS


@pytest.mark.parametrize(
    "content",
    [
        [{"file_name": name, "text": text} for name, text in ROWS],
        dict(ROWS),
        {name: {"caption": text} for name, text in ROWS},
        {"file_name": [name for name, _ in ROWS], "text": [text for _, text in ROWS]},
        # The next one is what pandas' DataFrame.to_json writes.
        {
            "file_name": {str(i): name for i, (name, _) in enumerate(ROWS)},
            "text": {str(i): text for i, (_, text) in enumerate(ROWS)},
        },
        {"data": [{"image": name, "Caption": text} for name, text in ROWS]},
        {
            "images": [{"id": 10 + i, "file_name": name} for i, (name, _) in enumerate(ROWS)],
            "annotations": [
                {"id": i, "image_id": 10 + i, "caption": text} for i, (_, text) in enumerate(ROWS)
            ],
        },
    ],
)
def test_json_of_any_form(tmp_path, content):
    for name in ("a.json", "a.jsonl") if isinstance(content, list) else ("a.json",):
        (tmp_path / name).write_text(json.dumps(content, indent=1))
        assert read_pairs(tmp_path / name) == ROWS


def test_parquet(tmp_path):
    names, texts = zip(*ROWS, strict=True)
    for columns in (
        {"file_name": names, "text": texts},
        {"image": [{"bytes": None, "path": name} for name in names], "caption": texts},
    ):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
        assert read_pairs(tmp_path / "a.parquet") == ROWS


def test_rows_that_are_not_utf8_are_kept_for_rejection(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        "file_name,text\n0.png,caf\u00e9\n1.png,tea\n".encode("cp1252")
    )
    assert read_pairs(tmp_path / "a.csv") == [("0.png", "caf\udce9"), ("1.png", "tea")]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=12)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_written_rows_are_read(tmp_path_factory, rows, delimiter, encoding, end):
    """The rows are those that the csv module wrote, whatever the characters in them."""
    heading = ("file_name", "text", "note")
    rows = [(f"{index}.png", *row[1:]) for index, row in enumerate(rows)]
    path = tmp_path_factory.getbasetemp() / "written.csv"
    text = write_csv(rows, heading, delimiter=delimiter, lineterminator=end)
    path.write_bytes(text.encode(encoding))
    assert [tuple(row.values()) for _, row in read_csv(str(path))] == rows
