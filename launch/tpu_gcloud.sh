# Functions of launch/tpu_vm.sh that call gcloud: they run it, explain its errors, and request, describe
# and delete a TPU. This file is sourced, and also works in the bash 3.2 of macOS.
# shellcheck shell=bash

TYPES=launch/tpu_types.txt
POLL_SECONDS=${T2I_TPU_POLL:-30}

name='' type='' zone='' runtime='' engine=auto account='' project='' spot='' direct='' dry_run='' allow_egress=''
location=() # --zone and --project
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
# gcloud handles Ctrl-C itself, so bash would continue.
trap 'exit 130' INT
# --dry-run prints to this descriptor, also from inside $(...).
exec 3>&1

fail() {
    echo "tpu_vm.sh: error: $*" >&2
    exit 1
}

say() {
    [ -n "$dry_run" ] || echo "$(date +%H:%M:%S) $*"
}

pause() {
    [ -n "$dry_run" ] || sleep "$POLL_SECONDS"
}

# Prints words as a shell would read them.
quote() {
    local word space='' quote=\' escaped="'\\''"
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//$quote/$escaped}'" ;;
        esac
        printf '%s%s' "$space" "$word"
        space=' '
    done
}

# run_gcloud WORD ...: runs gcloud and keeps its stderr for explain_error. A dry run only prints the
# command.
run_gcloud() {
    if [ -n "$dry_run" ]; then
        printf '%s\n' "$(quote gcloud "$@")" >&3
    else
        gcloud "$@" </dev/null 2>"$errors"
    fi
}

# query_gcloud ANSWER WORD ...: prints gcloud's output, or ANSWER in a dry run.
query_gcloud() {
    local answer=$1
    shift
    run_gcloud "$@" || return
    [ -z "$dry_run" ] || echo "$answer"
}

error_matches() {
    grep -Eqi "$1" "$errors"
}

is_not_found() {
    error_matches 'NOT_FOUND|not found|404'
}

is_out_of_capacity() {
    error_matches 'no more capacity|insufficient .*capacity|RESOURCE_POOL_EXHAUSTED'
}

# Prints why gcloud failed and what to do, in one line.
explain_error() {
    if error_matches 'active account|auth login|unauthenticated|reauthentication'; then
        echo "gcloud is not logged in; run gcloud auth login"
    elif error_matches 'SERVICE_DISABLED|has not been used in project'; then
        echo "the project's Cloud TPU API is disabled; run gcloud services enable tpu.googleapis.com"
    elif error_matches 'billing'; then
        echo "the project has no billing account; link one at https://console.cloud.google.com/billing/projects"
    elif is_out_of_capacity; then
        echo "no $type is free in $zone at the moment; leave out --direct to wait in the queue, or use" \
            "another zone or type"
    elif error_matches 'quota|RESOURCE_EXHAUSTED'; then
        echo "the project has no quota for ${spot:+spot }$type in $zone (spot and on-demand quotas are" \
            "separate); request it at" \
            "https://console.cloud.google.com/iam-admin/quotas?service=tpu.googleapis.com"
    elif error_matches 'PERMISSION_DENIED|does not have permission'; then
        echo "your account does not have permission in the project; ask its owner for the role" \
            "roles/tpu.admin"
    elif is_not_found; then
        explain_absence
    elif error_matches 'ssh key is not present'; then
        echo "a pod's hosts are reached through an ssh agent; run eval \$(ssh-agent);" \
            "ssh-add ~/.ssh/google_compute_engine"
    elif error_matches 'ERROR: '; then
        tr -s '[:space:]' ' ' <"$errors" | sed 's/.*ERROR: //'
    else
        grep . "$errors" | tail -n 1
    fi
}

explain_absence() {
    echo "there is no TPU '$name' in $zone; run launch/tpu_vm.sh create $name, or check --zone and --project"
}

check_gcloud() {
    local answer
    [ -n "$dry_run" ] || command -v gcloud >/dev/null \
        || fail "gcloud is not installed; get the Google Cloud CLI at https://cloud.google.com/sdk/docs/install"
    answer=$(query_gcloud account auth list --filter=status:ACTIVE '--format=value(account)') \
        || fail "$(explain_error)"
    [ -n "$answer" ] || fail "gcloud is not logged in; run gcloud auth login"
    [ -z "$project" ] || return 0
    answer=$(query_gcloud project config get project) || fail "$(explain_error)"
    case $answer in
        '' | '(unset)') fail "gcloud has no project; run gcloud config set project ID, or add --project=ID" ;;
    esac
}

