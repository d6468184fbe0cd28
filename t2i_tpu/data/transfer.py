"""Copies a data set to or from gs:// in parallel and with checksums. A copy can be resumed.

This uses google-cloud-storage (extra gcs), because TensorFlow's own client copies one object after
the other and verifies no checksums. A file gets its name only when it is complete, and the manifest
is copied last, so a folder that has a manifest is a complete data set.
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

from t2i_tpu.data.manifest import MANIFEST_NAME, Manifest, read_manifest
from t2i_tpu.errors import UserError
from t2i_tpu.storage import gcs, gcs_client, listing, outputs, paths

# A function that copies the file with a given name if necessary. It returns the size of the file in
# bytes and whether the file was already in the target.
CopyFile = Callable[[str], tuple[int, bool]]


@dataclasses.dataclass(frozen=True)
class CopyResult:
    """The result of copying a data set.

    Attributes:
      files: number of files in the data set.
      num_bytes: total size of the files.
      present: number of files that were already in the target.
    """

    files: int
    num_bytes: int
    present: int


@gcs.translate_gcs_errors()
def copy(source: str, target: str, workers: int = 8) -> CopyResult:
    """Copy the data set in the folder `source` into the folder `target`; one of them is on gs://.

    A file that already exists in the target with the same CRC32C is not copied again. Every transfer
    is checked against the file's CRC32C. Files that the manifest lists are also checked against its
    SHA-256: before an upload, and after a download.

    Args:
      source: the folder of the data set, local or gs://.
      target: the folder to copy to, on gs:// if `source` is local and local otherwise.
      workers: number of files to copy at the same time.

    Raises:
      UserError: both or neither of the folders are on gs://, `source` holds no data set, a file does
        not match the manifest, `target` holds something else, or gs:// cannot be accessed.
    """
    if paths.is_remote(source) == paths.is_remote(target):
        raise UserError(
            f"one of {source!r} and {target!r} must be on gs://, and the other a local folder"
        )
    manifest = read_manifest(source)
    is_complete = _check_target(target, manifest)
    is_upload = paths.is_remote(target)
    remote = _Remote(target if is_upload else source)
    folder = pathlib.Path(source if is_upload else target)
    sha256 = {stored.file: stored.sha256 for stored in manifest.files()}
    with remote.translate_gcs_errors():
        checksums = remote.list_checksums()
        if is_upload:
            names, present = _list_local(folder), list(checksums)
            copy_file = _Upload(remote, folder, checksums, sha256, replaces=is_complete)
        else:
            names, present = list(checksums), _list_local(folder)
            copy_file = _Download(remote, folder, checksums, sha256, replaces=is_complete)
        if not is_complete:
            _check_present(target, present, names)
        names = sorted(name for name in names if _is_data(name) and name != MANIFEST_NAME)
        results = _copy_in_parallel(copy_file, names, workers)
        results.append(copy_file(MANIFEST_NAME))
    sizes = [num_bytes for num_bytes, _ in results]
    num_present = sum(1 for _, is_present in results if is_present)
    return CopyResult(len(results), sum(sizes), num_present)


def _check_target(target: str, manifest: Manifest) -> bool:
    """Return whether the target already holds the data set.

    Raises:
      UserError: it holds another data set, because the two must not be mixed, or cannot be a folder.
    """
    if not tf.io.gfile.exists(posixpath.join(target, MANIFEST_NAME)):
        gcs.check_bucket(target)
        outputs.check_folder(target, "--output=")
        return False
    if read_manifest(target) != manifest:
        raise UserError(f"{target!r} holds another data set; choose another folder")
    return True


def _check_present(target: str, present: list[str], names: list[str]) -> None:
    """Raise UserError if a target without a manifest has files that are not in the source."""
    if others := sorted(set(filter(_is_data, present)).difference(names)):
        raise UserError(
            f"--output={target} holds other files ({outputs.describe_names(others)}); "
            "choose a new folder"
        )


def _list_local(folder: pathlib.Path) -> list[str]:
    """Return the names of all files in a local folder, relative to it."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _is_data(name: str) -> bool:
    """Return whether a file belongs to a data set.

    Hidden files, files that are still being written, and the placeholders of folders on gs:// do not
    belong to it.
    """
    if not name or name.endswith("/") or paths.PARTIAL_SUFFIX in name:
        return False
    return not any(part.startswith(".") for part in name.split("/"))


