"""The folder that holds all that a run writes, and what makes it the same run.

config.json    the resolved config
manifest.json  the data set's manifest: what the model was trained on and with which embeddings
checkpoints/   previews/   logs/ (TensorBoard)
"""

import posixpath

import tensorflow as tf

from t2i_tpu.config import Config, differences, from_json, to_json
from t2i_tpu.data import gcs
from t2i_tpu.data.schema import MANIFEST_NAME, Manifest
from t2i_tpu.errors import UserError

CONFIG_NAME = "config.json"
# How often a run is looked at changes nothing in what it computes.
_FREE = ("steps_per_loop", "log_every", "preview_every", "checkpoint_every", "keep_checkpoints")


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
        if not line.startswith(tuple(f"config.train.{n}:" for n in _FREE))
    ]
    if changed:
        raise UserError(
            f"{workdir!r} holds a run of another config ({changed[0]}); use another --workdir or the same config"
        )
    if old_manifest != manifest:
        raise UserError(
            f"{workdir!r} holds a run on other data than {config.data.source!r} now is; use another --workdir"
        )


def write(workdir: str, config: Config, manifest: Manifest) -> None:
    """Makes the workdir that of this run.

    Raises:
      UserError: it cannot be written.
    """
    try:
        tf.io.gfile.makedirs(workdir)
        for name, text in ((MANIFEST_NAME, manifest.to_json()), (CONFIG_NAME, to_json(config))):
            path = posixpath.join(workdir, name)
            with tf.io.gfile.GFile(path + ".tmp", "w") as file:
                file.write(text)
            tf.io.gfile.rename(path + ".tmp", path, overwrite=True)
    except tf.errors.OpError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {gcs.reason(error)}") from error


def read(workdir: str) -> tuple[Config, Manifest]:
    """The config and manifest of a run.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    texts = []
    for name in (CONFIG_NAME, MANIFEST_NAME):
        path = posixpath.join(workdir, name)
        if not tf.io.gfile.exists(path):
            gcs.check_bucket(workdir)
            raise UserError(
                f"{workdir!r} holds no run: {name} is missing; train first, or check --workdir"
            )
        with tf.io.gfile.GFile(path) as file:
            texts.append(file.read())
    try:
        return from_json(texts[0]), Manifest.from_json(texts[1])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{workdir!r}: its {CONFIG_NAME} or {MANIFEST_NAME} is damaged or of another version: {error}"
        ) from error
