"""Compares the order of examples with its formula, for several numbers of hosts and start steps."""

import dataclasses

import numpy as np
import pytest

from t2i_tpu.data import first_examples
from t2i_tpu.data.manifest import EmbeddingContract, SequenceContract, TokenContract
from t2i_tpu.data.order import check_batch_divides
from t2i_tpu.data.reader import Dataset, open_dataset
from t2i_tpu.data.records import Record
from t2i_tpu.data.writer import write_dataset
from t2i_tpu.errors import UserError

COUNT, STREAMS, SHARD, BATCH, SEED = 37, 4, 4, 8, 5
MASK = 0xFFFFFFFF


def threefry(key, counter):
    """Return Threefry-2x32-20 of Python integers, implemented from the description in the paper."""
    k = [*key, 0x1BD11BDA ^ key[0] ^ key[1]]
    x, y = (counter[0] + k[0]) & MASK, (counter[1] + k[1]) & MASK
    rotations = (13, 15, 26, 6, 17, 29, 16, 24)
    for round_ in range(20):
        x = (x + y) & MASK
        turn = rotations[round_ % 8]
        y = ((y << turn | y >> (32 - turn)) & MASK) ^ x
        if round_ % 4 == 3:
            group = round_ // 4 + 1
            x, y = (x + k[group % 3]) & MASK, (y + k[(group + 1) % 3] + group) & MASK
    return x, y


def test_reference_cipher_matches_known_answers():
    """The values are in Random123's kat_vectors."""
    assert threefry((0, 0), (0, 0)) == (0x6B200159, 0x99BA4EFE)
    assert threefry((MASK, MASK), (MASK, MASK)) == (0x1CB996FC, 0xBB002BE7)
    pi = (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)
    assert threefry(*pi) == (0xC4923A9C, 0x483DF7A0)


def shuffle_range(seed, stream, epoch, use, size):
    """Return range(size) sorted by draws keyed by (seed, purpose 5), (epoch, stream), (use, index)."""
    key = threefry((seed, 5), (epoch, stream))
    draws = [threefry(key, (use, index))[0] for index in range(size)]
    return sorted(range(size), key=draws.__getitem__)


def order_stream(seed, stream, epochs, count=COUNT):
    """Return the indices of the records that a stream reads, epoch after epoch.

    The shards are in a shuffled order, and the records of a shard are shuffled with use = shard + 1.
    """
    records = list(range(stream, count, STREAMS))  # record i goes to stream i mod S
    shards = [records[start : start + SHARD] for start in range(0, len(records), SHARD)]
    order = []
    for epoch in range(epochs):
        for shard in shuffle_range(seed, stream, epoch, 0, len(shards)):
            within = shuffle_range(seed, stream, epoch, shard + 1, len(shards[shard]))
            order += [shards[shard][index] for index in within]
    return order


