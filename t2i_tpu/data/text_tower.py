"""The text tower stored next to a data set's shards, and in the workdir of every run on it.

It makes it possible to sample from a run on any machine, without torch, a model hub or the data set.
"""

import contextlib
import os
import posixpath
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from t2i_tpu.data.manifest import TEXT_TOWER, EmbeddingContract, Manifest, StoredFile, TokenContract
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files, paths
from t2i_tpu.text import TextEncoder, make_encoder
from t2i_tpu.text.onnx_tower import OnnxEncoder


def export(encoder: TextEncoder, output: str) -> tuple[StoredFile, ...]:
    """Write an encoder's text tower into a subfolder of `output`, local or gs://.

    Args:
      encoder: the encoder to export.
      output: the folder of the data set.

    Returns:
      The files that were written, for the manifest of the data set.

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

    A file that already exists in the target with the right size is not copied again.

    Args:
      manifest: the manifest of the data set.
      source: the folder of the data set, local or gs://.
      target: the folder to copy to, local or gs://.

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
    """Return the encoder that a contract identifies.

    Args:
      contract: the contract of the embeddings or tokens in the manifest.
      manifest: the manifest of the data set.
      folder: the folder that contains the text tower, local or gs://. If the manifest lists no text
        tower, the encoder is made from its name in the contract.

    Raises:
      UserError: a file is missing or does not match the manifest, or the encoder does not exist.
    """
    if not manifest.text_tower:
        return make_encoder(contract.encoder)
    with _provide_local_folder(manifest, folder) as local:
        for stored in manifest.text_tower:
            _check_file(stored, local, folder)
        tower = os.path.join(local, TEXT_TOWER)
        return OnnxEncoder(tower, contract.encoder, manifest.embedding.weights_sha256)


@contextlib.contextmanager
def _provide_local_folder(manifest: Manifest, folder: str) -> Iterator[str]:
    """Yield a local folder with the text tower, because onnxruntime cannot read gs://.

    It is `folder` itself or, if `folder` is on gs://, a temporary folder with a copy.
    """
    if not paths.is_remote(folder):
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
    """Copy a file between local folders and gs://; the target appears when it is complete."""
    with files.write_atomically(target) as partial:
        tf.io.gfile.copy(source, partial, overwrite=True)


def _check_file(stored: StoredFile, folder: str, origin: str) -> None:
    """Raise UserError if a file does not match the manifest.

    Args:
      stored: the file's entry in the manifest.
      folder: the folder to read the file from.
      origin: the folder that the file was copied from, for the error message.
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
