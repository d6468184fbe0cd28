"""Keeps track of how far each resumable upload is.

A client asks for the status of an upload with an empty PUT whose header is "Content-Range: bytes
*/TOTAL". Google answers with what it has received so far, even after the upload is complete.
fake-gcs-server mistakes the request for the last chunk and creates an empty object.
"""

import re
import threading

Answer = tuple[int, list[tuple[str, str]], bytes]  # status, headers, content


class Uploads:
    """The bytes received of each upload, by its id, or the server's answer once it is complete."""

    def __init__(self):
        self.lock, self.received, self.done = threading.Lock(), {}, {}

    def status(self, upload: str, content_range: str) -> Answer | None:
        """Return the answer to a request for the status, or None if the server must answer it.

        Args:
          upload: id of the upload.
          content_range: the header of the request.
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

    def record(self, upload: str, content_range: str, answer: Answer) -> None:
        """Remember the server's answer to a chunk."""
        with self.lock:
            if answer[0] == 308:
                self.received[upload] = int(re.match(r"bytes \d+-(\d+)/", content_range)[1]) + 1
            elif answer[0] < 300:
                self.done[upload] = answer
