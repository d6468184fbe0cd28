"""A checkout, a stand-in for gcloud and, behind it, a folder in which what ssh is given really runs."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys

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


def executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Cloud:
    """`run` is launch/tpu_vm.sh in a checkout of its own; `calls` are gcloud's since `play`."""

    def __init__(self, folder):
        self.folder, self.checkout = folder, folder / "checkout"
        for name in ("bin", "vm_bin", "pci/0"):
            (folder / name).mkdir(parents=True)
        for tool in TOOLS:
            (folder / "bin" / tool).symlink_to(shutil.which(tool))
        python = f"exec {sys.executable} -S"
        executable(folder / "bin/gcloud", f'#!/bin/sh\n{python} {HERE}/stand_in_gcloud.py "$@"\n')
        executable(
            folder / "vm_bin/python3", f'#!/bin/sh\n{python} {HERE}/stand_in_python.py "$@"\n'
        )
        executable(folder / "vm_bin/worker", f"#!/bin/sh\n{python} -c '{WORKER}'\n")
        (folder / "pci/0/vendor").write_text("0x1ae0\n")
        (folder / "pci/0/device").write_text("0x0027\n")
        (self.checkout / "launch").mkdir(parents=True)
        for path in [*ROOT.glob("launch/tpu_*"), ROOT / "Makefile", ROOT / "setup.py"]:
            shutil.copy(path, self.checkout / path.relative_to(ROOT))
        (self.checkout / "configs").mkdir()
        (self.checkout / "configs/new one.py").touch()  # not known to git
        self._git("init", "-q")
        self._git("add", "launch", "Makefile", "setup.py")
        self.started = []
        self.play()

    def _git(self, *words):
        subprocess.run(["git", *words], cwd=self.checkout, check=True)

    def play(self, lives=(("ACTIVE",),), trainings=(), now=None, **script):
        """What gcloud (stand_in_gcloud.py) and train.py (stand_in_python.py) do from now on."""
        script |= {"lives": lives, "now": now}
        (self.folder / "script.json").write_text(json.dumps(script))
        (self.folder / "calls").write_text("")
        self.plan(*trainings)
        if now:
            (self.folder / "vm").mkdir(exist_ok=True)

    def plan(self, *trainings):
        (self.folder / "trainings").write_text(json.dumps(trainings))

    def environment(self, **more):
        return {
            "PATH": str(self.folder / "bin"),
            "HOME": str(self.folder),
            "STAND_IN": str(self.folder),
            "T2I_PCI": str(self.folder / "pci"),
            "T2I_TPU_POLL": "0.1",
            "GCE_METADATA_HOST": "127.0.0.1:1",  # nobody
        } | more

    def start(self, *words, **environment):
        process = subprocess.Popen(
            [str(self.checkout / "launch/tpu_vm.sh"), *words],
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *words, code=0, **environment):
        """-> its stdout, or its one line of error where an error is expected."""
        process = self.start(*words, **environment)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == code, stdout + stderr
        if code:
            (line,) = (one for one in stderr.splitlines() if not one.startswith("make:"))
            assert line.startswith("tpu_vm.sh: error: ")
            return line
        return stdout

    def lines(self, name):
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def calls(self):
        return self.lines("calls")

    @property
    def verbs(self):
        """What was done, without the looks: create, scp, setup, start, delete."""
        found = []
        for call in self.calls:
            command = next((one for one in call if one.startswith("--command=")), "")
            host = command.partition("tpu_host.sh ")[2].split(" ")[0]
            verb = host or "".join(call[3:4])
            if verb in ("create", "delete", "scp", "setup", "start"):
                found.append(verb)
        return found

    def cut_off(self):
        """Ends what runs on the TPU, as if its machine had gone."""
        for pid in self.folder.glob("**/.tpu/pid"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid.read_text()), signal.SIGKILL)

    def clean_up(self):
        for process in self.started:
            if process.poll() is None:  # after a failed test
                os.killpg(process.pid, signal.SIGKILL)
        self.cut_off()
