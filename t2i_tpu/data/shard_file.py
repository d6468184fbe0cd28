"""One shard as a whole: its records, and which of them are damaged.

A TFRecord is its length (uint64), the length's checksum, the data and the data's checksum (masked
CRC32C, uint32, all little-endian).
"""

import struct

import numpy as np
import tensorflow as tf
from absl import logging

from t2i_tpu.errors import UserError

_HEADER = 12  # bytes before the data; 4 follow it


def read_shard(path: str, num_examples: int, on_damage: str) -> tf.Tensor:
    """The serialized examples of a shard that is damaged, a string tensor [num_examples].

    Args:
      on_damage: "raise", or "skip": a damaged record's place is given to the next whole one, so
        that every other example keeps its place, and a warning counts them.

    Raises:
      UserError: naming shard and record, if the shard is damaged and `on_damage` is "raise", or
        has no whole record.
    """
    found = read_intact_records(path, num_examples)
    damaged = [index for index, record in enumerate(found) if record is None]
    if damaged and (on_damage == "raise" or len(damaged) == num_examples):
        raise _damaged(path, damaged, num_examples)
    if damaged:
        numbers = listed(damaged)
        logging.warning("%s: skipped %d damaged record(s): %s", path, len(damaged), numbers)
    for index in damaged:
        places = (found[(index + step) % num_examples] for step in range(num_examples))
        found[index] = next(record for record in places if record is not None)
    return tf.constant(found)


def check_shard(path: str, num_examples: int) -> None:
    """Raises UserError where a record is damaged, naming it."""
    try:
        for _ in tf.data.TFRecordDataset(path, buffer_size=1 << 20).batch(1024):
            pass
    except tf.errors.DataLossError:
        found = read_intact_records(path, num_examples)
        damaged = [index for index, record in enumerate(found) if record is None]
        raise _damaged(path, damaged, num_examples) from None


def _damaged(path, damaged, num_examples):
    return UserError(
        f"shard {path} is damaged at record {listed(damaged)} of {num_examples}; restore it, run "
        "launch/audit_data.py --repair on its folder, or set config.data.on_damage=skip"
    )


def listed(numbers: list[int]) -> str:
    """The first five."""
    return ", ".join(map(str, numbers[:5])) + ", ..." * (len(numbers) > 5)


def read_intact_records(path: str, num_examples: int) -> list[bytes | None]:
    """The data of each record of a shard; None where its checksum is wrong.

    Nothing can be found after a damaged length: that record and those after it are None.
    """
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    records, sums, position = [], [], 0
    while len(records) < num_examples and position + _HEADER <= len(content):
        length, length_sum = struct.unpack_from("<QI", content, position)
        end = position + _HEADER + length
        (right,) = _masked_crc32c([content[position : position + 8]])
        if length_sum != right or end + 4 > len(content):
            break
        records.append(content[position + _HEADER : end])
        sums.append(struct.unpack_from("<I", content, end)[0])
        position = end + 4
    right = _masked_crc32c(records)
    checked = [
        record if one == other else None
        for record, one, other in zip(records, sums, right, strict=True)
    ]
    return checked + [None] * (num_examples - len(checked))


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_TABLE = _crc_table()


def _masked_crc32c(blocks: list[bytes]) -> list[int]:
    """TFRecord's checksum of each block; byte by byte, but of all blocks at once."""
    order = sorted(range(len(blocks)), key=lambda index: -len(blocks[index]))
    lengths = np.array([len(blocks[index]) for index in order], np.int64)
    longest = int(lengths.max(initial=0))
    data = np.zeros((longest, len(blocks)), np.uint8)
    for column, index in enumerate(order):
        data[: len(blocks[index]), column] = np.frombuffer(blocks[index], np.uint8)
    crc = np.full(len(blocks), 0xFFFFFFFF, np.uint32)
    active = np.searchsorted(-lengths, -np.arange(longest), side="left")  # longer than the place
    for row, count in zip(data, active, strict=True):
        crc[:count] = _TABLE[(crc[:count] ^ row[:count]) & 0xFF] ^ (crc[:count] >> 8)
    crc = ~crc
    masked = ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
    found = np.empty(len(blocks), np.uint32)
    found[order] = masked
    return found.tolist()
