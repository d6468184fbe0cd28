"""The tests' own view of the buckets, without Google's names, tokens and faults."""

import http.client
import json
import pathlib
import posixpath
import socket
import urllib.parse

from tests.gcs.front import HOSTS


class Buckets:
    def __init__(self, backdoor: pathlib.Path):
        self.backdoor = str(backdoor)

    def make_bucket(self, name: str) -> str:
        """Returns its gs:// address."""
        self.request("POST", "/storage/v1/b?project=harness", json.dumps({"name": name}).encode())
        return f"gs://{name}"

    def names(self, address: str) -> list[str]:
        """What lies under gs://bucket/path, by names below it."""
        bucket, _, path = address.removeprefix("gs://").partition("/")
        prefix = path and path.rstrip("/") + "/"
        query = urllib.parse.urlencode({"prefix": prefix, "maxResults": 100_000})
        listing = json.loads(self.request("GET", f"/storage/v1/b/{bucket}/o?{query}"))
        assert "nextPageToken" not in listing
        return [item["name"].removeprefix(prefix) for item in listing.get("items", ())]

    def files(self, address: str) -> dict[str, bytes]:
        """The same names with what is in them."""
        bucket, _, path = address.removeprefix("gs://").partition("/")
        names = {name: posixpath.join(path, name) for name in self.names(address)}
        return {
            name: self.request("GET", f"{_object(bucket, whole)}?alt=media")
            for name, whole in names.items()
        }

    def empty(self, address: str) -> None:
        """Deletes all below gs://bucket/path."""
        for name in self.names(address):
            self.delete(f"{address}/{name}")

    def put(self, address: str, content: bytes) -> None:
        bucket, _, name = address.removeprefix("gs://").partition("/")
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        self.request("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", content)

    def put_folder(self, folder: pathlib.Path, address: str) -> str:
        """Copies a folder's files; returns the address."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{address}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return address

    def get_folder(self, address: str, folder: pathlib.Path) -> pathlib.Path:
        """Copies what lies under gs://bucket/path into a folder; returns it."""
        for name, content in self.files(address).items():
            if name and not name.endswith("/"):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return folder

    def delete(self, address: str) -> None:
        bucket, _, name = address.removeprefix("gs://").partition("/")
        self.request("DELETE", _object(bucket, name))

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        connection = _UnixConnection(self.backdoor)
        try:
            connection.request(method, path, body, {"Host": HOSTS[1]})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content.decode()}")
        return content


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def _object(bucket, name):
    return f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}"
