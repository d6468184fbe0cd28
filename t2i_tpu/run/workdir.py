"""The folder that holds all that a run writes, and what makes it the same run.

config.json     the resolved config
manifest.json   the data set's manifest: what the model was trained on and with which embeddings
text_tower/     a copy of the data set's, where it has one: what prompts are encoded with
lock.json       the process that is writing here (run/lock.py)
rollbacks.json  what --on_nonfinite=rollback did (train/nonfinite.py)
checkpoints/    (run/checkpoint_store.py)   previews/   logs/ (TensorBoard)
"""

import posixpath

import tensorflow as tf

from t2i_tpu.config import Config, differences, from_dict, to_json
from t2i_tpu.data import text_tower
from t2i_tpu.data.manifest import MANIFEST_NAME, Manifest
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, gcs, json_files

CONFIG_NAME = "config.json"
# How often a run is looked at changes nothing in what it computes; damage may be met on the way.
_FREE = (
    "data.on_damage",
    "train.steps_per_loop",
    "train.log_every",
    "train.preview_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.keep_every",
    "train.keep_best",
    "train.max_skipped",
)


def check(workdir: str, config: Config, manifest: Manifest) -> None:
    """Raises UserError where the workdir holds a run of another config or another data set, or
    its bucket cannot be used."""
    if not tf.io.gfile.exists(posixpath.join(workdir, CONFIG_NAME)):
        gcs.check_bucket(workdir, write=True)
        return
    old_config, old_manifest = read(workdir)
    changed = [
        line
        for line in differences(old_config, config)
        if not line.startswith(tuple(f"config.{name}:" for name in _FREE))
    ]
    if changed:
        raise UserError(
            f"{workdir!r} holds a run of another config ({changed[0]}); use another --workdir or the same config"
        )
    if old_manifest != manifest:
        raise UserError(
            f"{workdir!r} holds a run on other data than {config.data.source!r} now is; use another --workdir"
        )


def write(workdir: str, config: Config, manifest: Manifest, data_folder: str) -> None:
    """Makes the workdir that of this run on the data set in `data_folder`.

    Raises:
      UserError: it cannot be written; the data set's text tower is damaged.
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
    """The config and manifest of a run.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    contents = []
    for name in (CONFIG_NAME, MANIFEST_NAME):
        path = posixpath.join(workdir, name)
        if not tf.io.gfile.exists(path):
            gcs.check_bucket(workdir)
            raise UserError(
                f"{workdir!r} holds no run: {name} is missing; train first, or check --workdir"
            )
        with tf.io.gfile.GFile(path, "rb") as file:
            contents.append(file.read())
    try:
        return json_files.parse(contents[0], from_dict), Manifest.from_json(contents[1])
    except (UserError, json_files.DamagedJson) as error:
        raise UserError(
            f"{workdir!r}: its {CONFIG_NAME} or {MANIFEST_NAME} is damaged or of another version: {error}"
        ) from error
