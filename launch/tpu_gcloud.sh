# What launch/tpu_vm.sh asks of gcloud: how it is called, what its answers and errors mean, and the
# life of a TPU. Sourced; works in the bash 3.2 of macOS as well.
# shellcheck shell=bash

TYPES=launch/tpu_types.txt
POLL=${T2I_TPU_POLL:-30} # seconds

name='' type='' zone='' runtime='' account='' project='' spot='' direct='' dry_run='' allow_egress=''
where=() # --zone and --project
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
trap 'exit 130' INT # gcloud takes a Ctrl-C for itself, and bash would go on
exec 3>&1 # where --dry-run prints, from inside $(...) too

fail() {
    echo "tpu_vm.sh: error: $*" >&2
    exit 1
}

say() {
    [ -n "$dry_run" ] || echo "$(date +%H:%M:%S) $*"
}

pause() {
    [ -n "$dry_run" ] || sleep "$POLL"
}

# Words as a shell reads them.
quoted() {
    local word space='' quote=\' escaped="'\\''"
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//$quote/$escaped}'" ;;
        esac
        printf '%s%s' "$space" "$word"
        space=' '
    done
}

# cloud WORD ...: gcloud; what it says when it fails is kept for `problem`.
cloud() {
    if [ -n "$dry_run" ]; then
        printf '%s\n' "$(quoted gcloud "$@")" >&3
    else
        gcloud "$@" </dev/null 2>"$errors"
    fi
}

# ask ANSWER WORD ...: what gcloud prints; ANSWER in a dry run.
ask() {
    local answer=$1
    shift
    cloud "$@" || return
    [ -z "$dry_run" ] || echo "$answer"
}

said() {
    grep -Eqi "$1" "$errors"
}

no_such() {
    said 'NOT_FOUND|not found|404'
}

no_capacity() {
    said 'no more capacity|insufficient .*capacity|RESOURCE_POOL_EXHAUSTED'
}

# What gcloud failed with, in one line with its remedy.
problem() {
    if said 'active account|auth login|unauthenticated|reauthentication'; then
        echo "gcloud is not logged in: gcloud auth login"
    elif said 'SERVICE_DISABLED|has not been used in project'; then
        echo "the project's Cloud TPU API is off: gcloud services enable tpu.googleapis.com"
    elif said 'billing'; then
        echo "the project has no billing account: https://console.cloud.google.com/billing/projects"
    elif no_capacity; then
        echo "no free $type in $zone now: leave out --direct to queue for it, or take another zone or type"
    elif said 'quota|RESOURCE_EXHAUSTED'; then
        echo "no quota for ${spot:+spot }$type in $zone (spot and on-demand have quotas of their own):" \
            "ask for it at https://console.cloud.google.com/iam-admin/quotas?service=tpu.googleapis.com"
    elif said 'PERMISSION_DENIED|does not have permission'; then
        echo "your account may not do this in the project: its owner has to give you the role roles/tpu.admin"
    elif no_such; then
        echo "there is no TPU '$name' in $zone: launch/tpu_vm.sh create $name, or check --zone and --project"
    elif said 'ssh key is not present'; then
        echo "a pod's hosts are reached through an ssh agent: eval \$(ssh-agent); ssh-add ~/.ssh/google_compute_engine"
    elif said 'ERROR: '; then
        tr -s '[:space:]' ' ' <"$errors" | sed 's/.*ERROR: //'
    else
        grep . "$errors" | tail -n 1
    fi
}

check_gcloud() {
    local answer
    [ -n "$dry_run" ] || command -v gcloud >/dev/null \
        || fail "gcloud is missing: install the Google Cloud CLI, https://cloud.google.com/sdk/docs/install"
    answer=$(ask account auth list --filter=status:ACTIVE '--format=value(account)') || fail "$(problem)"
    [ -n "$answer" ] || fail "gcloud is not logged in: gcloud auth login"
    [ -z "$project" ] || return 0
    answer=$(ask project config get project) || fail "$(problem)"
    case $answer in
        '' | '(unset)') fail "gcloud has no project: gcloud config set project ID, or --project=ID" ;;
    esac
}