class _Remote:
    """A folder on gs://, accessed through google-cloud-storage."""

    def __init__(self, address: str):
        try:
            from google.cloud import storage
            from google.cloud.storage.retry import DEFAULT_RETRY
        except ImportError as error:
            raise UserError(
                "copying needs google-cloud-storage, which the extra gcs installs: "
                'pip install -e ".[gcs]"'
            ) from error
        self.bucket_name, path = gcs_client.split_address(address)
        self.prefix = f"{path}/" if path else ""
        self.options = {"retry": DEFAULT_RETRY}
        with self.translate_gcs_errors():
            self.bucket = storage.Client().bucket(self.bucket_name)

    def list_checksums(self) -> dict[str, str]:
        """Return the CRC32C of each file in the folder, in base64."""
        files = listing.list_bucket(self.bucket, self.prefix, recursive=True)
        return {name: info.crc32c for name, info in files.items()}

    def upload(self, path: pathlib.Path, name: str) -> None:
        """Upload a local file, and verify its CRC32C."""
        blob = self.bucket.blob(self.prefix + name)
        blob.upload_from_filename(str(path), checksum="crc32c", **self.options)

    def download(self, name: str, path: pathlib.Path) -> None:
        """Download a file to a local path, and verify its CRC32C."""
        blob = self.bucket.blob(self.prefix + name)
        blob.download_to_filename(str(path), checksum="crc32c", **self.options)

    @contextlib.contextmanager
    def translate_gcs_errors(self) -> Iterator[None]:
        """Raise UserError in place of an error of google-cloud-storage."""
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

        try:
            yield
        except (GoogleAPIError, GoogleAuthError) as error:
            raise UserError(gcs.explain_error(error, f"gs://{self.bucket_name}")) from error


@dataclasses.dataclass(frozen=True)
class _Upload:
    """Uploads files of a local folder.

    Attributes:
      remote: the target.
      folder: the source.
      checksums: the CRC32C of each file that is already in the target, in base64.
      sha256: the hash of each file that the manifest lists.
      replaces: whether files of the target are replaced if they differ.
    """

    remote: _Remote
    folder: pathlib.Path
    checksums: dict[str, str]
    sha256: dict[str, str]
    replaces: bool

    def __call__(self, name: str) -> tuple[int, bool]:
        path = self.folder / name
        crc32c = _check_file(path, self.sha256.get(name))
        is_present = self.checksums.get(name) == crc32c
        if not is_present:
            _check_replaceable(self.replaces or name not in self.checksums, name)
            self.remote.upload(path, name)
        return path.stat().st_size, is_present


@dataclasses.dataclass(frozen=True)
class _Download:
    """Downloads files into a local folder.

    Attributes:
      remote: the source.
      folder: the target.
      checksums: the CRC32C of each file in the source, in base64.
      sha256: the hash of each file that the manifest lists.
      replaces: whether files of the target are replaced if they differ.
    """

    remote: _Remote
    folder: pathlib.Path
    checksums: dict[str, str]
    sha256: dict[str, str]
    replaces: bool

    def __call__(self, name: str) -> tuple[int, bool]:
        path = self.folder / name
        is_present = path.exists() and _hash_file(path)[0] == self.checksums[name]
        if not is_present:
            _check_replaceable(self.replaces or not path.exists(), name)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + paths.PARTIAL_SUFFIX)
            self.remote.download(name, partial)
            _check_file(partial, self.sha256.get(name))
            os.replace(partial, path)
        return path.stat().st_size, is_present


def _check_replaceable(is_replaceable: bool, name: str) -> None:
    if not is_replaceable:
        raise UserError(
            f"--output already has a different file {name}; remove it, or choose a new folder"
        )


def _check_file(path: pathlib.Path, sha256: str | None) -> str:
    """Return the CRC32C of a file, in base64, after checking its SHA-256.

    Args:
      path: the file.
      sha256: the expected SHA-256 in hex, or None to skip the check.

    Raises:
      UserError: the SHA-256 differs.
    """
    crc32c, actual_sha256 = _hash_file(path)
    if sha256 is not None and actual_sha256 != sha256:
        raise UserError(
            f"{path} does not match the manifest; restore it or prepare the data set again"
        )
    return crc32c


def _hash_file(path: pathlib.Path) -> tuple[str, str]:
    """Return a file's CRC32C in base64, as gs:// reports it, and its SHA-256 in hex."""
    import google_crc32c

    crc32c, sha256 = google_crc32c.Checksum(), hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc32c.update(block)
            sha256.update(block)
    return base64.b64encode(crc32c.digest()).decode(), sha256.hexdigest()


def _copy_in_parallel(
    copy_file: CopyFile, names: list[str], workers: int
) -> list[tuple[int, bool]]:
    """Copy files in parallel threads, with a progress bar, and return the results in any order.

    The first error cancels the files that have not been started.
    """
    with futures.ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(copy_file, name) for name in names]
        try:
            completed = futures.as_completed(jobs)
            progress = tqdm(completed, "copying", len(jobs), unit=" files", disable=None)
            return [job.result() for job in progress]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
