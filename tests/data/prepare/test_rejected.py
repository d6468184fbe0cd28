"""Tests that every bad example has exactly one outcome, and that rejected.csv lists it."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from t2i_tpu.data.prepare import sources
from t2i_tpu.data.prepare.filters import Filters
from t2i_tpu.data.sources.source import Item
from t2i_tpu.errors import UserError
from tests.data.prepare.source_files import (
    add_member,
    encode_png,
    write_folder,
    write_npy,
    write_parquet,
)
from tests.data.prepare.test_images import JPEG, make_bomb

NUM_GOOD = 12  # number of good examples in addition to the bad ones


def read_rejected(folder):
    """Return rejected.csv as {key: cause}."""
    with open(folder / "out" / "data" / "rejected.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["key", "cause"]
    return dict(rows[1:])


def test_bad_files_in_a_folder_are_rejected(emoji, prepare_from, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:NUM_GOOD])
    bad = tmp_path / "input" / "zz"
    bad.mkdir()
    for name, content, caption in [
        ("empty.png", b"", b"x"),
        ("html.jpg", b"<html>", b"x"),
        ("cut.jpg", JPEG[: len(JPEG) // 2], b"x"),
        ("bomb.png", make_bomb(), b"x"),
        ("latin1.png", encode_png(emoji[0][1]), b"caf\xe9"),
        ("blank.png", encode_png(emoji[0][1]), b" \n"),
        ("long.png", encode_png(emoji[0][1]), b"word " * 5000),
        ("alone.png", encode_png(emoji[0][1]), None),
    ]:
        (bad / name).write_bytes(content)
        if caption is not None:
            (bad / name).with_suffix(".txt").write_bytes(caption)
    manifest, _ = prepare_from(source)
    assert read_rejected(tmp_path) == {
        "zz/empty.png": "empty_image",
        "zz/html.jpg": "not_an_image",
        "zz/cut.jpg": "truncated_image",
        "zz/bomb.png": "decompression_bomb",
        "zz/latin1.png": "caption_not_utf8",
        "zz/blank.png": "empty_caption",
        "zz/long.png": "caption_too_long",
        "zz/alone.png": "no_caption",
    }
    assert manifest.preparation["outcomes"] == {
        "caption_not_utf8": 1, "caption_too_long": 1, "decompression_bomb": 1, "empty_caption": 1,
        "empty_image": 1, "no_caption": 1, "not_an_image": 1, "train": NUM_GOOD, "truncated_image": 1,
    }  # fmt: skip


def test_unsafe_and_missing_files_of_a_table_are_rejected(emoji, prepare_from, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:NUM_GOOD], "metadata.jsonl")
    (tmp_path / "secret.png").write_bytes(encode_png(emoji[0][1]))
    with open(tmp_path / "input" / "metadata.jsonl", "a") as file:
        for name in ("../secret.png", str(tmp_path / "secret.png"), "gone.png"):
            file.write("\n" + json.dumps({"file_name": name, "text": "x"}))
    prepare_from(source)
    assert sorted(read_rejected(tmp_path).values()) == [
        "missing_image",
        "unsafe_name",
        "unsafe_name",
    ]
    (tmp_path / "input" / "metadata.jsonl").write_text('{"text": "no file"}\n')
    with pytest.raises(UserError, match="no column of the names of images; its columns are text"):
        prepare_from(source, tmp_path / "other")


def test_bad_members_and_bad_tars_are_rejected(emoji, prepare_from, tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for key, image, caption in emoji[:NUM_GOOD]:
            add_member(tar, f"{key}.png", encode_png(image))
            add_member(tar, f"{key}.txt", caption.encode())
        add_member(tar, "../../evil.png", encode_png(emoji[0][1]))
        add_member(tar, "/etc/evil.png", encode_png(emoji[0][1]))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add_member(tar, "text.txt", b"alone")
        add_member(tar, "bad.json", b"{")
        add_member(tar, "bad.png", encode_png(emoji[0][1]))
    (folder / "b.tar").write_bytes(b"not a tar" * 500)
    (folder / "c.tar").write_bytes(b"")
    content = (folder / "a.tar").read_bytes()
    (folder / "d.tar").write_bytes(content[: len(content) // 4])
    manifest, splits = prepare_from(f"webdataset:{folder}/*.tar")
    causes = read_rejected(tmp_path)
    assert {key: causes[key] for key in causes if key.startswith(("a/", "b/", "c/"))} == {
        "a/../../evil": "unsafe_name",
        "a/etc/evil": "no_caption",
        "a/link": "link_in_tar",
        "a/text": "missing_image",
        "a/bad": "bad_metadata",
        "b/": "unreadable_tar",
        "c/": "unreadable_tar",
    }
    assert "rest_of_a_cut_tar" in causes.values()
    outcomes = manifest.preparation["outcomes"]
    assert sum(outcomes.values()) == len(causes) + len(splits["train"])
    assert NUM_GOOD < outcomes["train"] < 2 * NUM_GOOD


def test_missing_and_duplicate_images_in_parquet_are_rejected(emoji, prepare_from, tmp_path):
    import pyarrow
    import pyarrow.parquet

    # The keys are row numbers, so the duplicates differ in their keys.
    images = [*emoji[:NUM_GOOD], *emoji[:3]]
    source = write_parquet(tmp_path / "input", images)
    table = {"image": [None, {"bytes": None, "path": "x"}], "text": ["x", "y"]}
    path = tmp_path / "input" / "train-more.parquet"
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    manifest, _ = prepare_from(source, filters=Filters(drop_same_images=True))
    outcomes = manifest.preparation["outcomes"]
    assert outcomes == {
        "duplicate_image": 3, "missing_image": 1, "path_without_image": 1, "train": NUM_GOOD,
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table({"url": ["x"], "TEXT": ["y"]}), path)
    with pytest.raises(
        UserError, match=r"no column of images; its columns are url, TEXT; .* --source=urls:"
    ):
        prepare_from(source, tmp_path / "other")


def test_repeated_keys_are_numbered(emoji, prepare_from, tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for turn in range(2):
            for key, image, caption in emoji[:NUM_GOOD]:
                add_member(tar, f"{key}.png", encode_png(image))
                add_member(tar, f"{key}.txt", f"{caption} {turn}".encode())
    manifest, splits = prepare_from(f"webdataset:{folder}/a.tar")
    assert manifest.preparation["outcomes"] == {"train": 2 * NUM_GOOD}
    for example in splits["train"]:
        assert example["caption"].endswith(b" 1" if example["key"].endswith(b"~2") else b" 0")


def test_too_few_examples_left_is_an_error(emoji, prepare_from, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:NUM_GOOD])
    message = f"no example can be used: {NUM_GOOD} no_similarity .*leave out --min_similarity"
    with pytest.raises(UserError, match=message):
        prepare_from(source, filters=Filters(min_similarity=0.3))


def test_complete_data_set_of_other_settings_is_left_alone(emoji, prepare_from, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:NUM_GOOD])
    prepare_from(source)
    with pytest.raises(
        UserError, match="already holds another data set .its image_size is .*, not 32"
    ):
        prepare_from(source, image_size=32)


@pytest.mark.allowed_skip
def test_preparation_resumes_after_a_full_disk(tmp_path):
    """The output is on a file system of 10 MB in a private mount namespace. It grows before resuming."""
    unshare = ["unshare", "--mount", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("no mount namespaces here")
    images = np.random.default_rng(0).integers(0, 256, (700, 64, 64, 3)).astype(np.uint8)
    source = write_npy(tmp_path / "input", [(str(i), image, "x") for i, image in enumerate(images)])
    script = f"""
