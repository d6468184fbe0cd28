"""Creates and enters private mount and network namespaces.

As a program, `python space.py PID COMMAND...` runs COMMAND in the namespaces of process PID.
"""

import ctypes
import os
import shutil
import subprocess
import sys

# Root needs no user namespace. Other users become root in their own user namespace.
_FLAGS = (("--mount", "--net"), ("--user", "--map-root-user", "--mount", "--net"))


def find_unshare_flags() -> tuple[str, ...]:
    """Return flags with which unshare(1) can create the namespaces on this machine.

    Raises:
      PermissionError: a tool is missing, or namespaces are not permitted.
    """
    missing = [tool for tool in ("unshare", "mount") if not shutil.which(tool)]
    if missing:
        raise PermissionError(f"no {missing[0]} (Debian's util-linux)")
    for flags in _FLAGS:
        probe = ["unshare", *flags, "mount", "--bind", "/etc/hosts", "/etc/hosts"]
        result = subprocess.run(probe, capture_output=True, text=True)
        if result.returncode == 0:
            return flags
    raise PermissionError(f"private namespaces are not allowed here: {result.stderr.strip()}")


def enter(pid: int) -> None:
    """Move this process, which must have a single thread, into the namespaces of `pid`."""
    folder = os.getcwd()
    for kind in ("user", "mnt", "net"):
        path = f"/proc/{pid}/ns/{kind}"
        if os.stat(path).st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino:
            with open(path) as file:
                _setns(file.fileno())
    os.chdir(folder)  # entering a mount namespace changes it to the root


def _setns(descriptor):
    if hasattr(os, "setns"):  # Python 3.12
        return os.setns(descriptor)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    enter(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
