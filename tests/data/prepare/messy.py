"""Strategies for messy names, images and captions, and a check of what is prepared from them."""

import collections
import contextlib
import csv
import functools
import io
import os
import pathlib
import struct
import tempfile

import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from t2i_tpu.data.prepare import pool
from t2i_tpu.data.prepare.run import prepare
from t2i_tpu.data.prepare.settings import Settings
from t2i_tpu.errors import UserError
from tests.data.prepare.source_files import encode_png

SIZE = 4
QUICK = settings(
    max_examples=int(os.environ.get("T2I_TPU_MESSY_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="T2I_TPU_MESSY_EXAMPLES" not in os.environ,
    database=None,
)
# Names of files that other programs could take for patterns, separators, options or several lines.
NAMES = st.text("aZ09 -_.,;:'\"[]{}()*?!%#&@=+~$\\^`éß日🦊\u0301\u200b\t", min_size=1, max_size=8)
ENDINGS = st.sampled_from(["png", "jpg", "JPEG", "PNG", "webp", "gif", "Tiff"])
# Captions as they are in a file, and as they must be in the data set; None stands for a rejected one.
CAPTIONS = st.one_of(
    st.sampled_from(
        [
            (b"", None),
            (b" \n\t ", None),
            (b"\x00\x00", None),
            (b"caf\xe9", None),
            ("\u200b\u2060".encode(), None),
            (b"\xef\xbb\xbfwith a mark\r\n", "with a mark"),
            (b"two\nlines", "two lines"),
            (b"a\x00b", "a b"),
            ("one\u3000two".encode(), "one two"),
            ("sixteen bits".encode("utf-16"), "sixteen bits"),
            (b"-1", "-1"),
            (b"=SUM(A1)", "=SUM(A1)"),
            (b"x" * 9000, None),
        ]
    ),
    st.text("abc,;\"'<>&\\é日🦊", min_size=1, max_size=12).map(lambda text: (text.encode(), text)),
)


def is_text(content):
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


# Captions in a table are text or missing.
TEXTS = st.one_of(
    st.sampled_from([(None, None), ("old\rMac", "old Mac"), ("a, b; c\td|e", "a, b; c d|e")]),
    CAPTIONS.filter(lambda pair: is_text(pair[0])).map(lambda pair: (pair[0].decode(), pair[1])),
)


def few_or_many(elements, min_size=0):
    """Return a strategy for lists. Hypothesis itself rarely makes long ones."""
    few = st.lists(elements, min_size=min_size, max_size=3)
    return few | st.lists(elements, min_size=15, max_size=25)


def make_pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


# Images as they are in a file, and their pixels; None stands for a rejected one.
GOOD_IMAGES = [(encode_png(make_pixels(seed)), make_pixels(seed).tobytes()) for seed in range(12)]
BAD_IMAGES = [(b"", None), (b"<html>", None), (GOOD_IMAGES[0][0][:-30], None), (b"\0" * 99, None)]
IMAGES = st.sampled_from([*GOOD_IMAGES, *BAD_IMAGES])
MAYBE_IMAGES = st.sampled_from([*GOOD_IMAGES, *BAD_IMAGES, None])


def is_usable(name):
    """Return whether a file may have this name without looking like one of another program."""
    return not name.startswith((".", "~$")) and not name.endswith("~") and name == name.strip()


def run_prepare(source, output, workers=1):
    """Prepare a data set, and return ({key: (pixels, caption)}, outcomes, its files).

    The first two are None and the error, which must have one line, if there is one.
    """
    options = Settings(
        source=source, encoder="none", image_size=SIZE, heldout_share=0, num_streams=1
    )
    try:
        manifest = prepare(
            options, str(output), functools.partial(pool.process_units, workers=workers)
        )
    except UserError as error:
        message = str(error)
        assert message.isprintable() or not set(message) & set("\n\r\x0b\x0c"), message
        assert len(message) < 2000, message
        return None, message, None
    contents = {path.name: path.read_bytes() for path in pathlib.Path(output).iterdir()}
    kept = {}
    for shards in manifest.splits["train"]:
        for shard in shards:
            for example in read_records(contents[shard.file]):
                key = get_bytes(example, "key").decode()
                assert key not in kept
                kept[key] = (get_bytes(example, "image"), get_bytes(example, "caption").decode())
    outcomes = manifest.preparation["outcomes"]
    assert outcomes["train"] == len(kept)
    rows = list(csv.reader(io.StringIO(contents["rejected.csv"].decode(), newline="")))
    assert len(rows) - 1 == sum(outcomes.values()) - len(kept)
    assert not [name for name in outcomes if "unreadable_" in name and "Error" in name], outcomes
    return kept, outcomes, contents


def get_bytes(example, name):
    return example.features.feature[name].bytes_list.value[0]


def read_records(content):
    """Yield the examples of a TFRecord file, by the definition of the format."""
    position = 0
    while position < len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        yield tf.train.Example.FromString(content[position + 12 : position + 12 + length])
        position += 16 + length


def check(source, root, good, num_rejected):
    """Prepare a source twice and compare the results with what is expected.

    Args:
      source: value of --source.
      root: a folder for the output.
      good: (key, pixels, caption) of the examples that have all three. Keys may repeat.
      num_rejected: number of other examples.
    """
    kept, outcomes, contents = run_prepare(source, root / "out")
    if not good:
        assert kept is None, kept
        return
    assert kept is not None, outcomes
    expected = set(good)  # a repeated example is rejected
    assert collections.Counter(kept.values()) == collections.Counter(
        (pixels, caption) for _, pixels, caption in expected
    ), outcomes
    counts = collections.Counter(key for key, _, _ in expected)
    assert kept.keys() == {
        key if number == 1 else f"{key}~{number}"
        for key, count in counts.items()
        for number in range(1, count + 1)
    }
    for key, value in kept.items():
        assert any((key.rpartition("~")[0] or key, *value) == each for each in expected) or (
            (key, *value) in expected
        )
    assert sum(outcomes.values()) == len(good) + num_rejected, outcomes
    again = run_prepare(source, root / "again")[2]
    # The manifest has the name of the folder.
    del contents["manifest.json"], again["manifest.json"]
    assert again == contents


@contextlib.contextmanager
def make_folder():
    """Make a folder that is deleted at the end of the block, in memory if possible."""
    parent = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="messy [v2] ", dir=parent) as folder:
        yield pathlib.Path(folder)
