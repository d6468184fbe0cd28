"""Repairs a data set: removes the shards that an audit found to be bad."""

import dataclasses
import itertools
import posixpath

import tensorflow as tf

from t2i_tpu.data import manifest as manifest_lib
from t2i_tpu.data.audit import Audit
from t2i_tpu.errors import UserError
from t2i_tpu.storage import files

QUARANTINE = "quarantine"


def repair(folder: str, result: Audit) -> list[str]:
    """Move bad shards into the subfolder QUARANTINE and remove them from the manifest.

    Args:
      folder: the folder of the data set, local or gs://.
      result: the audit of the data set.

    Returns:
      One line for each bad shard that says what was done with it.

    Raises:
      UserError: a stream would have no shard left.
    """
    bad = set(result.bad_shards)
    splits = {
        name: tuple(tuple(shard for shard in stream if shard.file not in bad) for stream in streams)
        for name, streams in result.manifest.splits.items()
    }
    empty = [name for name, streams in splits.items() if not all(streams)]
    if empty:
        raise UserError(
            f"{folder}: a stream of {empty[0]} has no intact shard left; restore one of "
            f"{', '.join(sorted(bad)[:3])}, or prepare the data set again"
        )
    # Write the manifest first, so that it never lists a shard that was moved.
    preparation = dict(result.manifest.preparation or {})
    preparation["quarantined"] = sorted({*preparation.get("quarantined", ()), *bad})
    manifest = dataclasses.replace(result.manifest, splits=splits, preparation=preparation)
    files.write(posixpath.join(folder, manifest_lib.MANIFEST_NAME), manifest.to_json())
    tf.io.gfile.makedirs(posixpath.join(folder, QUARANTINE))
    return [_quarantine(folder, file) for file in result.bad_shards]


def _quarantine(folder: str, file: str) -> str:
    """Move a shard, if it exists, and return a line that says what was done.

    A file of an earlier repair that has the same name is kept.
    """
    source = posixpath.join(folder, file)
    if not tf.io.gfile.exists(source):
        return f"removed {file} from the manifest"
    names = itertools.chain([file], (f"{file}.{number}" for number in itertools.count(2)))
    targets = (posixpath.join(folder, QUARANTINE, name) for name in names)
    target = next(target for target in targets if not tf.io.gfile.exists(target))
    tf.io.gfile.rename(source, target)
    return f"moved {file} to {QUARANTINE}/{posixpath.basename(target)}"
