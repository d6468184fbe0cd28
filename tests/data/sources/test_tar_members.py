"""Tests tars of any format, compression and kind of member, and tars that are cut or damaged."""

import bz2
import gzip
import lzma
import subprocess
import tarfile

import pytest

from tests.data.prepare.source_files import add_member
from tests.data.sources.tars import ORDERS, expect, make_members, read_outcomes, write_tar


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


def test_cut_and_damaged_tars_are_noticed(tmp_path):
    content = write_tar(tmp_path / "complete", make_members(5)).read_bytes()
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


def test_concatenated_tars_are_all_read(tmp_path):
    parts = [write_tar(tmp_path / f"{n}", make_members(5)[4 * n :][:4]) for n in range(2)]
    (tmp_path / "a.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
    gzipped = b"".join(gzip.compress(part.read_bytes()) for part in parts)
    (tmp_path / "b.tar.gz").write_bytes(gzipped)
    assert read_outcomes(tmp_path / "a.tar") == expect(4)
    assert len(read_outcomes(tmp_path / "b.tar.gz")) == 4


def test_empty_tar_has_no_items(tmp_path):
    assert read_outcomes(write_tar(tmp_path / "a.tar", [])) == []


def test_tar_from_the_tar_command_is_read(tmp_path):
    """Without --sort=name the members have the order of the file system."""
    folder, archive = tmp_path / "input", tmp_path / "a.tgz"
    folder.mkdir()
    for name, content in make_members(30):
        (folder / name).write_bytes(content)
    subprocess.run(["tar", "-czf", archive, "."], cwd=folder, check=True)
    outcomes = sorted(outcome for _, outcome in read_outcomes(archive))
    assert outcomes == sorted(outcome for _, outcome in expect(30))
