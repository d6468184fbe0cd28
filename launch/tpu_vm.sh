#!/usr/bin/env bash
# Manages a Cloud TPU from the request to the trained model. docs/tpu.md explains every step.
#
#   launch/tpu_vm.sh create NAME --type=v3-8 --zone=us-central1-a
#                                               request a TPU and wait until it is ready
#   launch/tpu_vm.sh setup  NAME                copy this checkout to all hosts and install the packages
#   launch/tpu_vm.sh train  NAME --config=configs/clip64.py --workdir=gs://BUCKET/PATH [-- FLAG ...]
#                                               train to the end, through preemptions; Ctrl-C only
#                                               stops watching. FLAGs are for launch/train.py
#   launch/tpu_vm.sh logs   NAME                follow the log of the training
#   launch/tpu_vm.sh ssh    NAME [-- COMMAND]   open a shell on the TPU VM, or run one command
#   launch/tpu_vm.sh status NAME                print the state of the TPU and the last log line
#   launch/tpu_vm.sh delete NAME                delete the TPU, which ends its cost
#
# Flags of create, which saves them in .tpu/NAME.flags for the other commands:
#   --spot                    cheaper, but Google can take it away at any time; train then gets another
#   --direct                  get the TPU now or fail, instead of waiting in Google's queue
#   --bucket=gs://BUCKET      check the bucket's region, and let train write into BUCKET/runs/CONFIG
#   --service-account=EMAIL   the account that the TPU acts as, instead of the project's default
#   --runtime=VERSION         instead of the version for the type in launch/tpu_types.txt
#   --project=ID              instead of the project that gcloud is set to
#   --engine=ENGINE           tensorflow or jax. The default, auto, is the first engine for the type in
#                             launch/tpu_types.txt
# Flags of create and train:
#   --allow-egress            accept the cost of traffic to a bucket in another region
# Flags of logs and ssh:
#   --worker=N                the number of the host, from 0
# Flags of all commands:
#   --dry-run                 print the gcloud commands instead of running them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/tpu_gcloud.sh
. launch/tpu_gcloud.sh

# How many times to try ssh to a TPU that is ready, once every POLL_SECONDS.
MAX_TRIES=5
# Exit code of a command that failed on the TPU, as opposed to ssh itself.
REMOTE_FAILED=99

bucket='' worker=0 config='' workdir=''
rest=() # the words after --
failures=0 job='' log_line='' hosts=''

create() {
    [ -z "$bucket" ] || check_buckets "$bucket"
    request_tpu || fail "$(explain_error)"
    save_flags
    wait_until_ready
    say "$name is ready and costs money from now on. Next, run launch/tpu_vm.sh setup $name"
}

save_flags() {
    [ -z "$dry_run" ] || return 0
    mkdir -p .tpu
    printf '%s\n' "--type=$type" "--zone=$zone" "--runtime=$runtime" ${spot:+--spot} \
        ${direct:+--direct} ${account:+"--service-account=$account"} \
        ${bucket:+"--bucket=$bucket"} ${project:+"--project=$project"} "--engine=$engine" \
        >".tpu/$name.flags"
}

setup() {
    require_ready
    # Fail at the first error, because gcloud retries by itself.
    failures=$((MAX_TRIES - 1))
    attempt install
}

install() {
    [ -n "$dry_run" ] || pack_checkout \
        || fail "this is not a git checkout, so the files to copy are not known; clone the repository with git"
    say "copying this checkout to $name and installing the packages for $engine there, which takes minutes"
    run_gcloud compute tpus tpu-vm scp .tpu/code.tgz "$name:t2i_tpu.tgz" "${location[@]}" --worker=all \
        && run_on_hosts all "mkdir -p t2i_tpu && tar -xzf t2i_tpu.tgz -C t2i_tpu" \
        && run_on_hosts all "t2i_tpu/launch/tpu_host.sh setup $engine || exit $REMOTE_FAILED"
}

# Packs the files that git tracks, as they are on disk, and new files in configs, launch and t2i_tpu.
pack_checkout() {
    mkdir -p .tpu
    { git ls-files -z && git ls-files -z --others --exclude-standard -- configs launch t2i_tpu; } \
        | while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done \
        | tar -czf .tpu/code.tgz --null -T -
}

