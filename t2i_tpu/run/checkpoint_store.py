"""The checkpoints of a workdir: which exist and which are intact.

checkpoints/step-N.index, step-N.data-*   the variables, in the format of tf.train.Checkpoint
checkpoints/step-N.json                   the info file: sizes and hashes of the other files

The info file is written last, and a checkpoint without one does not count. The newest checkpoint is
the one with the highest step; file times are ignored.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator

import tensorflow as tf
from absl import logging

from t2i_tpu import __version__
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, json_files, paths

FORMAT_VERSION = 1
# Characters that have a meaning in TensorFlow's patterns of paths.
PATTERN_CHARACTERS = frozenset("*?[\\")
# The files of a checkpoint, finished or not. TensorFlow's unfinished files end in .tempstateN or are
# in a folder step-N_temp.
_FILE_NAME = re.compile(
    rf"step-(\d+)(\.json({re.escape(paths.PARTIAL_SUFFIX)})?|"
    r"(\.index|\.data-\d{5}-of-\d{5})(\.tempstate\d+)?|_temp\w*/?)"
)


class DamagedCheckpoint(Exception):
    """A checkpoint differs from the one that was written; the message says how."""


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """The content of a checkpoint's info file.

    Attributes:
      step: number of steps that were done.
      metrics: the scalars of the latest log line before the checkpoint.
      files: size in bytes and SHA-256 in hex of each file, by its name in the folder of checkpoints.
      package_version: the version of t2i_tpu that wrote the checkpoint.
      format_version: the format of the checkpoint.
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
        """Return the info as JSON. It includes its own hash, so any change can be detected."""
        fields = dataclasses.asdict(self)
        body = json.dumps(fields, indent=1, sort_keys=True)
        digest = hashlib.sha256(body.encode()).hexdigest()
        return json.dumps(fields | {"sha256": digest}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, content: bytes) -> "CheckpointInfo":
        """Parse the content of an info file.

        Raises:
          DamagedCheckpoint: the content is not exactly what `to_json` returned.
          UserError: a version of this package with another format wrote it.
        """

        def build(fields):
            info = cls._from_fields(fields)
            if info.to_json().encode() != content:
                raise ValueError("the file was changed")
            return info

        try:
            return json_files.parse(content, build)
        except json_files.DamagedJson:
            raise DamagedCheckpoint("its info file is damaged") from None

    @classmethod
    def _from_fields(cls, fields: dict) -> "CheckpointInfo":
        written_format, writer = fields.pop("format_version"), fields["package_version"]
        if type(written_format) is int and written_format != FORMAT_VERSION:
            raise UserError(
                f"a checkpoint has format {written_format}, written by t2i_tpu {writer}, but t2i_tpu "
                f"{__version__} reads format {FORMAT_VERSION}; use the version that wrote it, or "
                "another --workdir"
            )
        del fields["sha256"]
        measures = {name: (size, digest) for name, (size, digest) in fields.pop("files").items()}
        return cls(files=measures, **fields)


def get_folder(workdir: str) -> str:
    """Return the folder of a workdir's checkpoints."""
    return posixpath.join(workdir, "checkpoints")


def get_prefix(workdir: str, step: int) -> str:
    """Return the path of a checkpoint's files without their endings."""
    return posixpath.join(get_folder(workdir), f"step-{step}")


@contextlib.contextmanager
def provide_prefix(workdir: str, step: int) -> Iterator[str]:
    """Yield the prefix of a checkpoint as `tf.train.Checkpoint.read` accepts it.

    TensorFlow takes the prefix for a pattern. If a local path contains PATTERN_CHARACTERS, the prefix
    leads through a link whose name has none.
    """
    if paths.is_remote(workdir) or not set(workdir) & PATTERN_CHARACTERS:
        yield get_prefix(workdir, step)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "workdir")
        os.symlink(os.path.abspath(workdir), link)
        yield get_prefix(link, step)


def list_steps(workdir: str) -> list[int]:
    """Return the steps of the checkpoints that have an info file, intact or not, newest first."""
    steps = {step for step, name in _iter_files(workdir) if name == f"step-{step}.json"}
    return sorted(steps, reverse=True)


def read_info(workdir: str, step: int) -> CheckpointInfo:
    """Return the info of a checkpoint.

    Raises:
      DamagedCheckpoint: the info file is damaged, or belongs to another step.
      UserError: a version of this package with another format wrote it.
    """
    with tf.io.gfile.GFile(get_prefix(workdir, step) + ".json", "rb") as file:
        info = CheckpointInfo.from_json(file.read())
    if info.step != step:
        raise DamagedCheckpoint(f"its info file belongs to step {info.step}")
    return info


