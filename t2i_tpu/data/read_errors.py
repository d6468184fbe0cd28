"""Translates errors of the input pipeline into errors that name the shard and say what to do."""

import contextlib
import posixpath
from collections.abc import Callable, Iterator

import tensorflow as tf

from t2i_tpu.data import shard_file
from t2i_tpu.data.manifest import Shard
from t2i_tpu.data.reader import Dataset
from t2i_tpu.errors import UserError


@contextlib.contextmanager
def translate_data_errors(
    dataset: Dataset,
    is_reading: Callable[[], bool] = lambda: True,
    list_suspects: Callable[[Dataset], list[Shard]] = lambda _: [],
) -> Iterator[None]:
    """Raise UserError if reading a data set fails inside the block.

    A record with a wrong checksum is reported with its shard and index. `open_dataset` cannot find
    it, because it checks only the size of each shard. A record that cannot be parsed is reported too.

    Args:
      dataset: the data set that is read.
      is_reading: a function that returns whether the code inside the block was waiting for data when
        it failed. This is needed because a training step raises the same classes of errors.
      list_suspects: a function that returns the shards that were probably being read. They are
        searched first for damaged records, because reading a large data set takes hours.

    Raises:
      UserError: a record is damaged or does not match the manifest.
    """
    try:
        yield
    except UnicodeDecodeError as error:  # from TensorFlow's message, which quotes the record
        raise _make_parse_error(dataset, "it is not a tf.train.Example") from error
    except tf.errors.OpError as error:
        if dataset.errors:
            raise dataset.errors[0] from error
        if isinstance(error, tf.errors.DataLossError):
            _check_shards(dataset, list_suspects(dataset))
        if isinstance(error, tf.errors.InvalidArgumentError) and is_reading():
            lines = [line for line in error.message.splitlines() if line.strip()]
            raise _make_parse_error(dataset, lines[0][:200] if lines else "?") from error
        raise


def _check_shards(dataset: Dataset, suspects: list[Shard]) -> None:
    """Raise UserError if a record of the data set is damaged. Read the suspects first."""
    splits = dataset.manifest.splits.values()
    shards = [shard for streams in splits for stream in streams for shard in stream]
    for shard in dict.fromkeys([*suspects, *shards]):
        path = posixpath.join(dataset.folder, shard.file)
        shard_file.check_shard(path, shard.num_examples)


def _make_parse_error(dataset: Dataset, reason: str) -> UserError:
    return UserError(
        f"a record in {dataset.folder} does not match its manifest ({reason}); prepare the "
        "data set again"
    )
