"""Keeps track of the progress of each resumable upload.

A client asks for the status of an upload with an empty PUT whose header is "Content-Range: bytes
*/TOTAL". Google responds with the range that it has received so far, even after the upload is complete.
fake-gcs-server would mistake this request for the last chunk and create an empty object.
"""

import re
import threading

Response = tuple[int, list[tuple[str, str]], bytes]  # status, headers, content


class Uploads:
    """The number of bytes received of each upload, and the final response once it is complete."""

    def __init__(self):
        self.lock, self.received, self.done = threading.Lock(), {}, {}

    def status(self, upload: str, content_range: str) -> Response | None:
        """Return the response to a request for the status, or None if the server must respond.

        Args:
          upload: id of the upload.
          content_range: value of the request's Content-Range header.
        """
        with self.lock:
            if upload in self.done:
                return self.done[upload]
            match = re.fullmatch(r"bytes \*/(\d+|\*)", content_range)
            received = self.received.get(upload, 0)
            # If everything has been received, the server may finish the upload.
            if not match or match[1] == str(received):
                return None
            return 308, [("Range", f"bytes=0-{received - 1}")] if received else [], b""

    def record(self, upload: str, content_range: str, response: Response) -> None:
        """Record the server's response to a chunk."""
        with self.lock:
            if response[0] == 308:
                self.received[upload] = int(re.match(r"bytes \d+-(\d+)/", content_range)[1]) + 1
            elif response[0] < 300:
                self.done[upload] = response
