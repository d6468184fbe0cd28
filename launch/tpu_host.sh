#!/usr/bin/env bash
# What happens on a host of a TPU. launch/tpu_vm.sh calls the first four over ssh, make the last two.
#
#   setup                            install TensorFlow for TPUs into .venv
#   start CONFIG WORKDIR [FLAG ...]  `make train-tpu` in the background, instead of what was running
#   state CONFIG WORKDIR [FLAG ...]  idle, running, other, lost or exit CODE; then the log's last line
#   stop                             end it; it saves first
#   has-tpu                          succeed where there is a TPU
#   work COMMAND ...                 run COMMAND; on a pod, all its hosts' TPU workers and COMMAND once
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

JOB=.tpu # log, pid, command, and code: with what it ended
PCI=${T2I_PCI:-/sys/bus/pci/devices}
METADATA=http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/attributes
PORT=${TPU_TASK_PORT:-8470} # where the TPU worker of each host of a pod listens

# The PCI ids by which JAX, too, knows a TPU (jax/_src/hardware_utils.py). Google's vendor id alone
# would not do: its network cards and disks have it as well.
has-tpu() {
    local vendor
    for vendor in "$PCI"/*/vendor; do
        [ "$(cat "$vendor" 2>/dev/null)" = 0x1ae0 ] || continue
        case $(cat "${vendor%vendor}device") in
            0x0027 | 0x005e | 0x0062 | 0x0063 | 0x006f) return ;; # v2 and v3, v4, v5p, v5e, v6e
        esac
    done
    return 1
}

setup() {
    if ! command -v make >/dev/null || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        # A new VM's own updates hold apt's lock for its first minutes.
        sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
        sudo apt-get -qqy -o DPkg::Lock::Timeout=600 install make python3-venv
    fi
    make --silent EXTRA=tpu .venv/.ready-tpu
}

# Not tmux, which not every image has, and not systemd-run, which needs root: setsid and nohup leave
# the job in the scope of its ssh session. systemd keeps that scope after the session, and when a
# preempted VM shuts down it sends SIGTERM to it first, while there is still a network to save over.
start() {
    stop
    mkdir -p "$JOB"
    rm -f "$JOB/code"
    printf '%q ' "$@" >"$JOB/command"
    T2I_EXIT_CODE=$PWD/$JOB/code setsid nohup launch/tpu_host.sh job "$@" \
        >>"$JOB/log" 2>&1 </dev/null &
    echo $! >"$JOB/pid"
}

job() {
    local config=$1 workdir=$2 flags='' code=0
    shift 2
    [ $# = 0 ] || flags=$(printf '%q ' "$@")
    trap : TERM # make and train.py get it as well; wait for them
    # make would read a $ as its own.
    make train-tpu CONFIG="${config//\$/\$\$}" WORKDIR="${workdir//\$/\$\$}" \
        ARGS="${flags//\$/\$\$}" || code=$?
    [ -s "$T2I_EXIT_CODE" ] || echo "$code" >"$T2I_EXIT_CODE" # it failed before `work`
}

alive() {
    [ -s "$JOB/pid" ] && grep -qsz tpu_host.sh "/proc/$(cat "$JOB/pid")/cmdline"
}

stop() {
    alive || return 0
    local pid
    pid=$(cat "$JOB/pid")
    kill -TERM -- "-$pid"
    for _ in $(seq 600); do # a checkpoint may be on its way
        alive || return 0
        sleep 0.2
    done
    kill -KILL -- "-$pid"
}

state() {
    local same=no
    [ "$(cat "$JOB/command" 2>/dev/null)" != "$(printf '%q ' "$@")" ] || same=yes
    if alive; then
        [ $same = yes ] && echo running || echo other
    elif [ $same = no ]; then
        echo idle
    elif [ -s "$JOB/code" ]; then
        echo "exit $(cat "$JOB/code")"
    else
        echo lost # the machine was started anew
    fi
    tail -n 1 "$JOB/log" 2>/dev/null || true
}

attribute() {
    curl -sf -m 5 -H 'Metadata-Flavor: Google' "$METADATA/$1"
}

# The hosts' addresses; the metadata server has them as unknown:unknown:10.0.0.2,unknown:...
addresses() {
    attribute worker-network-endpoints | tr ',' '\n' | cut -d: -f3
}

# TensorFlow drives a pod from one program: every host runs its TPU worker, which comes with
# tensorflow-tpu, and the first one runs COMMAND besides, with all the workers as its TPU.
work() {
    local code=0 ips
    ips=$(addresses || true)
    trap : TERM INT # COMMAND gets them as well; wait for it
    if [ "$(wc -w <<<"$ips")" -le 1 ]; then
        "$@" || code=$?
    elif [ "$(attribute agent-worker-number)" != 0 ]; then
        .venv/bin/python launch/tpu_worker.py || code=$?
    else
        work_on_pod "$ips" "$@" || code=$?
    fi
    [ -z "${T2I_EXIT_CODE:-}" ] || echo "$code" >"$T2I_EXIT_CODE" # make turns them all into 2
    return "$code"
}

work_on_pod() {
    local ips=$1 ip tpu='' code=0 server
    shift
    .venv/bin/python launch/tpu_worker.py &
    server=$!
    for ip in $ips; do
        wait_for_worker "$ip" || { kill $server; return 1; }
        tpu+=${tpu:+,}grpc://$ip:$PORT
    done
    TPU_LOAD_LIBRARY=0 TPU_NAME=$tpu "$@" || code=$?
    kill $server 2>/dev/null || true
    return "$code"
}

wait_for_worker() {
    for _ in $(seq "${T2I_WORKER_TRIES:-300}"); do
        timeout 5 bash -c ": >/dev/tcp/$1/$PORT" 2>/dev/null && return
        sleep 1
    done
    echo "the TPU worker of host $1 does not answer on port $PORT: see .tpu/log there" >&2
    return 1
}

case ${1:-} in
    setup | start | state | stop | job | has-tpu | work) "$@" ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" >&2 && exit 1 ;;
esac