# --type and --zone against the table, which has the runtime version too.
check_type() {
    local types version zones same
    [ -n "$type" ] || fail "--type is missing, as in --type=v3-8; $TYPES lists them"
    type=${type/#v5e-/v5litepod-} # as gcloud calls it
    while read -r types version zones; do
        case ,$types, in *,"$type",*) break ;; esac
    done < <(grep '^[^#]' "$TYPES")
    if [ -z "$types" ]; then
        same=$(grep "^[^#]" "$TYPES" | grep -oE "(^|,)${type%%-*}-[0-9]+" | tr -d , | tr "\n" " ") || true
        fail "--type=$type is no TPU that this can run: take one of ${same:-v2, v3, v4, v5e, v5p or v6e, as v3-8 }($TYPES)"
    fi
    [ -n "$zone" ] || fail "--zone is missing: $type is in ${zones//,/, }"
    case ,$zones, in
        *,"$zone",*) ;;
        *) fail "--zone=$zone has no $type: take one of ${zones//,/, } ($TYPES, as of its date)" ;;
    esac
    runtime=${runtime:-$version}
}

# check_buckets WORD ...: every gs://BUCKET in the words is in the TPU's region.
check_buckets() {
    local region=${zone%-*} bucket place
    while read -r bucket; do
        place=$(ask "$region" storage buckets describe "$bucket" '--format=value(location)') || {
            ! no_such || fail "there is no $bucket: gcloud storage buckets create $bucket --location=$region"
            fail "$(problem)"
        }
        place=$(tr '[:upper:]' '[:lower:]' <<<"$place")
        case $place:$region in
            "$region:$region") continue ;;
            us:us-* | nam*:us-* | eu:europe-* | eur*:europe-* | asia*:asia-*)
                say "$bucket is a bucket of several regions ($place): reading it may be billed, one in $region is free" ;;
            *)
                [ -n "$allow_egress" ] || fail "$bucket is in $place and the TPU in $region: what it reads and writes" \
                    "is billed as traffic between regions; take a bucket in $region, or say --allow-egress" ;;
        esac
    done < <(grep -oE 'gs://[a-z0-9][a-z0-9._-]+' <<<"$*" | sort -u)
}

# Succeeds too where it was requested before: there is nothing then but to wait for it.
request() {
    local words=("$name" "${where[@]}" "--accelerator-type=$type")
    [ -z "$spot" ] || words+=(--spot)
    [ -z "$account" ] || words+=("--service-account=$account")
    say "asking for ${spot:+spot }$type in $zone"
    if [ -n "$direct" ]; then
        cloud compute tpus tpu-vm create "${words[@]}" "--version=$runtime" || said ALREADY_EXISTS
    else
        cloud compute tpus queued-resources create "${words[@]}" "--node-id=$name" \
            "--runtime-version=$runtime" || said ALREADY_EXISTS
    fi
}

# The request and its node; those of a preempted TPU too, which count against the quota.
remove() {
    if [ -n "$direct" ]; then
        cloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
    else
        cloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
    fi
}

# describe ANSWER GROUP FIELD: Google's word for the state, or ABSENT.
describe() {
    ask "$1" compute tpus "$2" describe "$name" "${where[@]}" "--format=value($3)" \
        || { no_such && echo ABSENT; }
}

# The state of the request until it is granted, then of the node: that one tells of a preemption first.
tpu_state() {
    local state=ACTIVE
    [ -n "$direct" ] || state=$(describe ACTIVE queued-resources state.state) || return
    if [ "$state" = ACTIVE ]; then
        state=$(describe READY tpu-vm state) || return
        [ -n "$direct" ] || [ "$state" != ABSENT ] || state=SUSPENDED
    fi
    echo "$state"
}

# Until it can be reached; what is absent or was preempted is asked for again.
until_ready() {
    local state last=''
    while :; do
        state=$(tpu_state) || fail "$(problem)"
        [ "$state" = "${last:-READY}" ] || say "$name is $state"
        last=$state
        case $state in
            READY) return ;;
            FAILED) fail "Google turned the request for $name down: launch/tpu_vm.sh status $name tells why; delete it before you ask again" ;;
            PREEMPTED | TERMINATED | STOPPED | SUSPENDED) remove || fail "$(problem)" ;;
            ABSENT) request || no_capacity || fail "$(problem)" ;;
        esac
        pause
    done
}

need_ready() {
    local state
    state=$(tpu_state) || fail "$(problem)"
    [ "$state" != ABSENT ] || fail "there is no TPU '$name' in $zone: launch/tpu_vm.sh create $name"
    [ "$state" = READY ] || fail "$name is $state, not READY: launch/tpu_vm.sh create $name waits for it"
}
