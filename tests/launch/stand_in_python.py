"""Stands in for `python3` on a TPU's host, and for the Python of .venv: for venv, pip and train.py.

$STAND_IN/trainings0 is a JSON list of the outcomes of the next runs of launch/train.py on the first host.
An outcome is an exit code, or "wait" to wait for SIGTERM and then exit with 75, as train.py does. A run
that waits also ends if $STAND_IN/end0 contains an exit code. $STAND_IN/trained0 records the arguments of
all runs and the environment variables that name the TPU.
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import time

ROOT = pathlib.Path(os.environ["STAND_IN"])
HOST = os.environ.get("STAND_IN_HOST", "0")
ARGUMENTS = sys.argv[1:]
TPU_VARIABLES = ("TPU_NAME", "TPU_LOAD_LIBRARY")


def append_json_line(name, value):
    with open(ROOT / name, "a") as file:
        file.write(json.dumps(value) + "\n")


def save_and_exit(*_):
    time.sleep(0.5)
    sys.exit(75)


def train():
    outcomes = json.loads((ROOT / f"trainings{HOST}").read_text())
    outcome = outcomes.pop(0)
    (ROOT / f"trainings{HOST}").write_text(json.dumps(outcomes))
    signal.signal(signal.SIGTERM, save_and_exit)
    print(f"step 1/2: {outcome}", flush=True)
    # This comes last, because tests wait for it.
    tpu = {name: os.environ[name] for name in TPU_VARIABLES if name in os.environ}
    append_json_line(f"trained{HOST}", [ARGUMENTS[1:], tpu])
    end = ROOT / f"end{HOST}"
    while outcome == "wait":
        time.sleep(0.05)
        if end.exists():
            outcome = int(end.read_text())
            end.unlink()
    sys.exit(outcome)


if ARGUMENTS[:2] == ["-m", "venv"]:
    folder = pathlib.Path(ARGUMENTS[2], "bin")
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "vm_bin" / "python3", folder / "python")
elif ARGUMENTS[:2] == ["-m", "pip"]:
    append_json_line("installed", ARGUMENTS[2:])
elif ARGUMENTS[0] == "launch/train.py":
    train()
elif ARGUMENTS[0] == "launch/tpu_worker.py":
    worker = ROOT / "vm_bin" / "worker"
    os.execv(worker, [worker])
