"""Tests round trips of records, shards and manifests, and errors for damaged or missing files."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.data.manifest import (
    EmbeddingContract,
    Manifest,
    SequenceContract,
    TokenContract,
    read_manifest,
)
from t2i_tpu.data.records import Record, parse_records, serialize
from t2i_tpu.data.writer import write_dataset
from t2i_tpu.errors import UserError

EMBEDDING = EmbeddingContract(encoder="embedded", weights_sha256="00", dim=3, normalized=True)
TOKENS = TokenContract(encoder="embedded", vocab_size=100, context_length=5)
SEQUENCE = SequenceContract(encoder="embedded", weights_sha256="00", width=2, context_length=5)


def make_full_record(index=0, **changes):
    image = np.random.default_rng(index).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    record = Record(
        key=f"k{index}",
        image=image,
        caption="ein roter Käfer 🐞",
        label=index % 2,
        embedding=np.array([0.5, -1.25, index], np.float32),
        tokens=[7, 8, 9],
        sequence=np.array([[1, -2], [0.5, 65504], [index, 3]], np.float16),
    )
    return dataclasses.replace(record, **changes)


def write_full(folder, records, **changes):
    settings = dict(name="full", num_streams=2, embedding=EMBEDDING, tokens=TOKENS)
    settings |= dict(sequence=SEQUENCE)
    settings |= dict(label_names=("even", "odd")) | changes
    return write_dataset(str(folder), {"train": records}, **settings)


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("image_format", ["png", "raw"])
def test_round_trip_of_every_field(tmp_path, read_shards, image_format):
    records = [make_full_record(index) for index in range(7)]
    written = write_full(tmp_path, records, image_format=image_format)
    assert read_manifest(str(tmp_path)) == written
    found = {example["key"].decode(): example for example in read_shards(str(tmp_path), "train")}
    assert len(found) == 7
    for record in records:
        example = found[record.key]
        np.testing.assert_array_equal(example["image"], record.image)
        assert example["caption"].decode() == record.caption
        assert example["label"] == record.label and example["label"].dtype == np.int32
        np.testing.assert_array_equal(example["embedding"], record.embedding)
        np.testing.assert_array_equal(example["tokens"], np.array([7, 8, 9, 0, 0], np.int32))
        np.testing.assert_array_equal(example["sequence"][:3], record.sequence)
        assert example["sequence"].dtype == np.float16 and not example["sequence"][3:].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip_without_optional_fields(tmp_path, make_records, read_shards, channels):
    records = make_records(5, channels=channels)
    manifest = write_dataset(str(tmp_path), {"train": records}, name="plain", num_streams=1)
    assert (manifest.image_size, manifest.channels) == (8, channels)
    examples = read_shards(str(tmp_path), "train")
    assert [example["key"].decode() for example in examples] == [record.key for record in records]
    assert set(examples[0]) == {"key", "image", "caption"}
    for example, record in zip(examples, records, strict=True):
        np.testing.assert_array_equal(example["image"], record.image)


def test_long_tokens_are_cut_to_the_context():
    manifest = Manifest("n", 8, 3, {}, tokens=TOKENS, image_format="raw")
    records = [make_full_record(tokens=tokens) for tokens in ([1, 2, 3, 4, 5, 6], [1])]
    examples = parse_records(
        tf.constant([serialize(record, "raw") for record in records]), manifest
    )
    np.testing.assert_array_equal(examples["tokens"], [[1, 2, 3, 4, 5], [1, 0, 0, 0, 0]])


def test_records_are_dealt_to_the_streams_in_turn(tmp_path, make_records, read_shards):
    splits = {"train": make_records(23), "heldout": make_records(3, prefix="h")}
    manifest = write_dataset(str(tmp_path), splits, name="n", num_streams=3, shard_size=2)
    counts = [[shard.num_examples for shard in stream] for stream in manifest.streams("train")]
    assert counts == [[2, 2, 2, 2], [2, 2, 2, 2], [2, 2, 2, 1]]
    assert (manifest.num_examples("train"), manifest.num_examples("heldout")) == (23, 3)
    assert manifest.num_streams() == 3
    keys = [example["key"].decode() for example in read_shards(str(tmp_path), "train")]
    assert keys == [f"r{index}" for stream in range(3) for index in range(stream, 23, 3)]
    listed = {s.file for split in splits for stream in manifest.streams(split) for s in stream}
    assert set(read_files(tmp_path)) == listed | {"manifest.json"}  # no unfinished file is left


def test_writing_again_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_full(tmp_path / name, (make_full_record(index) for index in range(9)))
    assert read_files(tmp_path / "a") == read_files(tmp_path / "b")


def test_data_set_is_never_overwritten(tmp_path, make_records):
    write_dataset(str(tmp_path), {"train": make_records(4)}, name="n", num_streams=2)
    before = read_files(tmp_path)
    with pytest.raises(UserError, match="already holds a data set"):
        write_dataset(str(tmp_path), {"train": make_records(4)}, name="n", num_streams=2)
    assert read_files(tmp_path) == before


def test_interrupted_writer_can_be_run_again(tmp_path, make_records):
    def yield_and_interrupt():
        yield from make_records(8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(
            str(tmp_path), {"train": yield_and_interrupt()}, name="n", num_streams=2, shard_size=2
        )
    with pytest.raises(UserError, match="manifest.json is missing"):
        read_manifest(str(tmp_path))
    again = {"train": make_records(8)}
    write_dataset(str(tmp_path), again, name="n", num_streams=2, shard_size=2)
    assert read_manifest(str(tmp_path)).num_examples("train") == 8


def make_zeros(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(key="k0"), "'k0' occurs twice"),
        (dict(image=make_zeros(8, 9, 3)), r"\(8, 9, 3\)"),
        (dict(image=make_zeros(16, 16, 3)), r"\(16, 16, 3\)"),
        (dict(image=make_zeros(8, 8, 1)), r"\(8, 8, 1\)"),
        (dict(image=make_zeros(8, 8)), r"\(8, 8\)"),
        (dict(image=make_zeros(8, 8, 3, dtype=np.float32)), "float32"),
        (dict(label=None), "label None"),
        (dict(label=2), "label 2"),
        (dict(embedding=None), "embedding"),
        (dict(embedding=np.zeros(4, np.float32)), "embedding"),
        (dict(tokens=None), "tokens"),
        (dict(sequence=None), "sequence"),
        (dict(sequence=np.zeros((6, 2), np.float16)), r"sequence of shape \(6, 2\)"),
        (dict(sequence=np.zeros((3, 3), np.float16)), r"sequence of shape \(3, 3\)"),
    ],
)
def test_bad_record_is_named_by_its_key(tmp_path, changes, message):
    records = [make_full_record(0), make_full_record(1), make_full_record(2, **changes)]
    with pytest.raises(UserError, match=message) as raised:
        write_full(tmp_path, records)
    assert records[2].key in str(raised.value) and "\n" not in str(raised.value)


def test_bad_first_image_is_named(tmp_path):
    for image in (make_zeros(8, 9, 3), make_zeros(8, 8, 2), make_zeros(8, 8)):
        with pytest.raises(UserError, match="k0"):
            write_full(
                tmp_path, [make_full_record(0, image=image), make_full_record(1, image=image)]
            )


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_records_than_streams_are_an_error(tmp_path, make_records, count):
    with pytest.raises(UserError, match="fewer records than streams"):
        write_dataset(str(tmp_path), {"train": make_records(count)}, name="n", num_streams=2)


@pytest.fixture
def folder(tmp_path, make_records):
    write_dataset(str(tmp_path), {"train": make_records(4)}, name="n", num_streams=2)
    return tmp_path


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no data set at .*nowhere"):
        read_manifest(str(tmp_path / "nowhere"))


def test_missing_shard_is_an_error(folder):
    (folder / "train-0001-00000.tfrecord").unlink()
    with pytest.raises(UserError, match="train-0001-00000.tfrecord is missing"):
        read_manifest(str(folder))


@pytest.mark.parametrize("keep", [0, 100])
def test_empty_or_truncated_shard_is_an_error(folder, keep):
    shard = folder / "train-0000-00000.tfrecord"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"{shard.name} has {keep} bytes, but its manifest says"):
        read_manifest(str(folder))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe\x00not text",
        json.dumps({"format_version": 999}).encode(),
        json.dumps({"format_version": 1, "splits": []}).encode(),
    ],
)
def test_bad_manifest_is_a_one_line_error(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match="not a manifest") as raised:
        read_manifest(str(folder))
    assert "\n" not in str(raised.value)


def test_unknown_field_is_an_error(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
    with pytest.raises(UserError, match="colour"):
        read_manifest(str(folder))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("embedding", None, "sequence without embedding"),
        ("sequence", dataclasses.asdict(SEQUENCE) | {"dtype": "bfloat16"}, "dtype 'bfloat16'"),
        ("sequence", dataclasses.asdict(SEQUENCE) | {"width": 0}, "width is 0"),
        ("sequence", {"width": 2}, "missing"),
    ],
)
def test_invalid_sequence_contract_is_an_error(tmp_path, field, value, message):
    write_full(tmp_path, [make_full_record(index) for index in range(4)])
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError, match=message):
        read_manifest(str(tmp_path))


def test_unknown_split_is_an_error(folder):
    with pytest.raises(UserError, match="no split 'test'; it has train"):
        read_manifest(str(folder)).streams("test")
