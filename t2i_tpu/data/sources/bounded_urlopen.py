"""Provides an `urlopen` that limits the size of a response and its total time.

urllib's own timeout limits only the time between two bytes, so a server that sends a byte now and then
could keep a connection open forever.
"""

import contextlib
import http.client
import os
import socket
import threading
import urllib.request
from email.message import Message

RESPONSE_SECONDS = float(os.environ.get("T2I_TPU_URL_SECONDS", "60"))
RESPONSE_BYTES = 1 << 25


class Response:
    """A response whose body has been read. Like urllib's own, it supports the `with` statement."""

    def __init__(self, headers: Message, content: bytes):
        self.headers, self.content = headers, content

    def read(self) -> bytes:
        """Return the body."""
        return self.content

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def urlopen(request: urllib.request.Request, timeout: float) -> Response:
    """Open a URL and read its response, within RESPONSE_SECONDS and up to RESPONSE_BYTES.

    Args:
      request: the request to send. Redirects are followed.
      timeout: maximum number of seconds between two bytes.

    Raises:
      TimeoutError: no byte arrived within `timeout`, or the response took longer than
        RESPONSE_SECONDS.
      ValueError: the body is too large or was cut short.
      OSError: urllib raised it, for example because of an HTTP status that is an error.
    """
    connections, is_late = [], threading.Event()

    def shut_down_connections():
        is_late.set()
        for connection in connections:
            with contextlib.suppress(OSError, AttributeError):
                connection.opened_socket.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(RESPONSE_SECONDS, shut_down_connections)
    timer.start()
    try:
        opener = urllib.request.build_opener(_HttpHandler(connections), _HttpsHandler(connections))
        with opener.open(request, timeout=timeout) as response:
            content = response.read(RESPONSE_BYTES + 1)
    except Exception:
        if is_late.is_set():
            raise TimeoutError("timed out") from None
        raise
    finally:
        timer.cancel()
    if is_late.is_set():
        raise TimeoutError("timed out")
    if len(content) > RESPONSE_BYTES:
        raise ValueError(f"too large: more than {RESPONSE_BYTES} bytes")
    if len(content) < int(response.headers.get("Content-Length") or 0):
        raise ValueError("cut short")
    return Response(response.headers, content)


class _HttpHandler(urllib.request.HTTPHandler):
    """Adds every connection that it opens to a list."""

    connection_class = http.client.HTTPConnection

    def __init__(self, connections: list[http.client.HTTPConnection]):
        super().__init__()
        self.connections = connections

    def http_open(self, request):
        return self.do_open(self._make_connection, request)

    def _make_connection(self, *arguments, **options) -> http.client.HTTPConnection:
        connection = self.connection_class(*arguments, **options)
        _keep_socket(connection)
        self.connections.append(connection)
        return connection


class _HttpsHandler(_HttpHandler, urllib.request.HTTPSHandler):
    """Does the same for HTTPS."""

    connection_class = http.client.HTTPSConnection

    def https_open(self, request):
        return self.do_open(self._make_connection, request)


def _keep_socket(connection: http.client.HTTPConnection) -> None:
    """Make a connection keep its socket as `opened_socket`.

    urllib takes the socket away from the connection as soon as it has read the headers.
    """
    connect = connection.connect

    def connect_and_keep_socket():
        connect()
        connection.opened_socket = connection.sock

    connection.connect = connect_and_keep_socket
