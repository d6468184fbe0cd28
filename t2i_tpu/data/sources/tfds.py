"""Reads image classification data sets of tensorflow-datasets (TFDS)."""

from collections.abc import Iterator
from typing import Any

from absl import logging

from t2i_tpu.data.pipeline import disable_autotuning
from t2i_tpu.data.records import Record
from t2i_tpu.data.sources.source import Item, Unit, split_rows
from t2i_tpu.errors import UserError, get_first_line
from t2i_tpu.options import suggest

# TFDS's names for each split; the first one that exists is used.
_SPLITS = {"train": ("train",), "heldout": ("test", "validation")}
_PROBE_SECONDS = 10


class TfdsSource:
    """A data set given as NAME or NAME@DATA_DIR. A unit is a range of rows of one split."""

    def __init__(self, spec: str):
        self.name, _, data_dir = spec.partition("@")
        self.data_dir = data_dir or None

    def list_units(self) -> Iterator[Unit]:
        builder = prepare_builder(self.name, self.data_dir)
        for split in _SPLITS:
            for rows in split_rows(count_examples(builder, split)):
                yield rows | {"split": split}

    def list_files(self, unit: Unit) -> list[str]:
        builder = open_builder(self.name, self.data_dir)
        names = builder.info.splits[_find_split(builder, unit["split"])].filenames
        return [f"{builder.data_path}/{name}" for name in sorted(names)]

    def read(self, unit: Unit) -> Iterator[Item]:
        rows = unit["start"], unit["stop"]
        for record in read_tfds(self.name, self.data_dir, unit["split"], rows):
            yield Item(record.key, record.image, record.caption, record.label, split=unit["split"])

    def read_label_names(self) -> tuple[str, ...]:
        return get_label_names(prepare_builder(self.name, self.data_dir))


def read_tfds(
    name: str, data_dir: str | None, split: str, rows: tuple[int, int] | None = None
) -> Iterator[Record]:
    """Read the records of one split, in TFDS's order on disk.

    Args:
      name: the argument of `tfds.builder`, for example "cifar10", "emnist/letters" or
        "cifar10:3.0.2".
      data_dir: the folder in which TFDS stores prepared data, or None for its default.
      split: "train", or "heldout" for TFDS's test split or, if there is none, its validation split.
      rows: the range (start, stop) of rows to read, or None for all rows.

    Yields:
      Records with an image, uint8 [height, width, channels], a label, and the label's name as the
      caption.

    Raises:
      UserError: the data set cannot be prepared (see `prepare_builder`), or an example has no
        label.
    """
    import tensorflow_datasets as tfds

    builder = prepare_builder(name, data_dir)
    names = get_label_names(builder)
    tfds_split, start = _find_split(builder, split), 0
    if rows:
        start, stop = rows
        tfds_split += f"[{start}:{stop}]"
    examples = builder.as_dataset(
        split=tfds_split,
        shuffle_files=False,
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    for index, example in enumerate(tfds.as_numpy(disable_autotuning(examples)), start):
        label = int(example["label"])
        if label < 0:
            raise UserError(
                f"TFDS {name!r} has no labels in its {split} split; use another data set"
            )
        key = f"{split}-{index:06d}"
        yield Record(key, example["image"], caption=names[label], label=label)


def open_builder(name: str, data_dir: str | None) -> Any:
    """Return a `tfds.core.DatasetBuilder` without downloading its data.

    Args:
      name: the argument of `tfds.builder`.
      data_dir: the folder in which TFDS stores prepared data, or None for its default.

    Raises:
      UserError: TFDS is not installed or has no such data set, or the data set does not consist of
        labeled images of one size.
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
        hint = suggest(name, known) or "; see tfds.list_builders() for its names"
        raise UserError(f"TFDS has no data set {name!r}{hint}") from None
    except Exception as error:  # a bad version or config raises AssertionError, ValueError, ...
        raise UserError(
            f"TFDS cannot open {name!r}: {get_first_line(error)}; check name, config and version"
        ) from error
    features = dict(builder.info.features.items())
    has_images = isinstance(features.get("image"), tfds.features.Image)
    has_labels = isinstance(features.get("label"), tfds.features.ClassLabel)
    if not (has_images and has_labels):
        raise UserError(
            f"TFDS {name!r} is not an image classification data set, because it does not have the "
            "features 'image' and 'label'; use another data set"
        )
    if None in features["image"].shape:
        raise UserError(
            f"TFDS {name!r} has images of different sizes; use a data set with only one size"
        )
    return builder


def prepare_builder(name: str, data_dir: str | None) -> Any:
    """Return a builder, as `open_builder` does, after downloading and preparing its data.

    Raises:
      UserError: the builder cannot be opened (see `open_builder`), the download fails, or a split
        is missing.
    """
    builder = open_builder(name, data_dir)
    if not builder.is_prepared():
        _download_and_prepare(builder)
        builder = open_builder(name, data_dir)  # open it again to read the prepared data
    for split in _SPLITS:
        _find_split(builder, split)
    return builder


def get_label_names(builder: Any) -> tuple[str, ...]:
    """Return the class names of a prepared builder."""
    return tuple(builder.info.features["label"].names)


def count_examples(builder: Any, split: str) -> int:
    """Return the number of records that `read_tfds` yields."""
    return builder.info.splits[_find_split(builder, split)].num_examples


def _find_split(builder: Any, split: str) -> str:
    """Return TFDS's name for a split. Raises UserError if the data set has no such split."""
    for name in _SPLITS[split]:
        if name in builder.info.splits:
            return name
    raise UserError(
        f"TFDS {builder.name!r} has no {' or '.join(_SPLITS[split])} split, "
        f"only {', '.join(builder.info.splits)}; use another data set"
    )


def _download_and_prepare(builder: Any) -> None:
    """Download and prepare the data of a builder. Raises UserError if that fails."""
    import tensorflow_datasets as tfds

    try:
        _check_reachable(builder)
        logging.info("TFDS is downloading and preparing %s", builder.data_path)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # a download can raise anything
        if builder.is_prepared():  # by another process that finished first
            return
        raise UserError(
            f"TFDS could not download {builder.info.full_name} ({get_first_line(error)}); prepare it "
            "on a machine with network access "
            f"(tfds.builder({builder.name!r}).download_and_prepare()) and copy its folder to "
            f"{str(builder.data_path)!r}, or name another data_dir with "
            f"tfds:{builder.name}@DATA_DIR"
        ) from error


def _check_reachable(builder: Any) -> None:
    """Raise ConnectionError if there is no network, because TFDS would silently retry for minutes."""
    import requests

    if not builder.url_infos or _has_downloads(builder):
        return
    url = next(iter(builder.url_infos))
    try:
        requests.head(url, timeout=_PROBE_SECONDS, allow_redirects=True)
    except requests.RequestException as error:
        raise ConnectionError(f"{url} cannot be reached") from error


def _has_downloads(builder: Any) -> bool:
    """Return whether files of the data set have been downloaded before."""
    depth = builder.info.full_name.count("/")  # data_path is data_dir/name[/config]/version
    downloads = builder.data_path.parents[depth] / "downloads" / builder.name
    return downloads.exists() and any(downloads.glob("*.INFO"))