def verify(workdir: str, step: int) -> CheckpointInfo:
    """Read all files of a checkpoint, compare them with its info file and return the info.

    Raises:
      DamagedCheckpoint: a file is missing or was changed.
      UserError: a version of this package with another format wrote it.
    """
    info = read_info(workdir, step)
    for name, measure in info.files.items():
        try:
            if files.measure(posixpath.join(get_folder(workdir), name)) != measure:
                raise DamagedCheckpoint(f"{name} has changed since it was written")
        except tf.errors.NotFoundError:
            raise DamagedCheckpoint(f"{name} is missing") from None
    return info


def iter_intact(workdir: str, before: float = math.inf) -> Iterator[CheckpointInfo]:
    """Yield the intact checkpoints, newest first, and log a warning for each one that is skipped.

    Args:
      workdir: local or gs://.
      before: only checkpoints of steps below this one are considered.

    Raises:
      UserError: there are checkpoints but none is intact, or a version of this package with another
        format wrote one.
    """
    folder = get_folder(workdir)
    if not tf.io.gfile.exists(folder):
        return
    steps = [step for step in list_steps(workdir) if step < before]
    if not steps and tf.io.gfile.exists(posixpath.join(folder, "checkpoint")):
        raise UserError(
            f"{folder} was written by an old version of t2i_tpu, whose checkpoints have no info files; "
            "use that version, or another --workdir"
        )
    # Warn about unfinished checkpoints that are newer than every finished one.
    newest = max(steps, default=-1)
    for step in sorted(_list_unfinished(workdir), reverse=True):
        if newest < step < before:
            logging.warning("skipping the checkpoint of step %d: it was not fully written", step)

    has_intact = False
    for step in steps:
        try:
            info = verify(workdir, step)
        except DamagedCheckpoint as damage:
            logging.warning("skipping the checkpoint of step %d: %s", step, damage)
            continue
        has_intact = True
        yield info
    if steps and not has_intact:
        raise UserError(
            f"no checkpoint in {folder} is intact ({len(steps)} tried); restore one from a backup, "
            "or remove the folder to start over"
        )


def iter_steps(workdir: str, last: int | None = None) -> Iterator[int]:
    """Yield the steps of the intact checkpoints, newest first.

    Args:
      workdir: local or gs://.
      last: the step to begin with, or None for the newest intact checkpoint.

    Raises:
      UserError: there is no such checkpoint.
    """
    if last is None:
        infos = iter_intact(workdir)
        first = next(infos, None)
        if not first:
            raise UserError(f"{workdir!r} holds no checkpoint; train first, or check --workdir")
        yield first.step
    else:
        _check_step(workdir, last)
        yield last
        infos = iter_intact(workdir, before=last)
    yield from (info.step for info in infos)


def _check_step(workdir: str, step: int) -> None:
    """Raise UserError if there is no intact checkpoint of a step."""
    steps = list_steps(workdir)
    if step not in steps:
        known = ", ".join(map(str, steps[::-1])) or "none"
        raise UserError(f"{workdir} has no checkpoint of step {step}; it has {known}")
    try:
        verify(workdir, step)
    except DamagedCheckpoint as damage:
        raise UserError(
            f"--step={step}: the checkpoint in {workdir} is damaged ({damage}); choose another step"
        ) from damage


def commit(workdir: str, step: int, metrics: dict[str, float]) -> None:
    """Write the info file of a checkpoint whose other files are complete."""
    prefixes = f"step-{step}.index", f"step-{step}.data-"
    names = [name for _, name in _iter_files(workdir) if name.startswith(prefixes)]
    measures = {name: files.measure(posixpath.join(get_folder(workdir), name)) for name in names}
    info = CheckpointInfo(step, metrics, measures)
    files.write(get_prefix(workdir, step) + ".json", info.to_json())


def remove(workdir: str, step: int) -> None:
    """Remove a checkpoint, if it exists.

    The info file is removed first. If the removal is interrupted, the remaining files do not count
    as a checkpoint.
    """
    names = [name for owner, name in _iter_files(workdir) if owner == step]
    for name in sorted(names, key=lambda name: not name.endswith(".json")):
        path = posixpath.join(get_folder(workdir), name)
        if tf.io.gfile.isdir(path):
            tf.io.gfile.rmtree(path)
        else:
            tf.io.gfile.remove(path)


def remove_unfinished(workdir: str) -> None:
    """Remove the files that interrupted writes have left behind."""
    for step in _list_unfinished(workdir):
        remove(workdir, step)


def _list_unfinished(workdir: str) -> set[int]:
    """Return the steps of the checkpoints without an info file."""
    return {step for step, _ in _iter_files(workdir)} - set(list_steps(workdir))


def _iter_files(workdir: str) -> Iterator[tuple[int, str]]:
    """Yield the step and name of each file or folder that belongs to a checkpoint."""
    try:
        names = tf.io.gfile.listdir(get_folder(workdir))
    except tf.errors.NotFoundError:
        return
    for name in names:
        match = _FILE_NAME.fullmatch(name)
        if match:
            yield int(match[1]), name.rstrip("/")
