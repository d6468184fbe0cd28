"""launch/audit_data.py: each thing that can be wrong is told by its name, and mended where it can."""

import json
import re
import shutil

import numpy as np
import pytest

from t2i_tpu.data.locate import locate
from t2i_tpu.data.manifest import EmbeddingContract, read_manifest
from t2i_tpu.data.records import Record
from t2i_tpu.data.writer import write_dataset

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (48, 16, 16, 3)).astype(np.uint8)


def records(split, numbers, prefix=""):
    for number in numbers:
        if isinstance(number, Record):
            yield number
            continue
        vector = np.array([np.cos(number), np.sin(number), 0], np.float32)
        caption = f"a picture <{number}> & {prefix}"
        yield Record(f"{split}{prefix}{number}", IMAGES[number], caption, None, vector)


def write(folder, train=range(40), heldout=range(40, 48)):
    settings = dict(name="d", num_streams=2, shard_size=6)
    settings["embedding"] = EmbeddingContract("unknown", "", 3, True)
    splits = {"train": records("train", train), "heldout": records("heldout", heldout)}
    write_dataset(str(folder), splits, **settings)
    return folder


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "data")


def test_a_good_data_set(data, run, tmp_path):
    result = run("audit_data.py", [data, f"--html={tmp_path / 'report.html'}"])
    assert result.code == 0, result
    assert "nothing is wrong" in result.stdout
    assert re.search(r"40  examples", result.stdout) and re.search(r"8  examples", result.stdout)
    assert "1  dead dimensions of embeddings" in result.stdout
    assert "1.0000 to 1.0000  norms" in result.stdout
    report = (tmp_path / "report.html").read_text()
    assert report.count("<img") == 48 and "a picture &lt;3&gt; &amp;" in report


def test_what_ships_is_good(run):
    result = run("audit_data.py", [locate("embedded:emoji")])
    assert result.code == 0 and "nothing is wrong" in result.stdout, result


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("flip", "record 3 of 6 is damaged"),
        ("cut", r"record \d, .* of 6 is damaged"),
        ("missing", "is missing"),
        ("other", "it is of another data set"),
    ],
)
def test_a_bad_shard_and_its_quarantine(data, run, tmp_path, damage, told):
    shard = data / "train-0001-00001.tfrecord"
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[len(content) * 7 // 12] ^= 4
        shard.write_bytes(content)
    elif damage == "cut":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "missing":
        shard.unlink()
    else:
        shutil.copy(data / "train-0001-00000.tfrecord", shard)
    result = run("audit_data.py", [data])
    assert result.code == 1
    assert re.search(rf"WRONG  {shard.name}: .*{told}", result.stdout), result.stdout
    assert result.stdout.count("WRONG") == 1
    repaired = run("audit_data.py", [data, "--repair"])
    assert repaired.code == 0, repaired
    assert (data / "quarantine" / shard.name).exists() == (damage != "missing")
    manifest = read_manifest(str(data))
    assert manifest.num_examples("train") == 34
    assert manifest.preparation["quarantined"] == [shard.name]
    assert run("audit_data.py", [data]).code == 0


def test_a_stream_that_would_be_empty(data, run):
    for shard in data.glob("heldout-0000-*"):
        shard.write_bytes(b"")
    result = run("audit_data.py", [data, "--repair"])
    assert result.code == 1 and "a stream of heldout has no whole shard left" in result.stderr
    assert len(list(data.glob("heldout-0000-*"))) == 1  # nothing was moved


def test_duplicates_and_leaks(run, tmp_path):
    nearly = IMAGES[7].copy()
    nearly[0, 0] ^= 1
    heldout = [*records("heldout", [40, 41, 5, 42]),
               Record("h7", nearly, "nearly", None, np.array([1, 0, 0], np.float32))]  # fmt: skip
    again = [*records("train", range(40)), *records("train", [3, 4], "again")]
    data = write(tmp_path / "data", heldout=heldout, train=again)
    result = run("audit_data.py", [data])
    train, held = result.stdout.split("\nheldout\n")
    assert "2  images that come again" in train and "2  embeddings that come again" in train
    assert "1  same image in train" in held and "2  near-duplicate in train" in held
    assert result.code == 0  # seen, not wrong: whoever prepares decides


def test_wrong_values(run, tmp_path):
    bad = [*records("train", range(12))]
    vectors = [np.array(v, np.float32) for v in ([np.nan, 0, 0], [3, 0, 0])]
    bad += [Record(f"b{i}", IMAGES[20 + i], " " * i, None, v) for i, v in enumerate(vectors)]
    data = write(tmp_path / "data", train=bad)
    result = run("audit_data.py", [data])
    assert result.code == 1
    for told in (
        "2 empty captions",
        "1 embeddings that are not finite",
        "1 embeddings of another length than 1, which the manifest promises",
    ):
        assert f"WRONG  train: {told}" in result.stdout
    (data / "train-9999-00000.tfrecord").write_bytes(b"")
    assert (
        "train-9999-00000.tfrecord: is not in the manifest" in run("audit_data.py", [data]).stdout
    )


def test_user_errors(run, tmp_path):
    assert "PATH is missing" in run("audit_data.py", []).error
    assert "no data set at" in run("audit_data.py", [tmp_path]).error
    assert "is not a flag" in run("audit_data.py", [tmp_path, "more"]).error
    (tmp_path / "manifest.json").write_text(json.dumps({}))
    assert "not a manifest" in run("audit_data.py", [tmp_path]).error
