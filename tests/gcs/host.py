"""Runs the server and the front inside the namespaces.

harness.py starts this program as `python -m tests.gcs.host FOLDER SERVER`. It prints "ready" when
gs:// works, and exits when its standard input is closed, which also happens if the tests are killed.
If this program is killed, the kernel kills the server too.
"""

import fcntl
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import time

from tests.gcs import front

PORT = 4443  # the server's port; no other program uses this loopback device


def main(folder: pathlib.Path, program: str) -> None:
    _bring_loopback_up()
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {' '.join(front.HOSTS)}\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
    flags = f"-backend memory -scheme http -host 127.0.0.1 -port {PORT} -log-level error"
    flags += f" -external-url https://{front.HOSTS[1]} -public-host {front.HOSTS[1]}"
    server = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", program, *flags.split()])
    try:
        _wait_until_ready(server)
        front.serve(PORT, str(folder / "tls.pem"), str(folder / "backdoor"))
        print("ready", flush=True)
        sys.stdin.read()
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _bring_loopback_up():
    """Bring up the loopback device like `ip link set lo up`, but without iproute2."""
    get_flags, set_flags, up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("16xH", fcntl.ioctl(control, get_flags, request))[0]
        fcntl.ioctl(control, set_flags, struct.pack("16sH14x", b"lo", flags | up))


def _wait_until_ready(server, seconds=20):
    end = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < end:
        try:
            return socket.create_connection(("127.0.0.1", PORT), timeout=1).close()
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(f"fake-gcs-server does not answer; its exit code is {server.poll()}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
