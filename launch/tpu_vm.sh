#!/usr/bin/env bash
# A Cloud TPU from the request to the trained model; docs/tpu.md walks through it.
#
#   launch/tpu_vm.sh create NAME --type=v3-8 --zone=us-central1-a   ask for it, wait until it is there
#   launch/tpu_vm.sh setup  NAME                this checkout onto all its hosts, and TensorFlow
#   launch/tpu_vm.sh train  NAME --config=configs/clip64.py --workdir=gs://BUCKET/PATH [-- FLAG ...]
#                                               to the end, through preemptions; Ctrl-C stops only
#                                               the watching. After --: flags for launch/train.py
#   launch/tpu_vm.sh logs   NAME                follow the training's log
#   launch/tpu_vm.sh ssh    NAME [-- COMMAND]   a shell on it, or one command
#   launch/tpu_vm.sh status NAME
#   launch/tpu_vm.sh delete NAME                end its cost
#
# create takes, and remembers in .tpu/NAME.flags for the others:
#   --spot                    cheaper, and taken away at any time: train goes on with another
#   --direct                  now or not at all, instead of waiting in Google's queue
#   --bucket=gs://BUCKET      make sure that it is near; train's workdir is BUCKET/runs/CONFIG then
#   --service-account=EMAIL   what the TPU acts as, instead of the project's default account
#   --runtime=VERSION         instead of the one that launch/tpu_types.txt has for the type
#   --project=ID              instead of gcloud's own setting
# create and train take --allow-egress: pay for traffic to a bucket in another region. logs and ssh
# take --worker=N: the host. All take --dry-run: print every gcloud command, run none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/tpu_gcloud.sh
. launch/tpu_gcloud.sh

TRIES=5          # of ssh, one every POLL seconds, to a TPU that Google says is ready
REMOTE_FAILED=99 # tells a command that failed there from an ssh that failed

bucket='' worker=0 config='' workdir='' rest=() # rest: what came after --
failures=0 job='' line=''

create() {
    [ -z "$bucket" ] || check_buckets "$bucket"
    request || fail "$(problem)"
    remember
    until_ready
    say "$name is there, and costs money from now on. Next: launch/tpu_vm.sh setup $name"
}

remember() {
    [ -z "$dry_run" ] || return 0
    mkdir -p .tpu
    printf '%s\n' "--type=$type" "--zone=$zone" "--runtime=$runtime" ${spot:+--spot} \
        ${direct:+--direct} ${account:+"--service-account=$account"} \
        ${bucket:+"--bucket=$bucket"} ${project:+"--project=$project"} >".tpu/$name.flags"
}

setup() {
    need_ready
    failures=$((TRIES - 1)) # none but gcloud's own
    attempt install
}

install() {
    [ -n "$dry_run" ] || pack || fail "what to copy is not known: this is no git checkout"
    say "copying this checkout to $name and installing TensorFlow there, which takes minutes"
    cloud compute tpus tpu-vm scp .tpu/code.tgz "$name:t2i_tpu.tgz" "${where[@]}" --worker=all \
        && on_hosts all "mkdir -p t2i_tpu && tar -xzf t2i_tpu.tgz -C t2i_tpu" \
        && on_hosts all "t2i_tpu/launch/tpu_host.sh setup || exit $REMOTE_FAILED"
}

# What git tracks, as it is now, and what is new where the programs and configs are.
pack() {
    mkdir -p .tpu
    { git ls-files -z && git ls-files -z --others --exclude-standard -- configs launch t2i_tpu; } \
        | while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done \
        | tar -czf .tpu/code.tgz --null -T -
}

on_hosts() {
    cloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" "--command=$2"
}

# attempt COMMAND ...: fails where ssh did, which a preemption may be the reason of; ends the script
# where the command failed there, or ssh keeps failing.
attempt() {
    local code=0
    "$@" || code=$?
    if [ "$code" = 0 ]; then
        failures=0
        return
    fi
    [ "$code" != $REMOTE_FAILED ] || fail "it failed on $name: $(problem)"
    failures=$((failures + 1))
    [ "$failures" -lt $TRIES ] || fail "$name is READY and does not answer: $(problem)"
    return 1
}

# Starts it where it does not run yet, and watches it: a TPU that is gone is replaced, a training
# that was stopped (75, EXIT_STOPPED of t2i_tpu/train/loop.py) or cut off goes on.
train() {
    local ours='' last=''
    check_training
    while :; do
        until_ready
        attempt ask_job "${ours:-bare}" || { pause && continue; }
        [ "$line" = "$last" ] || say "$line"
        last=$line
        case $job:$ours in
            bare:*) attempt install && attempt start && ours='exit 0' ;;
            running:*) ours='exit 0' ;;
            other:*) fail "$name is training something else (launch/tpu_vm.sh logs $name): take another TPU, or delete it" ;;
            'exit 0:exit 0') break ;;
            idle:* | lost:* | 'exit 75:'* | exit*:) attempt start && ours='exit 0' ;;
            *) stopped_with "${job#exit }" ;;
        esac
        pause
    done
    say "trained: $workdir. $name goes on costing money until launch/tpu_vm.sh delete $name"
}