import os, subprocess
from t2i_tpu.data.prepare.run import prepare
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.errors import UserError
subprocess.check_call(["mount", "-t", "tmpfs", "-o", "size=10m", "none", "{tmp_path}/disk"])
settings = Settings("{source}", encoder="none", heldout_share=0.0, num_streams=2)
try:
    prepare(settings, "{tmp_path}/disk/data")
except UserError as error:
    print("error:", error)
subprocess.check_call(["mount", "-o", "remount,size=40m", "{tmp_path}/disk"])
manifest = prepare(settings, "{tmp_path}/disk/data")
print("examples:", manifest.num_examples("train"))
"""
    (tmp_path / "disk").mkdir()
    result = subprocess.run(
        [*unshare, sys.executable, "-c", script], capture_output=True, text=True
    )
    error, examples = result.stdout.splitlines()
    assert error.startswith("error:") and "same command again to resume" in error, result.stderr
    assert examples == "examples: 700"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
@pytest.mark.allowed_skip
def test_output_without_permission_is_an_error(emoji, prepare_from, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:NUM_GOOD])
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="closed"):
        prepare_from(source, tmp_path / "closed" / "data")


class FaultySource:
    """Yields good items, one whose image raises an error, and then raises an error itself."""

    def list_units(self):
        return iter([{}])

    def list_files(self, unit):
        return []

    def read(self, unit):
        for key in "abcd":
            columns = [] if key == "c" else {"similarity": 0.5}
            yield Item(key, np.zeros((8, 8, 3), np.uint8), key, columns=columns)
        raise KeyError("unforeseen")

    def read_label_names(self):
        return None


def test_unforeseen_errors_reject_an_item_or_the_rest_of_a_unit(
    prepare_from, tmp_path, monkeypatch
):
    monkeypatch.setitem(sources.SOURCES, "folder", lambda path: FaultySource())
    manifest, _ = prepare_from("folder:x", filters=Filters(min_similarity=0.1), num_streams=1)
    assert manifest.preparation["outcomes"]["train"] == 3
    assert read_rejected(tmp_path) == {
        "c": "unreadable_AttributeError",
        "input after item 4": "rest_unreadable_KeyError",
    }
