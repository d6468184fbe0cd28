"""The checkpoints of a workdir: which there are, which are whole, which are kept.

checkpoints/step-N.index, step-N.data-*   in the format of tf.train.Checkpoint
checkpoints/step-N.json                   the manifest: their sizes and hashes, written last

A checkpoint without a manifest does not exist. The newest is the one of the highest step, whatever
a clock says.
"""

import dataclasses
import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator

import tensorflow as tf
from absl import logging

from t2i_tpu import __version__
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, json_files

FORMAT_VERSION = 1
_FILE = re.compile(r"step-(\d+)[._].*")


class DamagedCheckpoint(Exception):
    """Why a checkpoint is not what was written."""


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint's manifest.

    Attributes:
      step: how many steps were done.
      metrics: of the latest log line before it.
      files: name -> (bytes, sha256), relative to the folder.
    """

    step: int
    metrics: dict[str, float]
    files: dict[str, tuple[int, str]]
    package_version: str = __version__
    format_version: int = FORMAT_VERSION

    @property
    def num_bytes(self) -> int:
        return sum(size for size, _ in self.files.values())

    def to_json(self) -> str:
        """With a hash of itself: any other byte is damage."""
        fields = dataclasses.asdict(self)
        body = json.dumps(fields, indent=1, sort_keys=True)
        digest = hashlib.sha256(body.encode()).hexdigest()
        return json.dumps(fields | {"sha256": digest}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, content: bytes) -> "CheckpointInfo":
        """Raises DamagedCheckpoint, or UserError where another version of this package wrote it."""

        def build(fields):
            info = cls._from_fields(fields)
            if info.to_json().encode() != content:
                raise ValueError("its hash or its spelling is another")
            return info

        try:
            return json_files.parse(content, build)
        except json_files.DamagedJson:
            raise DamagedCheckpoint("its manifest is damaged") from None

    @classmethod
    def _from_fields(cls, fields: dict) -> "CheckpointInfo":
        found = fields.pop("format_version"), fields["package_version"]
        if type(found[0]) is int and found[0] != FORMAT_VERSION:
            raise UserError(
                f"a checkpoint is of format {found[0]}, written by t2i_tpu {found[1]}; this is "
                f"{__version__}, which reads format {FORMAT_VERSION}: use that version, or "
                "another --workdir"
            )
        del fields["sha256"]
        sizes = {name: (size, digest) for name, (size, digest) in fields.pop("files").items()}
        return cls(files=sizes, **fields)


def get_folder(workdir: str) -> str:
    return posixpath.join(workdir, "checkpoints")


def get_prefix(workdir: str, step: int) -> str:
    """What tf.train.load_checkpoint takes."""
    return posixpath.join(get_folder(workdir), f"step-{step}")


def list_steps(workdir: str) -> list[int]:
    """Of the checkpoints that have a manifest, whether they are whole or not; newest first."""
    found = {step for step, name in _files(workdir) if name == f"step-{step}.json"}
    return sorted(found, reverse=True)


def read_info(workdir: str, step: int) -> CheckpointInfo:
    """The manifest of a checkpoint. Raises DamagedCheckpoint or UserError, as `CheckpointInfo.from_json`."""
    with tf.io.gfile.GFile(get_prefix(workdir, step) + ".json", "rb") as file:
        version = CheckpointInfo.from_json(file.read())
    if version.step != step:
        raise DamagedCheckpoint(f"its manifest is that of step {version.step}")
    return version


def verify(workdir: str, step: int) -> CheckpointInfo:
    """Reads a whole checkpoint. Raises DamagedCheckpoint or UserError."""
    version = read_info(workdir, step)
    for name, (size, digest) in version.files.items():
        try:
            if files.measure(posixpath.join(get_folder(workdir), name)) != (size, digest):
                raise DamagedCheckpoint(f"{name} is not what was written")
        except tf.errors.NotFoundError:
            raise DamagedCheckpoint(f"{name} is missing") from None
    return version


def iter_intact(workdir: str, before: float = math.inf) -> Iterator[CheckpointInfo]:
    """The checkpoints that verify, of steps below `before`, newest first; one line of warning for
    each that is passed over.

    Raises:
      UserError: there are checkpoints and none of them verifies, or another version wrote them.
    """
    if not tf.io.gfile.exists(get_folder(workdir)):
        return
    complete = [step for step in list_steps(workdir) if step < before]
    if not complete and tf.io.gfile.exists(posixpath.join(get_folder(workdir), "checkpoint")):
        raise UserError(
            f"{get_folder(workdir)} was written by t2i_tpu before its checkpoints had manifests; use "
            "that version, or another --workdir"
        )
    for step in sorted(
        {step for step, _ in _files(workdir)} - set(list_steps(workdir)), reverse=True
    ):
        if step < before and (not complete or step > complete[0]):
            logging.warning(
                "checkpoint of step %d passed over: it was not written to its end", step
            )
    found = False
    for step in complete:
        try:
            version = verify(workdir, step)
        except DamagedCheckpoint as damage:
            logging.warning("checkpoint of step %d passed over: %s", step, damage)
            continue
        found = True
        yield version
    if complete and not found:
        raise UserError(
            f"no checkpoint of {get_folder(workdir)} is whole ({len(complete)} tried); restore one from "
            "a copy, or remove the folder to start anew"
        )


def commit(workdir: str, step: int, metrics: dict[str, float]) -> None:
    """Writes the manifest of a checkpoint whose files are all there."""
    written = f"step-{step}.index", f"step-{step}.data-"
    names = [name for _, name in _files(workdir) if name.startswith(written)]
    measures = {name: files.measure(posixpath.join(get_folder(workdir), name)) for name in names}
    files.write(
        get_prefix(workdir, step) + ".json", CheckpointInfo(step, metrics, measures).to_json()
    )


def remove(workdir: str, step: int) -> None:
    """The manifest goes first, so that what is left at any moment is whole or nothing."""
    names = [name for found, name in _files(workdir) if found == step]
    for name in sorted(names, key=lambda name: not name.endswith(".json")):
        path = posixpath.join(get_folder(workdir), name)
        (tf.io.gfile.rmtree if tf.io.gfile.isdir(path) else tf.io.gfile.remove)(path)


def remove_unfinished(workdir: str) -> None:
    """What writes that were cut short have left."""
    for step in {step for step, _ in _files(workdir)} - set(list_steps(workdir)):
        remove(workdir, step)


@dataclasses.dataclass(frozen=True)
class Retention:
    """Which checkpoints stay."""

    last: int  # the newest
    every: int = 0  # those whose step it divides; 0 = none
    best: int = 0  # those of the lowest loss

    def expired_steps(self, workdir: str) -> list[int]:
        """The steps of checkpoints that may go."""
        complete = list_steps(workdir)
        losses = {step: _loss(workdir, step) for step in complete} if self.best else {}
        best = sorted(losses, key=losses.get)[: self.best]
        return [
            step
            for step in complete[self.last :]
            if not (self.every and step % self.every == 0) and step not in best
        ]


def _loss(workdir, step):
    try:
        return read_info(workdir, step).metrics.get("loss", float("inf"))
    except (DamagedCheckpoint, tf.errors.NotFoundError):
        return float("inf")


def _files(workdir) -> Iterable[tuple[int, str]]:
    """(step, name) of all that belongs to a checkpoint."""
    try:
        names = tf.io.gfile.listdir(get_folder(workdir))
    except tf.errors.NotFoundError:
        return
    for name in names:
        match = _FILE.fullmatch(name)
        if match:
            yield int(match[1]), name.rstrip("/")
