#!/usr/bin/env bash
# Runs on a host of a TPU. launch/tpu_vm.sh calls the first commands over ssh, and make calls the last two.
# ENGINE is tensorflow or jax. TRAINING is: ENGINE CONFIG WORKDIR [FLAG ...]
#
#   setup ENGINE        install the packages for the engine into .venv
#   start TRAINING      stop a running training, and run `make train-tpu` in the background
#   state TRAINING      print the state of this training: bare (before setup), idle, running, exit CODE,
#                       lost (it left no exit code), or other (another one runs); then the last log line
#   report TRAINING     print the number of this host and the state
#   stop                stop the running training, which saves a checkpoint first
#   choose-extra        print the extra of setup.py for this machine's TPU, or fail if there is no TPU
#   run ENGINE COMMAND  run COMMAND on this host. On a pod, JAX does so on all hosts. TensorFlow runs a TPU
#                       worker on all hosts, and COMMAND only on the first
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The folder of the training's log, pid, command and exit code.
JOB=.tpu
PCI=${T2I_PCI:-/sys/bus/pci/devices}
METADATA=http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/attributes
# The port of the TPU worker on each host of a pod.
PORT=${TPU_TASK_PORT:-8470}

# Prints tpu, or jax-tpu for a TPU that TensorFlow cannot use. A TPU is recognized by the ids of its PCI
# device, as in JAX (jax/_src/hardware_utils.py). Google's vendor id alone is not enough, because its network
# cards and disks have it too.
choose-extra() {
    local vendor
    for vendor in "$PCI"/*/vendor; do
        [ "$(cat "$vendor" 2>/dev/null)" = 0x1ae0 ] || continue
        case $(cat "${vendor%vendor}device") in
            0x0027 | 0x005e | 0x0062 | 0x0063) echo tpu && return ;; # v2 and v3, v4, v5p, v5e
            0x006f) if is_pod; then echo jax-tpu; else echo tpu; fi && return ;; # v6e
            0x0076) echo jax-tpu && return ;; # v7
        esac
    done
    return 1
}

get_extra() {
    case $1 in tensorflow) echo tpu ;; *) echo "$1-tpu" ;; esac
}

setup() {
    if ! command -v make >/dev/null || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        # A new VM's own updates hold apt's lock for the first minutes.
        sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
        sudo apt-get -qqy -o DPkg::Lock::Timeout=600 install make python3-venv
    fi
    make --silent EXTRA="$(get_extra "$1")" ".venv/.ready-$(get_extra "$1")"
}

# setsid and nohup leave the job in the scope of its ssh session. systemd keeps that scope when the
# session ends, and when a preempted VM shuts down it sends SIGTERM to it first, while the network still
# works and a checkpoint can be saved. Not every image has tmux, and systemd-run needs root.
start() {
    stop
    mkdir -p "$JOB"
    rm -f "$JOB/code"
    printf '%q ' "$@" >"$JOB/command"
    T2I_EXIT_CODE=$PWD/$JOB/code setsid nohup launch/tpu_host.sh job "$@" \
        >>"$JOB/log" 2>&1 </dev/null &
    echo $! >"$JOB/pid"
}

# Runs the training in the background process of `start`.
job() {
    local engine=$1 config=$2 workdir=$3 flags='' code=0
    shift 3
    [ $# = 0 ] || flags=$(printf '%q ' "$@")
    # make and train.py get SIGTERM too; wait for them.
    trap : TERM
    # make would expand a $.
    make train-tpu EXTRA="$(get_extra "$engine")" CONFIG="${config//\$/\$\$}" \
        WORKDIR="${workdir//\$/\$\$}" ARGS="${flags//\$/\$\$}" || code=$?
    # If make failed before `run`, there is no exit code yet.
    [ -s "$T2I_EXIT_CODE" ] || echo "$code" >"$T2I_EXIT_CODE"
}

is_running() {
    [ -s "$JOB/pid" ] && grep -qsz tpu_host.sh "/proc/$(cat "$JOB/pid")/cmdline"
}

stop() {
    is_running || return 0
    local pid
    pid=$(cat "$JOB/pid")
    kill -TERM -- "-$pid"
    # Leave time to save a checkpoint.
    for _ in $(seq 600); do
        is_running || return 0
        sleep 0.2
    done
    kill -KILL -- "-$pid"
}

state() {
    local is_same=no
    [ "$(cat "$JOB/command" 2>/dev/null)" != "$(printf '%q ' "$@")" ] || is_same=yes
    if is_running; then
        [ $is_same = yes ] && echo running || echo other
    elif [ ! -e ".venv/.ready-$(get_extra "$1")" ]; then
        echo bare
    elif [ $is_same = no ]; then
        echo idle
    elif [ -s "$JOB/code" ]; then
        echo "exit $(cat "$JOB/code")"
    else
        # The machine was restarted.
        echo lost
    fi
    tail -n 1 "$JOB/log" 2>/dev/null || true
}

report() {
    local lines
    lines=$(state "$@")
    echo "host $(get_attribute agent-worker-number || echo 0): ${lines%%$'\n'*}"
}

get_attribute() {
    curl -sf -m 5 -H 'Metadata-Flavor: Google' "$METADATA/$1"
}

# Prints the addresses of the hosts. The metadata server lists them as
# unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3.
get_addresses() {
    get_attribute worker-network-endpoints | tr ',' '\n' | cut -d: -f3
}

is_pod() {
    [ "$({ get_addresses || true; } | wc -w)" -gt 1 ]
}

# With JAX, every host of a pod runs COMMAND, and jax.distributed connects them. TensorFlow controls a pod
# from one program: every host runs the TPU worker of tensorflow-tpu, and the first host also runs COMMAND,
# with the workers of all hosts as its TPU.
run() {
    local engine=$1 code=0
    shift
    # COMMAND gets the signals too; wait for it.
    trap : TERM INT
    if [ "$engine" = jax ] || ! is_pod; then
        "$@" || code=$?
    elif [ "$(get_attribute agent-worker-number)" != 0 ]; then
        .venv/bin/python launch/tpu_worker.py || code=$?
    else
        run_on_pod "$@" || code=$?
    fi
    # make replaces every other exit code by 2, so record this one in a file.
    [ -z "${T2I_EXIT_CODE:-}" ] || echo "$code" >"$T2I_EXIT_CODE"
    return "$code"
}

# run_on_pod COMMAND ...: runs COMMAND on the first host of a pod, with TensorFlow.
run_on_pod() {
    local address tpu='' code=0 worker
    .venv/bin/python launch/tpu_worker.py &
    worker=$!
    for address in $(get_addresses); do
        wait_for_worker "$address" || { kill $worker; return 1; }
        tpu+=${tpu:+,}grpc://$address:$PORT
    done
    TPU_LOAD_LIBRARY=0 TPU_NAME=$tpu "$@" || code=$?
    kill $worker 2>/dev/null || true
    return "$code"
}

wait_for_worker() {
    for _ in $(seq "${T2I_WORKER_TRIES:-300}"); do
        timeout 5 bash -c ": >/dev/tcp/$1/$PORT" 2>/dev/null && return
        sleep 1
    done
    echo "the TPU worker of host $1 does not answer on port $PORT; read .tpu/log on that host" >&2
    return 1
}

case ${1:-} in
    setup | start | state | report | stop | job | choose-extra | run) "$@" ;;
    # Print the comment at the top of this file.
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" >&2 && exit 1 ;;
esac
