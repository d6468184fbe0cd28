"""A proxy in front of fake-gcs-server that makes it look like Google to an unchanged client.

It speaks TLS, issues tokens, denies requests without a token or a permission, works around
disagreements between the server and TensorFlow's client, and injects faults on demand.
"""

import collections
import http.client
import http.server
import json
import random
import re
import socket
import socketserver
import ssl
import threading
import time
import urllib.parse

from tests.gcs.uploads import Uploads

HOSTS = (
    "www.googleapis.com",
    "storage.googleapis.com",
    "oauth2.googleapis.com",
    "iamcredentials.googleapis.com",
)
TOKEN = "token-of-the-harness"
ACCOUNT = "tester@harness.iam.gserviceaccount.com"
SLOW_SECONDS = 1.0
_CONNECTION_HEADERS = {"connection", "content-length", "keep-alive", "te", "transfer-encoding"}
_TARGET = re.compile(r"(?:/upload|/download)?/storage/v1/b/([^/?]+)(/o(?:/([^/?]+))?)?")
_REWRITE = re.compile(r"/rewriteTo/b/([^/?]+)/")
_ACTIONS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "create", "DELETE": "delete"}


class Rules:
    """Determines which requests fail, and records all requests for the tests."""

    def __init__(self):
        self.lock = threading.Lock()
        self.set({})

    def set(self, rules: dict) -> None:
        """Replace the rules, and clear the recorded requests.

        Args:
          rules: the fields of `harness.Faults`, and `denied`, {bucket: its denied permissions}.
        """
        with self.lock:
            self.rate, self.seed = rules.get("rate", 0.0), rules.get("seed", 0)
            self.kinds, self.denied = rules.get("kinds", []), rules.get("denied", {})
            self.requests, self.faults = [], collections.Counter()

    def draw_fault(self, request: str) -> str | None:
        """Record a request, and return the fault that it gets, or None.

        The fault of the n-th request after `set` depends only on the seed.
        """
        with self.lock:
            draw = random.Random(f"{self.seed} {len(self.requests)}")
            fault = draw.choice(self.kinds) if draw.random() < self.rate else None
            self.requests.append(f"{fault} {request}" if fault else request)
            if fault:
                self.faults[fault] += 1
            return fault

    def report(self) -> dict:
        """Return the requests since `set`, and the number of faults of each kind."""
        with self.lock:
            return {"requests": list(self.requests), "faults": dict(self.faults)}


