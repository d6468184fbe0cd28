"""Run as `python3` on a TPU's host, and as the .venv's: the venv, pip and train.py of a test.

$STAND_IN/trainings is a JSON list of what the next runs of launch/train.py do: exit with a code, or
"wait" to be stopped (75 then, as train.py does). $STAND_IN/trained has their arguments and what they
were told of the TPU.
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import time

ROOT = pathlib.Path(os.environ["STAND_IN"])
ARGUMENTS = sys.argv[1:]
TOLD = "TPU_NAME", "TPU_LOAD_LIBRARY"


def append(name, value):
    with open(ROOT / name, "a") as file:
        file.write(json.dumps(value) + "\n")


def save(*_):
    time.sleep(0.5)
    sys.exit(75)


def train():
    plan = json.loads((ROOT / "trainings").read_text())
    what = plan.pop(0)
    (ROOT / "trainings").write_text(json.dumps(plan))
    signal.signal(signal.SIGTERM, save)
    print(f"step 1/2: {what}", flush=True)
    told = {key: os.environ[key] for key in TOLD if key in os.environ}
    append("trained", [ARGUMENTS[1:], told])  # last: a test waits for it
    while what == "wait":
        signal.pause()
    sys.exit(what)


if ARGUMENTS[:2] == ["-m", "venv"]:
    bin = pathlib.Path(ARGUMENTS[2], "bin")
    bin.mkdir(parents=True)
    shutil.copy(ROOT / "vm_bin" / "python3", bin / "python")
elif ARGUMENTS[:2] == ["-m", "pip"]:
    append("installed", ARGUMENTS[2:])
elif ARGUMENTS[0] == "launch/train.py":
    train()
elif ARGUMENTS[0] == "launch/tpu_worker.py":
    worker = ROOT / "vm_bin" / "worker"
    os.execv(worker, [worker])
