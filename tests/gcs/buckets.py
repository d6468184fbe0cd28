"""Gives the tests direct access to the buckets, without tokens or faults."""

import http.client
import json
import pathlib
import posixpath
import socket
import urllib.parse

from tests.gcs.front import HOSTS


class Buckets:
    """Reads and writes the buckets of a server.

    Args:
      backdoor: path of the Unix socket on which `front.Backdoor` listens.
    """

    def __init__(self, backdoor: pathlib.Path):
        self.backdoor = str(backdoor)

    def make_bucket(self, name: str) -> str:
        """Create a bucket and return its gs:// address."""
        self.request("POST", "/storage/v1/b?project=harness", json.dumps({"name": name}).encode())
        return f"gs://{name}"

    def names(self, address: str) -> list[str]:
        """Return the names of all files in gs://bucket/path, relative to that path."""
        bucket, _, path = address.removeprefix("gs://").partition("/")
        prefix = path and path.rstrip("/") + "/"
        query = urllib.parse.urlencode({"prefix": prefix, "maxResults": 100_000})
        listing = json.loads(self.request("GET", f"/storage/v1/b/{bucket}/o?{query}"))
        assert "nextPageToken" not in listing
        return [item["name"].removeprefix(prefix) for item in listing.get("items", ())]

    def files(self, address: str) -> dict[str, bytes]:
        """Return all files in gs://bucket/path: {name: content}."""
        bucket, _, path = address.removeprefix("gs://").partition("/")
        names = {name: posixpath.join(path, name) for name in self.names(address)}
        return {
            name: self.request("GET", f"{_object_path(bucket, full_name)}?alt=media")
            for name, full_name in names.items()
        }

    def empty(self, address: str) -> None:
        """Delete all files in gs://bucket/path."""
        for name in self.names(address):
            self.delete(f"{address}/{name}")

    def put(self, address: str, content: bytes) -> None:
        """Write a file."""
        bucket, _, name = address.removeprefix("gs://").partition("/")
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        self.request("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", content)

    def put_folder(self, folder: pathlib.Path, address: str) -> str:
        """Copy the files of a local folder to an address, and return the address."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{address}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return address

    def get_folder(self, address: str, folder: pathlib.Path) -> pathlib.Path:
        """Copy all files in gs://bucket/path into a local folder, and return the folder."""
        for name, content in self.files(address).items():
            if name and not name.endswith("/"):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return folder

    def delete(self, address: str) -> None:
        """Delete a file."""
        bucket, _, name = address.removeprefix("gs://").partition("/")
        self.request("DELETE", _object_path(bucket, name))

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Send a request through the back door, and return the content of the response."""
        connection = _UnixConnection(self.backdoor)
        try:
            connection.request(method, path, body, {"Host": HOSTS[1]})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {content.decode()}")
        return content


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def _object_path(bucket, name):
    return f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}"
