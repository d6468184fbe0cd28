"""Tests tars in the forms in which other programs write them: every example has one outcome."""

import gzip
import json

import pytest

from t2i_tpu.data.prepare.run import prepare
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.sources.tar.webdataset import WebdatasetSource
from t2i_tpu.errors import UserError
from tests.data.sources.tars import ORDERS, expect, make_members, read_outcomes, write_tar


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("image", "caption", "infix"),
    [(".png", ".txt", ""), (".2019.png", ".2019.txt", ".2019"), (".input.png", ".output.txt", "")],
)
def test_members_are_paired_in_any_order(tmp_path, order, image, caption, infix):
    members = ORDERS[order](make_members(50, image, caption))
    outcomes = read_outcomes(write_tar(tmp_path / "a.tar", members))
    assert sorted(outcomes) == sorted(expect(50, infix))
    if "first" not in order and order != "random":
        assert outcomes == expect(50, infix)


@pytest.mark.parametrize("order", ORDERS)
def test_examples_that_differ_after_a_dot_are_paired_in_any_order(tmp_path, order):
    names = [f"img.{index:05d}" for index in range(100)]
    members = [(f"{name}{end}", name.encode()) for name in names for end in (".jpg", ".txt")]
    outcomes = read_outcomes(write_tar(tmp_path / "a.tar", ORDERS[order](members)))
    assert sorted(outcomes) == [(f"a/{name}", f"{name} {name}") for name in names]


def test_clutter_is_ignored(tmp_path):
    clutter = ["._0.png", "./._0.txt", ".DS_Store", "__MACOSX/._0.png", "a/Thumbs.db", ".git/0.png"]
    members = [(name, b"\0\5\x16\7") for name in clutter] + make_members(3)
    assert read_outcomes(write_tar(tmp_path / "a.tar", members)) == expect(3)


@pytest.mark.parametrize(
    ("members", "outcomes"),
    [
        ({"0.PNG": b"a", "0.txt": b"x"}, {"0": "a x"}),
        ({"0.png": b"a", "0.jpg": b"b", "0.txt": b"x"}, {"0": "a x"}),
        ({"0.png": b"a", "0.seg.png": b"b", "0.ocr.txt": b"y", "0.txt": b"x"}, {"0": "a x"}),
        ({"0.seg.png": b"b", "0.png": b"a", "0.caption.txt": b"x"}, {"0": "a x"}),
        ({"0.a.png": b"a", "0.b.png": b"b", "0.txt": b"x"}, {"0": "several_images"}),
        ({"0.a.png": b"a", "0.b.png": b"b"}, {"0.a": "no_caption", "0.b": "no_caption"}),
        ({"0.png": b"a", "0.svg": b"b", "0.txt": b"x"}, {"0": "a x"}),
        ({"0.svg": b"b", "0.txt": b"x"}, {"0": "unsupported_svg"}),
        ({"0.png": b"a", "0.cls": b"3"}, {"0": "no_caption"}),
        ({"0.txt": b"x", "0.npy": b"y"}, {"0": "missing_image"}),
        ({"README": b"x"}, {"README": "missing_image"}),
        ({"0.png": b"a", "0.caption": b"x"}, {"0": "a x"}),
        ({"p.1.png": b"a", "p.1.txt": b"x", "p.2.png": b"b"}, {"p.1": "a x", "p.2": "no_caption"}),
        ({"p.1.png": b"a", "p.1.txt": b"x", "p.2.txt": b"y"},
         {"p.1": "a x", "p.2": "separate_from_its_image"}),
        ({"../0.png": b"a", "../0.txt": b"x"}, {"../0": "unsafe_name"}),
    ],
)  # fmt: skip
def test_every_set_of_members_has_one_outcome(tmp_path, members, outcomes):
    expected = [(f"a/{key}", outcome) for key, outcome in outcomes.items()]
    assert read_outcomes(write_tar(tmp_path / "a.tar", members.items())) == expected