class Forwarding(http.server.BaseHTTPRequestHandler):
    """Forwards requests to the server, and its responses to the client."""

    protocol_version = "HTTP/1.1"
    port: int  # of the server

    def read_body(self) -> bytes:
        """Read the body of the request."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send the request to the server, and return status, headers and content of the response."""
        # TensorFlow sends "Transfer-Encoding: identity", to which Go responds with 501.
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _CONNECTION_HEADERS}
        server = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            server.request(self.command, self.path, body=body, headers=headers)
            response = server.getresponse()
            content = response.read()
        finally:
            server.close()
        kept = [(k, v) for k, v in response.getheaders() if k.lower() not in _CONNECTION_HEADERS]
        return response.status, kept, content

    def respond(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        """Send a response to the client."""
        self.begin_response(status, headers, len(content))
        if self.command != "HEAD":
            self.wfile.write(content)

    def begin_response(self, status, headers, length) -> None:
        """Send the status and headers of a response."""
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() == "location":  # the address for the rest of an upload
                value = re.sub("^https?://[^/]*", f"https://{self.headers['Host']}", value)
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def respond_json(self, status: int, value: dict) -> None:
        """Send a JSON response to the client."""
        self.respond(status, [("Content-Type", "application/json")], json.dumps(value).encode())

    def log_message(self, *_):
        pass


class Front(Forwarding):
    """Handles the requests of clients as Google does."""

    # Headers and content are sent separately, and the content would wait for the client's delayed
    # acknowledgement of the headers, 40 ms for each answer.
    disable_nagle_algorithm = True
    rules: Rules
    uploads: Uploads

    def setup(self):
        self.request.settimeout(60)
        self.request.do_handshake()
        super().setup()

    def handle_request(self):
        if self.command == "POST" and self.path.split("?")[0].endswith("/token"):
            self.read_body()
            response = {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600}
            return self.respond_json(200, response)
        # google-auth requests the locations in which the token is valid.
        if self.path.endswith("/allowedLocations"):
            return self.respond_json(200, {"locations": [], "encodedLocations": "0x0"})
        permission, bucket = self._find_permission()
        fault = self.rules.draw_fault(f"{self.command} {self.path}")
        if fault == "cut":
            return self._close()
        body = self.read_body()
        if fault in ("429", "503"):
            return self._respond_with_error(int(fault), "The service is busy: please try again.")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._respond_with_error(401, _make_denial("Anonymous caller", permission))
        if permission in self.rules.denied.get(bucket, ()):
            return self._respond_with_error(403, _make_denial(ACCOUNT, permission))
        status, headers, content = self._process(body)
        if fault == "lost":
            return self._close()
        if fault not in ("short", "slow"):
            return self.respond(status, headers, content)
        self.begin_response(status, headers, len(content))
        middle = len(content) // 2
        self.wfile.write(content[:middle])
        self.wfile.flush()
        if fault == "short":
            return self._close()
        time.sleep(SLOW_SECONDS)
        self.wfile.write(content[middle:])

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

    def _process(self, body):
        """Forward the request, or respond to a request for the status of an upload."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if self.command != "PUT" or not (upload := query.get("upload_id", [""])[0]):
            return self.forward(body)
        content_range = self.headers.get("Content-Range", "")
        if known := self.uploads.status(upload, content_range):
            return known
        response = self.forward(body)
        self.uploads.record(upload, content_range, response)
        return response

    def _find_permission(self) -> tuple[str, str]:
        """Return the permission that the request needs, by Google's name, and the bucket."""
        path = self.path.partition("?")[0]
        action = _ACTIONS.get(self.command, "update")
        if not (match := _TARGET.match(path)):  # storage.googleapis.com/BUCKET/OBJECT
            return f"storage.objects.{action}", path.split("/")[1]
        bucket, objects, name = match.groups()
        if rewrite := _REWRITE.search(path):
            bucket = rewrite[1]
        if not objects:
            return f"storage.buckets.{action}", bucket
        return f"storage.objects.{action if name or action != 'get' else 'list'}", bucket

    def _respond_with_error(self, status, message):
        self.respond_json(status, {"error": {"code": status, "message": message}})

    def _close(self):
        self.close_connection = True
        self.connection.close()


def _make_denial(who, permission):
    """Return the message that Google sends if a permission is missing."""
    resource = permission.split(".")[1].removesuffix("s")
    return (
        f"{who} does not have {permission} access to the Google Cloud Storage {resource}. "
        f"Permission '{permission}' denied on resource (or it may not exist)."
    )


class Backdoor(Forwarding):
    """Gives the tests access to the server and the rules, without tokens or faults."""

    rules: Rules

    def handle_request(self):
        body = self.read_body()
        if self.path != "/rules":
            return self.respond(*self.forward(body))
        if self.command == "PUT":
            self.rules.set(json.loads(body))
        self.respond_json(200, self.rules.report())

    do_GET = do_POST = do_PUT = do_DELETE = handle_request


class _Threads(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass  # the client closed the connection, or we did


class _UnixThreads(_Threads):
    address_family = socket.AF_UNIX


def serve(port: int, certificate: str, backdoor: str) -> None:
    """Serve Google's hosts on 127.0.0.1:443 and the back door on a Unix socket, in threads."""
    shared = {"port": port, "rules": Rules(), "uploads": Uploads()}
    front = _Threads(("127.0.0.1", 443), type("Front", (Front,), shared))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    # Do the handshake in the thread of the request, so that a client that stalls delays no other client.
    front.socket = context.wrap_socket(
        front.socket, server_side=True, do_handshake_on_connect=False
    )
    back = _UnixThreads(backdoor, type("Backdoor", (Backdoor,), shared))
    for server in (front, back):
        threading.Thread(target=server.serve_forever, daemon=True).start()
