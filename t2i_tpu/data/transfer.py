"""Copies a folder of shards to or from gs://: in parallel, checked, and again from where it stopped.

TensorFlow's own client writes one object after the other and checks nothing; this is
google-cloud-storage (extra gcs). A file has its name only when it is whole, and the manifest is
copied last, so a folder with a manifest is a whole data set here as anywhere.
"""

import base64
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import posixpath
from collections.abc import Callable, Iterator
from concurrent import futures

import tensorflow as tf
from tqdm import tqdm

from t2i_tpu.data.manifest import MANIFEST_NAME, read_manifest
from t2i_tpu.errors import UserError
from t2i_tpu.storage import gcs


@dataclasses.dataclass(frozen=True)
class Copied:
    """How many files of how many bytes there are, and how many of them were there already."""

    files: int
    num_bytes: int
    present: int


@gcs.translate_gcs_errors()
def copy(source: str, target: str, workers: int = 8) -> Copied:
    """Copies the data set in the folder `source` into `target`; one of them is on gs://.

    A file that is there with an equal checksum is not copied again. Shards are checked against the
    manifest's sha256, files on their way by their crc32c.

    Raises:
      UserError: no data set in `source`, a shard that is not what the manifest says, another data
        set in `target`, or what gs:// refuses.
    """
    if source.startswith("gs://") == target.startswith("gs://"):
        raise UserError(
            f"one of {source!r} and {target!r} must be on gs://, the other a folder here"
        )
    manifest = read_manifest(source)
    _check_target(target, manifest)
    upload = target.startswith("gs://")
    remote = _Remote(target if upload else source)
    folder = pathlib.Path(source if upload else target).expanduser()
    with remote.translate_gcs_errors():
        there = remote.checksums()
        here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        names = {name for name in (here if upload else there) if _is_data(name)}
        sha256 = {one.file: one.sha256 for one in manifest.files()}
        one = _Upload(remote, folder, there) if upload else _Download(remote, folder, there)
        results = _in_parallel(
            lambda name: one(name, sha256.get(name)), sorted(names - {MANIFEST_NAME}), workers
        )
        results.append(one(MANIFEST_NAME, None))
    return Copied(len(results), sum(size for size, _ in results), sum(was for _, was in results))


def _check_target(target, manifest):
    """Another data set must not be mixed with this one."""
    path = posixpath.join(target, MANIFEST_NAME)
    if not tf.io.gfile.exists(path):
        gcs.check_bucket(target)
    elif read_manifest(target) != manifest:
        raise UserError(f"{target!r} holds another data set; choose another folder")


def _is_data(name: str) -> bool:
    """Not what somebody is still writing, nor a folder's own mark on gs://."""
    parts = name.split("/")
    return not name.endswith((".tmp", "/")) and not any(p.startswith(".") for p in parts) and name


class _Remote:
    """A folder on gs://, by google-cloud-storage."""

    def __init__(self, address: str):
        try:
            from google.cloud import storage
            from google.cloud.storage.retry import DEFAULT_RETRY
        except ImportError as error:
            raise UserError(
                "copying needs google-cloud-storage, which the extra gcs installs: "
                'pip install -e ".[gcs]"'
            ) from error
        self.bucket_name, _, path = address.removeprefix("gs://").partition("/")
        self.prefix = path.rstrip("/") and path.rstrip("/") + "/"
        self.options = {"retry": DEFAULT_RETRY}
        with self.translate_gcs_errors():
            self.bucket = storage.Client().bucket(self.bucket_name)

    def checksums(self) -> dict[str, str]:
        """crc32c by name."""
        blobs = self.bucket.client.list_blobs(self.bucket, prefix=self.prefix, **self.options)
        return {blob.name.removeprefix(self.prefix): blob.crc32c for blob in blobs}

    def upload(self, path: pathlib.Path, name: str) -> None:
        blob = self.bucket.blob(self.prefix + name)
        blob.upload_from_filename(str(path), checksum="crc32c", **self.options)

    def download(self, name: str, path: pathlib.Path) -> None:
        blob = self.bucket.blob(self.prefix + name)
        blob.download_to_filename(str(path), checksum="crc32c", **self.options)

    @contextlib.contextmanager
    def translate_gcs_errors(self) -> Iterator[None]:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

        try:
            yield
        except (GoogleAPIError, GoogleAuthError) as error:
            raise UserError(gcs.explain_error(error, f"gs://{self.bucket_name}")) from error


class _Upload:
    def __init__(self, remote, folder, there):
        self.remote, self.folder, self.there = remote, folder, there

    def __call__(self, name: str, sha256: str | None) -> tuple[int, bool]:
        """Returns the file's size and whether it was there already."""
        path = self.folder / name
        crc32c = _checked(path, sha256)
        present = self.there.get(name) == crc32c
        if not present:
            self.remote.upload(path, name)
        return path.stat().st_size, present


class _Download:
    def __init__(self, remote, folder, there):
        self.remote, self.folder, self.there = remote, folder, there

    def __call__(self, name: str, sha256: str | None) -> tuple[int, bool]:
        path = self.folder / name
        present = path.exists() and _hashes(path)[0] == self.there[name]
        if not present:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.remote.download(name, path.with_name(path.name + ".tmp"))
            _checked(path.with_name(path.name + ".tmp"), sha256)
            os.replace(path.with_name(path.name + ".tmp"), path)
        return path.stat().st_size, present


def _checked(path: pathlib.Path, sha256: str | None) -> str:
    """The crc32c of a file that is what the manifest says."""
    crc32c, found = _hashes(path)
    if sha256 not in (None, found):
        raise UserError(
            f"shard {path} is not what its manifest says; restore it or prepare the data set again"
        )
    return crc32c


def _hashes(path: pathlib.Path) -> tuple[str, str]:
    """crc32c as gs:// writes it, and sha256."""
    import google_crc32c

    crc32c, sha256 = google_crc32c.Checksum(), hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc32c.update(block)
            sha256.update(block)
    return base64.b64encode(crc32c.digest()).decode(), sha256.hexdigest()


def _in_parallel(one: Callable[[str], tuple], names: list[str], workers: int) -> list[tuple]:
    with futures.ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(one, name) for name in names]
        try:
            done = futures.as_completed(jobs)
            return [
                job.result()
                for job in tqdm(done, "copying", len(jobs), unit=" files", disable=None)
            ]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
