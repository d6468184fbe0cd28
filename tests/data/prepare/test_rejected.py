"""Bad input: every example ends in exactly one outcome, under its name, and is listed."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from t2i_tpu.data.prepare.filters import Filters
from t2i_tpu.errors import UserError
from tests.data.prepare.conftest import add, png, write_folder, write_npy, write_parquet
from tests.data.prepare.test_images import JPEG, bomb

GOOD = 12


def listed(folder):
    """{key: cause} of losses.csv."""
    with open(folder / "out" / "data" / "losses.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["key", "cause"]
    return dict(rows[1:])


def test_folder(emoji, prepared, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:GOOD])
    bad = tmp_path / "input" / "zz"
    bad.mkdir()
    for name, content, caption in [
        ("empty.png", b"", b"x"),
        ("html.jpg", b"<html>", b"x"),
        ("cut.jpg", JPEG[: len(JPEG) // 2], b"x"),
        ("bomb.png", bomb(), b"x"),
        ("latin1.png", png(emoji[0][1]), b"caf\xe9"),
        ("blank.png", png(emoji[0][1]), b" \n"),
        ("long.png", png(emoji[0][1]), b"word " * 5000),
        ("alone.png", png(emoji[0][1]), None),
    ]:
        (bad / name).write_bytes(content)
        if caption is not None:
            (bad / name).with_suffix(".txt").write_bytes(caption)
    manifest, _ = prepared(source)
    assert listed(tmp_path) == {
        "zz/empty.png": "empty_image",
        "zz/html.jpg": "not_an_image",
        "zz/cut.jpg": "truncated_image",
        "zz/bomb.png": "decompression_bomb",
        "zz/latin1.png": "caption_not_utf8",
        "zz/blank.png": "no_caption",
        "zz/long.png": "caption_too_long",
        "zz/alone.png": "no_caption",
    }
    assert manifest.preparation["outcomes"] == {
        "caption_not_utf8": 1, "caption_too_long": 1, "decompression_bomb": 1, "empty_image": 1,
        "no_caption": 2, "not_an_image": 1, "train": GOOD, "truncated_image": 1,
    }  # fmt: skip


def test_a_table_that_climbs_out_or_names_what_is_not_there(emoji, prepared, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:GOOD], "metadata.jsonl")
    (tmp_path / "secret.png").write_bytes(png(emoji[0][1]))
    with open(tmp_path / "input" / "metadata.jsonl", "a") as file:
        for name in ("../secret.png", str(tmp_path / "secret.png"), "gone.png"):
            file.write("\n" + json.dumps({"file_name": name, "text": "x"}))
    prepared(source)
    assert sorted(listed(tmp_path).values()) == ["missing_image", "unsafe_name", "unsafe_name"]
    (tmp_path / "input" / "metadata.jsonl").write_text('{"text": "no file"}\n')
    with pytest.raises(UserError, match="row 1 names no image"):
        prepared(source, tmp_path / "other")


def test_tars(emoji, prepared, tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for key, image, caption in emoji[:GOOD]:
            add(tar, f"{key}.png", png(image))
            add(tar, f"{key}.txt", caption.encode())
        add(tar, "../../evil.png", png(emoji[0][1]))
        add(tar, "/etc/evil.png", png(emoji[0][1]))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, "text.txt", b"alone")
        add(tar, "bad.json", b"{")
        add(tar, "bad.png", png(emoji[0][1]))
    (folder / "b.tar").write_bytes(b"not a tar" * 500)
    (folder / "c.tar").write_bytes(b"")
    content = (folder / "a.tar").read_bytes()
    (folder / "d.tar").write_bytes(content[: len(content) // 4])
    manifest, splits = prepared(f"webdataset:{folder}/*.tar")
    causes = listed(tmp_path)
    assert {key: causes[key] for key in causes if key.startswith(("a/", "b/", "c/"))} == {
        "a/../../evil.png": "unsafe_name",
        "a//etc/evil.png": "unsafe_name",
        "a/link.png": "not_a_file",
        "a/text": "missing_image",
        "a/bad": "bad_metadata",
        "b/": "unreadable_tar",
        "c/": "unreadable_tar",
    }
    assert "rest_of_a_cut_tar" in causes.values()
    outcomes = manifest.preparation["outcomes"]
    assert sum(outcomes.values()) == len(causes) + len(splits["train"])
    assert GOOD < outcomes["train"] < 2 * GOOD


def test_a_gzipped_tar_that_ends_early(emoji, prepared, tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for key, image, caption in emoji[:60]:
            add(tar, f"{key}.png", png(image))
            add(tar, f"{key}.txt", caption.encode())
    path.write_bytes(path.read_bytes()[:-30_000])
    prepared(f"webdataset:{path}")
    assert "rest_of_a_cut_tar" in listed(tmp_path).values()


def test_parquet_and_duplicates(emoji, prepared, tmp_path):
    import pyarrow
    import pyarrow.parquet

    some = [*emoji[:GOOD], *emoji[:3]]  # keys are rows, so only the bytes tell
    source = write_parquet(tmp_path / "input", some)
    table = {"image": [None, {"bytes": None, "path": "x"}], "text": ["x", "y"]}
    path = tmp_path / "input" / "train-more.parquet"
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    manifest, _ = prepared(source, filters=Filters(drop_same_images=True))
    outcomes = manifest.preparation["outcomes"]
    assert outcomes == {"duplicate_image": 3, "missing_image": 2, "train": GOOD}
    pyarrow.parquet.write_table(pyarrow.table({"url": ["x"], "TEXT": ["y"]}), path)
    with pytest.raises(UserError, match=r"no column of images .* only url, TEXT; .*urls:FILE"):
        prepared(source, tmp_path / "other")


def test_keys_that_come_twice(emoji, prepared, tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for turn in range(2):
            for key, image, caption in emoji[:GOOD]:
                add(tar, f"{key}.png", png(image))
                add(tar, f"{key}.txt", f"{caption} {turn}".encode())
    manifest, splits = prepared(f"webdataset:{folder}/a.tar")
    assert manifest.preparation["outcomes"] == {"duplicate_key": GOOD, "train": GOOD}
    assert all(one["caption"].endswith(b" 0") for one in splits["train"])  # the first stays


def test_too_few_are_left(emoji, prepared, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:GOOD])
    told = f"0 train examples are too few for 4 streams .{GOOD} no_similarity"
    with pytest.raises(UserError, match=told):
        prepared(source, filters=Filters(min_similarity=0.3))


def test_the_output_is_not_ours(emoji, prepared, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:GOOD])
    output = tmp_path / "out" / "data"
    output.mkdir(parents=True)
    (output / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty"):
        prepared(source)
    assert os.listdir(output) == ["thesis.tex"]
    prepared(source, tmp_path / "done")
    with pytest.raises(UserError, match="already holds another data set"):
        prepared(source, tmp_path / "done", image_size=32)


def test_a_corrupted_idx_is_one_line(prepared, tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"x" * 99)[:-5])
    with pytest.raises(UserError, match="train-images"):
        prepared(f"idx:{tmp_path}")


@pytest.mark.allowed_skip
def test_a_full_disk_harms_nothing(emoji, tmp_path):
    """A file system of 6 MB, in a mount namespace of its own; then it gets larger."""
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
    print("told:", error)
subprocess.check_call(["mount", "-o", "remount,size=40m", "{tmp_path}/disk"])
manifest = prepare(settings, "{tmp_path}/disk/data")
print("then:", manifest.num_examples("train"))
"""
    (tmp_path / "disk").mkdir()
    result = subprocess.run(
        [*unshare, sys.executable, "-c", script], capture_output=True, text=True
    )
    told, then = result.stdout.splitlines()
    assert "told:" in told and "same command goes on" in told, result.stderr
    assert then == "then: 700"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.allowed_skip
def test_a_folder_without_permission(emoji, prepared, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:GOOD])
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="closed"):
        prepared(source, tmp_path / "closed" / "data")


def test_an_output_that_cannot_be(emoji, prepared, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:GOOD])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/data"):
        prepared(source, tmp_path / "file" / "data")


def test_animated_and_rotated_images_through_the_whole(emoji, prepared, tmp_path):
    source = write_folder(tmp_path / "input", emoji[:GOOD])
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    path = tmp_path / "input" / "zz.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    path.with_suffix(".txt").write_text("red")
    _, splits = prepared(source)
    (one,) = [one for one in splits["train"] if one["caption"] == b"red"]
    np.testing.assert_array_equal(one["image"], np.asarray(frames[0]))
