"""Resumable uploads: how far each one is.

Google answers a PUT of no bytes with "Content-Range: bytes */TOTAL" with what it has so far, also
after the upload is done. fake-gcs-server takes it for the last chunk and makes an empty object.
"""

import re
import threading

Answer = tuple[int, list[tuple[str, str]], bytes]  # status, headers, content


class Uploads:
    """By upload_id: the bytes received, or the server's answer once it is done."""

    def __init__(self):
        self.lock, self.received, self.done = threading.Lock(), {}, {}

    def status(self, upload: str, content_range: str) -> Answer | None:
        """The answer to a question for the status; None where the request is none."""
        with self.lock:
            if upload in self.done:
                return self.done[upload]
            asked = re.fullmatch(r"bytes \*/(\d+|\*)", content_range)
            received = self.received.get(upload, 0)
            if not asked or asked[1] == str(received):  # all is there: the server may finish it
                return None
            return 308, [("Range", f"bytes=0-{received - 1}")] if received else [], b""

    def note(self, upload: str, content_range: str, answer: Answer) -> None:
        """What the server answered to content."""
        with self.lock:
            if answer[0] == 308:
                self.received[upload] = int(re.match(r"bytes \d+-(\d+)/", content_range)[1]) + 1
            elif answer[0] < 300:
                self.done[upload] = answer
