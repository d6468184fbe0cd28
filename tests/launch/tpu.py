"""A checkout with a stand-in for gcloud, which runs the commands for ssh in a local folder."""

import contextlib
import http.server
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time

from tests.launch.launcher import ROOT

HERE = pathlib.Path(__file__).parent
TOOLS = """awk basename bash cat chmod cp curl cut date dirname env find getopt git grep gzip head id
    kill make mkdir mktemp nohup paste rm sed seq setsid sh sleep sort tail tar timeout touch tr
    true wc""".split()
WORKER = """
import os, socket
address = os.environ["STAND_IN_IP"], int(os.environ["TPU_TASK_PORT"])
server = socket.create_server(address)
while True:
    server.accept()
"""

# Commands of launch/tpu_vm.sh for the tests.
CREATE = ["create", "tpu", "--type=v3-8", "--zone=us-central1-a"]
WORKDIR = "--workdir=gs://bucket/runs/x"
TRAIN = ["train", "tpu", "--config=configs/new one.py", WORKDIR]

# The address of a metadata server that does not exist.
NO_METADATA = "127.0.0.1:1"


@contextlib.contextmanager
def serve_metadata(**attributes):
    """Run the metadata server of a TPU's host, and yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            key = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            if self.headers["Metadata-Flavor"] != "Google" or key not in attributes:
                return self.send_error(404)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(attributes[key].encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def wait_for(condition, seconds=30):
    """Wait until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class Cloud:
    """Runs launch/tpu_vm.sh in a separate checkout, against a stand-in for gcloud.

    Attributes:
      folder: the folder of the test.
      checkout: a copy of the files that the scripts need.
    """

    def __init__(self, folder):
        self.folder, self.checkout = folder, folder / "checkout"
        self._started = []
        self._make_commands()
        self._make_checkout()
        self.plan()

    def _make_commands(self):
        """Create the folders of commands and a TPU's PCI ids.

        bin contains the tools and gcloud, and vm_bin the commands that only a TPU VM has.
        """
        for name in ("bin", "vm_bin", "pci/0"):
            (self.folder / name).mkdir(parents=True)
        for tool in TOOLS:
            (self.folder / "bin" / tool).symlink_to(shutil.which(tool))
        python = f"exec {sys.executable} -S"
        commands = {
            "bin/gcloud": f'{python} {HERE}/stand_in_gcloud.py "$@"',
            "vm_bin/python3": f'{python} {HERE}/stand_in_python.py "$@"',
            "vm_bin/worker": f"{python} -c '{WORKER}'",
        }
        for name, command in commands.items():
            path = self.folder / name
            path.write_text(f"#!/bin/sh\n{command}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.set_pci_device("0x0027")

    def _make_checkout(self):
        (self.checkout / "launch").mkdir(parents=True)
        for path in [*ROOT.glob("launch/tpu_*"), ROOT / "Makefile", ROOT / "setup.py"]:
            shutil.copy(path, self.checkout / path.relative_to(ROOT))
        (self.checkout / "configs").mkdir()
        # A config that git does not track.
        (self.checkout / "configs/new one.py").touch()
        for words in (["init", "-q"], ["add", "launch", "Makefile", "setup.py"]):
            subprocess.run(["git", *words], cwd=self.checkout, check=True)

    def set_pci_device(self, device, vendor="0x1ae0"):
        """Set the PCI ids of the machine's only device."""
        (self.folder / "pci/0/vendor").write_text(vendor + "\n")
        (self.folder / "pci/0/device").write_text(device + "\n")

    def plan(self, lives=(("ACTIVE",),), trainings=(), now=None, hosts=(NO_METADATA,), **script):
        """Set the behaviour of gcloud and train.py from now on, and forget the calls so far.

        stand_in_gcloud.py explains `lives`, `now` and the other keys of the script, and
        stand_in_python.py the trainings.
        """
        script |= {"lives": lives, "now": now, "hosts": hosts}
        (self.folder / "script.json").write_text(json.dumps(script))
        (self.folder / "calls").write_text("")
        self.plan_trainings(*trainings)
        if now:
            (self.folder / "vm0").mkdir(exist_ok=True)

    def plan_trainings(self, *trainings, host=0):
        """Set the outcomes of the next runs of train.py on a host."""
        (self.folder / f"trainings{host}").write_text(json.dumps(trainings))

    def make_environment(self, **more):
        """Return the environment variables of the scripts."""
        return {
            "PATH": str(self.folder / "bin"),
            "HOME": str(self.folder),
            "STAND_IN": str(self.folder),
            "T2I_PCI": str(self.folder / "pci"),
            "T2I_TPU_POLL": "0.1",
            "GCE_METADATA_HOST": NO_METADATA,
        } | more

    def start(self, *words, **environment):
        """Start launch/tpu_vm.sh and return its process."""
        process = subprocess.Popen(
            [str(self.checkout / "launch/tpu_vm.sh"), *words],
            env=self.make_environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, *words, code=0, **environment):
        """Run launch/tpu_vm.sh. Return its stdout, or its one-line error if `code` is not 0."""
        process = self.start(*words, **environment)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == code, stdout + stderr
        if code == 0:
            return stdout
        (error,) = (line for line in stderr.splitlines() if not line.startswith("make:"))
        assert error.startswith("tpu_vm.sh: error: ")
        return error

    def read_json_lines(self, name):
        """Return the JSON values in a file of the folder, one from each line."""
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def calls(self):
        """The arguments of each call of gcloud since `plan`."""
        return self.read_json_lines("calls")

    @property
    def commands(self):
        """The calls of gcloud since `plan`, each as one string."""
        return [" ".join(call) for call in self.calls]

    @property
    def trainings(self):
        """The arguments and TPU variables of each run of train.py on the first host."""
        return self.read_json_lines("trained0")

    @property
    def actions(self):
        """The calls of gcloud that change something: create, scp, setup, start or delete."""
        actions = []
        for call in self.calls:
            command = next((word for word in call if word.startswith("--command=")), "")
            on_host = command.partition("tpu_host.sh ")[2].split(" ")[0]
            action = on_host or "".join(call[3:4])
            if action in ("create", "delete", "scp", "setup", "start"):
                actions.append(action)
        return actions

    def kill_training(self, folder="**"):
        """Kill the processes on the TPU, or on the host with this folder, as when its machine fails."""
        for pid in self.folder.glob(f"{folder}/.tpu/pid"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid.read_text()), signal.SIGKILL)

    def end_training(self, code):
        """End a run of train.py on the first host that waits, with this exit code."""
        unfinished = self.folder / "end"
        unfinished.write_text(str(code))
        unfinished.rename(self.folder / "end0")

    def clean_up(self):
        """Kill the processes that a failed test may have left running."""
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        self.kill_training()
