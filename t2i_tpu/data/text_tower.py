"""The text tower stored next to a data set's shards, and in the workdir of every run on it.

With it a run can be sampled on any machine: without torch, without a model hub and without the data
set.
"""

import contextlib
import os
import posixpath
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.data.manifest import TEXT_TOWER, EmbeddingContract, Manifest, StoredFile, TokenContract
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files
from t2i_tpu.text import TextEncoder, make_encoder
from t2i_tpu.text.onnx_tower import OnnxEncoder


def export(encoder: TextEncoder, output: str) -> tuple[StoredFile, ...]:
    """Write an encoder's text tower into a subfolder of `output`, local or gs://.

    Returns:
      The files, for the manifest of the data set in `output`.

    Raises:
      UserError: the text tower cannot be exported exactly.
    """
    stored_files = []
    with tempfile.TemporaryDirectory() as folder:
        encoder.export(folder)
        tf.io.gfile.makedirs(posixpath.join(output, TEXT_TOWER))
        for name in sorted(os.listdir(folder)):
            source = os.path.join(folder, name)
            stored = StoredFile(f"{TEXT_TOWER}/{name}", *files.measure(source))
            _copy_file(source, posixpath.join(output, stored.file))
            stored_files.append(stored)
    return tuple(stored_files)


def copy(manifest: Manifest, source: str, target: str) -> None:
    """Copy a data set's text tower, if it has one, from one folder into another.

    A file that is in the target already, with the right size, is not copied again.

    Args:
      manifest: of the data set.
      source: the folder of the data set.
      target: another folder, local or gs://.

    Raises:
      UserError: a file is missing or does not match the manifest.
    """
    for stored in manifest.text_tower or ():
        path = posixpath.join(target, stored.file)
        if tf.io.gfile.exists(path) and tf.io.gfile.stat(path).length == stored.num_bytes:
            continue
        _check_file(stored, source, source)
        tf.io.gfile.makedirs(posixpath.dirname(path))
        _copy_file(posixpath.join(source, stored.file), path)


def open_encoder(
    contract: EmbeddingContract | TokenContract, manifest: Manifest, folder: str
) -> TextEncoder:
    """Return the encoder of a manifest's contract.

    It is the text tower in `folder`, local or gs://. If the manifest has no text tower, it is the
    encoder that the contract names.

    Raises:
      UserError: a file is missing or does not match the manifest, or the encoder does not exist.
    """
    if not manifest.text_tower:
        return make_encoder(contract.encoder)
    with _make_local(manifest, folder) as local:
        for stored in manifest.text_tower:
            _check_file(stored, local, folder)
        tower = os.path.join(local, TEXT_TOWER)
        return OnnxEncoder(tower, contract.encoder, manifest.embedding.weights_sha256)


@contextlib.contextmanager
def _make_local(manifest: Manifest, folder: str) -> Iterator[str]:
    """Yield a local folder with the text tower, because onnxruntime cannot read gs://.

    It is `folder` itself, or a temporary folder if `folder` is on gs://.
    """
    if not folder.startswith("gs://"):
        yield folder
        return
    with tempfile.TemporaryDirectory() as local:
        os.mkdir(os.path.join(local, TEXT_TOWER))
        for stored in manifest.text_tower:
            source = posixpath.join(folder, stored.file)
            with _translate_read_errors(source):
                _copy_file(source, os.path.join(local, stored.file))
        yield local


def _copy_file(source: str, target: str) -> None:
    with files.write_atomically(target) as partial:
        tf.io.gfile.copy(source, partial, overwrite=True)


def _check_file(stored: StoredFile, folder: str, origin: str) -> None:
    """Raise UserError if a file does not match the manifest.

    Args:
      stored: the file's entry in the manifest.
      folder: where to read the file.
      origin: the folder that the file came from, which the error message names.
    """
    source = posixpath.join(origin, stored.file)
    with _translate_read_errors(source):
        measured = files.measure(posixpath.join(folder, stored.file))
    if measured != (stored.num_bytes, stored.sha256):
        raise UserError(
            f"{source} is not the text tower that made the data set's embeddings; "
            "copy it again from the original data set"
        )


@contextlib.contextmanager
def _translate_read_errors(path: str) -> Iterator[None]:
    """Raise UserError in place of TensorFlow's error on reading `path`."""
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise UserError(
            f"{path}, a file of the text tower, is missing; copy it again from the original data "
            "set"
        ) from error
    except tf.errors.OpError as error:
        raise UserError(f"{path} cannot be read: {files.explain_error(path, error)}") from error