def test_late_member_of_an_example_is_rejected(tmp_path):
    outcomes = read_outcomes(write_tar(tmp_path / "a.tar", [*make_members(2), ("0.npy", b"")]))
    assert outcomes == [*expect(2), ("a/0", "separate_from_its_image")]


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        ({"caption": ["a red square", "something red"]}, "image a red square"),
        ({"caption": 1999}, "image 1999"),
        ({"caption": None, "TEXT": "x"}, "image x"),
        ({"prompt": "x", "caption": "y"}, "image y"),
        ({"Caption": "x"}, "image x"),
        ({"caption": {"en": "x"}}, "caption_not_text"),
        ({"caption": float("nan")}, "no_caption"),
        ({"caption": "\ud83d"}, "caption_not_utf8"),
        ({"caption": " \u200b"}, "empty_caption"),
        ({"similarity": 0.3}, "no_caption"),
        ("x", "image x"),
        (["x", "y"], "image x"),
        (7, "no_caption"),
    ],
)
def test_captions_in_json_of_any_form(tmp_path, value, outcome):
    members = [("0.png", b"image"), ("0.json", json.dumps(value).encode())]
    assert read_outcomes(write_tar(tmp_path / "a.tar", members)) == [("a/0", outcome)]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xfd", b"[" * 100_000])
def test_broken_json_is_rejected_unless_there_is_a_text(tmp_path, content):
    members = [("0.png", b"image"), ("0.json", content)]
    members += [("1.png", b"image"), ("1.json", content), ("1.txt", b"x")]
    outcomes = read_outcomes(write_tar(tmp_path / "a.tar", members))
    assert outcomes == [("a/0", "bad_metadata"), ("a/1", "image x")]


def test_text_is_preferred_to_json_unless_it_is_empty(tmp_path):
    texts = b"text", b""
    members = [
        member
        for index, text in enumerate(texts)
        for member in (
            (f"{index}.png", b"image"),
            (f"{index}.json", b'{"caption": "json"}'),
            (f"{index}.txt", text),
        )
    ]
    outcomes = read_outcomes(write_tar(tmp_path / "a.tar", members))
    assert outcomes == [("a/0", "image text"), ("a/1", "image json")]


def test_members_of_the_same_name_are_separate_examples(tmp_path):
    members = [*make_members(2), ("0.PNG", b"other"), ("0.txt", b"y"), ("0.png", b"third")]
    outcomes = read_outcomes(write_tar(tmp_path / "a.tar", members))
    assert outcomes == [*expect(2), ("a/0", "other y"), ("a/0", "no_caption")]


def test_files_of_equal_names_have_different_keys(tmp_path):
    for folder in ("de", "en"):
        (tmp_path / folder / "train").mkdir(parents=True)
        write_tar(tmp_path / folder / "train" / "0.tar", make_members(1))
    keys = [key for key, _ in read_outcomes(tmp_path / "*" / "train" / "*.tar")]
    assert keys == ["de/train/0/0", "en/train/0/0"]


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"0.jpg": b"a", "0.cls": b"1", "1.jpg": b"a"}, r"\.jpg \(2\), \.cls \(1\)"),
        ({"0.jpg": b"a", "0.json": b'{"similarity": 0.3}'}, r"\.jpg \(1\), \.json \(1\)"),
        ({"0.txt": b"x", "README": b"x"}, r"\.txt \(1\), no ending \(1\)"),
        ({"0.svg": b"a", "0.txt": b"x"}, r"\.svg \(1\)"),
    ],
)
def test_tars_without_examples_are_reported_before_they_are_prepared(tmp_path, members, found):
    write_tar(tmp_path / "0.tar", members.items())
    source = WebdatasetSource(f"{tmp_path}/*.tar")
    with pytest.raises(UserError, match=found):
        list(source.list_units())
    for index in range(1, 4):
        write_tar(tmp_path / f"{index}.tar", members.items() if index < 3 else make_members(1))
    assert len(list(source.list_units())) == 4  # because not all were checked


def prepare_denied(source, output):
    try:
        prepare(Settings(source=source, encoder="none"), output)
    except UserError as error:
        return str(error)
    return None


def test_tars_on_gs_are_read_in_any_order(gcs, bucket, tmp_path):
    members = make_members(20)
    write_tar(tmp_path / "plain", members[::2] + members[1::2])
    gcs.put(f"{bucket}/in/a.tar.gz", gzip.compress((tmp_path / "plain").read_bytes()))
    gcs.put(f"{bucket}/in/b.tar", (tmp_path / "plain").read_bytes())
    outcomes = [outcome for _, outcome in gcs.call(read_outcomes, f"{bucket}/in/*")]
    assert outcomes == 2 * [outcome for _, outcome in expect(20)]
    with gcs.deny(bucket.removeprefix("gs://"), "storage.objects.get"):
        message = gcs.call(prepare_denied, f"webdataset:{bucket}/in/*.tar", str(tmp_path / "out"))
    assert message.startswith(f"--source=webdataset:{bucket}/in/*.tar: {bucket} denies")
