"""Tests tars in the forms in which other programs write them: every example has one outcome."""

import bz2
import gzip
import json
import lzma
import random
import subprocess
import tarfile

import pytest

from t2i_tpu.data.prepare.clean import clean_caption
from t2i_tpu.data.prepare.rejected import Rejected
from t2i_tpu.data.prepare.run import prepare
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.data.sources.source import expand_pattern, name_files
from t2i_tpu.data.sources.tar.webdataset import WebdatasetSource
from t2i_tpu.errors import UserError
from tests.data.prepare.source_files import add_member


def write_tar(path, members, **options):
    """Write a tar of (name, content)."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            add_member(tar, name, content)
    return path


def read_outcomes(pattern):
    """Return [(key, content of the image and caption, or the cause of the rejection)]."""
    source, names = (
        WebdatasetSource(str(pattern)),
        name_files(expand_pattern(str(pattern), "webdataset")),
    )
    units = ({"file": path, "name": name} for path, name in names.items())
    return [(item.key, find_outcome(item)) for unit in units for item in source.read(unit)]


def find_outcome(item):
    if item.problem:
        return item.problem
    try:
        return item.image.decode() + " " + clean_caption(item.caption)
    except Rejected as rejection:
        return rejection.cause


def make_members(count, image=".png", caption=".txt"):
    """Return the members of examples whose image contains "image N" and whose caption is "N"."""
    return [
        member
        for index in range(count)
        for member in (
            (f"{index}{image}", b"image %d" % index),
            (f"{index}{caption}", b"%d" % index),
        )
    ]


def expect(count, infix=""):
    return [(f"a/{index}{infix}", f"image {index} {index}") for index in range(count)]


ORDERS = {
    "sorted": lambda members: members,
    "captions first": lambda members: [members[index ^ 1] for index in range(len(members))],
    "all images first": lambda members: members[::2] + members[1::2],
    "all captions first": lambda members: members[1::2] + members[::2],
    "random": lambda members: random.Random(0).sample(members, len(members)),
}


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


@pytest.mark.parametrize(
    ("ending", "compress"),
    [("tar.gz", gzip.compress), ("tgz", gzip.compress), ("tar.bz2", bz2.compress), ("tar.xz", lzma.compress)],
)  # fmt: skip
@pytest.mark.parametrize("order", ["sorted", "all images first"])
def test_compressed_tars_are_read(tmp_path, ending, compress, order):
    path = write_tar(tmp_path / "plain", ORDERS[order](make_members(20)))
    (tmp_path / f"a.{ending}").write_bytes(compress(path.read_bytes()))
    outcomes = [outcome for _, outcome in read_outcomes(tmp_path / f"a.{ending}")]
    assert outcomes == [f"image {index} {index}" for index in range(20)]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_any_form_are_read(tmp_path, format):
    names = ["./0", "/data/1", "a/./2", ".//3", "x" * 90 + "/" + "y" * 90, "käfer"]
    members = [(name + end, b"x") for name in names for end in (".JPG", ".txt")]
    outcomes = read_outcomes(write_tar(tmp_path / "a.tar", members, format=format))
    keys = ["0", "data/1", "a/2", "3", names[4], "käfer"]
    assert outcomes == [(f"a/{key}", "x x") for key in keys]


def test_what_operating_systems_leave_is_passed_over(tmp_path):
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


def test_links_and_devices(tmp_path):
    """Hard links to images are followed. Other members that are not files are rejected."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in make_members(1):
            add_member(tar, name, content)
        for name, kind, target in [
            ("hard.png", tarfile.LNKTYPE, "0.png"),
            ("again.png", tarfile.LNKTYPE, "./hard.png"),
            ("gone.png", tarfile.LNKTYPE, "gone"),
            ("soft.png", tarfile.SYMTYPE, "0.png"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
            ("folder.png", tarfile.DIRTYPE, ""),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
            if kind != tarfile.DIRTYPE:
                add_member(tar, name.replace("png", "txt"), b"x")
        add_member(tar, "text.png", b"image")
        member = tarfile.TarInfo("text.txt")
        member.type, member.linkname = tarfile.LNKTYPE, "0.txt"
        tar.addfile(member)
    assert dict(read_outcomes(tmp_path / "a.tar")) == {
        "a/0": "image 0 0",
        "a/hard": "image 0 x",
        "a/again": "image 0 x",
        "a/gone": "link_in_tar",
        "a/soft": "link_in_tar",
        "a/pipe": "not_a_file",
        "a/text": "link_in_tar",
    }


def test_repeated_names_are_examples_of_their_own(tmp_path):
    members = [*make_members(2), ("0.PNG", b"other"), ("0.txt", b"y"), ("0.png", b"third")]
    outcomes = read_outcomes(write_tar(tmp_path / "a.tar", members))
    assert outcomes == [*expect(2), ("a/0", "other y"), ("a/0", "no_caption")]


def test_cut_and_damaged_tars_are_noticed(tmp_path):
    content = write_tar(tmp_path / "whole", make_members(5)).read_bytes()
    size = 10 * 1024  # of 10 members, each with a header and a block
    cuts = {
        "end": (content[:size], "rest_of_a_cut_tar", 5),  # without the mark of the end
        "header": (content[: size - 700], "rest_of_a_cut_tar", 4),
        "file": (content[: size - 2 * 1024 - 512], "rest_of_a_cut_tar", 3),
        "middle": (content[:4096] + b"x" * 512 + content[4608:], "rest_of_a_damaged_tar", 2),
        "gzip": (gzip.compress(content)[:-20], "rest_of_a_cut_tar", None),
        "checksum": (gzip.compress(content)[:-8] + bytes(8), "rest_of_a_damaged_tar", 5),
        "html": (b"<html>" * 500, "unreadable_tar", 0),
        "short": (b"x", "unreadable_tar", 0),
        "nothing": (b"", "unreadable_tar", 0),
    }
    for name, (start, problem, count) in cuts.items():
        (tmp_path / f"{name}.tar").write_bytes(start)
        outcomes = [outcome for _, outcome in read_outcomes(tmp_path / f"{name}.tar")]
        assert problem in outcomes, name
        good = [outcome for outcome in outcomes if outcome.startswith("image")]
        assert count is None or len(good) == count, name
        assert all(outcome in good or outcome in (problem, "no_caption") for outcome in outcomes)


def test_tars_in_one_file_are_all_read(tmp_path):
    parts = [write_tar(tmp_path / f"{n}", make_members(5)[4 * n :][:4]) for n in range(2)]
    (tmp_path / "a.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
    gzipped = b"".join(gzip.compress(part.read_bytes()) for part in parts)
    (tmp_path / "b.tar.gz").write_bytes(gzipped)
    assert read_outcomes(tmp_path / "a.tar") == expect(4)
    assert len(read_outcomes(tmp_path / "b.tar.gz")) == 4


def test_empty_tar_has_no_items(tmp_path):
    assert read_outcomes(write_tar(tmp_path / "a.tar", [])) == []


def test_files_of_equal_names_have_different_keys(tmp_path):
    for folder in ("de", "en"):
        (tmp_path / folder / "train").mkdir(parents=True)
        write_tar(tmp_path / folder / "train" / "0.tar", make_members(1))
    keys = [key for key, _ in read_outcomes(tmp_path / "*" / "train" / "*.tar")]
    assert keys == ["de/train/0/0", "en/train/0/0"]


def test_tar_of_the_system_is_read(tmp_path):
    """Without --sort=name the members have the order of the file system."""
    folder, archive = tmp_path / "input", tmp_path / "a.tgz"
    folder.mkdir()
    for name, content in make_members(30):
        (folder / name).write_bytes(content)
    subprocess.run(["tar", "-czf", archive, "."], cwd=folder, check=True)
    outcomes = sorted(outcome for _, outcome in read_outcomes(archive))
    assert outcomes == sorted(outcome for _, outcome in expect(30))


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
