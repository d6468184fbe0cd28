"""Reads one complete shard, and finds out which of its records are damaged.

A record of a TFRecord file is the length of the data (uint64), the checksum of the length, the data
and the checksum of the data. The checksums are masked CRC32C (uint32), and all numbers are
little-endian.
"""

import dataclasses
import itertools
import struct
import sys
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from t2i_tpu.data.pipeline import disable_autotuning
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files

_HEADER_BYTES = 12  # length and its checksum
_CHECKSUM_BYTES = 4


def read_shard(path: str, num_examples: int, on_damage: str) -> tf.Tensor:
    """Return the serialized examples of a shard that may be damaged, string [num_examples].

    Args:
      path: the path of the shard, local or gs://.
      num_examples: the number of records in the shard.
      on_damage: "raise" or "skip". With "skip", each damaged record is replaced by a copy of the
        next intact one, so all other examples keep their positions, and a warning lists the damaged
        records.

    Raises:
      UserError: a record is damaged and `on_damage` is "raise", or all records are damaged. The
        message names the shard and the records.
    """
    records = read_intact_records(path, num_examples)
    damaged = [index for index, record in enumerate(records) if record is None]
    if damaged and (on_damage == "raise" or len(damaged) == num_examples):
        raise _make_error(path, damaged, num_examples)
    if damaged:
        indices = format_indices(damaged)
        logging.warning("%s: skipped %d damaged record(s): %s", path, len(damaged), indices)
    for index in damaged:
        following = (records[(index + step) % num_examples] for step in range(num_examples))
        records[index] = next(record for record in following if record is not None)
    return tf.constant(records)


def check_shard(path: str, num_examples: int) -> None:
    """Raise UserError if a shard has damaged records. The message names the shard and the records."""
    try:
        records = tf.data.TFRecordDataset(path, buffer_size=1 << 20).batch(1024)
        for _ in disable_autotuning(records):
            pass
    except tf.errors.DataLossError:
        records = read_intact_records(path, num_examples)
        damaged = [index for index, record in enumerate(records) if record is None]
        raise _make_error(path, damaged, num_examples) from None


def read_intact_records(path: str, num_examples: int) -> list[bytes | None]:
    """Return the data of each record of a shard, with None for damaged records.

    If the length of a record is damaged, the records after it cannot be found and are None too.
    """
    stored = list(itertools.islice(iter_records(path, sys.maxsize), num_examples))
    checksums = masked_crc32c([record.data for record in stored])
    intact = [
        record.data if record.checksum == checksum else None
        for record, checksum in zip(stored, checksums, strict=True)
    ]
    return intact + [None] * (num_examples - len(intact))


@dataclasses.dataclass(frozen=True)
class StoredRecord:
    """The data of a record, and the checksum that is stored with it. They may not match."""

    data: bytes
    checksum: int

    def is_intact(self) -> bool:
        """Return whether the checksum matches. This takes 0.1 seconds for a megabyte."""
        return _mask(_compute_crc32c(self.data)) == self.checksum


# Stands for a record that cannot be found. Its checksum does not match.
HIDDEN = StoredRecord(b"", 0)


def iter_records(path: str, num_bytes: int) -> Iterator[StoredRecord]:
    """Yield the records of a shard, without checking their data.

    Only as much of the shard is read as is needed. The records end where a length is damaged,
    because the next record cannot be found.

    Args:
      path: the path of the shard, local or gs://.
      num_bytes: the size of the shard.
    """
    content, position = b"", 0
    for block in files.read_blocks(path, num_bytes):
        content, position = content[position:] + block, 0
        while position + _HEADER_BYTES <= len(content):
            length, checksum = struct.unpack_from("<QI", content, position)
            if checksum != _mask(_compute_crc32c(content[position : position + 8])):
                return
            end = position + _HEADER_BYTES + length
            if end + _CHECKSUM_BYTES > len(content):
                break
            (checksum,) = struct.unpack_from("<I", content, end)
            yield StoredRecord(content[position + _HEADER_BYTES : end], checksum)
            position = end + _CHECKSUM_BYTES


def format_indices(indices: list[int]) -> str:
    """Return the first five indices, separated by commas, and "..." if there are more."""
    first = ", ".join(map(str, indices[:5]))
    return f"{first}, ..." if len(indices) > 5 else first


def masked_crc32c(blocks: list[bytes]) -> list[int]:
    """Return TFRecord's checksum of each block.

    The checksums are computed byte by byte in numpy, for all blocks at once.
    """
    # Sort the blocks by length, longest first. The blocks that have a byte at a given position are
    # then the first columns of `data`.
    order = sorted(range(len(blocks)), key=lambda index: -len(blocks[index]))
    lengths = np.array([len(blocks[index]) for index in order], np.int64)
    longest = int(lengths.max(initial=0))
    data = np.zeros((longest, len(blocks)), np.uint8)
    for column, index in enumerate(order):
        data[: len(blocks[index]), column] = np.frombuffer(blocks[index], np.uint8)
    num_active = np.searchsorted(-lengths, -np.arange(longest), side="left")

    # Update the checksums of the active blocks with one byte of each.
    crc = np.full(len(blocks), 0xFFFFFFFF, np.uint32)
    for row, count in zip(data, num_active, strict=True):
        crc[:count] = _TABLE[(crc[:count] ^ row[:count]) & 0xFF] ^ (crc[:count] >> 8)
    crc = ~crc

    # Restore the order of the blocks.
    checksums = np.empty(len(blocks), np.uint32)
    checksums[order] = crc
    return [_mask(checksum) for checksum in checksums.tolist()]


def _compute_crc32c(block: bytes) -> int:
    """Return the CRC32C of one block. For many blocks, `masked_crc32c` is faster."""
    crc = 0xFFFFFFFF
    for byte in block:
        crc = _TABLE_LIST[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _mask(crc: int) -> int:
    """Return a CRC32C in the form that TFRecord stores."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _make_crc_table() -> np.ndarray:
    """Return the CRC32C of each byte, uint32 [256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_TABLE = _make_crc_table()
_TABLE_LIST = _TABLE.tolist()


def _make_error(path: str, damaged: list[int], num_examples: int) -> UserError:
    return UserError(
        f"shard {path} is damaged at record {format_indices(damaged)} of {num_examples}; restore "
        "it, run launch/audit_data.py --repair on its folder, or set config.data.on_damage=skip"
    )