def make_global_batches(seed, steps, first=0):
    """Return the record in each slot of each step: [steps][slot].

    Slot j of step t reads position (t B + j) // S of stream j mod S.
    """
    streams = [order_stream(seed, stream, 12) for stream in range(STREAMS)]
    return [
        [streams[slot % STREAMS][(step * BATCH + slot) // STREAMS] for slot in range(BATCH)]
        for step in range(first, first + steps)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of 37 records, labeled by index. Its 4 streams have shards of 4, 4 and 2 or 1 records."""
    folder = tmp_path_factory.mktemp("reader") / "data"

    def records():
        for index in range(COUNT):
            image = np.full((4, 4, 3), index, np.uint8)
            yield Record(f"k{index}", image, f"caption {index}", label=index)

    names = [f"name {index}" for index in range(COUNT)]
    settings = dict(name="r", num_streams=STREAMS, shard_size=SHARD, label_names=names)
    write_dataset(str(folder), {"train": records()}, **settings)
    return str(folder)


def read(folder, steps, seed=SEED, start=0, num_hosts=1, per_replica=BATCH):
    """Return the same as `make_global_batches`, but read by all hosts. Also check the images."""
    batches = [[None] * BATCH for _ in range(steps)]
    dataset = open_dataset(folder, "label", 4)
    for host in range(num_hosts):
        elements = dataset.batches(seed, BATCH, per_replica, start, host, num_hosts)
        needed = steps * BATCH // num_hosts // per_replica
        for position, element in enumerate(elements.take(needed).as_numpy_iterator()):
            assert element["image"].shape == (per_replica, 4, 4, 3)
            step = position * per_replica * num_hosts // BATCH
            for slot, condition, image in zip(
                element["slot"], element["condition"]["label"], element["image"], strict=True
            ):
                assert batches[step][slot] is None  # no other host has read this slot
                assert np.all(image == condition - 1)
                batches[step][slot] = int(condition) - 1  # conditions start at 1
    return batches


def test_order_follows_the_documented_formula(folder):
    # In 13 steps, each stream reads 26 positions, which ends in its third epoch.
    assert read(folder, 13) == make_global_batches(SEED, 13)
    assert read(folder, 3, seed=2**32 - 1) == make_global_batches(2**32 - 1, 3)


@pytest.mark.parametrize(("num_hosts", "replicas_of_a_host"), [(1, 4), (2, 1), (2, 2), (4, 2)])
def test_any_hosts_and_replicas_see_the_same_batches(folder, num_hosts, replicas_of_a_host):
    per_replica = BATCH // num_hosts // replicas_of_a_host
    found = read(folder, 7, num_hosts=num_hosts, per_replica=per_replica)
    assert found == make_global_batches(SEED, 7)


@pytest.mark.parametrize("start", [1, 4, 5, 9, 10, 18])
def test_resuming_does_not_change_the_order(folder, start):
    """The starts are inside shards, at ends of shards and at ends of epochs, which have 9 or 10 records."""
    assert read(folder, 3, start=start) == make_global_batches(SEED, 3, first=start)


def test_resuming_on_several_hosts_does_not_change_the_order(folder):
    found = read(folder, 3, start=7, num_hosts=2, per_replica=2)
    assert found == make_global_batches(SEED, 3, first=7)


def test_every_epoch_has_every_example_in_a_new_order(folder):
    batches = np.array(read(folder, 23))
    for stream in range(STREAMS):
        places = batches.reshape(-1, STREAMS)[:, stream]  # two positions of each stream per step
        members = list(range(stream, COUNT, STREAMS))
        epochs = [places[i * len(members) :][: len(members)] for i in range(4)]
        for epoch in epochs:
            assert sorted(epoch) == members
        assert len({tuple(epoch) for epoch in (*epochs, members)}) == 5
    assert not np.array_equal(batches[:5], read(folder, 5, seed=SEED + 1))


def test_images_shrink_by_the_mean_of_their_pixels(tmp_path):
    """Images in batches and in examples equal numpy's mean of each block, rounded half up."""
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    image[:2, :2] = [[[0, 0, 0], [0, 1, 1]], [[1, 1, 1], [1, 1, 255]]]  # means 1/2, 3/4, 64 1/4
    write_dataset(
        str(tmp_path), {"train": [Record("k", image, label=0)]}, name="one", num_streams=1,
        label_names=["only"],
    )  # fmt: skip
    for size in (32, 16, 64):
        factor = 64 // size
        blocks = image.reshape(size, factor, size, factor, 3).astype(np.float64)
        expected = np.floor(blocks.mean((1, 3)) + 0.5)
        if size == 32:
            np.testing.assert_array_equal(expected[0, 0], [1, 1, 64])
        dataset = open_dataset(str(tmp_path), "label", size)
        (batch,) = dataset.batches(0, 1, 1).take(1).as_numpy_iterator()
        np.testing.assert_array_equal(batch["image"][0], expected)
        np.testing.assert_array_equal(dataset.examples("train", 1)[0]["image"], expected)
    for size in (48, 128):
        with pytest.raises(UserError, match=f"image_size is {size}"):
            open_dataset(str(tmp_path), "label", size)


def test_conditions_have_the_fields_that_the_model_reads(tmp_path):
    """Labels start at 1, tokens and states are padded with 0, and missing features are an error."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(3, 5)).astype(np.float32)
    tokens = [[7], [7, 8, 9], [7, 8]]
    states = [rng.normal(size=(len(ids), 2)).astype(np.float16) for ids in tokens]
    image = np.zeros((4, 4, 1), np.uint8)
    records = [
        Record(f"k{i}", image, f"c{i}", i, embeddings[i], tokens[i], states[i]) for i in range(3)
    ]
    contracts = dict(
        embedding=EmbeddingContract("embedded", "00", 5, True),
        tokens=TokenContract("embedded", 10, 4),
        sequence=SequenceContract("embedded", "00", 2, 4),
        label_names=list("abc"),
    )
    full = tmp_path / "full"
    write_dataset(str(full), {"train": records}, name="f", num_streams=1, **contracts)
    padded = np.zeros((3, 4, 2), np.float32)
    for row, state in zip(padded, states, strict=True):
        row[: len(state)] = state
    expected = {
        "label": {"label": np.array([1, 2, 3], np.int32)},
        "embedding": {"embedding": embeddings},
        "tokens": {"tokens": np.array([[7, 0, 0, 0], [7, 8, 9, 0], [7, 8, 0, 0]], np.int32)},
        "sequence": {"embedding": embeddings, "sequence": padded},
    }
    for conditioning, fields in expected.items():
        dataset = open_dataset(str(full), conditioning, 4)
        (batch,) = dataset.batches(0, 3, 3).take(1).as_numpy_iterator()
        assert batch["condition"].keys() == fields.keys()
        examples = dataset.examples("train", 3)
        for name, values in fields.items():
            stacked = np.stack([example["condition"][name] for example in examples])
            np.testing.assert_array_equal(stacked, values)
            assert stacked.dtype == values.dtype == batch["condition"][name].dtype
            assert sorted(batch["condition"][name].tolist()) == sorted(values.tolist())
        bare = tmp_path / f"without {conditioning}"
        # A manifest cannot have sequences without embeddings.
        removed = {"embedding": ("embedding", "sequence"), "label": ("label_names",)}
        removed = removed.get(conditioning, (conditioning,))
        remaining = {name: value for name, value in contracts.items() if name not in removed}
        write_dataset(str(bare), {"train": records}, name="b", num_streams=1, **remaining)
        with pytest.raises(UserError, match=f"config.model.conditioning is '{conditioning}'"):
            open_dataset(str(bare), conditioning, 4)


def test_wanted_captions_come_before_the_first_examples(folder):
    dataset = open_dataset(folder, "label", 4)

    def keys(*arguments):
        return [example["key"] for example in dataset.examples("train", *arguments)]

    assert keys(6) == ["k0", "k1", "k2", "k3", "k4", "k5"]  # as they were written
    assert keys(4, ("caption 30", "caption 1")) == ["k30", "k1", "k0", "k2"]
    assert len(keys(100)) == COUNT
    with pytest.raises(UserError, match="'caption 99'"):
        keys(2, ("caption 3", "caption 99"))
    with pytest.raises(UserError, match="no split 'heldout'; it has train"):
        dataset.examples("heldout", 1)


def test_batches_and_hosts_must_divide_evenly(folder):
    check_batch_divides(8, 4, 2)
    with pytest.raises(UserError, match="global_batch_size is 10; the data set has 4 streams"):
        open_dataset(folder, "label", 4).batches(0, 10, 5)
    with pytest.raises(UserError, match="3 hosts cannot share 4 streams"):
        open_dataset(folder, "label", 4).batches(0, 12, 4, num_hosts=3)


@pytest.mark.parametrize("step", [0, 4, 9, 18])
def test_shards_near_a_step_contain_its_examples(folder, step):
    shards = open_dataset(folder, "label", 4).list_shards_near(SEED, BATCH, step)
    (batch,) = make_global_batches(SEED, 1, first=step)
    names = {f"train-{record % STREAMS:04d}-{record // STREAMS // SHARD:05d}" for record in batch}
    assert names <= {shard.file.removesuffix(".tfrecord") for shard in shards}
    assert len(shards) == 3 * STREAMS


@pytest.fixture
def class_folder(tmp_path):
    """A data set whose manifest lists 9,000 shards of which only the first of each stream exists.

    Its 36,000 captions are the names of two classes.
    """
    image = np.zeros((4, 4, 3), np.uint8)
    records = [Record(f"k{i}", image, ["shirt", "bag"][i % 4 == 1], i % 2) for i in range(16)]
    manifest = write_dataset(
        str(tmp_path), {"train": records}, name="c", num_streams=STREAMS, label_names=["a", "b"]
    )
    streams = tuple(
        (*stream, *(dataclasses.replace(stream[0], file=f"none-{i}") for i in range(2250)))
        for stream in manifest.streams("train")
    )
    return Dataset(
        str(tmp_path), dataclasses.replace(manifest, splits={"train": streams}), "label", 4
    )


def test_examples_stop_at_the_last_one_needed(class_folder):
    """Reading on would fail, because the other shards do not exist."""
    examples = class_folder.examples("train", 12, ("bag", "shirt"))
    keys = [example["key"] for example in examples]
    assert keys == ["k1", "k0", *(f"k{index}" for index in range(2, 12))]
    assert [example["caption"] for example in examples[:2]] == ["bag", "shirt"]
    assert len(class_folder.examples("train", 16)) == 16


def test_captions_are_looked_for_in_the_first_examples(class_folder, monkeypatch):
    monkeypatch.setattr(first_examples, "MAX_SEARCHED", 16)
    with pytest.raises(UserError) as error:
        class_folder.examples("train", 2, ("shirt", "shirts"))
    message = str(error.value)
    assert "config.preview.captions: none of the first 16 train examples" in message
    assert "'shirts'; did you mean 'shirt'?" in message and "captions='()'" in message
