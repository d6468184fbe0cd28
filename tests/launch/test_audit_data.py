"""launch/audit_data.py names every kind of problem, and repairs bad shards."""

import json
import re
import shutil

import numpy as np
import pytest

from t2i_tpu.data import audit
from t2i_tpu.data.locate import locate
from t2i_tpu.data.manifest import EmbeddingContract, read_manifest
from t2i_tpu.data.records import Record
from t2i_tpu.data.writer import write_dataset
from t2i_tpu.errors import UserError
from tests.assertions import assert_mentions

IMAGES = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3)).astype(np.uint8)


def make_records(split, numbers, prefix=""):
    """Return a record for each number; equal numbers have equal images and embeddings."""
    records = []
    for number in numbers:
        vector = np.array([np.cos(number), np.sin(number), 0], np.float32)
        caption = f"a picture <{number}> & {prefix}"
        key = f"{split}{prefix}{number}"
        records.append(Record(key, IMAGES[number], caption, None, vector))
    return records


def write(folder, train=None, heldout=None):
    """Write a data set of 40 and 8 records, or of the given ones, and return its folder."""
    splits = {
        "train": train or make_records("train", range(40)),
        "heldout": heldout or make_records("heldout", range(40, 48)),
    }
    embedding = EmbeddingContract("unknown", "", 3, True)
    settings = dict(name="d", num_streams=2, shard_size=6, embedding=embedding)
    write_dataset(str(folder), splits, **settings)
    return folder


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "data")


def test_good_data_set_has_no_problems(data, run, tmp_path):
    result = run("audit_data.py", [data, f"--html={tmp_path / 'report.html'}"])
    assert result.code == 0, result
    assert "no problems found" in result.stdout
    assert re.search(r"40  examples", result.stdout) and re.search(r"8  examples", result.stdout)
    assert "1  dead dimensions of embeddings" in result.stdout
    assert "1.0000 to 1.0000  norms" in result.stdout
    report = (tmp_path / "report.html").read_text()
    assert report.count("<img") == 48 and "a picture &lt;3&gt; &amp;" in report


def test_embedded_data_set_has_no_problems(run):
    result = run("audit_data.py", [locate("embedded:emoji")])
    assert result.code == 0 and "no problems found" in result.stdout, result


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("flip", "record 3 of 6 is damaged"),
        ("cut", r"record \d, .* of 6 is damaged"),
        ("missing", "is missing"),
        ("other", "it belongs to another data set"),
    ],
)
def test_bad_shard_is_reported_and_quarantined(data, run, damage, problem):
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
    assert re.search(rf"PROBLEM  {shard.name}: .*{problem}", result.stdout), result.stdout
    assert result.stdout.count("PROBLEM") == 1
    repaired = run("audit_data.py", [data, "--repair"])
    assert repaired.code == 0, repaired
    assert (data / "quarantine" / shard.name).exists() == (damage != "missing")
    manifest = read_manifest(str(data))
    assert manifest.num_examples("train") == 34
    assert manifest.preparation["quarantined"] == [shard.name]
    assert run("audit_data.py", [data]).code == 0


def test_repair_keeps_earlier_files_in_quarantine(data, run):
    shard = data / "train-0001-00001.tfrecord"
    (data / "quarantine").mkdir()
    (data / "quarantine" / shard.name).write_bytes(b"earlier")
    (data / "quarantine" / f"{shard.name}.2").write_bytes(b"earlier, too")
    shard.write_bytes(b"damaged")
    repaired = run("audit_data.py", [data, "--repair"])
    assert repaired.code == 0 and f"to quarantine/{shard.name}.3" in repaired.stdout, repaired
    contents = [file.read_bytes() for file in sorted((data / "quarantine").iterdir())]
    assert contents == [b"earlier", b"earlier, too", b"damaged"]


def test_workdir_is_not_audited(data, run, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    shutil.copy(data / "manifest.json", workdir)
    (workdir / "config.json").write_text("{}")
    assert "is the workdir of a run" in run("audit_data.py", [workdir]).error
    with pytest.raises(UserError, match="is the workdir of a run"):
        read_manifest(str(workdir))


def test_repair_leaves_no_stream_empty(data, run):
    for shard in data.glob("heldout-0000-*"):
        shard.write_bytes(b"")
    result = run("audit_data.py", [data, "--repair"])
    assert result.code == 1 and "a stream of heldout has no intact shard left" in result.stderr
    assert len(list(data.glob("heldout-0000-*"))) == 1  # nothing was moved


def test_duplicates_and_leaks_are_counted(run, tmp_path):
    similar = IMAGES[7].copy()
    similar[0, 0] ^= 1
    vector = np.array([1, 0, 0], np.float32)
    train = make_records("train", range(40)) + make_records("train", [3, 4], "again")
    heldout = make_records("heldout", [40, 41, 5, 42])
    heldout.append(Record("h7", similar, "similar", None, vector))
    data = write(tmp_path / "data", train, heldout)
    result = run("audit_data.py", [data])
    train_report, heldout_report = result.stdout.split("\nheldout\n")
    assert "2  repeated images" in train_report and "2  repeated embeddings" in train_report
    assert "1  same image in train" in heldout_report
    assert "2  near-duplicate in train" in heldout_report
    assert result.code == 0  # duplicates are reported, but they are not a problem
    assert "note: 1 of 5 held-out images are also in train" in result.stdout


def test_base_install_finds_only_equal_images(data):
    """Without imagehash, near-duplicates are not looked for by default."""
    result = audit.audit(str(data), None)
    assert not result.problems
    assert result.facts["heldout"]["same image in train"] == 0
    assert "near-duplicate in train" not in result.facts["heldout"]


def test_bad_values_are_problems(run, tmp_path):
    train = make_records("train", range(12))
    for i, values in enumerate(([np.nan, 0, 0], [3, 0, 0])):
        vector = np.array(values, np.float32)
        train.append(Record(f"b{i}", IMAGES[20 + i], " " * i, None, vector))
    data = write(tmp_path / "data", train)
    result = run("audit_data.py", [data])
    assert result.code == 1
    problems = (
        "2 empty captions",
        "1 embeddings that are not finite",
        "1 embeddings whose norm is not 1, although the manifest says that it is",
    )
    assert_mentions(result.stdout, [f"PROBLEM  train: {problem}" for problem in problems])


def test_unknown_shard_is_a_problem(data, run):
    (data / "train-9999-00000.tfrecord").write_bytes(b"")
    result = run("audit_data.py", [data])
    assert result.code == 1
    assert "train-9999-00000.tfrecord is not in the manifest" in result.stdout


def test_errors_are_one_line(run, tmp_path):
    assert "PATH is missing" in run("audit_data.py", []).error
    assert "no data set at" in run("audit_data.py", [tmp_path]).error
    assert "is not a flag" in run("audit_data.py", [tmp_path, "more"]).error
    (tmp_path / "manifest.json").write_text(json.dumps({}))
    assert "not a manifest" in run("audit_data.py", [tmp_path]).error
