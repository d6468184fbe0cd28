"""Image classification data sets of tensorflow-datasets (TFDS)."""

import difflib
import os
from collections.abc import Iterator
from typing import Any

from absl import logging

from t2i_tpu.data.records import Record
from t2i_tpu.data.sources.source import Item, Unit, ranges
from t2i_tpu.errors import UserError

_SPLITS = {"train": ("train",), "heldout": ("test", "validation")}  # the first that there is
_PROBE_SECONDS = 10


class TfdsSource:
    """Both splits, in units of rows; NAME or NAME@DATA_DIR."""

    def __init__(self, spec: str):
        self.name, _, data_dir = spec.partition("@")
        self.data_dir = os.path.expanduser(data_dir) or None

    def units(self) -> Iterator[Unit]:
        builder = prepared_builder(self.name, self.data_dir)
        for split in _SPLITS:
            for rows in ranges(num_examples(builder, split)):
                yield rows | {"split": split}

    def read(self, unit: Unit) -> Iterator[Item]:
        rows = unit["start"], unit["stop"]
        for record in read_tfds(self.name, self.data_dir, unit["split"], rows):
            yield Item(record.key, record.image, record.caption, record.label, split=unit["split"])

    def label_names(self) -> tuple[str, ...]:
        return label_names(prepared_builder(self.name, self.data_dir))


def read_tfds(
    name: str, data_dir: str | None, split: str, rows: tuple[int, int] | None = None
) -> Iterator[Record]:
    """The records of one split, in the order that TFDS keeps them on disk.

    Args:
      name: as `tfds.builder` takes it: "cifar10", "emnist/letters", "cifar10:3.0.2".
      data_dir: where TFDS keeps prepared data; None is its own default.
      split: "train", or "heldout" for TFDS's test split, or else its validation split.
      rows: (start, stop), or all.

    Yields:
      Records with image uint8 [height, width, channels], label, and the label's name as caption.

    Raises:
      UserError: as `prepared_builder`, or where an example has no label.
    """
    import tensorflow_datasets as tfds

    builder = prepared_builder(name, data_dir)
    names = label_names(builder)
    examples = builder.as_dataset(
        split=_tfds_split(builder, split) + (f"[{rows[0]}:{rows[1]}]" if rows else ""),
        shuffle_files=False,
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    for index, example in enumerate(tfds.as_numpy(examples), rows[0] if rows else 0):
        label = int(example["label"])
        if label < 0:
            raise UserError(f"TFDS {name!r} has no labels in its {split} split; take another")
        key = f"{split}-{index:06d}"
        yield Record(key, example["image"], caption=names[label], label=label)


def open_builder(name: str, data_dir: str | None) -> Any:
    """A `tfds.core.DatasetBuilder` of labelled images of one size; downloads nothing.

    Raises:
      UserError: TFDS is not installed, does not know `name`, or has something else under it.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"tfds:{name} needs tensorflow-datasets ({error}); pip install -e '.[data]'"
        ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see tfds.list_builders()"
        raise UserError(f"TFDS has no data set {name!r}; {hint}") from None
    except Exception as error:  # a bad version or config raises AssertionError, ValueError, ...
        raise UserError(f"TFDS cannot open {name!r}: {_first_line(error)}") from error
    features = dict(builder.info.features.items())
    if not isinstance(features.get("image"), tfds.features.Image) or not isinstance(
        features.get("label"), tfds.features.ClassLabel
    ):
        raise UserError(f"TFDS {name!r} is not image classification; it needs 'image' and 'label'")
    if None in features["image"].shape:
        raise UserError(f"TFDS {name!r} has images of many sizes; take a data set with one size")
    return builder


def prepared_builder(name: str, data_dir: str | None) -> Any:
    """As `open_builder`, downloaded and prepared.

    Raises:
      UserError: as `open_builder`, or the download fails, or a split is missing.
    """
    builder = open_builder(name, data_dir)
    if not builder.is_prepared():
        _download_and_prepare(builder)
        builder = open_builder(name, data_dir)  # from disk, whoever prepared it
    for split in _SPLITS:
        _tfds_split(builder, split)
    return builder


def label_names(builder: Any) -> tuple[str, ...]:
    """The class names of a prepared builder."""
    return tuple(builder.info.features["label"].names)


def num_examples(builder: Any, split: str) -> int:
    """The number of records that `read_tfds` yields."""
    return builder.info.splits[_tfds_split(builder, split)].num_examples


def _tfds_split(builder: Any, split: str) -> str:
    for name in _SPLITS[split]:
        if name in builder.info.splits:
            return name
    raise UserError(
        f"TFDS {builder.name!r} has no {' or '.join(_SPLITS[split])} split, "
        f"only {', '.join(builder.info.splits)}; take another data set"
    )


def _download_and_prepare(builder: Any) -> None:
    import tensorflow_datasets as tfds

    try:
        _check_reachable(builder)
        logging.info("TFDS downloads and prepares %s", builder.data_path)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # what a download can raise is open-ended
        if builder.is_prepared():  # another process was first
            return
        raise UserError(
            f"TFDS could not download {builder.info.full_name} ({_first_line(error)}); prepare it "
            f"on a machine with a network (tfds.builder({builder.name!r}).download_and_prepare()), "
            f"copy its folder to {str(builder.data_path)!r}, or name its data_dir: "
            f"tfds:{builder.name}@DATA_DIR"
        ) from error


def _check_reachable(builder: Any) -> None:
    """One quick request: without a network TFDS itself tries again for minutes and says nothing."""
    import requests

    if not builder.url_infos or _has_downloads(builder):
        return
    url = next(iter(builder.url_infos))
    try:
        requests.head(url, timeout=_PROBE_SECONDS, allow_redirects=True)
    except requests.RequestException as error:
        raise ConnectionError(f"{url} cannot be reached") from error


def _has_downloads(builder: Any) -> bool:
    depth = builder.info.full_name.count("/")  # data_path is data_dir/name[/config]/version
    downloads = builder.data_path.parents[depth] / "downloads" / builder.name
    return downloads.exists() and any(downloads.glob("*.INFO"))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
