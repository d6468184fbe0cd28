"""The text tower that lies beside a data set's shards, and with every run that was trained on them.

So a run is prompted on any machine: without torch, without a hub, and without its data set.
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
    """Writes an encoder's text tower below the folder `output`, local or gs://.

    Raises:
      UserError: the encoder has none that can be exported faithfully.
    """
    stored = []
    with tempfile.TemporaryDirectory() as folder:
        encoder.export(folder)
        tf.io.gfile.makedirs(posixpath.join(output, TEXT_TOWER))
        for name in sorted(os.listdir(folder)):
            source = os.path.join(folder, name)
            stored.append(StoredFile(f"{TEXT_TOWER}/{name}", *files.measure(source)))
            _copy(source, posixpath.join(output, stored[-1].file))
    return tuple(stored)


def copy(manifest: Manifest, source: str, target: str) -> None:
    """Copies a data set's text tower, if it has one, from the folder that holds it into another;
    what is there at its full size is left as it is.

    Raises:
      UserError: a file is missing or is not what the manifest says.
    """
    for one in manifest.text_tower or ():
        path = posixpath.join(target, one.file)
        if tf.io.gfile.exists(path) and tf.io.gfile.stat(path).length == one.num_bytes:
            continue
        _check(one, source, source)
        tf.io.gfile.makedirs(posixpath.dirname(path))
        _copy(posixpath.join(source, one.file), path)


def open_encoder(
    contract: EmbeddingContract | TokenContract, manifest: Manifest, folder: str
) -> TextEncoder:
    """The encoder of a contract of the manifest: the text tower that lies in `folder`, local or
    gs://, or, where the manifest has none, what the contract names.

    Raises:
      UserError: a file is missing or is not what the manifest says; no such encoder.
    """
    if not manifest.text_tower:
        return make_encoder(contract.encoder)
    with _local(manifest, folder) as local:
        for one in manifest.text_tower:
            _check(one, local, folder)
        tower = os.path.join(local, TEXT_TOWER)
        return OnnxEncoder(tower, contract.encoder, manifest.embedding.weights_sha256)


@contextlib.contextmanager
def _local(manifest: Manifest, folder: str) -> Iterator[str]:
    """The folder, or for as long as needed a copy of its tower: onnxruntime reads no gs://."""
    if not folder.startswith("gs://"):
        yield folder
        return
    with tempfile.TemporaryDirectory() as local:
        os.mkdir(os.path.join(local, TEXT_TOWER))
        for one in manifest.text_tower:
            source = posixpath.join(folder, one.file)
            with _reading(source):
                _copy(source, os.path.join(local, one.file))
        yield local


def _copy(source: str, target: str) -> None:
    with files.write_atomically(target) as partial:
        tf.io.gfile.copy(source, partial, overwrite=True)


def _check(one: StoredFile, folder: str, origin: str) -> None:
    """Whether it is in `folder` what the manifest says; it is from the folder `origin`."""
    source = posixpath.join(origin, one.file)
    with _reading(source):
        found = files.measure(posixpath.join(folder, one.file))
    if found != (one.num_bytes, one.sha256):
        raise UserError(
            f"{source} is not the text tower that made the data set's embeddings; "
            "copy it from where there is another"
        )


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise UserError(
            f"{path} of the text tower is missing; copy it from where there is another"
        ) from error
    except tf.errors.OpError as error:
        raise UserError(f"{path} cannot be read: {files.explain_error(path, error)}") from error
