"""Stands in for `gcloud`: records its calls, simulates the lives of a TPU, and runs ssh's commands.

The folder $STAND_IN contains:

  calls        the arguments of each call, as a JSON list on a line
  vm0/, vm1/   the homes of the TPU's hosts, where ssh runs its commands
  script.json  lives    a list of states for each TPU that is created
               now      the states of the present TPU that are still to come, or null
               errors   {regex: [[stderr, exit code], ...]} for the next calls that match
               answers  {regex: stdout} for all calls that match
               hosts    the address of each host's metadata server

Each time that the TPU is described, it moves on to its next state, and stays in the last one. "ACTIVE"
means that the request is granted and its node is READY, and "NODE_X" that its node is X.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(os.environ["STAND_IN"])
ARGUMENTS = sys.argv[1:]
LINE = " ".join(ARGUMENTS)
SCRIPT = json.loads((ROOT / "script.json").read_text())
HOMES = [ROOT / f"vm{number}" for number in range(len(SCRIPT["hosts"]))]


def finish(stdout="", stderr="", code=0):
    """Save the script, print and exit."""
    (ROOT / "script.json").write_text(json.dumps(SCRIPT))
    print(stdout, end="\n" if stdout else "")
    print(stderr, end="\n" if stderr else "", file=sys.stderr)
    sys.exit(code)


def create():
    if SCRIPT.get("now"):
        finish(stderr=f"ERROR: (gcloud.{LINE[:20]}) ALREADY_EXISTS: Resource exists", code=1)
    SCRIPT["now"] = SCRIPT["lives"].pop(0)
    for home in HOMES:
        home.mkdir()
    finish()


def delete():
    for home in HOMES:
        pid = home / "t2i_tpu" / ".tpu" / "pid"
        if pid.exists():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid.read_text()), signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)
    SCRIPT["now"] = None
    finish()


def describe(group):
    """Print the state of the request (queued-resources) or of the node (tpu-vm).

    launch/tpu_vm.sh first describes the request, and then the node if the request is granted. Both
    show the same state.
    """
    state = SCRIPT["now"][0]
    is_last = group == "tpu-vm" or (state != "ACTIVE" and not state.startswith("NODE_"))
    if is_last and len(SCRIPT["now"]) > 1:
        SCRIPT["now"].pop(0)
    if group == "queued-resources":
        finish("ACTIVE" if state.startswith("NODE_") else state)
    finish({"ACTIVE": "READY"}.get(state, state.removeprefix("NODE_")))


def scp():
    for home in HOMES:
        shutil.copy(ARGUMENTS[4], home / ARGUMENTS[5].partition(":")[2])
    finish()


def ssh():
    """Run the command on the host, or on all hosts, one after the other."""
    (command,) = (word.partition("=")[2] for word in ARGUMENTS if word.startswith("--command="))
    (worker,) = (word.partition("=")[2] for word in ARGUMENTS if word.startswith("--worker="))
    codes = []
    for number, home in enumerate(HOMES):
        if worker not in ("all", str(number)):
            continue
        environment = os.environ | {
            "HOME": str(home),
            "PATH": f"{ROOT / 'vm_bin'}:{os.environ['PATH']}",
            "GCE_METADATA_HOST": SCRIPT["hosts"][number],
            "STAND_IN_HOST": str(number),
        }
        result = subprocess.run(
            ["bash", "-c", command], cwd=home, env=environment, stdin=subprocess.DEVNULL
        )
        codes.append(result.returncode)
    finish(code=max(codes))


def main():
    # Record the call, and answer as the script says.
    with open(ROOT / "calls", "a") as file:
        file.write(json.dumps(ARGUMENTS) + "\n")
    for pattern, errors in SCRIPT.get("errors", {}).items():
        if errors and re.search(pattern, LINE):
            stderr, code = errors.pop(0)
            finish(stderr=stderr, code=code)
    for pattern, answer in SCRIPT.get("answers", {}).items():
        if re.search(pattern, LINE):
            finish(answer)

    # Commands that do not concern a TPU.
    if LINE.startswith("auth list"):
        finish("someone@example.com")
    if LINE.startswith("config get project"):
        finish("a-project")
    if LINE.startswith("storage buckets describe"):
        finish("US-CENTRAL1")

    # gcloud compute tpus GROUP VERB
    _, _, group, verb, *_ = ARGUMENTS
    if verb == "create":
        create()
    if not SCRIPT.get("now"):
        error = f"ERROR: (gcloud.compute.tpus.{group}.{verb}) NOT_FOUND: Resource was not found"
        finish(stderr=error, code=1)
    if verb == "describe":
        describe(group)
    if verb == "delete":
        delete()
    if verb == "scp":
        scp()
    if verb == "ssh":
        ssh()
    raise NotImplementedError(LINE)


main()
