"""The folder that holds everything a run writes, and the files that identify the run.

config.json     the resolved config
manifest.json   the manifest of the data set that the model is trained on
text_tower/     a copy of the data set's text tower, if it has one; it encodes prompts
lock.json       the process that is writing here (storage/lock.py)
rollbacks.json  the rollbacks of --on_nonfinite=rollback (run/rollbacks.py)
checkpoints/    the checkpoints (run/checkpoint_store.py)
previews/       pictures
evaluations/    figures of config.train.evaluate_every (run/evaluations.py)
logs/           for TensorBoard
"""

import os
import posixpath

import tensorflow as tf

from t2i_tpu.config import Config, differences, fields, from_dict, get, to_json
from t2i_tpu.data import text_tower
from t2i_tpu.data.manifest import MANIFEST_NAME, Manifest
from t2i_tpu.errors import UserError
from t2i_tpu.run import checkpoint_store
from t2i_tpu.storage import files, gcs, json_files, outputs, paths

CONFIG_NAME = "config.json"
# What a run that was killed at its start may have left.
_FIRST_NAMES = ("lock.json", "logs", text_tower.TEXT_TOWER)
# Fields that may change when a run is resumed. They do not affect the result of a step, except that
# data.on_damage decides how a damaged record is treated. The data set may have been moved; its manifest
# is compared.
_CHANGEABLE = (
    "data.source",
    "data.on_damage",
    "train.steps_per_loop",
    "train.log_every",
    "train.preview_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.keep_every",
    "train.keep_best",
    "train.best_metric",
    "train.evaluate_every",
    "train.max_skipped",
    "train.shard_state",
    "preview.captions",
    *[name for name in fields() if name.startswith("sample.")],
)


def check(workdir: str, config: Config, manifest: Manifest) -> None:
    """Check that a run can be started or resumed in a workdir.

    Raises:
      UserError: the workdir holds something else, or a run with another config or another data set,
        or it cannot be used.
    """
    if not tf.io.gfile.exists(posixpath.join(workdir, CONFIG_NAME)):
        _check_unused(workdir, manifest)
        return
    old_config, old_manifest = read(workdir)
    changeable = tuple(f"config.{name}:" for name in _CHANGEABLE)
    changes = [line for line in differences(old_config, config) if not line.startswith(changeable)]
    if changes:
        name = changes[0].partition(":")[0]
        value = get(old_config, name.removeprefix("config."))
        others = f", and {len(changes) - 1} more fields differ" if len(changes) > 1 else ""
        raise UserError(
            f"{workdir!r} holds a run with another config ({changes[0]}, where the first value is the "
            f"run's{others}); resume it with --{name}={value}, or use another --workdir"
        )
    if old_manifest != manifest:
        raise UserError(
            f"{workdir!r} holds a run that was trained on other data than {config.data.source!r} now "
            "contains; use another --workdir or the same data"
        )


def _check_unused(workdir: str, manifest: Manifest) -> None:
    """Raise UserError if a workdir without a config cannot be used, or holds files of something else."""
    gcs.check_bucket(workdir, write=True)
    outputs.check_folder(workdir, "--workdir=")
    if paths.is_remote(workdir) and set(workdir) & checkpoint_store.PATTERN_CHARACTERS:
        raise UserError(
            f"--workdir={workdir}: TensorFlow cannot read checkpoints from a gs:// path that contains "
            "*, ?, [ or \\; choose another name"
        )
    names = [name for name in outputs.list_visible(workdir) if name not in _FIRST_NAMES]
    if MANIFEST_NAME in names and _read_file(workdir, MANIFEST_NAME) == manifest.to_json().encode():
        names.remove(MANIFEST_NAME)
    if names:
        raise UserError(
            f"--workdir={workdir} holds files that are not a run's ({outputs.describe_names(names)}); "
            "choose a new folder"
        )


def write(workdir: str, config: Config, manifest: Manifest, data_folder: str) -> None:
    """Write the files that identify a run.

    Args:
      workdir: local or gs://; it is created if necessary.
      config: a resolved config.
      manifest: the manifest of the data set.
      data_folder: folder of the data set; its text tower is copied.

    Raises:
      UserError: the workdir cannot be written, or the data set's text tower is damaged.
    """
    try:
        tf.io.gfile.makedirs(workdir)
        text_tower.copy(manifest, data_folder, workdir)
        files.write(posixpath.join(workdir, MANIFEST_NAME), manifest.to_json())
        files.write(posixpath.join(workdir, CONFIG_NAME), to_json(config))
    except tf.errors.OpError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written: {files.explain_error(workdir, error)}"
        ) from error


def read(workdir: str) -> tuple[Config, Manifest]:
    """Return the config and the data set's manifest of a run.

    Raises:
      UserError: the workdir holds no run, or its files cannot be read.
    """
    contents = []
    for name in (CONFIG_NAME, MANIFEST_NAME):
        if not tf.io.gfile.exists(posixpath.join(workdir, name)):
            gcs.check_bucket(workdir)
            outputs.check_folder(workdir, "")
            _check_readable(workdir)
            raise UserError(
                f"{workdir!r} holds no run: {name} is missing; train first, or check --workdir"
            )
        contents.append(_read_file(workdir, name))
    try:
        return json_files.parse(contents[0], from_dict), Manifest.from_json(contents[1])
    except (UserError, json_files.DamagedJson) as error:
        raise UserError(
            f"{workdir!r}: {CONFIG_NAME} or {MANIFEST_NAME} is damaged, or another version of "
            f"t2i_tpu wrote it ({error}); restore the file from a backup, or use that version"
        ) from error


def _check_readable(workdir: str) -> None:
    """Raise UserError if a local folder may not be read. TensorFlow takes its files for missing."""
    try:
        if not paths.is_remote(workdir):
            os.stat(posixpath.join(workdir, CONFIG_NAME))
    except PermissionError as error:
        raise UserError(f"{workdir!r} cannot be read; get permission to read it") from error
    except OSError:
        pass  # it does not exist


def _read_file(workdir: str, name: str) -> bytes:
    with tf.io.gfile.GFile(posixpath.join(workdir, name), "rb") as file:
        return file.read()
