"""Run as `gcloud`: records its calls, plays a TPU's lives, and runs what ssh is given in a folder.

In the folder $STAND_IN: script.json, {"lives": [[state, ...], ...], "errors": {regex: [[stderr,
code], ...]}, "answers": {regex: stdout}}; calls, one JSON list a line; vm/, the TPU's home. A create
begins the next life, and each look at the TPU is its next state, the last one for ever. "ACTIVE" is a
granted request whose node is READY, "NODE_X" one whose node is X.
"""

import contextlib
import json
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(os.environ["STAND_IN"])
ARGUMENTS = sys.argv[1:]
LINE = " ".join(ARGUMENTS)
SCRIPT = json.loads((ROOT / "script.json").read_text())
VM = ROOT / "vm"


def end(stdout="", stderr="", code=0):
    (ROOT / "script.json").write_text(json.dumps(SCRIPT))
    print(stdout, end="\n" if stdout else "")
    print(stderr, end="\n" if stderr else "", file=sys.stderr)
    sys.exit(code)


def create():
    if SCRIPT.get("now"):
        end(stderr=f"ERROR: (gcloud.{LINE[:20]}) ALREADY_EXISTS: Resource exists", code=1)
    SCRIPT["now"] = SCRIPT["lives"].pop(0)
    VM.mkdir()


def delete():
    import shutil
    import signal

    pid = VM / "t2i_tpu" / ".tpu" / "pid"
    if pid.exists():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
    shutil.rmtree(VM, ignore_errors=True)
    SCRIPT["now"] = None


def look(group):
    """Both describes of one look tell the same state: the queued request's comes first."""
    state = SCRIPT["now"][0]
    is_last = group == "tpu-vm" or (state != "ACTIVE" and not state.startswith("NODE_"))
    if is_last and len(SCRIPT["now"]) > 1:
        SCRIPT["now"].pop(0)
    if group == "queued-resources":
        return "ACTIVE" if state.startswith("NODE_") else state
    return {"ACTIVE": "READY"}.get(state, state.removeprefix("NODE_"))


with open(ROOT / "calls", "a") as file:
    file.write(json.dumps(ARGUMENTS) + "\n")
for pattern, errors in SCRIPT.get("errors", {}).items():
    if errors and re.search(pattern, LINE):
        stderr, code = errors.pop(0)
        end(stderr=stderr, code=code)
for pattern, answer in SCRIPT.get("answers", {}).items():
    if re.search(pattern, LINE):
        end(answer)

if LINE.startswith("auth list"):
    end("someone@example.com")
if LINE.startswith("config get project"):
    end("a-project")
if LINE.startswith("storage buckets describe"):
    end("US-CENTRAL1")
_, _, GROUP, VERB, *_ = ARGUMENTS
if VERB == "create":
    create()
    end()
if not SCRIPT.get("now"):
    end(
        stderr=f"ERROR: (gcloud.compute.tpus.{GROUP}.{VERB}) NOT_FOUND: Resource was not found",
        code=1,
    )
if VERB == "describe":
    end(look(GROUP))
if VERB == "delete":
    delete()
    end()
if VERB == "scp":
    (VM / ARGUMENTS[5].partition(":")[2]).write_bytes(pathlib.Path(ARGUMENTS[4]).read_bytes())
    end()
if VERB == "ssh":
    import subprocess

    (command,) = (one.partition("=")[2] for one in ARGUMENTS if one.startswith("--command="))
    environment = os.environ | {"HOME": str(VM), "PATH": f"{ROOT / 'vm_bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=VM, env=environment, stdin=subprocess.DEVNULL
    )
    end(code=done.returncode)
raise NotImplementedError(LINE)