# Checks --type, --zone and --engine against the table, and takes the runtime version and the engine from it.
check_type() {
    local types version engines zones similar
    [ -n "$type" ] || fail "--type is missing; use --type=v3-8 or another type in $TYPES"
    # v5e is called v5litepod by gcloud.
    type=${type/#v5e-/v5litepod-}
    while read -r types version engines zones; do
        case ,$types, in *,"$type",*) break ;; esac
    done < <(grep '^[^#]' "$TYPES")
    if [ -z "$types" ]; then
        similar=$(grep "^[^#]" "$TYPES" | grep -oE "(^|,)${type%%-*}-[0-9]+" | tr -d , | tr "\n" " ") || true
        fail "--type=$type is not a supported TPU;" \
            "use one of ${similar:-v2, v3, v4, v5e, v5p or v6e, such as v3-8 }($TYPES)"
    fi
    [ -n "$zone" ] || fail "--zone is missing; $type is available in ${zones//,/, }"
    case ,$zones, in
        *,"$zone",*) ;;
        *) fail "--zone=$zone has no $type; use one of ${zones//,/, } ($TYPES, as of its date)" ;;
    esac
    runtime=${runtime:-$version}
    [ "$engine" != auto ] || engine=${engines%%,*}
    case ,$engines, in
        *,"$engine",*) ;;
        *) fail "--engine=$engine cannot use $type; use --engine=${engines//,/ or --engine=}" ;;
    esac
}

# check_buckets WORD ...: checks that every gs://BUCKET in the words is in the TPU's region.
check_buckets() {
    local region=${zone%-*} bucket place
    while read -r bucket; do
        place=$(query_gcloud "$region" storage buckets describe "$bucket" '--format=value(location)') || {
            ! is_not_found \
                || fail "there is no bucket $bucket; run gcloud storage buckets create $bucket --location=$region"
            fail "$(explain_error)"
        }
        place=$(tr '[:upper:]' '[:lower:]' <<<"$place")
        case $place:$region in
            "$region:$region") continue ;;
            us:us-* | nam*:us-* | eu:europe-* | eur*:europe-* | asia*:asia-*)
                say "$bucket spans several regions ($place), so reading it may be billed;" \
                    "reading a bucket in $region is free" ;;
            *)
                [ -n "$allow_egress" ] || fail "$bucket is in $place and the TPU is in $region, so all reads" \
                    "and writes are billed as traffic between regions; use a bucket in $region, or add" \
                    "--allow-egress" ;;
        esac
    done < <(grep -oE 'gs://[a-z0-9][a-z0-9._-]+' <<<"$*" | sort -u)
}

# Requests the TPU. Succeeds if it was requested before, because then the caller only has to wait.
request_tpu() {
    local words=("$name" "${location[@]}" "--accelerator-type=$type")
    [ -z "$spot" ] || words+=(--spot)
    [ -z "$account" ] || words+=("--service-account=$account")
    say "requesting ${spot:+spot }$type in $zone"
    if [ -n "$direct" ]; then
        run_gcloud compute tpus tpu-vm create "${words[@]}" "--version=$runtime" \
            || error_matches ALREADY_EXISTS
    else
        run_gcloud compute tpus queued-resources create "${words[@]}" "--node-id=$name" \
            "--runtime-version=$runtime" || error_matches ALREADY_EXISTS
    fi
}

# Deletes the request and its node. Even after a preemption, both count against the quota.
delete_tpu() {
    if [ -n "$direct" ]; then
        run_gcloud compute tpus tpu-vm delete "$name" "${location[@]}" --quiet
    else
        run_gcloud compute tpus queued-resources delete "$name" "${location[@]}" --force --quiet
    fi
}

# describe_state ANSWER GROUP FIELD: prints the state as Google names it, or ABSENT.
describe_state() {
    query_gcloud "$1" compute tpus "$2" describe "$name" "${location[@]}" "--format=value($3)" \
        || { is_not_found && echo ABSENT; }
}

# Prints the state of the request until it is granted, and then that of the node, which is the first to
# show a preemption.
get_tpu_state() {
    local state=ACTIVE
    [ -n "$direct" ] || state=$(describe_state ACTIVE queued-resources state.state) || return
    if [ "$state" = ACTIVE ]; then
        state=$(describe_state READY tpu-vm state) || return
        [ -n "$direct" ] || [ "$state" != ABSENT ] || state=SUSPENDED
    fi
    echo "$state"
}

# Waits until the TPU is ready. Requests it again if it is absent or was preempted.
wait_until_ready() {
    local state last=''
    while :; do
        state=$(get_tpu_state) || fail "$(explain_error)"
        [ "$state" = "${last:-READY}" ] || say "$name is $state"
        last=$state
        case $state in
            READY) return ;;
            FAILED) fail "Google rejected the request for $name; run launch/tpu_vm.sh status $name for the" \
                "reason, and delete $name before you request it again" ;;
            PREEMPTED | TERMINATED | STOPPED | SUSPENDED) delete_tpu || fail "$(explain_error)" ;;
            ABSENT) request_tpu || is_out_of_capacity || fail "$(explain_error)" ;;
        esac
        pause
    done
}

require_ready() {
    local state
    state=$(get_tpu_state) || fail "$(explain_error)"
    [ "$state" != ABSENT ] || fail "$(explain_absence)"
    [ "$state" = READY ] || fail "$name is $state, not READY; launch/tpu_vm.sh create $name waits for it"
}