# run_on_hosts HOST COMMAND: runs a command over ssh on a host, given by its number, or on all hosts.
run_on_hosts() {
    run_gcloud compute tpus tpu-vm ssh "$name" "${location[@]}" "--worker=$1" "--command=$2"
}

# attempt COMMAND ...: fails if ssh failed, which may be due to a preemption. Exits if the command failed
# on the TPU, or if ssh keeps failing.
attempt() {
    local code=0
    "$@" || code=$?
    if [ "$code" = 0 ]; then
        failures=0
        return
    fi
    [ "$code" != $REMOTE_FAILED ] || fail "a command failed on $name: $(explain_error)"
    failures=$((failures + 1))
    [ "$failures" -lt $MAX_TRIES ] || fail "$name is READY but does not answer: $(explain_error)"
    return 1
}

# Starts the training unless it is running, and watches it. Replaces a TPU that is gone, and resumes a
# training that was interrupted or stopped with exit code 75 (EXIT_STOPPED of t2i_tpu/training/loop.py).
train() {
    local expected='' last=''
    check_training
    while :; do
        wait_until_ready
        # In a dry run, query_job answers with its argument.
        attempt query_job "${expected:-bare}" || { pause && continue; }
        [ "$log_line" = "$last" ] || say "$log_line"
        last=$log_line
        # expected is "exit 0" once this loop has started the training or has seen it running. Until
        # then, an exit code is that of an earlier training.
        case $job:$expected in
            bare:*) attempt install && attempt start_training && expected='exit 0' ;;
            running:*) expected='exit 0' ;;
            other:*) fail "$name is running another training (launch/tpu_vm.sh logs $name); use another TPU," \
                "or delete this one" ;;
            'exit 0:exit 0') break ;;
            idle:* | lost:* | 'exit 75:'* | exit*:) attempt start_training && expected='exit 0' ;;
            *) restart_or_exit ;;
        esac
        pause
    done
    say "trained: $workdir. $name keeps costing money until you run launch/tpu_vm.sh delete $name"
}

check_training() {
    [ -n "$config" ] || fail "--config is missing; use --config=configs/clip64.py or another file"
    [ -f "$config" ] || fail "--config: there is no file '$config' in this checkout"
    [ -n "$workdir" ] || [ -z "$bucket" ] || workdir=${bucket%/}/runs/$(basename "$config" .py)
    case $workdir in
        gs://?*/?*) ;;
        *) fail "--workdir='$workdir' must be gs://BUCKET/PATH, because a TPU's disk is deleted with the TPU" ;;
    esac
    check_buckets "$workdir" ${rest[@]+"${rest[@]}"}
}

# Prints the arguments of launch/tpu_host.sh start, state and report.
quote_training() {
    quote "$engine" "$config" "$workdir" ${rest[@]+"${rest[@]}"}
}

# query_job ANSWER: sets job to the state that launch/tpu_host.sh prints, or "bare" before setup, and
# log_line to the last line of the log.
query_job() {
    local answer
    answer=$(query_gcloud "$1" compute tpus tpu-vm ssh "$name" "${location[@]}" --worker=0 \
        "--command=if [ -e t2i_tpu/launch/tpu_host.sh ]; then t2i_tpu/launch/tpu_host.sh state \
$(quote_training); else echo bare; fi") || return
    job=${answer%%$'\n'*}
    log_line=${answer#"$job"}
    log_line=${log_line#$'\n'}
}

start_training() {
    say "starting on $name: $(quote_training)"
    run_on_hosts all "t2i_tpu/launch/tpu_host.sh start $(quote_training) || exit $REMOTE_FAILED"
}

# query_hosts: sets hosts to the state of the training on each host, one per line, such as "host 1: exit 1".
query_hosts() {
    hosts=$(query_gcloud "host 0: $job" compute tpus tpu-vm ssh "$name" "${location[@]}" --worker=all \
        "--command=t2i_tpu/launch/tpu_host.sh report $(quote_training)")
}

# Handles a training whose first host ended with an error. If a machine of the pod was restarted, the
# training starts again. Otherwise, the exit code of the first host is that of this script.
restart_or_exit() {
    local details=''
    attempt query_hosts || return 0
    case $hosts in
        *lost* | *idle* | *bare*) attempt start_training || true ;;
        *)
            case $hosts in *$'\n'*) details=" (${hosts//$'\n'/, })" ;; esac
            echo "tpu_vm.sh: error: the training ended with exit code ${job#exit }$details; launch/tpu_vm.sh" \
                "logs $name${details:+ --worker=N} shows the reason; fix it, then run setup and train again" \
                "($name keeps costing money)" >&2
            exit "${job#exit }" ;;
    esac
}