check_training() {
    [ -n "$config" ] || fail "--config is missing, as in --config=configs/clip64.py"
    [ -f "$config" ] || fail "--config: there is no file '$config' in this checkout"
    [ -n "$workdir" ] || [ -z "$bucket" ] || workdir=${bucket%/}/runs/$(basename "$config" .py)
    case $workdir in
        gs://?*/?*) ;;
        *) fail "--workdir='$workdir' must be gs://BUCKET/PATH: a TPU's disk goes when the TPU goes" ;;
    esac
    check_buckets "$workdir" ${rest[@]+"${rest[@]}"}
}

training() {
    quoted "$config" "$workdir" ${rest[@]+"${rest[@]}"}
}

# Sets job, to what launch/tpu_host.sh calls its state, or bare; and line, to the log's last.
ask_job() {
    local answer
    answer=$(ask "$1" compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=0 "--command=if [ -e \
t2i_tpu/.venv/.ready-tpu ]; then t2i_tpu/launch/tpu_host.sh state $(training); else echo bare; fi") || return
    job=${answer%%$'\n'*}
    line=${answer#"$job"}
    line=${line#$'\n'}
}

start() {
    say "starting on $name: $(training)"
    on_hosts all "t2i_tpu/launch/tpu_host.sh start $(training) || exit $REMOTE_FAILED"
}

stopped_with() {
    echo "tpu_vm.sh: error: training ended with exit code $1: launch/tpu_vm.sh logs $name tells why;" \
        "mend it, then setup and train again ($name goes on costing money)" >&2
    exit "$1"
}

logs() {
    need_ready
    reach "tail -n 100 -F t2i_tpu/.tpu/log"
}

ssh() {
    need_ready
    reach "${rest[*]-}"
}

# In the foreground, with the terminal.
reach() {
    local words=(compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$worker")
    [ -z "$1" ] || words+=("--command=$1")
    if [ -n "$dry_run" ]; then cloud "${words[@]}"; else gcloud "${words[@]}"; fi
}

status() {
    local state
    state=$(tpu_state) || fail "$(problem)"
    [ "$state" != ABSENT ] || fail "there is no TPU '$name' in $zone: launch/tpu_vm.sh create $name"
    [ -n "$dry_run" ] || echo "$name: ${spot:+spot }$type in $zone is $state"
    case $state in
        READY) on_hosts 0 "tail -n 1 t2i_tpu/.tpu/log 2>/dev/null || echo 'nothing was started on it'" ;;
        FAILED) cloud compute tpus queued-resources describe "$name" "${where[@]}" \
            '--format=value(state.failedData.error.message)' ;;
    esac || fail "$(problem)"
}

delete() {
    remove || { no_such && rm -f ".tpu/$name.flags"; fail "$(problem)"; }
    [ -n "$dry_run" ] || rm -f ".tpu/$name.flags"
    say "$name is deleted"
}

set_flag() {
    case $1 in
        --type=*) type=${1#*=} ;;
        --zone=*) zone=${1#*=} ;;
        --runtime=*) runtime=${1#*=} ;;
        --service-account=*) account=${1#*=} ;;
        --bucket=gs://?*) bucket=${1#*=} ;;
        --bucket=*) fail "$1: a bucket is written gs://BUCKET" ;;
        --project=*) project=${1#*=} ;;
        --worker=*) worker=${1#*=} ;;
        --config=*) config=${1#*=} ;;
        --workdir=*) workdir=${1#*=} ;;
        --spot) spot=yes ;;
        --direct) direct=yes ;;
        --dry-run) dry_run=yes ;;
        --allow-egress) allow_egress=yes ;;
        *) fail "unknown flag '$1'; flags are written --name=value, and those of train.py come after --" ;;
    esac
}

usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' launch/tpu_vm.sh
}

main() {
    local action=${1:-} flag
    name=${2:-}
    case $action in
        create | setup | train | logs | ssh | status | delete) ;;
        -h | --help | help) usage && exit ;;
        '') usage >&2 && exit 1 ;;
        *) fail "unknown command '$action': create, setup, train, logs, ssh, status or delete" ;;
    esac
    case $name in
        '' | -*) fail "which TPU? launch/tpu_vm.sh $action NAME" ;;
        [!a-z]* | *[!a-z0-9-]* | *-) fail "'$name': a TPU's name has small letters, digits and dashes, and starts with a letter" ;;
    esac
    if [ "$action" != create ] && [ -f ".tpu/$name.flags" ]; then
        while IFS= read -r flag; do set_flag "$flag"; done <".tpu/$name.flags"
    fi
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        set_flag "$1"
        shift
    done
    [ $# -lt 2 ] || rest=("${@:2}")
    case $action in
        create | train) check_type ;;
        *) [ -n "$zone" ] || fail "no TPU '$name' was created from this checkout: create it, or say --zone=ZONE" ;;
    esac
    where=("--zone=$zone")
    [ -z "$project" ] || where+=("--project=$project")
    check_gcloud
    "$action"
}

main "$@"
