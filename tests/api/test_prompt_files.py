"""Tests the parsing of prompt files and of weighted prompts, and the places that errors name."""

import pytest

from t2i_tpu.api.prompt_files import read_rows
from t2i_tpu.api.prompt_rows import DrawingList, PromptRow, parse_weighted
from t2i_tpu.errors import UserError


@pytest.fixture
def read(tmp_path):
    """`read(text, name)` returns the rows of a file, with the defaults num_images=4 and seed=7."""

    def read_file(content, name="prompts.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_rows(str(path), 4, 7, "ugly")

    return read_file


def test_each_line_of_a_text_file_is_a_prompt(read):
    rows = read("a cat, sitting\r\n\r\n  ein Bär \r\n", "prompts.TXT")
    assert rows == [PromptRow("a cat, sitting", 4, 7, "ugly"), PromptRow("ein Bär", 4, 7, "ugly")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'Prompt,seed,guidance_scale,num_images\n"a, b",1,2.5,3\nc,,,\n'),
        ("a.csv", "\ufeffseed;Guidance_Scale;num_images;prompt\n1;2.5;3;a, b\n;;;c\n"),
        ("a.tsv", "label\tseed\tguidance_scale\tnum_images\na, b\t1\t2.5\t3\nc\n"),
    ],
)
def test_columns_of_a_table_are_read(read, name, content):
    assert read(content, name) == [
        PromptRow("a, b", 3, 1, "ugly", 2.5),
        PromptRow("c", 4, 7, "ugly"),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no prompts"),
        ("prompt\n", "has no prompts"),
        ("prompt,seed\na,1\nb,x\n", "row 2: seed is 'x'; it must be an integer"),
        ("prompt,seed\na,1.5\n", "row 1: seed is '1.5'"),
        ("prompt,seed\na,-1\n", "row 1: seed is -1; it must be at least 0"),
        ("prompt,seed\na,4294967295\n", "row 1: with num_images=4, the last image's seed"),
        ("prompt,guidance_scale\na,nan\n", "row 1: guidance_scale is nan; it must be finite"),
        ("prompt,guidance_scale\na,-1\n", "row 1: guidance_scale is -1.0; it must be at least 0"),
        ("prompt,num_images\na,0\n", "row 1: num_images is 0; it must be at least 1"),
        ("prompt,seed\na,1\n,2\n", "row 2 has no prompt"),
        ("prompt,guidence_scale\na,2\n", "'guidence_scale'; did you mean 'guidance_scale'?"),
        ("seed\n1\n", "row 1 has no prompt"),
        ("prompt,label\na,b\n", "remove one of them"),
        ("prompt,seed\na, b,1\n", "row 1 (line 2) has 3 fields, but there are 2 columns"),
        (b"prompt,seed\nB\xe4r,1\n", "row 1: prompt is not UTF-8"),
    ],
)
def test_error_names_the_row(read, content, words):
    with pytest.raises(UserError) as error:
        read(content)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_unsupported_or_absent_file_is_an_error(read, tmp_path):
    with pytest.raises(UserError, match=r"must end in \.txt"):
        read("a", "prompts.json")
    with pytest.raises(UserError, match="cannot read .*absent.txt"):
        read_rows(str(tmp_path / "absent.txt"), 1, 0)


def test_file_names_follow_the_rows():
    drawings = DrawingList([PromptRow("a", 2, 9), PromptRow("b", 1, 0)])
    names = [name for name, _ in drawings.list_files(".jpg")]
    assert names == ["000_seed9.jpg", "000_seed10.jpg", "001_seed0.jpg"] and len(drawings) == 3
    others = ["000_seed9.png", "000_seed8.jpg", "002_seed0.jpg", "001_seed1.jpg", "x.jpg"]
    assert [name for name in names + others if drawings.has_file(name, ".jpg")] == names


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a cat:1.0 a hat:0.5", [("a cat", 1.0), ("a hat", 0.5)]),
        ("  a : b:2  c: 1e-1", [("a : b", 2.0), ("c", 0.1)]),
    ],
)
def test_weighted_prompts_are_parsed(text, pairs):
    assert parse_weighted(text) == pairs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a cat", "'a cat' has no weight"),
        ("a cat:1 hat", "'hat' has no weight"),
        (" ", "it is empty"),
        ("a cat:-1", "must be above 0"),
        ("a cat:1e999", "must be above 0"),
    ],
)
def test_invalid_weights_are_errors(text, words):
    with pytest.raises(UserError, match=words):
        parse_weighted(text)