logs() {
    require_ready
    open_ssh "tail -n 100 -F t2i_tpu/.tpu/log"
}

ssh() {
    require_ready
    open_ssh "${rest[*]-}"
}

# open_ssh COMMAND: runs a command, or a shell if it is empty, in the foreground of the terminal.
open_ssh() {
    local words=(compute tpus tpu-vm ssh "$name" "${location[@]}" "--worker=$worker")
    [ -z "$1" ] || words+=("--command=$1")
    if [ -n "$dry_run" ]; then run_gcloud "${words[@]}"; else gcloud "${words[@]}"; fi
}

status() {
    local state
    state=$(get_tpu_state) || fail "$(explain_error)"
    [ "$state" != ABSENT ] || fail "$(explain_absence)"
    [ -n "$dry_run" ] || echo "$name: ${spot:+spot }$type in $zone is $state"
    case $state in
        READY) run_on_hosts 0 "tail -n 1 t2i_tpu/.tpu/log 2>/dev/null || echo 'no training was started on it'" ;;
        FAILED) run_gcloud compute tpus queued-resources describe "$name" "${location[@]}" \
            '--format=value(state.failedData.error.message)' ;;
    esac || fail "$(explain_error)"
}

delete() {
    delete_tpu || { is_not_found && rm -f ".tpu/$name.flags"; fail "$(explain_error)"; }
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
        --bucket=*) fail "$1: write the bucket as gs://BUCKET" ;;
        --project=*) project=${1#*=} ;;
        --engine=auto | --engine=tensorflow | --engine=jax) engine=${1#*=} ;;
        --engine=*) fail "$1: use auto, tensorflow or jax" ;;
        --worker=*) worker=${1#*=} ;;
        --config=*) config=${1#*=} ;;
        --workdir=*) workdir=${1#*=} ;;
        --spot) spot=yes ;;
        --direct) direct=yes ;;
        --dry-run) dry_run=yes ;;
        --allow-egress) allow_egress=yes ;;
        *) fail "unknown flag '$1'; write flags as --name=value, and put those of train.py after --" ;;
    esac
}

# Prints the comment at the top of this file.
print_usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' launch/tpu_vm.sh
}

main() {
    local command=${1:-} flag
    name=${2:-}

    # Check the command and the name.
    case $command in
        create | setup | train | logs | ssh | status | delete) ;;
        -h | --help | help) print_usage && exit ;;
        '') print_usage >&2 && exit 1 ;;
        *) fail "unknown command '$command'; use create, setup, train, logs, ssh, status or delete" ;;
    esac
    case $name in
        '' | -*) fail "the TPU's name is missing; run launch/tpu_vm.sh $command NAME" ;;
        [!a-z]* | *[!a-z0-9-]* | *-) fail "'$name' is not a TPU name; use lowercase letters, digits and" \
            "dashes, starting with a letter" ;;
    esac

    # Read the saved flags and then those of the command line.
    if [ "$command" != create ] && [ -f ".tpu/$name.flags" ]; then
        while IFS= read -r flag; do set_flag "$flag"; done <".tpu/$name.flags"
    fi
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        set_flag "$1"
        shift
    done
    [ $# -lt 2 ] || rest=("${@:2}")

    # Check them, and run the command.
    case $command:$type in
        create:* | train:* | setup:?*) check_type ;;
        *) [ -n "$zone" ] || fail "no TPU '$name' was created from this checkout; create it, or add --zone=ZONE" ;;
    esac
    [ "$engine" != auto ] || engine=tensorflow
    location=("--zone=$zone")
    [ -z "$project" ] || location+=("--project=$project")
    check_gcloud
    "$command"
}

main "$@"
